//! A limit of CPU time, as `resources.limits.cpu` of a container becomes one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Found;

/// Where the controller `cpu` of version 1 is mounted, by itself or with its twin.
const VERSION_1: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];
const VERSION_2: &str = "/sys/fs/cgroup";

/// The limit holds for this long; then there is as much again.
const PERIOD: Duration = Duration::from_millis(100);

/// Where limits are set on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Controller {
    Version1(PathBuf),
    Version2(PathBuf),
}

fn controller() -> Option<Controller> {
    let first = VERSION_1.map(PathBuf::from);
    if let Some(root) = first.into_iter().find(|root| root.join("tasks").exists()) {
        return Some(Controller::Version1(root));
    }
    let root = PathBuf::from(VERSION_2);
    let offered = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
    let offered = offered.split_whitespace().any(|name| name == "cpu");
    offered.then_some(Controller::Version2(root))
}

/// Whether processes can be limited here.
pub fn can_limit_cpu() -> bool {
    controller().is_some()
}

/// A limit on a process, until this is dropped.
#[derive(Debug)]
pub struct CpuLimit {
    root: PathBuf,
    group: PathBuf,
    pid: i32,
}

impl CpuLimit {
    /// Lets a process run for so long of each 100 ms; 1 ms is the least.
    pub fn set(process: &Found, most: Duration) -> Result<Self> {
        let controller = controller().context("no CPU limits: cgroups lack the controller cpu")?;
        let (Controller::Version1(root) | Controller::Version2(root)) = &controller;
        let limit = Self {
            root: root.clone(),
            group: root.join(format!("herald-lab-{}", process.pid)),
            pid: process.pid,
        };
        if let Controller::Version2(root) = &controller {
            write(&root.join("cgroup.subtree_control"), "+cpu")?;
        }
        fs::create_dir(&limit.group).context("make a cgroup")?;
        let (most, period) = (most.as_micros(), PERIOD.as_micros());
        match controller {
            Controller::Version1(_) => {
                write(&limit.group.join("cpu.cfs_period_us"), &period.to_string())?;
                write(&limit.group.join("cpu.cfs_quota_us"), &most.to_string())?;
            }
            Controller::Version2(_) => {
                write(&limit.group.join("cpu.max"), &format!("{most} {period}"))?;
            }
        }
        limit.join(&limit.group)?;
        Ok(limit)
    }

    fn join(&self, group: &Path) -> Result<()> {
        write(&group.join("cgroup.procs"), &self.pid.to_string())
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        // If it has ended meanwhile it is in no group.
        let _ = self.join(&self.root);
        let _ = fs::remove_dir(&self.group);
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {text:?} to {}", path.display()))
}
