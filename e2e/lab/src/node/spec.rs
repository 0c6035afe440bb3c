//! What a node needs to know to join the cluster: written by the supervisor,
//! read by `herald-lab __node`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::Families;

/// One node's configuration, a JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Name of the node and of its network namespace, `n1`.
    pub name: String,
    /// Families of the cluster.
    pub families: Families,
    /// `InternalIP` addresses, on the management network.
    pub internal_addresses: Vec<IpAddr>,
    /// Pod networks of this node (one a family); each pod gets one address
    /// of each.
    pub pod_cidrs: Vec<String>,
    /// Labels to register the Node with, beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// `spec.providerID` to register the Node with; nobody can change it later.
    pub provider_id: String,
    /// The API server, `https://172.30.0.1:6443`.
    pub api_server: String,
    /// CA certificate of the API server, PEM file.
    pub ca_file: PathBuf,
    /// Bearer token of `system:node:<name>` in group `system:nodes`.
    pub token: String,
    /// Bearer token of kube-proxy (`system:kube-proxy`).
    pub proxy_token: String,
    /// Programs of the control plane by name (`kube-proxy`, `kubectl`).
    pub programs: BTreeMap<String, PathBuf>,
    /// kube-proxy's mode: `nftables`, `iptables` or `ipvs`.
    pub proxy_mode: String,
    /// kube-proxy's `ipvs.strictARP`.
    pub strict_arp: bool,
    /// Image name (last path component, without tag) to the program that
    /// stands for it.
    pub images: BTreeMap<String, PathBuf>,
    /// Private directory of this node, on a tmpfs.
    pub directory: PathBuf,
    /// Where the output of containers is kept:
    /// `<namespace>_<pod>_<container>.log`.
    pub logs: PathBuf,
}
