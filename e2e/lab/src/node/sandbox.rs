//! A container's surroundings: network namespace, host name, mounts. The agent
//! describes them in a file; `herald-lab __container FILE` makes them around
//! itself and becomes the container's program.
//!
//! What a container sees as its image is the machine's own file tree, read-only
//! with or without `readOnlyRootFilesystem`, so that no container changes the
//! machine. `/run` and `/tmp` are its own, and writable unless the root is to be
//! read-only. There is no pid namespace of its own: the node's is shared.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::{Deserialize, Serialize};

/// Directories that a container has to itself.
const OWN: [&str; 3] = ["/run", "/tmp", "/var/run"];
/// Directories that are not part of the machine's file tree.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A container's program and what it may see.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sandbox {
    /// Network namespace; none is the node's.
    pub(super) network: Option<PathBuf>,
    /// Host name; none is the node's.
    pub(super) hostname: Option<String>,
    /// The program: a path on the node, or a name to look up.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// Where it starts; `/` if not said.
    pub(super) working_directory: Option<PathBuf>,
    /// The volumes.
    pub(super) mounts: Vec<Mount>,
    /// `readOnlyRootFilesystem`.
    pub(super) read_only_root: bool,
    /// setpriv and its arguments, which give up privileges.
    pub(super) setpriv: Vec<String>,
    /// Whether the program runs as another user, who may not be able to reach
    /// the directory that it was built in.
    pub(super) other_user: bool,
    /// Where the reason is left if the program can't be started.
    pub(super) error: PathBuf,
}

/// One mount of a volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mount {
    /// File or directory on the node.
    pub(super) source: PathBuf,
    /// Where the container sees it.
    pub(super) target: PathBuf,
    /// Whether the container may only read.
    pub(super) read_only: bool,
}

/// Becomes the container that a file describes. Returns only with an error,
/// which is left where the agent looks for it.
pub(crate) fn become_container(file: &Path) -> Result<Infallible> {
    let sandbox: Sandbox = serde_json::from_slice(&fs::read(file)?)?;
    // Opened before the node's tree is covered; closed by exec.
    let mut reason = File::create(&sandbox.error)?;
    let entered = sandbox.enter();
    if let Err(error) = &entered {
        write!(reason, "{error:#}")?;
    }
    entered
}

impl Sandbox {
    fn enter(&self) -> Result<Infallible> {
        if let Some(network) = &self.network {
            let namespace = File::open(network)
                .with_context(|| format!("open network namespace {}", network.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the pod's network")?;
        }
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
            .context("make a mount namespace")?;
        if let Some(hostname) = &self.hostname {
            nix::unistd::sethostname(hostname).context("set the host name")?;
        }
        attach(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
        let program = self.mount_all()?;
        let directory = self
            .working_directory
            .as_deref()
            .unwrap_or_else(|| Path::new("/"));
        std::env::set_current_dir(directory)
            .with_context(|| format!("enter workingDir {}", directory.display()))?;
        let [setpriv, privileges @ ..] = self.setpriv.as_slice() else {
            bail!("no setpriv given");
        };
        let error = Command::new(setpriv)
            .args(privileges)
            .arg("--")
            .arg(program)
            .args(&self.arguments)
            .exec();
        Err(error).with_context(|| format!("run {setpriv} (package util-linux)"))
    }

    /// Makes every mount; says where the program is now.
    fn mount_all(&self) -> Result<PathBuf> {
        // Handles to what the container's own directories will cover.
        let sources: Vec<(&Mount, File)> = self
            .mounts
            .iter()
            .map(|volume| Ok((volume, handle(&volume.source)?)))
            .collect::<Result<_>>()?;
        let own_place = self.program.is_absolute()
            && (self.other_user || OWN.iter().any(|own| self.program.starts_with(own)));
        let image = own_place.then(|| handle(&self.program)).transpose()?;
        let tree = machine_mounts(&fs::read_to_string("/proc/self/mountinfo")?);

        for own in OWN.iter().map(Path::new) {
            if own.is_symlink() || !own.is_dir() {
                continue;
            }
            let mode = if own == Path::new("/tmp") {
                "mode=1777"
            } else {
                "mode=755"
            };
            mount(
                Some("tmpfs"),
                own,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(mode),
            )
            .with_context(|| format!("mount a tmpfs on {}", own.display()))?;
        }
        let mut program = self.program.clone();
        if let Some(image) = image {
            program = Path::new("/run/image").join(self.program.file_name().unwrap_or_default());
            place(&program, false)?;
            bind(&image, &program, true)?;
        }
        fs::create_dir_all("/run/lock").context("make /run/lock")?;
        let mut targets = Vec::new();
        for (volume, source) in &sources {
            place(&volume.target, source.metadata()?.is_dir())?;
            bind(source, &volume.target, volume.read_only)?;
            targets.push(volume.target.canonicalize()?);
        }
        for path in tree {
            if targets.iter().any(|target| path.starts_with(target)) {
                continue;
            }
            // A mount that can't be reached or changed is covered by another
            // one; only the root must be protected.
            if let Err(error) = make_read_only(&path)
                && path == Path::new("/")
            {
                return Err(error);
            }
        }
        if self.read_only_root {
            for own in OWN.iter().map(Path::new).filter(|own| !own.is_symlink()) {
                make_read_only(own)?;
            }
        }
        Ok(program)
    }
}

/// A handle by which a file can be mounted when its path is covered.
fn handle(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Makes a mount point. The machine's own tree is never written to.
fn place(target: &Path, directory: bool) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    if !OWN.iter().any(|own| target.starts_with(own)) {
        bail!(
            "mountPath {} can't be made: in the lab it must lie below /run, /var/run or /tmp, \
             or exist on the machine",
            target.display()
        );
    }
    let made = if directory {
        fs::create_dir_all(target)
    } else {
        fs::create_dir_all(target.parent().unwrap_or(target))
            .and_then(|()| File::create(target).map(drop))
    };
    made.with_context(|| format!("make mountPath {}", target.display()))
}

fn bind(source: &File, target: &Path, read_only: bool) -> Result<()> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    attach(Some(&path), target, MsFlags::MS_BIND | MsFlags::MS_REC)?;
    if read_only {
        make_read_only(target)
    } else {
        Ok(())
    }
}

/// Makes one mount read-only. Its other flags are kept: in a user namespace
/// they may not be taken away.
fn make_read_only(target: &Path) -> Result<()> {
    let found = statvfs(target)
        .with_context(|| format!("look at mount {}", target.display()))?
        .flags();
    let kept = [
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
    attach(
        None,
        target,
        kept | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
    )
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
        .filter(|path| {
            !KERNEL
                .iter()
                .chain(&OWN)
                .any(|other| path.starts_with(other))
        })
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

    #[test]
    fn a_mount_point_outside_the_container_s_own_directories_is_refused() {
        assert!(place(Path::new("/etc"), true).is_ok(), "it exists");
        let error = place(Path::new("/no-such-place/data"), true).unwrap_err();
        assert!(error.to_string().contains("/no-such-place/data"), "{error}");
    }
}
