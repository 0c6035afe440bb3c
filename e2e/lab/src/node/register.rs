//! The Node object: made once, kept alive by a Lease.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::spec::NodeSpec;

/// The lab's controller manager takes a node that is silent for 4 s for dead.
const RENEWAL: Duration = Duration::from_secs(1);

/// Registers the Node, or takes over the one that an earlier life registered.
pub(super) async fn join(client: &Client, spec: &NodeSpec) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut labels = spec.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", spec.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", std::env::consts::ARCH),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": spec.name, "labels": labels},
        "spec": {
            "providerID": format!("herald-lab://{}", spec.name),
            "podCIDR": spec.pod_cidrs[0],
            "podCIDRs": spec.pod_cidrs,
        },
    }))?;
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(error)) if error.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    patch_status(&nodes, spec).await
}

/// Renews the Lease and says again that the node is Ready whenever somebody
/// took it for dead.
pub(super) async fn stay_alive(client: Client, spec: Arc<NodeSpec>) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(client);
    let mut ticks = tokio::time::interval(RENEWAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = beat(&leases, &nodes, &spec).await {
            // The API server may be away; the next beat tries again.
            eprintln!("node {}: {error:#}", spec.name);
        }
    }
}

async fn beat(leases: &Api<Lease>, nodes: &Api<Node>, spec: &NodeSpec) -> Result<()> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": spec.name},
        "spec": {
            "holderIdentity": spec.name,
            "leaseDurationSeconds": 4,
            "renewTime": format!("{:.6}", jiff::Timestamp::now()),
        },
    });
    match leases.patch(&spec.name, &PatchParams::default(), &Patch::Merge(&lease)).await {
        Ok(_) => {}
        Err(kube::Error::Api(error)) if error.code == 404 => {
            leases.create(&PostParams::default(), &serde_json::from_value(lease)?).await?;
        }
        Err(error) => return Err(error.into()),
    }
    let node = nodes.get(&spec.name).await?;
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !ready {
        eprintln!("node {}: posting Ready", node.name_any());
        patch_status(nodes, spec).await?;
    }
    Ok(())
}

async fn patch_status(nodes: &Api<Node>, spec: &NodeSpec) -> Result<()> {
    let status = json!({"status": status(spec)});
    nodes.patch_status(&spec.name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

fn status(spec: &NodeSpec) -> Value {
    let mut addresses: Vec<Value> = spec
        .internal_addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": spec.name}));
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
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
        "nodeInfo": {
            "architecture": std::env::consts::ARCH,
            "bootID": "", "machineID": spec.name, "systemUUID": spec.name,
            "containerRuntimeVersion": "herald-lab://processes",
            "kernelVersion": kernel_version(),
            "kubeletVersion": "v1.37.2-herald-lab",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "osImage": "herald-lab",
        },
    })
}

fn kernel_version() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
