//! The security group that all load balancers of a cluster share, and what nodes let
//! in from it.
//!
//! Rules that name it are the same for all Services, so that a Service costs none: all
//! node ports by TCP and UDP, and ranges of their own where pods are the targets. With a
//! rule for each Service instead, the 60 that a group may have would be the limit of
//! Services. The group goes with the last Service of the cluster: its plan deletes the
//! rules, then the group, and only then is it done.

use std::collections::BTreeSet;

use crate::action::{Named, Step};
use crate::cloud::{Ingress, IngressSource, SecurityGroup};
use crate::identity::{TAG_CLUSTER, TAG_RESOURCE};
use crate::observed::{Observed, Want};
use crate::record::{self, BACKEND_GROUP, TAG_NODES, Targets};
use crate::spec::{Spec, Tags};

/// Node ports as the API server gives them by default.
const NODE_PORTS: (i32, i32) = (30_000, 32_767);

/// Name of the shared group.
pub(super) fn name(cluster_id: &str) -> String {
    format!("herald-backend-{cluster_id}")
}

type Range = (String, i32, i32);

/// What the nodes of this Service must let in.
fn ranges(spec: &Spec) -> BTreeSet<Range> {
    let mut ranges = BTreeSet::new();
    for traffic in spec.backend_rules.iter().flat_map(|rules| &rules.rules) {
        let (protocol, from, to) = traffic.ec2();
        if from >= NODE_PORTS.0 && to <= NODE_PORTS.1 {
            for protocol in ["tcp", "udp"] {
                ranges.insert((protocol.to_owned(), NODE_PORTS.0, NODE_PORTS.1));
            }
        } else {
            ranges.insert((protocol.to_owned(), from, to));
        }
    }
    ranges
}

fn covers(rule: &Ingress, source: &str, (protocol, from, to): &Range) -> bool {
    rule.source == IngressSource::Group(source.to_owned())
        && (rule.protocol == "-1"
            || (rule.protocol == *protocol && rule.from <= *from && rule.to >= *to))
}

pub(super) fn let_in(observed: &Observed, spec: &Spec, want: &Want, steps: &mut Vec<Step>) {
    if spec.backend_rules.is_none() {
        return;
    }
    let named = if let Some(group) = &observed.backend {
        Named::existing(&group.id, &group.name)
    } else {
        let name = name(&observed.cluster_id);
        let mut tags = Tags::from([
            (TAG_CLUSTER.to_owned(), observed.cluster_id.clone()),
            (TAG_RESOURCE.to_owned(), BACKEND_GROUP.to_owned()),
        ]);
        // Nobody goes by it yet, so that it is true.
        if observed.alone && record::targets(spec, &want.nodes) == Targets::Nodes {
            tags.insert(TAG_NODES.to_owned(), record::nodes(&want.nodes));
        }
        steps.push(Step::CreateBackendGroup {
            vpc_id: spec.vpc_id.clone(),
            name: name.clone(),
            tags,
        });
        Named::planned(name)
    };
    for group in &observed.node_groups {
        let missing: BTreeSet<Range> = ranges(spec)
            .into_iter()
            .filter(|range| {
                !named
                    .id
                    .as_ref()
                    .is_some_and(|id| group.ingress.iter().any(|rule| covers(rule, id, range)))
            })
            .collect();
        if !missing.is_empty() {
            steps.push(Step::AuthorizeBackend {
                group: Named::existing(&group.id, &group.name),
                ranges: missing,
            });
        }
    }
}

/// Rules of this group that let the shared one in and that nobody needs any more:
/// known where no other Service has pods as targets.
pub(super) fn keep_out(observed: &Observed, spec: &Spec, steps: &mut Vec<Step>) {
    let Some(backend) = &observed.backend else {
        return;
    };
    if observed.others_target_pods {
        return;
    }
    let needed = ranges(spec);
    for group in &observed.node_groups {
        let unused: BTreeSet<Ingress> = referring(group, &backend.id)
            .into_iter()
            .filter(|rule| (rule.from, rule.to) != NODE_PORTS)
            .filter(|rule| !needed.iter().any(|range| covers(rule, &backend.id, range)))
            .collect();
        if !unused.is_empty() {
            steps.push(Step::Revoke {
                group: Named::existing(&group.id, &group.name),
                rules: unused,
            });
        }
    }
}

fn referring(group: &SecurityGroup, backend: &str) -> BTreeSet<Ingress> {
    group
        .ingress
        .iter()
        .filter(|rule| rule.source == IngressSource::Group(backend.to_owned()))
        .cloned()
        .collect()
}

/// The last Service of the cluster takes the shared group with it.
pub(super) fn away(observed: &Observed, steps: &mut Vec<Step>) {
    let Some(backend) = observed.backend.as_ref().filter(|_| observed.alone) else {
        return;
    };
    for group in &observed.referring {
        let rules = referring(group, &backend.id);
        if !rules.is_empty() {
            steps.push(Step::Revoke {
                group: Named::existing(&group.id, &group.name),
                rules,
            });
        }
    }
    steps.push(Step::DeleteSecurityGroup {
        group: Named::existing(&backend.id, &backend.name),
    });
}
