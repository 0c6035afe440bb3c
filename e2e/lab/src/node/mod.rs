//! A node: its registration, kube-proxy, and the agent that runs the pods
//! bound to it as processes, a small kubelet.
//!
//! ```text
//!   run ── register   Node, Lease, conditions
//!      ├── kube_proxy the real one, restarted when it ends
//!      ├── server     the kubelet's port: kubectl logs
//!      └── agent      watches pods ──> pod (a task each)
//!                                       ├─ network    its namespace
//!                                       ├─ volumes    its files
//!                                       ├─ container  a task each: launch, probes
//!                                       │   └─ sandbox, tree: inside its process
//!                                       └─ status     one patch a change
//! ```
//!
//! What it does not do, against a kubelet: images (an image's name stands for a
//! program of the machine, whose file tree is what the container sees, read-only),
//! a pid namespace per pod, resource limits, `hostPort`, `postStart`, gRPC and
//! HTTPS probes, `kubectl exec`, changed config maps in running pods. Where a
//! manifest asks for one of these in vain, the container's status says so, but
//! for limits. A cluster in the lab has no DNS.
//!
//! It runs in the node's network namespace, in pid and mount namespaces of its
//! own: when their first process ends, the node's pods end with it, and so do
//! their network namespaces and wires.

mod agent;
mod backoff;
mod container;
mod env;
mod image;
pub(crate) mod kube_proxy;
mod launch;
mod names;
mod network;
mod pod;
mod privileges;
mod probes;
mod register;
mod sandbox;
mod server;
pub mod spec;
mod status;
mod tree;
mod volumes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::runtime::utils::Backoff;

use crate::controlplane::write_kubeconfig;
use crate::isolate;
pub(crate) use sandbox::become_container;
use spec::NodeSpec;

/// A watch is begun anew so often: a node that was cut off from the API server
/// hears of changes this long after the cut at the latest, and does not wait
/// for TCP to find out.
const WATCH_SECONDS: u32 = 8;
/// The API server's silence after which a connection is given up; longer than
/// a watch without events.
const SILENCE: Duration = Duration::from_secs(12);

/// Between two tries to join the cluster.
const JOIN_AGAIN: Duration = Duration::from_millis(200);

/// Joins the cluster and runs pods until killed.
pub async fn run(spec: NodeSpec) -> Result<()> {
    let spec = Arc::new(spec);
    fs::create_dir_all(&spec.logs)?;
    private_files(&spec)?;
    let kubeconfig = spec.directory.join("kubelet.kubeconfig");
    write_kubeconfig(&kubeconfig, &spec.api_server, &spec.ca_file, &spec.token)?;
    let mut config = kube::Config::from_custom_kubeconfig(
        kube::config::Kubeconfig::read_from(&kubeconfig)?,
        &kube::config::KubeConfigOptions::default(),
    )
    .await?;
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    let client = kube::Client::try_from(config)?;
    // The links of a node that boots need a moment, and so may the API server.
    while let Err(error) = register::join(&client, &spec).await {
        eprintln!("node: {error:#}; trying again");
        tokio::time::sleep(JOIN_AGAIN).await;
    }
    tokio::try_join!(
        register::keep_lease(client.clone(), spec.clone()),
        register::stay_ready(client.clone(), spec.clone()),
        kube_proxy::run(spec.clone()),
        server::run(spec.clone()),
        agent::run(client, spec),
    )?;
    Ok(())
}

/// Gives the node what a machine has of its own and the nodes of a lab would
/// share: `/run`, with the names of its network namespaces and the lock of
/// xtables, and a name.
fn private_files(spec: &NodeSpec) -> Result<()> {
    let run = spec.directory.join("run");
    let lab = Path::new("/run/herald-lab");
    fs::create_dir_all(&run)?;
    isolate::run(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "mode=755", "tmpfs"])
            .arg(&run),
    )?;
    for directory in ["herald-lab", "lock", "netns", "secrets"] {
        fs::create_dir(run.join(directory))?;
    }
    // The lab's files stay in sight, under the same name.
    isolate::run(
        Command::new("mount")
            .arg("--rbind")
            .arg(lab)
            .arg(run.join("herald-lab")),
    )?;
    isolate::run(Command::new("mount").arg("--rbind").arg(&run).arg("/run"))?;
    isolate::run(Command::new("hostname").arg(&spec.name)).context("name the node")
}

/// The pause before a watch that failed is begun anew: short and always the
/// same, unlike a kubelet's, for scenarios measure what comes after an outage.
struct ShortPause;

impl Iterator for ShortPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(500))
    }
}

impl Backoff for ShortPause {
    fn reset(&mut self) {}
}

/// Path of a program of the machine.
fn which(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("find {name} in PATH"))
}
