//! A node: its registration, kube-proxy, and the agent that runs the pods
//! bound to it as processes, a small kubelet.
//!
//! ```text
//!   run ── register   Node, Lease, conditions
//!      ├── kube_proxy the real one, restarted when it ends
//!      └── agent      watches pods ──> pod (a task each)
//!                                       ├─ network    its namespace
//!                                       ├─ volumes    its files
//!                                       ├─ container  a task each: sandbox, probes
//!                                       └─ status     one patch a change
//! ```
//!
//! It runs in the node's network namespace, in pid and mount namespaces of its
//! own: when their first process ends, the node's pods end with it.

mod agent;
mod container;
mod env;
mod kube_proxy;
mod network;
mod pod;
mod probes;
mod register;
mod sandbox;
pub mod spec;
mod status;
mod volumes;

use std::fs;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::controlplane::write_kubeconfig;
use crate::isolate;
use spec::NodeSpec;

/// Joins the cluster and runs pods until killed.
pub async fn run(spec: NodeSpec) -> Result<()> {
    let spec = Arc::new(spec);
    fs::create_dir_all(&spec.logs)?;
    private_files(&spec)?;
    let kubeconfig = spec.directory.join("kubelet.kubeconfig");
    write_kubeconfig(&kubeconfig, &spec.api_server, &spec.ca_file, &spec.token)?;
    let config = kube::Config::from_custom_kubeconfig(
        kube::config::Kubeconfig::read_from(&kubeconfig)?,
        &kube::config::KubeConfigOptions::default(),
    )
    .await?;
    let client = kube::Client::try_from(config)?;
    register::join(&client, &spec).await?;
    tokio::try_join!(
        register::stay_alive(client.clone(), spec.clone()),
        kube_proxy::run(spec.clone()),
        agent::run(client, spec.clone()),
    )?;
    Ok(())
}

/// What a machine has of its own and the nodes of a lab would share.
fn private_files(spec: &NodeSpec) -> Result<()> {
    let lock = spec.directory.join("xtables.lock");
    for file in [lock.as_path(), "/run/xtables.lock".as_ref()] {
        fs::File::options().create(true).append(true).open(file)?;
    }
    isolate::run(Command::new("mount").arg("--bind").arg(&lock).arg("/run/xtables.lock"))?;
    isolate::run(Command::new("hostname").arg(&spec.name)).context("name the node")
}
