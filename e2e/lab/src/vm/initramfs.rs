//! The guest's first file system: busybox, the modules that mount the host's
//! tree, and the script that does so.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{kernel::Kernel, which};

const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

const APPLETS: [&str; 8] = [
    "sh",
    "mount",
    "mkdir",
    "insmod",
    "switch_root",
    "cat",
    "stty",
    "ls",
];

/// Mounts the host's tree read-only under an overlay and hands over to
/// [`SECOND`] there.
const FIRST: &str = r"#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t tmpfs -o size=80% tmpfs /rw
mkdir /rw/upper /rw/work
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /root
mount -t tmpfs tmpfs /root/run
mkdir /root/herald-vm
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /root/herald-vm
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
cat /second > /root/run/herald-vm-init
exec switch_root /root /bin/sh /run/herald-vm-init
";

/// Runs the command on the first serial line and ends the guest with its
/// verdict.
const SECOND: &str = r"#!/bin/sh
stty -F /dev/ttyS0 raw -echo opost onlcr 2>/dev/null
mkdir -p /dev/pts
setsid -c -w /bin/sh /herald-vm/script </dev/ttyS0 >/dev/ttyS0 2>&1
echo $? > /herald-vm/exit
sync
echo o > /proc/sysrq-trigger
while :; do sleep 1; done
";

/// Writes the initramfs for `kernel` to `target`.
pub(super) fn build(kernel: &Kernel, target: &Path) -> Result<()> {
    let root = target.with_extension("d");
    fill(kernel, &root)?;
    let archive = fs::File::create(target)?;
    let files = Command::new("find")
        .arg(".")
        .current_dir(&root)
        .stdout(Stdio::piped())
        .spawn()?;
    let packed = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(&root)
        .stdin(files.stdout.context("find has an output")?)
        .stdout(archive)
        .status()?;
    fs::remove_dir_all(&root)?;
    if !packed.success() {
        bail!("cpio could not pack the guest's initramfs: {packed}");
    }
    Ok(())
}

fn fill(kernel: &Kernel, root: &Path) -> Result<()> {
    for directory in ["bin", "proc", "sys", "dev", "modules", "host", "rw", "root"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = which("busybox").context("busybox is not installed")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let mut order = String::new();
    for module in kernel.with_dependencies(&MODULES)? {
        let name = module.file_name().context("a module is a file")?;
        fs::copy(&module, root.join("modules").join(name))?;
        order.push_str(&name.to_string_lossy());
        order.push('\n');
    }
    fs::write(root.join("modules/order"), order)?;
    fs::write(root.join("second"), SECOND)?;
    let init = root.join("init");
    fs::write(&init, FIRST)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
