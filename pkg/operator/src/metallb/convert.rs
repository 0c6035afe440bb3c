//! One object of `MetalLB`'s as one of Herald's.

use std::net::IpAddr;

use herald_api::{
    BFDProfileSpec, BGPAdvertisementSpec, BGPPeerSpec, CommunitySpec, IPAddressPoolSpec,
    L2AdvertisementSpec,
};
use herald_core::AddressRange;
use kube::ResourceExt as _;
use kube::api::{DynamicObject, ObjectMeta};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use super::Kind;

/// Why an object cannot be taken over.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum ConvertError {
    #[error("it has no spec")]
    Empty,
    #[error("its spec is none that Herald understands: {0}")]
    Spec(String),
    #[error("{0:?} is no CIDR and no range")]
    Address(String),
}

/// What became of an object.
#[derive(Debug)]
pub(crate) struct Conversion {
    /// The object of Herald's, with labels of its original, since selectors may name
    /// them.
    pub(crate) object: DynamicObject,
    /// What is not the same as before.
    pub(crate) remarks: Vec<String>,
}

/// The object of Herald's, in `namespace`, that says what this one says.
pub(crate) fn convert(
    kind: &Kind,
    theirs: &DynamicObject,
    namespace: &str,
) -> Result<Conversion, ConvertError> {
    let mut spec = theirs
        .data
        .get("spec")
        .cloned()
        .ok_or(ConvertError::Empty)?;
    drop_nulls(&mut spec);
    let mut remarks = Vec::new();
    let spec = match kind.name {
        "IPAddressPool" => pool(spec)?,
        "L2Advertisement" => through::<L2AdvertisementSpec>(spec)?,
        "BGPPeer" => peer(spec, namespace, &mut remarks)?,
        "BGPAdvertisement" => through::<BGPAdvertisementSpec>(spec)?,
        "BFDProfile" => {
            if spec.get("echoMode") == Some(&Value::Bool(true)) {
                remarks.push("echoMode has no effect: Herald sends no echo packets".to_owned());
            }
            through::<BFDProfileSpec>(spec)?
        }
        _ => through::<CommunitySpec>(spec)?,
    };
    let mut object = DynamicObject::new(&theirs.name_any(), &kind.ours()).within(namespace);
    object.metadata = ObjectMeta {
        labels: theirs.metadata.labels.clone(),
        ..object.metadata
    };
    object.data = serde_json::json!({"spec": spec});
    Ok(Conversion { object, remarks })
}

/// Reads a spec as Herald's type, and writes what that understood.
fn through<T: DeserializeOwned + Serialize>(spec: Value) -> Result<Value, ConvertError> {
    let spec: T =
        serde_json::from_value(spec).map_err(|error| ConvertError::Spec(error.to_string()))?;
    serde_json::to_value(spec).map_err(|error| ConvertError::Spec(error.to_string()))
}

fn pool(spec: Value) -> Result<Value, ConvertError> {
    let mut spec: IPAddressPoolSpec =
        serde_json::from_value(spec).map_err(|error| ConvertError::Spec(error.to_string()))?;
    for text in &mut spec.addresses {
        *text = addresses(text)?;
    }
    serde_json::to_value(spec).map_err(|error| ConvertError::Spec(error.to_string()))
}

/// A CIDR or a range, as Herald takes it: `MetalLB` allows spaces around the dash,
/// and host bits in a CIDR, which it leaves out.
fn addresses(text: &str) -> Result<String, ConvertError> {
    let wrong = || ConvertError::Address(text.to_owned());
    let tidy: String = text.split_whitespace().collect();
    let tidy = match tidy.split_once('/') {
        Some((address, length)) => {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let length: u32 = length.parse().map_err(|_| wrong())?;
            format!("{}/{length}", masked(address, length).ok_or_else(wrong)?)
        }
        None => tidy,
    };
    tidy.parse::<AddressRange>().map_err(|_| wrong())?;
    Ok(tidy)
}

/// An address without its host bits; `None` where the prefix is too long.
fn masked(address: IpAddr, length: u32) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let shift = 32u32.checked_sub(length)?;
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            Some(IpAddr::V4((u32::from(address) & mask).into()))
        }
        IpAddr::V6(address) => {
            let shift = 128u32.checked_sub(length)?;
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            Some(IpAddr::V6((u128::from(address) & mask).into()))
        }
    }
}

fn peer(spec: Value, namespace: &str, remarks: &mut Vec<String>) -> Result<Value, ConvertError> {
    let mut spec: BGPPeerSpec =
        serde_json::from_value(spec).map_err(|error| ConvertError::Spec(error.to_string()))?;
    // v1beta1 writes nothing as an empty word or as none of a number.
    for word in [
        &mut spec.peer_address,
        &mut spec.source_address,
        &mut spec.router_id,
        &mut spec.bfd_profile,
        &mut spec.interface,
        &mut spec.vrf,
    ] {
        word.take_if(|word| word.is_empty());
    }
    spec.peer_asn.take_if(|number| *number == 0);
    spec.password.take_if(|password| password.0.is_empty());
    spec.password_secret
        .take_if(|secret| secret.name.is_empty());
    if spec.peer_port == 0 {
        spec.peer_port = 179;
    }
    if let Some(secret) = &mut spec.password_secret {
        if let Some(theirs) = secret.namespace.take()
            && theirs != namespace
        {
            remarks.push(format!(
                "copy Secret {theirs}/{} to namespace {namespace}: Herald reads no other's",
                secret.name
            ));
        } else {
            remarks.push(format!(
                "copy Secret {} to namespace {namespace}: Herald reads no other's",
                secret.name
            ));
        }
    }
    serde_json::to_value(spec).map_err(|error| ConvertError::Spec(error.to_string()))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::KINDS;
    use super::*;

    fn converted(kind: &str, spec: &Value) -> Result<Conversion, ConvertError> {
        let kind = KINDS.iter().find(|known| known.name == kind).unwrap();
        let theirs: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "metallb.io/v1beta1",
            "kind": kind.name,
            "metadata": {
                "name": "a", "namespace": "metallb-system", "uid": "u", "resourceVersion": "7",
                "labels": {"zone": "east"}, "annotations": {"x": "y"},
            },
            "spec": spec,
        }))
        .unwrap();
        convert(kind, &theirs, "herald-system")
    }

    fn spec(kind: &str, spec: &Value) -> Value {
        converted(kind, spec).unwrap().object.data["spec"].clone()
    }

    #[test]
    fn an_object_keeps_its_name_and_labels_and_nothing_of_where_it_was() {
        let object = converted("IPAddressPool", &json!({"addresses": ["192.0.2.0/24"]}))
            .unwrap()
            .object;
        let value = serde_json::to_value(object).unwrap();
        assert_eq!(value["apiVersion"], "herald.dev/v1alpha1");
        assert_eq!(
            value["metadata"],
            json!({"name": "a", "namespace": "herald-system", "labels": {"zone": "east"}})
        );
    }

    #[test]
    fn addresses_are_written_as_herald_takes_them() {
        let pool = spec(
            "IPAddressPool",
            &json!({
                "addresses": ["192.0.2.7/24", "192.0.2.1 - 192.0.2.9", "fd00::1/112", "0.0.0.0/0"],
                "autoAssign": false, "avoidBuggyIPs": true,
                "serviceAllocation": {"priority": 50, "namespaces": ["a"], "serviceSelectors": null},
            }),
        );
        assert_eq!(
            pool["addresses"],
            json!([
                "192.0.2.0/24",
                "192.0.2.1-192.0.2.9",
                "fd00::/112",
                "0.0.0.0/0"
            ])
        );
        assert_eq!(pool["autoAssign"], false);
        assert_eq!(pool["avoidBuggyIPs"], true);
        assert_eq!(pool["serviceAllocation"]["priority"], 50);
        for wrong in ["192.0.2.0/33", "192.0.2.9-192.0.2.1", "web", ""] {
            let error = converted("IPAddressPool", &json!({"addresses": [wrong]})).unwrap_err();
            assert_eq!(error, ConvertError::Address(wrong.to_owned()));
        }
    }

    #[test]
    fn advertisements_keep_their_fields() {
        let l2 = json!({
            "ipAddressPools": ["a"], "interfaces": ["eth0"],
            "nodeSelectors": [{"matchLabels": {"rack": "1"}}],
        });
        let converted = spec("L2Advertisement", &l2);
        for field in ["ipAddressPools", "interfaces", "nodeSelectors"] {
            assert_eq!(converted[field], l2[field], "{field}");
        }
        let bgp = json!({
            "aggregationLength": 24, "localPref": 100, "communities": ["64512:1"], "peers": ["r"],
        });
        let converted = spec("BGPAdvertisement", &bgp);
        for field in ["aggregationLength", "localPref", "communities", "peers"] {
            assert_eq!(converted[field], bgp[field], "{field}");
        }
    }

    #[test]
    fn a_peer_of_the_old_version_is_read_too() {
        let conversion = converted(
            "BGPPeer",
            &json!({
                "myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1", "peerPort": 0,
                "sourceAddress": "", "bfdProfile": "", "routerID": "", "holdTime": "1m30s",
                "password": "", "passwordSecret": {"name": "", "namespace": ""},
            }),
        )
        .unwrap();
        let peer = &conversion.object.data["spec"];
        assert_eq!(peer["peerPort"], 179);
        for field in [
            "sourceAddress",
            "bfdProfile",
            "routerID",
            "password",
            "passwordSecret",
        ] {
            assert_eq!(peer.get(field), None, "{field}");
        }
        assert!(conversion.remarks.is_empty());
    }

    #[test]
    fn what_a_person_must_do_is_said() {
        let conversion = converted(
            "BGPPeer",
            &json!({
                "myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1",
                "passwordSecret": {"name": "tor", "namespace": "metallb-system"},
            }),
        )
        .unwrap();
        assert!(conversion.remarks[0].contains("metallb-system/tor"));
        let conversion = converted("BFDProfile", &json!({"echoMode": true})).unwrap();
        assert_eq!(conversion.remarks.len(), 1);
        assert!(matches!(
            converted("BGPPeer", &json!({"myASN": "x"})),
            Err(ConvertError::Spec(_))
        ));
    }
}
