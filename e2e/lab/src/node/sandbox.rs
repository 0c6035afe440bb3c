//! A container's surroundings: network namespace, host name, mounts. The agent
//! describes them in a file; `herald-lab __container FILE` makes them around
//! itself and becomes the container's program.
//!
//! What a container sees as its image is the machine's own file tree (see
//! [`super::tree`]), read-only with or without `readOnlyRootFilesystem`, so that
//! no container changes the machine. `/run` and `/tmp` are its own, and writable unless the root is to be
//! read-only. There is no pid namespace of its own: the node's is shared.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use super::tree::{self, Tree};

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
        let program = self.furnish()?;
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

    /// Makes the container's file tree; says where the program is in it.
    fn furnish(&self) -> Result<PathBuf> {
        let volumes: Vec<(&Mount, File, bool)> = self
            .mounts
            .iter()
            .map(|volume| {
                let source = tree::handle(&volume.source)?;
                let read_only = volume.read_only || tree::is_read_only(&volume.source)?;
                Ok((volume, source, read_only))
            })
            .collect::<Result<_>>()?;
        let moves =
            self.program.is_absolute() && (self.other_user || tree::is_covered(&self.program));
        let image = moves.then(|| tree::handle(&self.program)).transpose()?;
        let mut tree = Tree::begin()?;
        let mut program = self.program.clone();
        if let Some(image) = image {
            program = Path::new("/run/image").join(self.program.file_name().unwrap_or_default());
            tree.add(&image, &program, true)?;
        }
        for (volume, source, read_only) in &volumes {
            tree.add(source, &volume.target, *read_only)?;
        }
        tree.finish(self.read_only_root)?;
        Ok(program)
    }
}
