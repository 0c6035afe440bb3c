//! The file tree that a container sees: the machine's own, read-only, with
//! places of its own in it. All of it happens in the container's mount
//! namespace; the machine is never written to.

use std::ffi::OsString;
use std::fs::{self, File, FileType};
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, chroot};

/// Directories that a container has to itself.
const OWN: [&str; 3] = ["/run", "/tmp", "/var/run"];
/// Directories that are not part of the machine's file tree.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Where a root is built that has more in it than the machine's.
const NEW_ROOT: &str = "/run/.root";

/// The tree in the making.
pub(super) struct Tree {
    /// Mounts that are writable until [`Self::finish`].
    open: Vec<PathBuf>,
}

/// Whether a container sees something else than the machine's file there.
pub(super) fn is_covered(path: &Path) -> bool {
    OWN.iter().any(|own| path.starts_with(own))
}

/// A handle by which a file can be mounted when its path is covered.
pub(super) fn handle(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Whether a file lies on a mount that is read-only already.
pub(super) fn is_read_only(path: &Path) -> Result<bool> {
    Ok(mount_flags(path)?.contains(FsFlags::ST_RDONLY))
}

impl Tree {
    /// Makes the machine's tree read-only and covers what a container has to
    /// itself. The mount namespace must be this process's own.
    pub(super) fn begin() -> Result<Self> {
        attach(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
        for path in machine_mounts(&fs::read_to_string("/proc/self/mountinfo")?) {
            // A mount that can't be reached is covered by another one; only
            // the root must be protected.
            if let Err(error) = set_access(&path, true)
                && path == Path::new("/")
            {
                return Err(error);
            }
        }
        for own in own_directories() {
            tmpfs(
                own,
                if own == Path::new("/tmp") {
                    "1777"
                } else {
                    "755"
                },
            )?;
        }
        fs::create_dir("/run/lock").context("make /run/lock")?;
        Ok(Self { open: Vec::new() })
    }

    /// Mounts a file or directory at `target`, which is made if need be.
    pub(super) fn add(&mut self, source: &File, target: &Path, read_only: bool) -> Result<()> {
        let directory = source.metadata()?.is_dir();
        self.place(target, directory)
            .with_context(|| format!("make mountPath {}", target.display()))?;
        attach(
            Some(&by_handle(source)),
            target,
            MsFlags::MS_BIND | MsFlags::MS_REC,
        )?;
        set_access(target, read_only)
    }

    /// Closes the tree; the container's own directories too if its root is to
    /// be read-only.
    pub(super) fn finish(mut self, read_only_root: bool) -> Result<()> {
        if read_only_root {
            self.open.extend(own_directories().map(Path::to_owned));
        }
        self.open.iter().try_for_each(|path| set_access(path, true))
    }

    /// Makes a mount point. A directory of the machine that lacks it is
    /// replaced by one that shows the same and can be written to.
    fn place(&mut self, target: &Path, directory: bool) -> Result<()> {
        if target.exists() {
            return Ok(());
        }
        if let Ok(link) = fs::read_link(target) {
            // It leads to what the container does not see, such as the name
            // servers of the machine.
            let real = target.parent().unwrap_or(target).join(link);
            return Ok(make(&real, directory)?);
        }
        match make(target, directory) {
            Err(error)
                if [ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied]
                    .contains(&error.kind()) => {}
            made => return Ok(made?),
        }
        let base = target
            .ancestors()
            .find(|ancestor| ancestor.is_dir())
            .unwrap_or_else(|| Path::new("/"));
        let original = handle(base)?;
        let entries = entries(base)?;
        if base == Path::new("/") {
            // The root can't be covered; it is exchanged.
            let root = Path::new(NEW_ROOT);
            fs::create_dir(root)?;
            tmpfs(root, "755")?;
            // So that what is copied into it does not contain it.
            attach(None, root, MsFlags::MS_UNBINDABLE)?;
            mirror(&original, &entries, root);
            chroot(root)?;
            chdir("/")?;
        } else {
            tmpfs(base, "755")?;
            mirror(&original, &entries, base);
        }
        self.open.push(base.to_owned());
        Ok(make(target, directory)?)
    }
}

fn own_directories() -> impl Iterator<Item = &'static Path> {
    // `/var/run` is a link to `/run` almost everywhere.
    OWN.iter()
        .map(Path::new)
        .filter(|own| own.is_dir() && !own.is_symlink())
}

fn make(target: &Path, directory: bool) -> std::io::Result<()> {
    if directory {
        return fs::create_dir_all(target);
    }
    fs::create_dir_all(target.parent().unwrap_or(target))?;
    File::create(target).map(drop)
}

fn entries(directory: &Path) -> Result<Vec<(OsString, FileType)>> {
    let read = fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|entry| entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))))
                .collect()
        })
        .with_context(|| format!("list {}", directory.display()))?;
    Ok(read)
}

/// Shows a directory's entries in another directory. What can't be shown is
/// left out, as are sockets and the like.
fn mirror(original: &File, entries: &[(OsString, FileType)], directory: &Path) {
    for (name, kind) in entries {
        let from = by_handle(original).join(name);
        let to = directory.join(name);
        let _ = if kind.is_symlink() {
            fs::read_link(&from)
                .and_then(|target| symlink(target, &to))
                .map_err(Into::into)
        } else if kind.is_dir() || kind.is_file() {
            make(&to, kind.is_dir())
                .map_err(Into::into)
                .and_then(|()| attach(Some(&from), &to, MsFlags::MS_BIND | MsFlags::MS_REC))
        } else {
            continue;
        };
    }
}

fn by_handle(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn tmpfs(path: &Path, mode: &str) -> Result<()> {
    let options = format!("mode={mode}");
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("mount a tmpfs on {}", path.display()))
}

/// Makes one mount read-only or writable. Its other flags are kept: in a user
/// namespace they may not be taken away.
fn set_access(target: &Path, read_only: bool) -> Result<()> {
    let found = mount_flags(target)?;
    let mut flags = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ]
    .into_iter()
    .filter_map(|(flag, kept)| found.contains(flag).then_some(kept))
    .collect::<MsFlags>();
    flags.set(MsFlags::MS_RDONLY, read_only);
    attach(None, target, flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND)
}

fn mount_flags(path: &Path) -> Result<FsFlags> {
    let found = statvfs(path).with_context(|| format!("look at mount {}", path.display()))?;
    Ok(found.flags())
}

fn attach(source: Option<&Path>, target: &Path, flags: MsFlags) -> Result<()> {
    mount(source, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("mount {} with {flags:?}", target.display()))
}

/// Mount points of the machine's file tree (proc(5), `/proc/pid/mountinfo`:
/// the fifth field, with octal escapes).
fn machine_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| !is_covered(path) && !KERNEL.iter().any(|other| path.starts_with(other)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_tree_is_what_is_not_the_kernel_s() {
        let mounts = machine_mounts(
            "22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
             23 22 0:5 / /proc rw,nosuid - proc proc rw\n\
             24 22 0:6 / /run/netns rw - tmpfs tmpfs rw\n\
             25 22 254:1 / /my\\040home rw,nosuid,nodev - ext4 /dev/sdb rw\n",
        );
        assert_eq!(mounts, [Path::new("/"), Path::new("/my home")]);
    }
}
