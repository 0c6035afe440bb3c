//! The guest's kernel: Debian's stock one, unpacked into the cache. Nothing is
//! installed on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::assets::cache;

/// An unpacked kernel package.
#[derive(Debug)]
pub(super) struct Kernel {
    /// `uname -r` of the guest.
    pub(super) release: String,
    /// The kernel image.
    pub(super) image: PathBuf,
    /// Where the package was unpacked.
    pub(super) root: PathBuf,
}

impl Kernel {
    /// The kernel in the cache, if one is there.
    pub(super) fn cached() -> Option<Self> {
        let root = cache().join("vm/kernel");
        let release = fs::read_to_string(root.join("release"))
            .ok()?
            .trim()
            .to_owned();
        let image = root.join(format!("boot/vmlinuz-{release}"));
        image.is_file().then_some(Self {
            release,
            image,
            root,
        })
    }

    /// The kernel in the cache, fetched first if need be.
    pub(super) fn ensure() -> Result<Self> {
        if let Some(kernel) = Self::cached() {
            return Ok(kernel);
        }
        let vm = cache().join("vm");
        fs::create_dir_all(&vm).with_context(|| format!("make {}", vm.display()))?;
        let work = vm.join(format!("unpack-{}", std::process::id()));
        fs::create_dir_all(&work)?;
        eprintln!("vm: fetching Debian's kernel package (about 70 MB, once)");
        let unpacked = Self::unpack(&work);
        if unpacked.is_ok() {
            // Whole or not at all: another lab may be looking.
            let _ = fs::rename(work.join("root"), vm.join("kernel"));
        }
        fs::remove_dir_all(&work)?;
        unpacked?;
        Self::cached().context("the kernel package held no kernel image")
    }

    fn unpack(work: &Path) -> Result<()> {
        let package = newest_package()?;
        run(Command::new("apt-get")
            .args(["-qq", "download", &package])
            .current_dir(work))?;
        let deb = fs::read_dir(work)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get download {package} left no package"))?;
        let root = work.join("root");
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root))?;
        let release = package
            .strip_prefix("linux-image-")
            .context("a kernel package is named linux-image-RELEASE")?;
        run(Command::new("depmod").arg("-b").arg(&root).arg(release))?;
        fs::write(root.join("release"), release)?;
        Ok(())
    }

    /// Its modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// The files of `modules` and of what they depend on, in loading order.
    pub(super) fn with_dependencies(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for module in modules {
            let output = Command::new("modprobe")
                .arg("-d")
                .arg(&self.root)
                .args(["-S", &self.release, "--show-depends", module])
                .output()
                .context("run modprobe")?;
            if !output.status.success() {
                bail!("the guest kernel has no module {module}");
            }
            for line in String::from_utf8(output.stdout)?.lines() {
                // `builtin NAME` needs no loading.
                let Some(file) = line.strip_prefix("insmod ") else {
                    continue;
                };
                let file = PathBuf::from(file.trim());
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

/// The package behind `linux-image-amd64` (not the `cloud` flavour, which has
/// no 9p).
fn newest_package() -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-amd64"])
        .output()?;
    String::from_utf8(output.stdout)?
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))
        .context("apt knows no linux-image-amd64; run apt-get update first")
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
