//! `--kernel vm`: a command of the lab inside a virtual machine with Debian's
//! stock kernel, under software emulation, for what the host's kernel lacks
//! (IPVS, VRF, VLAN, bonding, netem).
//!
//! ```text
//!   host                               guest
//!   herald-lab ARGS --kernel vm        initramfs: busybox, 9p and overlay modules
//!     qemu  --- 9p "host", read-only --> / (under an overlay on tmpfs)
//!           --- 9p "out", writable ----> /herald-vm: script, exit, artifacts
//!           <-- ttyS0 ------------------ the command's terminal
//!           <-- ttyS1 ------------------ kernel messages, to a file
//! ```
//!
//! The guest's root is the host's own file tree, so the same binaries run with
//! nothing copied, and nothing that the guest writes reaches the host but what
//! it puts into the artifact directory.

mod initramfs;
mod kernel;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::isolate;

use kernel::Kernel;

/// Programs of the host that a virtual machine needs, with the Debian package
/// that holds each.
const TOOLS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("setpriv", "util-linux"),
    // kube-proxy's ipvs mode runs it.
    ("ipset", "ipset"),
];

/// Modules loaded before the lab starts, beyond what mounts its root.
const GUEST_MODULES: &str = "ip_vs ip_vs_rr nf_conntrack xt_set xt_conntrack xt_comment xt_mark \
     xt_MASQUERADE xt_nat xt_multiport xt_statistic xt_addrtype ip_set ip_set_hash_ip \
     ip_set_hash_ipport ip_set_hash_ipportip ip_set_hash_ipportnet ip_set_bitmap_port \
     ip_tables ip6_tables iptable_nat ip6table_nat iptable_filter ip6table_filter \
     iptable_mangle ip6table_mangle nf_tables nft_chain_nat nft_compat nft_ct nft_nat \
     nft_masq nft_numgen nft_fib_inet nft_reject_inet br_netfilter bridge veth dummy \
     8021q bonding vrf sch_netem";

/// Memory of the guest.
const MEMORY_MIB: u32 = 6000;

/// A command to run in a virtual machine.
#[derive(Debug)]
pub struct Guest {
    /// Program and arguments; paths are those of the host.
    pub command: Vec<String>,
    /// Where the guest may leave files (below [`KEPT`]); made
    /// if it is missing.
    pub artifacts: PathBuf,
    /// Whether the host's terminal belongs to the command.
    pub interactive: bool,
}

/// Says why no virtual machine can be had on this host; `None` if it can.
pub fn unavailable() -> Option<String> {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(program, _)| which(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "{} missing; install with: apt-get install --no-install-recommends {}",
            if missing.len() == 1 {
                "a package is"
            } else {
                "packages are"
            },
            missing.join(" ")
        ));
    }
    (Kernel::cached().is_none() && which("apt-get").is_none()).then(|| {
        "no guest kernel is cached and there is no apt-get to fetch Debian's linux-image-amd64"
            .to_owned()
    })
}

/// Where the guest sees the artifact directory. Not below `/run`, which a lab
/// covers with its own.
const OUT: &str = "/herald-vm";

/// Where files of the guest belong that are to be artifacts once the command
/// has ended: in its memory, as each write to [`OUT`] costs milliseconds.
pub const KEPT: &str = "/herald-kept";

/// Set in a guest, where everything takes about ten times as long.
pub const GUEST: &str = "HERALD_LAB_GUEST";

/// Whether this process runs in a guest.
pub fn inside() -> bool {
    std::env::var_os(GUEST).is_some()
}

/// By how much limits are stretched here: emulation is slow.
pub fn patience() -> u32 {
    if inside() { 6 } else { 1 }
}

/// A virtual machine that runs the command, not started yet. Its standard
/// output is that of the command.
pub fn command(guest: &Guest) -> Result<Command> {
    if let Some(reason) = unavailable() {
        bail!("no virtual machine on this host: {reason}");
    }
    let kernel = Kernel::ensure()?;
    fs::create_dir_all(&guest.artifacts)
        .with_context(|| format!("make {}", guest.artifacts.display()))?;
    let artifacts = guest.artifacts.canonicalize()?;
    write_script(&artifacts, &kernel, guest)?;
    let exit = artifacts.join("exit");
    // A verdict of an earlier run must not pass for this one's.
    if exit.exists() {
        fs::remove_file(&exit)?;
    }
    let initrd = artifacts.join("initrd.cpio");
    initramfs::build(&kernel, &initrd)?;
    eprintln!(
        "vm: a guest with kernel {} under software emulation",
        kernel.release
    );
    Ok(qemu(&kernel, &initrd, &artifacts, guest.interactive))
}

/// Runs this process's own command line in a virtual machine, and then a shell
/// there with `herald-lab` on its `PATH`, on this terminal; the machine ends
/// with the shell, and its exit code is the shell's.
pub fn shell(artifacts: &Path) -> Result<ExitCode> {
    const THEN: &str = r#"
        PATH=$(dirname "$1"):$PATH
        "$@" || exit
        echo "vm: a shell in the virtual machine, which ends with it; try: herald-lab kubectl get nodes"
        exec bash 2>/dev/null || exec sh
    "#;
    let mut words = vec![
        "sh".to_owned(),
        "-c".to_owned(),
        THEN.to_owned(),
        "sh".to_owned(),
    ];
    words.push(isolate::own_path()?.display().to_string());
    words.extend(std::env::args().skip(1));
    let ended = command(&Guest {
        command: words,
        artifacts: artifacts.to_owned(),
        interactive: true,
    })?
    .status()
    .context("run qemu")?;
    if !ended.success() {
        bail!("the virtual machine ended with {ended}");
    }
    let code = verdict(artifacts)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The exit status of the command, once its virtual machine has ended.
pub fn verdict(artifacts: &Path) -> Result<i32> {
    let initrd = artifacts.join("initrd.cpio");
    if initrd.exists() {
        fs::remove_file(&initrd)?;
    }
    let code = fs::read_to_string(artifacts.join("exit")).with_context(|| {
        format!(
            "the guest ended without a verdict; its kernel's messages are in {}",
            artifacts.join("console.log").display()
        )
    })?;
    code.trim().parse().context("read the guest's exit status")
}

fn qemu(kernel: &Kernel, initrd: &Path, artifacts: &Path, interactive: bool) -> Command {
    // However this process ends, the guest ends with it.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig=KILL", "qemu-system-x86_64"])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            &MEMORY_MIB.to_string(),
        ])
        .args(["-display", "none", "-no-reboot", "-nodefaults"])
        .args(["-cpu", "max"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        // The default clock, hpet, is a device: each look at it stops the guest.
        .args([
            "-append",
            "console=ttyS1 quiet panic=-1 mitigations=off clocksource=tsc tsc=reliable",
        ])
        .args([
            "-chardev",
            if interactive {
                "stdio,id=tty,signal=off"
            } else {
                "stdio,id=tty"
            },
        ])
        .args(["-serial", "chardev:tty"])
        .args([
            "-serial",
            &format!("file:{}", artifacts.join("console.log").display()),
        ])
        .args([
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ])
        .args([
            "-virtfs",
            &format!(
                "local,path={},mount_tag=out,security_model=none,multidevs=remap",
                artifacts.display()
            ),
        ]);
    if !interactive {
        qemu.stdin(Stdio::null());
    }
    qemu
}

/// Writes what the guest runs once its root is mounted.
fn write_script(artifacts: &Path, kernel: &Kernel, guest: &Guest) -> Result<()> {
    // GOGC: the guest has memory to spare, and no time for Go's collector.
    let script = format!(
        "#!/bin/sh\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         export HOME=/root TERM=linux GOGC=800 {guest_variable}=1 HERALD_CACHE={cache}\n\
         echo herald-vm >/proc/sys/kernel/hostname\n\
         mkdir -p {kept} /lib/modules/{release}\n\
         mount --bind {modules} /lib/modules/{release}\n\
         for module in {guest_modules}; do modprobe -q $module || echo \"no module $module\" >/dev/ttyS1; done\n\
         mount -t devpts devpts /dev/pts; mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm\n\
         ip link set lo up\n\
         {terminal}cd {cwd}\n\
         {command}{stderr}\n\
         code=$?\n\
         cp -r {kept}/. {OUT}/\n\
         exit $code\n",
        guest_variable = GUEST,
        kept = KEPT,
        // A terminal shows both; a program that reads the one wants it alone.
        stderr = if guest.interactive {
            String::new()
        } else {
            format!(" 2>>{OUT}/lab.log")
        },
        terminal = if guest.interactive {
            terminal()
        } else {
            String::new()
        },
        cache = quote(&crate::assets::cache().to_string_lossy()),
        release = kernel.release,
        modules = quote(&kernel.modules().to_string_lossy()),
        guest_modules = GUEST_MODULES,
        cwd = quote(&std::env::current_dir()?.to_string_lossy()),
        command = guest
            .command
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" "),
    );
    let path = artifacts.join("script");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Makes the guest's serial line a terminal as large as the host's.
fn terminal() -> String {
    let size = Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .stderr(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    match size.split_whitespace().collect::<Vec<_>>()[..] {
        [rows, columns] => format!("stty sane rows {rows} columns {columns}\n"),
        _ => "stty sane -echo\n".to_owned(),
    }
}

/// `word` as one word of a POSIX shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The program's path, if `PATH` has it.
fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_stays_one_word_with_its_quotes() {
        let words = ["plain", "two words", "it's", "$HOME;`id`"];
        for word in words {
            let output = Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
