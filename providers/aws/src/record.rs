//! The record of what was last applied, in a tag on the load balancer itself.
//!
//! Attributes, listeners and targets can only be read one object at a time. So when
//! all of it has been brought to what a Service asks for, the load balancer gets a tag
//! with a digest of that, as the last step; and the tag is taken off as the first step
//! before any of it is changed. Whenever the process ends, then: either the tag is
//! there and nothing was changed since (except by others, which the background check
//! finds), or it is not, and everything is read.
//!
//! Nodes come and go more often than Services change, and mean the same for most load
//! balancers. Their records say only *the cluster's nodes* ([`Targets::Nodes`]), and
//! one tag for all, on the shared security group, says which nodes those are. It is
//! taken off before the first registration after a change of nodes, and written when
//! the last load balancer has them. So a node costs one call for each target group and
//! two more, and not three for each.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::spec::{Spec, Tags, Target, TargetType};

/// Tag with the record, on a load balancer.
pub const TAG_APPLIED: &str = "herald.dev/applied";
/// Tag with the digest of the cluster's nodes, on the shared security group.
pub const TAG_NODES: &str = "herald.dev/nodes";
/// Tag with the keys of the tags that the Service and the operator's settings ask for,
/// so that one that is asked for no more is known from those of others.
pub const TAG_TAGS: &str = "herald.dev/tags";
/// Tag on a load balancer that was replaced: when it goes, in seconds of Unix time.
pub const TAG_RETIRES: &str = "herald.dev/retires-at";
/// Tag on a load balancer that Herald took over: `given` (it goes back to its maker
/// when the Service goes) or `controller` (it was the AWS Load Balancer Controller's
/// for the same Service, and is Herald's own now).
pub const TAG_ADOPTED: &str = "herald.dev/adopted";
/// What the keys of the tags begin with that list what this cluster registered in a
/// target group that other clusters use too. A target is listed before it is registered
/// and struck out after it was deregistered, so that one is taken out after a restart
/// too, and another cluster's never.
pub const TAG_TARGETS: &str = "herald.dev/targets-";
/// The most tags of that kind: AWS allows 50 in all.
const LISTS: usize = 35;
/// The longest value of a tag.
pub(crate) const TAG_VALUE: usize = 256;
/// Value of the tag `herald.dev/resource` on the shared security group.
pub const BACKEND_GROUP: &str = "backend-security-group";

/// Which targets a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// The nodes that every Service gets that does not select any.
    Nodes,
    /// Others.
    Own,
}

/// Whether a Service's targets are the nodes that every Service gets.
pub fn targets(spec: &Spec, nodes: &BTreeSet<String>) -> Targets {
    let common = !spec.target_groups.is_empty()
        && spec.target_groups.iter().all(|group| {
            group.target_type == TargetType::Instance
                && !group.shared
                && group.targets.len() == nodes.len()
                && group
                    .targets
                    .iter()
                    .all(|target| nodes.contains(&target.id()))
        });
    if common { Targets::Nodes } else { Targets::Own }
}

/// The record of a specification that has been applied.
pub fn applied(spec: &Spec, targets: &Targets) -> String {
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    };
    add(&format!("{:?}", spec.load_balancer.attributes));
    add(&format!("{:?}", spec.load_balancer.capacity_units));
    add(&format!("{:?}", spec.listeners));
    for group in &spec.target_groups {
        add(&group.name);
        add(&format!("{:?}", group.attributes));
        add(&format!("{:?}", group.tags));
        if *targets == Targets::Own {
            add(&format!("{:?}", group.targets));
        }
    }
    let digest = hex(&digest.finalize()[..12]);
    match targets {
        Targets::Nodes => format!("1.{digest}.nodes"),
        Targets::Own => format!("1.{digest}"),
    }
}

/// Whether a record leaves the targets to the tag on the shared security group.
pub fn follows_nodes(record: &str) -> bool {
    record.rsplit('.').next() == Some("nodes")
}

/// The digest of the cluster's nodes.
pub fn nodes(ids: &BTreeSet<String>) -> String {
    let mut digest = Sha256::new();
    for id in ids {
        digest.update((id.len() as u64).to_be_bytes());
        digest.update(id);
    }
    format!("1.{}", hex(&digest.finalize()[..12]))
}

/// Ids of targets.
pub fn ids(targets: &BTreeSet<Target>) -> BTreeSet<String> {
    targets.iter().map(Target::id).collect()
}

/// Tags that list targets by their ids; none where there are too many.
pub fn list(ids: &BTreeSet<String>) -> Option<Tags> {
    let mut lists: Vec<String> = Vec::new();
    for id in ids {
        match lists.last_mut() {
            Some(list) if list.len() + 1 + id.len() <= TAG_VALUE => {
                list.push(' ');
                list.push_str(id);
            }
            _ => lists.push(id.clone()),
        }
    }
    let tag = |(n, list)| (format!("{TAG_TARGETS}{n}"), list);
    (lists.len() <= LISTS).then(|| lists.into_iter().enumerate().map(tag).collect())
}

/// Ids of targets that tags list.
pub fn listed(tags: &Tags) -> BTreeSet<String> {
    tags.iter()
        .filter(|(key, _)| key.starts_with(TAG_TARGETS))
        .flat_map(|(_, list)| list.split(' ').map(ToOwned::to_owned))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_targets_are_read_back_and_end_where_aws_does() {
        let ids = |count: u32| -> BTreeSet<String> {
            (0..count).map(|n| format!("i-{n:017x}")).collect()
        };
        for count in [0, 1, 12, 13, 400] {
            let tags = list(&ids(count)).unwrap();
            assert!(tags.values().all(|list| list.len() <= TAG_VALUE));
            assert_eq!(listed(&tags), ids(count));
        }
        assert_eq!(list(&ids(1000)), None);
    }
}
