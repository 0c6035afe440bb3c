//! Names and tags of what belongs to a Service.
//!
//! A name is `herald-`, up to 12 characters of the Service's name for people, and 48
//! bits of a digest of all that makes the object another one: at most 32 characters,
//! which is what AWS takes. Whose an object is is told by its tags alone.

use std::fmt::Write as _;

use herald_core::ServiceKey;
use sha2::{Digest as _, Sha256};

use crate::spec::{Spec, Tags, TargetGroup};

/// Tag with the cluster's id.
pub const TAG_CLUSTER: &str = "herald.dev/cluster";
/// Tag with the Service's namespace and name.
pub const TAG_SERVICE: &str = "herald.dev/service";
/// Tag with the Service's UID.
pub const TAG_SERVICE_UID: &str = "herald.dev/service-uid";
/// Tag with what an object is for within its Service: [`LOAD_BALANCER`],
/// [`SECURITY_GROUP`], `listener/80`, `target-group/80/TCP`.
pub const TAG_RESOURCE: &str = "herald.dev/resource";
/// All tags of Herald's begin so; users can't set them.
pub const TAG_PREFIX: &str = "herald.dev/";

/// Value of [`TAG_RESOURCE`] on load balancers.
pub const LOAD_BALANCER: &str = "load-balancer";
/// Value of [`TAG_RESOURCE`] on managed security groups.
pub const SECURITY_GROUP: &str = "security-group";

/// Tag of the AWS Load Balancer Controller with the cluster's name.
pub const LBC_TAG_CLUSTER: &str = "elbv2.k8s.aws/cluster";
/// Tag of the AWS Load Balancer Controller with the Service's namespace and name.
pub const LBC_TAG_STACK: &str = "service.k8s.aws/stack";
/// Tag of the AWS Load Balancer Controller with what an object is for:
/// [`LBC_LOAD_BALANCER`], `<namespace>/<name>:<port>` on target groups, `<port>` on
/// listeners, [`LBC_SECURITY_GROUP`].
pub const LBC_TAG_RESOURCE: &str = "service.k8s.aws/resource";
/// Value of [`LBC_TAG_RESOURCE`] on load balancers.
pub const LBC_LOAD_BALANCER: &str = "LoadBalancer";
/// Value of [`LBC_TAG_RESOURCE`] on managed security groups.
pub const LBC_SECURITY_GROUP: &str = "ManagedLBSecurityGroup";

/// Finalizer of the AWS Load Balancer Controller on Services.
pub const LBC_FINALIZER: &str = "service.k8s.aws/resources";

const NAME_LIMIT: usize = 32;
const READABLE: usize = 12;
const DIGEST: usize = 12;

/// A Service in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// Which Service.
    pub service: ServiceKey,
    /// Its `metadata.uid`.
    pub uid: String,
}

impl Identity {
    /// Name of the load balancer. `variant` is whatever makes it another one: scheme,
    /// word of `herald.dev/aws-replace`.
    pub fn load_balancer_name(&self, variant: &str) -> String {
        self.name(&["load-balancer", variant])
    }

    /// Name of a target group, from all of it that can't be changed in place.
    pub fn target_group_name(&self, variant: &str, vpc_id: &str, group: &TargetGroup) -> String {
        self.name(&[
            "target-group",
            variant,
            vpc_id,
            &group.key,
            &group.port.to_string(),
            group.protocol.as_str(),
            group.target_type.as_str(),
            group.family.as_str(),
        ])
    }

    /// Name of the managed security group.
    pub fn security_group_name(&self) -> String {
        self.name(&["security-group"])
    }

    /// Tags of one of the Service's objects.
    pub fn tags(&self, resource: &str) -> Tags {
        Tags::from([
            (TAG_CLUSTER.to_owned(), self.cluster_id.clone()),
            (TAG_SERVICE.to_owned(), self.service.to_string()),
            (TAG_SERVICE_UID.to_owned(), self.uid.clone()),
            (TAG_RESOURCE.to_owned(), resource.to_owned()),
        ])
    }

    /// Whether an object with these tags belongs to the Service.
    pub fn owns(&self, tags: &Tags) -> bool {
        tags.get(TAG_CLUSTER) == Some(&self.cluster_id)
            && tags.get(TAG_SERVICE_UID) == Some(&self.uid)
    }

    fn name(&self, parts: &[&str]) -> String {
        let readable: String = self
            .service
            .name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .take(READABLE)
            .collect();
        let whose = [self.cluster_id.as_str(), self.uid.as_str()];
        let digest = digest(whose.into_iter().chain(parts.iter().copied()));
        let name = format!("herald-{}-{digest}", readable.trim_matches('-'));
        debug_assert!(name.len() <= NAME_LIMIT);
        name
    }
}

impl Spec {
    /// The same with the generated names of another variant: two of them exist side
    /// by side while one replaces the other. A name that the Service gave stays, and so
    /// does the security group, which both may use.
    #[must_use]
    pub fn renamed(&self, variant: &str) -> Self {
        let mut spec = self.clone();
        let identity = &self.identity;
        if !spec.load_balancer.name_given {
            spec.load_balancer.name = identity.load_balancer_name(variant);
        }
        for group in &mut spec.target_groups {
            group.name = identity.target_group_name(variant, &self.vpc_id, group);
        }
        variant.clone_into(&mut spec.variant);
        spec
    }
}

/// The first characters of a digest of all parts, in hexadecimal.
fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        // With their lengths, so that no two lists of parts read the same.
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest
        .finalize()
        .iter()
        .take(DIGEST / 2)
        .fold(String::new(), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity {
            cluster_id: "c1".into(),
            service: ServiceKey::new("default", name),
            uid: "u1".into(),
        }
    }

    #[test]
    fn names_are_what_aws_takes_and_never_change() {
        assert_eq!(
            identity("web").load_balancer_name("internal"),
            "herald-web-ddfd1b1b2f07"
        );
        for name in ["web", "a-b-c-d-e-f-g-h", "0123456789a-bcd", "-----", "ü"] {
            let name = identity(name).load_balancer_name("");
            assert!(name.len() <= NAME_LIMIT, "{name}");
            assert!(
                name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
                "{name}"
            );
        }
    }

    #[test]
    fn another_variant_cluster_or_service_is_another_name() {
        let of = |identity: &Identity, variant: &str| identity.load_balancer_name(variant);
        let base = identity("web");
        let mut other = base.clone();
        other.cluster_id = "c2".into();
        assert_ne!(of(&base, "internal"), of(&base, "internet-facing"));
        assert_ne!(of(&base, ""), of(&other, ""));
        assert_ne!(base.security_group_name(), of(&base, ""));
    }

    #[test]
    fn tags_of_another_cluster_or_service_are_not_ours() {
        let base = identity("web");
        let mut other = base.clone();
        other.uid = "u2".into();
        let tags = base.tags(LOAD_BALANCER);
        assert!(base.owns(&tags));
        assert!(!other.owns(&tags));
        assert!(!base.owns(&Tags::new()));
    }
}
