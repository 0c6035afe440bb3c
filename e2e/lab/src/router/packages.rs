//! The routers' programs: Debian's packages, unpacked into the cache. Nothing is
//! installed on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Software;
use crate::assets::cache;

/// The unpacked packages of a program, fetched first if need be. The error says
/// why they can't be had.
pub fn ensure(software: Software) -> Result<PathBuf> {
    let root = root(software);
    if root.is_dir() {
        return Ok(root);
    }
    let routers = cache().join("routers");
    let work = routers.join(format!("unpack-{software}-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    eprintln!("assets: fetching {} (once)", software.package());
    let unpacked = unpack(software, &work);
    if unpacked.is_ok() {
        // Whole or not at all: another lab may be looking.
        let _ = fs::rename(work.join("root"), &root);
    }
    fs::remove_dir_all(&work)?;
    unpacked?;
    Ok(root)
}

/// Where the packages of a program are unpacked. Its version follows that of the
/// machine's Debian; delete the folder to fetch it anew.
pub(super) fn root(software: Software) -> PathBuf {
    cache().join("routers").join(software.to_string())
}

fn unpack(software: Software, work: &Path) -> Result<()> {
    let packages = missing(software.package())?;
    let root = work.join("root");
    fs::create_dir_all(root.join("usr"))?;
    if packages.is_empty() {
        // The machine has it installed.
        return Ok(());
    }
    output(
        Command::new("apt-get")
            .args(["-qq", "download"])
            .args(&packages)
            .current_dir(work),
    )?;
    let plain = work.join("plain");
    for entry in fs::read_dir(work)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&plain))?;
        }
    }
    // Debian's /bin, /sbin and /lib are links into /usr; packages still name them.
    for (from, to) in [
        ("usr", "usr"),
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
    ] {
        let from = plain.join(from);
        if from.is_dir() {
            fs::create_dir_all(root.join(to))?;
            output(
                Command::new("cp")
                    .arg("-a")
                    .arg(from.join("."))
                    .arg(root.join(to)),
            )?;
        }
    }
    Ok(())
}

/// The package, and what it depends on that this machine has not installed.
fn missing(package: &str) -> Result<Vec<String>> {
    let said = output(Command::new("apt-get").args([
        "-qq",
        "--simulate",
        "--no-install-recommends",
        "install",
        package,
    ]))
    .with_context(|| format!("apt knows no {package}; run apt-get update first"))?;
    Ok(to_install(&said))
}

/// The packages of the lines `Inst NAME (VERSION ...)`.
fn to_install(said: &str) -> Vec<String> {
    said.lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_is_read() {
        let said = "Inst libyang2 (2.1.30-2 Debian:12.15/oldstable [amd64])\n\
                    Inst frr [8.4.3-1] (8.4.4-1.1 Debian:12.15/oldstable [amd64])\n\
                    Conf frr (8.4.4-1.1 Debian:12.15/oldstable [amd64])\n";
        assert_eq!(to_install(said), ["libyang2", "frr"]);
    }
}
