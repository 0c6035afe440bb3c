//! kube-proxy, the real one, with the node's own configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::spec::NodeSpec;
use crate::controlplane::write_kubeconfig;
use crate::plan::{self, Families};
use crate::process::{self, NODE, PROCESS};

/// Runs kube-proxy, again whenever it ends.
pub(super) async fn run(spec: Arc<NodeSpec>) -> Result<()> {
    let file = configure(&spec)?;
    let program = spec
        .programs
        .get("kube-proxy")
        .context("no program kube-proxy")?;
    let log = spec
        .logs
        .parent()
        .unwrap_or(&spec.logs)
        .join(format!("kube-proxy-{}.log", spec.name));
    loop {
        let output = File::options().create(true).append(true).open(&log)?;
        let mut child = tokio::process::Command::new(program)
            .arg(format!("--config={}", file.display()))
            .env(PROCESS, process_name(&spec.name))
            .env(NODE, &spec.name)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()
            .context("start kube-proxy")?;
        let status = child.wait().await?;
        eprintln!(
            "node {}: kube-proxy ended ({status}); starting it again",
            spec.name
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn process_name(node: &str) -> String {
    format!("kube-proxy-{node}")
}

fn file(directory: &Path) -> PathBuf {
    directory.join("kube-proxy.json")
}

/// Changes `ipvs.strictARP` in the configuration that lies in a node's
/// directory, and ends kube-proxy, which starts again with it.
pub(crate) fn set_strict_arp(node: &str, directory: &Path, strict: bool) -> Result<()> {
    let file = file(directory);
    let mut configuration: Value = serde_json::from_slice(&fs::read(&file)?)?;
    configuration["ipvs"]["strictARP"] = json!(strict);
    fs::write(&file, serde_json::to_vec_pretty(&configuration)?)?;
    for found in process::find(PROCESS, &process_name(node)) {
        found.signal(Signal::SIGTERM);
    }
    // It sets them where it is strict, and does not take them back.
    let script = "echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore && \
                  echo 0 >/proc/sys/net/ipv4/conf/all/arp_announce";
    let status = process::in_host(Some(node), Path::new("sh"))
        .args(["-c", script])
        .status()?;
    ensure!(status.success(), "resetting ARP on {node} failed: {status}");
    Ok(())
}

fn configure(spec: &NodeSpec) -> Result<PathBuf> {
    let kubeconfig = spec.directory.join("kube-proxy.kubeconfig");
    write_kubeconfig(
        &kubeconfig,
        &spec.api_server,
        &spec.ca_file,
        &spec.proxy_token,
    )?;
    let cluster_cidr = match spec.families {
        Families::Ipv4 => plan::CLUSTER_CIDR_V4.to_owned(),
        Families::Ipv6 => plan::CLUSTER_CIDR_V6.to_owned(),
        Families::Dual => format!("{},{}", plan::CLUSTER_CIDR_V4, plan::CLUSTER_CIDR_V6),
    };
    let wildcard = if spec.families.has_v4() {
        "0.0.0.0"
    } else {
        "::"
    };
    let bracketed = if spec.families.has_v4() {
        "0.0.0.0"
    } else {
        "[::]"
    };
    let quick = json!({"minSyncPeriod": "100ms", "syncPeriod": "30s"});
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": spec.proxy_mode,
        "hostnameOverride": spec.name,
        "bindAddress": wildcard,
        "clusterCIDR": cluster_cidr,
        "healthzBindAddress": format!("{bracketed}:10256"),
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": kubeconfig},
        // These sysctls are read-only outside the first network namespace.
        "conntrack": {
            "maxPerCore": 0, "min": 0,
            "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
        "nftables": quick,
        "iptables": quick,
        "ipvs": {"strictARP": spec.strict_arp, "minSyncPeriod": "100ms", "syncPeriod": "30s"},
    });
    let file = file(&spec.directory);
    fs::write(&file, serde_json::to_vec_pretty(&configuration)?)?;
    Ok(file)
}
