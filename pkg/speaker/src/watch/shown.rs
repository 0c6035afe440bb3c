//! What a speaker reads of the others' pods and status objects. To decode all of such
//! an object would take the code for it, and memory, for nothing.

use std::net::IpAddr;

use herald_api::L2Interface;
use serde::Deserialize;

use crate::index::InterfaceView;

/// A Pod of a speaker: where it is, and whether it has ended.
#[derive(Debug, Deserialize)]
pub(super) struct SpeakerPod {
    spec: Option<SpeakerPodSpec>,
    status: Option<SpeakerPodStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpeakerPodSpec {
    node_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SpeakerPodStatus {
    phase: Option<String>,
}

impl SpeakerPod {
    /// The node that it speaks on, unless the pod has ended for good. Whether the
    /// speaker lives is heard on the segment.
    pub(super) fn speaks_on(&self) -> Option<String> {
        let status = self.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        self.spec.as_ref()?.node_name.clone()
    }
}

/// An [`L2Status`](herald_api::L2Status) without its thousands of addresses.
#[derive(Debug, Deserialize)]
pub(super) struct Shown {
    status: Option<ShownStatus>,
}

#[derive(Debug, Deserialize)]
struct ShownStatus {
    #[serde(default)]
    interfaces: Vec<L2Interface>,
}

impl Shown {
    /// None while the node has not told them.
    pub(super) fn interfaces(&self) -> Option<Vec<InterfaceView>> {
        let view = |interface: &L2Interface| InterfaceView {
            name: interface.name.clone(),
            addresses: interface
                .addresses
                .iter()
                .filter_map(|text| prefix(text))
                .collect(),
        };
        let status = self.status.as_ref()?;
        Some(status.interfaces.iter().map(view).collect())
    }
}

/// Reads an address with the length of its prefix.
fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    Some((address.parse().ok()?, length.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_speaker_counts_until_its_pod_has_ended() {
        let on = |phase: &str| {
            let pod: SpeakerPod = serde_json::from_value(json!({
                "metadata": {"name": "s", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"nodeName": "n1", "containers": []},
                "status": {"phase": phase},
            }))
            .unwrap();
            pod.speaks_on()
        };
        assert_eq!(on("Running").as_deref(), Some("n1"));
        assert_eq!(on("Pending").as_deref(), Some("n1"));
        assert_eq!(on("Failed"), None);
        assert_eq!(on("Succeeded"), None);
    }

    #[test]
    fn a_node_that_has_not_told_its_interfaces_is_none_without_interfaces() {
        let interfaces = |text: Value| {
            let shown: Shown = serde_json::from_value(text).unwrap();
            shown.interfaces()
        };
        assert_eq!(
            interfaces(json!({"metadata": {"name": "n1"}, "spec": {}})),
            None
        );
        let told = json!({
            "metadata": {"name": "n1"},
            "spec": {},
            "status": {
                "interfaces": [{
                    "name": "lan0",
                    "addresses": ["10.20.0.11/16", "fd20::b/64", "nonsense", "1/2/3"],
                }],
                "addresses": [{"address": "10.20.100.0"}],
            },
        });
        let addresses = vec![
            ("10.20.0.11".parse().unwrap(), 16),
            ("fd20::b".parse().unwrap(), 64),
        ];
        let lan0 = InterfaceView {
            name: "lan0".into(),
            addresses,
        };
        assert_eq!(interfaces(told), Some(vec![lan0]));
    }
}
