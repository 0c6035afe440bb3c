//! The Node object: registered once, kept alive by a Lease.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};

use super::spec::NodeSpec;
use super::{ShortPause, WATCH_SECONDS};

/// The lab's controller manager takes a node that is silent for 4 s for dead.
const RENEWAL: Duration = Duration::from_secs(1);
const LEASE_SECONDS: u32 = 4;
/// A renewal that takes longer has lost its connection: the next one makes a
/// new one.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the status is posted though nothing has changed, as the kubelet
/// does (`nodeStatusReportFrequency`).
const HEARTBEAT: Duration = Duration::from_mins(5);

/// Registers the Node, or takes over the one that an earlier life registered.
pub(super) async fn join(client: &Client, spec: &NodeSpec) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut labels = spec.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", spec.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": spec.name, "labels": labels},
        "spec": {
            "providerID": spec.provider_id,
            "podCIDR": spec.pod_cidrs.first(),
            "podCIDRs": spec.pod_cidrs,
        },
    }))?;
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(error)) if error.code == 409 => {}
        Err(error) => return Err(error).context("register the node"),
    }
    post_status(&nodes, spec)
        .await
        .context("post the node's status")
}

/// Renews the Lease for ever. After an outage it posts the status too, and does
/// not wait for the watch to come back and tell that somebody took the node for
/// dead.
pub(super) async fn keep_lease(client: Client, spec: Arc<NodeSpec>) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let mut ticks = tokio::time::interval(RENEWAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let attempt = async {
            renew(&leases, &spec).await?;
            if failing {
                post_status(&nodes, &spec).await?;
            }
            Ok(())
        };
        let renewed = tokio::time::timeout(PATIENCE, attempt)
            .await
            .unwrap_or_else(|_| bail!("the API server is silent"));
        if let Err(error) = &renewed
            && !failing
        {
            eprintln!("node {}: renew its lease: {error:#}", spec.name);
        }
        failing = renewed.is_err();
    }
}

async fn renew(leases: &Api<Lease>, spec: &NodeSpec) -> Result<()> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": spec.name},
        "spec": {
            "holderIdentity": spec.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": MicroTime(jiff::Timestamp::now()),
        },
    });
    let patched = leases
        .patch(&spec.name, &PatchParams::default(), &Patch::Merge(&lease))
        .await;
    match patched {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(error)) if error.code == 404 => {
            let lease = serde_json::from_value(lease)?;
            leases.create(&PostParams::default(), &lease).await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Watches the node's own object: says again that it is Ready whenever somebody
/// took it for dead, and registers it again when somebody removed it.
pub(super) async fn stay_ready(client: Client, spec: Arc<NodeSpec>) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={}", spec.name))
        .timeout(WATCH_SECONDS);
    let events = watcher(nodes.clone(), config).backoff(ShortPause);
    pin_mut!(events);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.tick().await;
    let mut failing = false;
    loop {
        let done = tokio::select! {
            _ = heartbeat.tick() => post_status(&nodes, &spec).await,
            Some(event) = events.next() => match event {
                Ok(Event::Apply(node) | Event::InitApply(node)) if !is_ready(&node) => {
                    post_status(&nodes, &spec).await
                }
                Ok(Event::Delete(_)) => join(&client, &spec).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = &done
            && !failing
        {
            eprintln!("node {}: its own object: {error}", spec.name);
        }
        failing = done.is_err();
    }
}

fn is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn post_status(nodes: &Api<Node>, spec: &NodeSpec) -> Result<()> {
    let patch = Patch::Strategic(json!({"status": status(spec)}));
    nodes
        .patch_status(&spec.name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

fn status(spec: &NodeSpec) -> Value {
    let mut addresses: Vec<Value> = spec
        .internal_addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": spec.name}));
    // Merged by type otherwise, which two families do not survive.
    addresses.push(json!({"$patch": "replace"}));
    let now = Time(jiff::Timestamp::now());
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "herald-lab node agent",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let resources = json!({
        "cpu": "16", "memory": "32Gi", "pods": "200", "ephemeral-storage": "100Gi",
    });
    json!({
        "addresses": addresses,
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            condition("Ready", "True", "KubeletReady"),
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": super::server::PORT}},
        "nodeInfo": {
            "architecture": architecture(),
            "bootID": "",
            "containerRuntimeVersion": "herald-lab://processes",
            "kernelVersion": kernel_version(),
            "kubeProxyVersion": "",
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-herald-lab"),
            "machineID": spec.name,
            "operatingSystem": "linux",
            "osImage": "herald-lab",
            "systemUUID": spec.name,
        },
    })
}

/// As Go and Kubernetes call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_version() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
