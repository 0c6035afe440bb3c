//! What a speaker reads of the others' status objects.

use std::borrow::Cow;
use std::net::IpAddr;

use herald_api::{L2Interface, L2Status};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use crate::index::InterfaceView;

/// An [`L2Status`] without its thousands of addresses, which nobody here reads.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Shown {
    metadata: ObjectMeta,
    status: Option<ShownStatus>,
}

#[derive(Clone, Debug, Deserialize)]
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

impl Resource for Shown {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        L2Status::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        L2Status::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        L2Status::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        L2Status::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
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
