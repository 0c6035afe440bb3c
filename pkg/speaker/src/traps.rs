//! Settings of the node that break announcing and are easily overlooked.

use std::collections::BTreeMap;
use std::fs;

use herald_net::Interface;

/// The interface on which kube-proxy in ipvs mode puts every VIP.
const IPVS: &str = "kube-ipvs0";

/// Whether the kernel of this node answers ARP for VIPs that it should leave to
/// us: kube-proxy has them on an interface, and the kernel answers on any
/// interface for addresses of all (`arp_ignore` is 0, kernel documentation
/// ip-sysctl).
pub(crate) fn ipvs_answers_arp(interfaces: &BTreeMap<u32, Interface>) -> bool {
    interfaces.values().any(|interface| interface.name == IPVS)
        && interfaces
            .values()
            .filter(|interface| interface.can_announce())
            .any(|interface| arp_ignore("all").max(arp_ignore(&interface.name)) == 0)
}

/// `arp_ignore` of an interface; one that can't be read is taken for set, so
/// that nobody is alarmed without cause. The kernel heeds the larger one of the
/// interface's and that of `all`.
fn arp_ignore(interface: &str) -> u32 {
    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/arp_ignore"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1)
}
