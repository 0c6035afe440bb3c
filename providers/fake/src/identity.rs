//! Which load balancer belongs to which Service.

use std::collections::BTreeMap;
use std::fmt::Write;

use herald_core::ServiceKey;
use sha2::{Digest, Sha256};

/// Tag with the cluster's id.
const CLUSTER_TAG: &str = "herald.dev/cluster";
/// Tag with the Service's UID.
const UID_TAG: &str = "herald.dev/service-uid";
/// Tag with the Service's namespace and name, for people.
const SERVICE_TAG: &str = "herald.dev/service";

/// The name of a Service's load balancer: `herald-` and 96 bits of a digest,
/// 31 characters of the cloud's 32.
pub fn name(cluster_id: &str, uid: &str) -> String {
    format!("herald-{}", hex(&[cluster_id, uid], 12))
}

/// A token for one way of making a load balancer: the same request has the same
/// token, in whichever process.
pub fn token(request: &str) -> String {
    hex(&[request], 32)
}

/// The tags that say whose a load balancer is.
pub fn tags(cluster_id: &str, uid: &str, key: &ServiceKey) -> BTreeMap<String, String> {
    BTreeMap::from([
        (CLUSTER_TAG.to_owned(), cluster_id.to_owned()),
        (UID_TAG.to_owned(), uid.to_owned()),
        (SERVICE_TAG.to_owned(), key.to_string()),
    ])
}

/// Whether a load balancer with these tags belongs to the Service.
pub fn owns(cluster_id: &str, uid: &str, tags: &BTreeMap<String, String>) -> bool {
    let tag = |key: &str| tags.get(key).map(String::as_str);
    tag(CLUSTER_TAG) == Some(cluster_id) && tag(UID_TAG) == Some(uid)
}

/// The first `bytes` bytes of a digest of all parts, in hexadecimal.
fn hex(parts: &[&str], bytes: usize) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        // With their lengths, so that no two lists of parts read the same.
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest
        .finalize()
        .iter()
        .take(bytes)
        .fold(String::new(), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_cluster_and_by_uid_and_never_change() {
        assert_eq!(name("c1", "u1"), "herald-2ce0b16ab96197fbd2fe3632");
        assert_ne!(name("c1", "u1"), name("c1", "u2"));
        assert_ne!(name("c1", "1u"), name("c11", "u"));
        assert!(name("c1", "u1").len() <= 32);
    }

    #[test]
    fn tags_of_another_cluster_or_service_are_not_ours() {
        let tags = tags("c1", "u1", &ServiceKey::new("default", "web"));
        assert!(owns("c1", "u1", &tags));
        assert!(!owns("c2", "u1", &tags));
        assert!(!owns("c1", "u2", &tags));
        assert!(!owns("c1", "u1", &BTreeMap::new()));
    }
}
