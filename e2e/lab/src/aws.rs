//! AWS beside the cluster: `herald-fakeaws` on host `cloud`, and an account in
//! which the lab's nodes are instances.
//!
//! ```text
//!   VPC  172.30.0.0/16, 10.244.0.0/16, fd30::/56
//!     eu-central-1a  private-a 172.30.0.0/24 (the nodes)   public-a 172.30.1.0/24
//!                    pods      10.244.0.0/16
//!     eu-central-1b  private-b 172.30.2.0/24               public-b 172.30.3.0/24
//!   load balancers listen on LAN 0: 10.20.8.0/22, fd20::8:0/112
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::plan::{CLUSTER_CIDR_V4, Host};
use crate::process::{self, PROCESS};

/// Port of `herald-fakeaws` on host `cloud`.
pub const PORT: u16 = 8092;
/// The region.
pub const REGION: &str = "eu-central-1";
/// The zone in which the nodes are.
pub const ZONE: &str = "eu-central-1a";
/// The VPC.
pub const VPC: &str = "vpc-00000000000000001";
/// The cluster's name, by which subnets and groups are tagged.
pub const CLUSTER: &str = "lab";
/// Security group of the nodes.
pub const NODE_GROUP: &str = "sg-00000000000000001";
/// The name of the stand-in's process.
const NAME: &str = "fakeaws";
/// Where names of load balancers stand, as in /etc/hosts.
const NAMES: &str = "/run/herald-lab/aws/hosts";

/// Id of the instance that node `n<i>` is.
pub fn instance(i: u8) -> String {
    format!("i-{i:017}")
}

/// `spec.providerID` of node `n<i>`.
pub fn provider_id(i: u8) -> String {
    format!("aws:///{ZONE}/{}", instance(i))
}

/// URL of the API, for those on the management network.
pub fn endpoint() -> Result<String> {
    let (v4, _) = Host::Cloud
        .management()
        .context("the cloud is on management")?;
    Ok(format!("http://{v4}:{PORT}"))
}

/// What is in the account before anybody calls.
fn fixtures(nodes: u8) -> Result<Value> {
    let owned = format!("kubernetes.io/cluster/{CLUSTER}");
    let subnet = |id: &str, zone: &str, cidr: &str, v6: &str, role: &str| {
        json!({
            "id": format!("subnet-{id}"), "vpc": VPC, "zone": zone, "cidr": cidr, "ipv6Cidr": v6,
            "tags": {"Name": id, role: "1", owned.clone(): "shared"},
        })
    };
    let (internal, public) = ("kubernetes.io/role/internal-elb", "kubernetes.io/role/elb");
    let other_zone = "eu-central-1b";
    let instances = (1..=nodes)
        .map(|i| {
            let (address, v6) = Host::Node(i)
                .management()
                .context("a node is on management")?;
            Ok(json!({
                "id": instance(i), "subnet": "subnet-private-a", "address": address, "ipv6": v6,
                "securityGroups": [NODE_GROUP], "tags": {"Name": Host::Node(i).name()},
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "region": REGION,
        "zones": [{"name": ZONE, "id": "euc1-az1"}, {"name": other_zone, "id": "euc1-az2"}],
        "vpcs": [{
            "id": VPC, "cidrs": ["172.30.0.0/16", CLUSTER_CIDR_V4], "ipv6Cidr": "fd30::/56",
            "tags": {"Name": CLUSTER},
        }],
        "subnets": [
            subnet("private-a", ZONE, "172.30.0.0/24", "fd30::/64", internal),
            subnet("private-b", other_zone, "172.30.2.0/24", "fd30:0:0:2::/64", internal),
            subnet("public-a", ZONE, "172.30.1.0/24", "fd30:0:0:1::/64", public),
            subnet("public-b", other_zone, "172.30.3.0/24", "fd30:0:0:3::/64", public),
            // Addresses of pods, as the VPC's own network plugin gives them.
            {"id": "subnet-pods", "vpc": VPC, "zone": ZONE, "cidr": CLUSTER_CIDR_V4,
             "tags": {"Name": "pods"}},
        ],
        "routeTables": [
            {"id": "rtb-public", "vpc": VPC, "main": true, "defaultRoute": "igw-1"},
            {"id": "rtb-private", "vpc": VPC, "defaultRoute": "nat-1",
             "subnets": ["subnet-private-a", "subnet-private-b", "subnet-pods"]},
        ],
        "securityGroups": [{
            "id": NODE_GROUP, "name": "nodes", "description": "nodes of the cluster", "vpc": VPC,
            "tags": {owned: "owned"},
        }],
        "instances": instances,
    }))
}

/// Starts the stand-in on host `cloud`, unless it runs; `more` are further flags,
/// which win over those given here.
pub(crate) fn start(program: &Path, nodes: u8, logs: &Path, more: &[&str]) -> Result<()> {
    if !process::find(PROCESS, NAME).is_empty() {
        return Ok(());
    }
    let directory = directory()?;
    let file = directory.join("fixtures.json");
    fs::write(&file, serde_json::to_vec_pretty(&fixtures(nodes)?)?)
        .with_context(|| format!("write {}", file.display()))?;
    // Clients have the file from the start.
    fs::write(NAMES, "127.0.0.1\tlocalhost\n::1\tlocalhost\n")?;
    let mut command = process::in_host(Some("cloud"), program);
    command
        .arg(format!("--listen=[::]:{PORT}"))
        .arg("--fixtures")
        .arg(file)
        .args(["--data-path", "--interface=lan0", "--hosts-file", NAMES])
        .args([
            "--address-pool=10.20.8.0/22",
            "--address-pool=fd20::8:0/112",
        ])
        // AWS's minutes are of no use here.
        .args(["--provisioning-time=3s", "--interface-release-time=5s"])
        .args(more);
    process::start(command, NAME, &process::log_path(logs, NAME))
}

/// Writes what a user of `deploy/overlays/aws` writes, docs/aws.md: the overlay
/// with flags for this account, and the keys of one of its users. Returns the
/// folder, for `kubectl apply -k`.
pub(crate) fn kustomization(overlay: &Path) -> Result<PathBuf> {
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    let container = "/spec/template/spec/containers/0";
    let endpoint = endpoint()?;
    let flags = [
        format!("--aws-cluster-name={CLUSTER}"),
        format!("--aws-region={REGION}"),
        format!("--aws-vpc-id={VPC}"),
        format!("--aws-endpoint={endpoint}"),
        // Long enough to be seen, and no longer.
        "--aws-replaced-load-balancer-delay=10s".to_owned(),
    ];
    let mut patch: Vec<Value> = flags
        .into_iter()
        .map(|flag| add(&format!("{container}/args/-"), flag.into()))
        .collect();
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "AKIA1234567890120001"),
        ("AWS_SECRET_ACCESS_KEY", "lab"),
    ] {
        let variable = json!({"name": name, "value": value});
        patch.push(add(&format!("{container}/env/-"), variable));
    }
    let directory = directory()?;
    // kustomize takes no absolute path.
    let up: PathBuf = directory.components().skip(1).map(|_| "..").collect();
    let down = overlay
        .strip_prefix("/")
        .context("the overlay's path is absolute")?;
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [up.join(down)],
        "patches": [{
            "target": {"kind": "Deployment", "name": "herald-operator"},
            "patch": serde_json::to_string(&patch)?,
        }],
    });
    fs::write(
        directory.join("kustomization.yaml"),
        serde_json::to_vec_pretty(&kustomization)?,
    )?;
    Ok(directory)
}

fn directory() -> Result<PathBuf> {
    let directory = Path::new(NAMES)
        .parent()
        .context("the file of names is in a folder")?;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory.to_owned())
}

/// A command on a host that resolves the names of load balancers, where there are
/// any: with the file of names, as it is now, in the place of /etc/hosts.
pub fn with_names(host: Option<&str>, program: &Path) -> Command {
    if !Path::new(NAMES).exists() {
        return process::in_host(host, program);
    }
    let mut command = process::in_host(host, Path::new("unshare"));
    command
        .args(["--mount", "--", "sh", "-c"])
        .arg(format!(
            "mount --bind {NAMES} /etc/hosts && exec \"$0\" \"$@\""
        ))
        .arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_are_instances_of_their_subnet() {
        let fixtures = fixtures(3).unwrap();
        let instances = fixtures["instances"].as_array().unwrap();
        assert_eq!(instances.len(), 3);
        for (i, is) in (1..).zip(instances) {
            assert_eq!(is["id"], instance(i));
            assert!(provider_id(i).ends_with(is["id"].as_str().unwrap()));
            let subnet: ipnet::Ipv4Net = "172.30.0.0/24".parse().unwrap();
            let address: std::net::Ipv4Addr = is["address"].as_str().unwrap().parse().unwrap();
            assert!(subnet.contains(&address));
        }
    }
}
