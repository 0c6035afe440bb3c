//! A world for programs that insist on setting their groups, such as tcpdump:
//! a user namespace that was made without rights forbids it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::{isolate, process};

/// Name of the hidden subcommand that calls [`run`].
pub const SUBCOMMAND: &str = "__keep-groups";

/// `program`, in the network namespace of `host`, where setgroups(2) never fails.
pub fn command(host: Option<&str>, program: &str) -> Result<Command> {
    let mut command = process::in_host(host, &isolate::own_path()?);
    command.args([SUBCOMMAND, "--", program]);
    Ok(command)
}

/// Becomes the program of `words`. Where setgroups(2) is forbidden
/// (`/proc/PID/setgroups`, `user_namespaces(7)`) the kernel answers it with
/// success and does nothing.
pub fn run(words: &[String]) -> Result<Infallible> {
    let (program, arguments) = words.split_first().context("no program is named")?;
    if fs::read_to_string("/proc/self/setgroups")?.trim() == "deny" {
        seccompiler::apply_filter(&filter()?).context("filter system calls")?;
    }
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("run {}", Path::new(program).display()))
}

fn filter() -> Result<BpfProgram> {
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_setgroups, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(0),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}
