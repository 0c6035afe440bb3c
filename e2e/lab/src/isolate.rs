//! Namespaces of its own for a lab: nothing of the host changes, and when the
//! lab's first process ends, everything in it ends.
//!
//! ```text
//!   herald-lab scenario      (host)
//!    └─ unshare --kill-child (user, mount, pid, net)
//!        └─ herald-lab __init          pid 1: reaps; ends with its child or its lifeline
//!            └─ herald-lab __scenario  builds the lab
//! ```
//!
//! As root no user namespace is made, so that what needs the real root (other
//! uids, for instance) works too.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Standard input of [`crate::init`] is a pipe: when its other end closes, the
/// lab ends.
pub const LIFELINE: &str = "--lifeline";

/// Whether this process is the machine's root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// This program's path. A build may have put another program there since it
/// started, which the kernel marks (proc(5), `/proc/pid/exe`); that one is meant
/// then.
pub fn own_path() -> Result<PathBuf> {
    let path = std::env::current_exe().context("find this program's own path")?;
    let plain = path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(plain.map(PathBuf::from).unwrap_or(path))
}

/// `herald-lab ARGS` as the main process of fresh namespaces, not started yet.
/// Standard input belongs to the lifeline if one is wanted.
pub fn command(args: &[String], lifeline: bool) -> Result<Command> {
    check()?;
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args([
            "--net",
            "--mount",
            "--pid",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["--propagation", "private"])
        .arg(own_path()?)
        .arg("__init");
    if lifeline {
        command.arg(LIFELINE).stdin(Stdio::piped());
    } else {
        command.stdin(Stdio::null());
    }
    command.arg("--").args(args);
    Ok(command)
}

/// Says what to do where this user may not make namespaces.
fn check() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "true"])
        .stderr(Stdio::null())
        .status()
        .context("run unshare (package util-linux)")?;
    if probe.success() {
        return Ok(());
    }
    let knob = [
        "kernel.apparmor_restrict_unprivileged_userns",
        "kernel.unprivileged_userns_clone",
    ]
    .into_iter()
    .find(|knob| fs::exists(format!("/proc/sys/{}", knob.replace('.', "/"))).unwrap_or(false));
    let allow = match knob {
        Some(knob @ "kernel.unprivileged_userns_clone") => format!("sudo sysctl -w {knob}=1"),
        Some(knob) => format!("sudo sysctl -w {knob}=0"),
        None => "sudo sysctl -w user.max_user_namespaces=10000".to_owned(),
    };
    bail!(
        "this user may not make user namespaces, which the lab lives in; either allow them \
         ({allow}) or run herald-lab as root (sudo -E herald-lab ...)"
    )
}

/// Makes the inside of fresh namespaces a place to build a lab in: private
/// `/run` and `/tmp/herald` and a loopback. Runs as the lab's root.
pub fn furnish() -> Result<()> {
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]))?;
    for directory in ["/run/netns", "/run/lock", "/run/secrets", "/run/herald-lab"] {
        fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"]))
}

/// Runs a command and turns its failure into an error with what it said.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{:?}: {}: {}",
            command,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
