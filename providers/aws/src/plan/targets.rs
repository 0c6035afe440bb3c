//! Target groups and what is registered in them.

use std::collections::BTreeSet;

use herald_provider::Refusal;

use crate::action::{Named, Step, TARGET_GROUP};
use crate::client::TARGETS;
use crate::cloud::HealthCheck;
use crate::observed::{HaveGroup, Observed};
use crate::plan::{fresh, missing_tags, refuse, stale_tags};
use crate::record;
use crate::spec::{CheckProtocol, Spec, Tags, Target, TargetGroup};

/// Makes and changes target groups and registers targets; returns the steps that
/// take targets away, which come when all else is in place.
pub(super) fn steps(
    observed: &Observed,
    spec: &Spec,
    steps: &mut Vec<Step>,
) -> Result<Vec<Step>, Refusal> {
    let mut away = Vec::new();
    for want in &spec.target_groups {
        match observed.target_groups.get(&want.name) {
            None => create(spec, want, steps),
            Some(have) if !have.ours => {
                return Err(refuse(
                    observed,
                    "NameTaken",
                    format!(
                        "name {:?} is taken by {}, which does not bear this Service's tags and \
                         is left alone; delete it in AWS",
                        want.name, have.group.arn
                    ),
                ));
            }
            Some(have) => away.extend(change(observed, want, have, steps)),
        }
    }
    Ok(away)
}

fn create(spec: &Spec, want: &TargetGroup, steps: &mut Vec<Step>) {
    let group = Named::planned(&want.name);
    steps.push(Step::CreateTargetGroup {
        vpc_id: spec.vpc_id.clone(),
        spec: Box::new(want.clone()),
    });
    let attributes = fresh(&want.attributes);
    if !attributes.is_empty() {
        steps.push(Step::SetTargetGroupAttributes {
            group: group.clone(),
            attributes,
        });
    }
    let targets: Vec<Target> = want.targets.iter().cloned().collect();
    steps.extend(targets.chunks(TARGETS).map(|targets| Step::Register {
        group: group.clone(),
        targets: targets.to_vec(),
    }));
}

fn change(
    observed: &Observed,
    want: &TargetGroup,
    have: &HaveGroup,
    steps: &mut Vec<Step>,
) -> Vec<Step> {
    let group = || Named::existing(&have.group.arn, &have.group.name);
    let check = HealthCheck::from(&want.health_check);
    if checks_differ(want, &check, &have.group.health_check) {
        steps.push(Step::SetHealthCheck {
            group: group(),
            check,
        });
    }
    if let Some(is) = &have.detail.attributes {
        let attributes = want.attributes.changes(is);
        if !attributes.is_empty() {
            steps.push(Step::SetTargetGroupAttributes {
                group: group(),
                attributes,
            });
        }
    }
    if let Some(is) = &have.group.tags {
        let tags = tags(want, have);
        let (set, unset) = (missing_tags(&tags, is), stale_tags(&tags, is));
        if !set.is_empty() || !unset.is_empty() {
            steps.push(Step::Tag {
                kind: TARGET_GROUP,
                object: group(),
                set,
                unset,
            });
        }
    }
    let (Some(is), None) = (&have.detail.targets, observed.gather) else {
        return Vec::new();
    };
    let only_in = |a: &BTreeSet<Target>, b: &BTreeSet<Target>| -> Vec<Target> {
        a.difference(b).cloned().collect()
    };
    let missing = only_in(&want.targets, is);
    steps.extend(missing.chunks(TARGETS).map(|targets| Step::Register {
        group: group(),
        targets: targets.to_vec(),
    }));
    let extra = only_in(is, &want.targets);
    extra
        .chunks(TARGETS)
        .map(|targets| Step::Deregister {
            group: group(),
            targets: targets.to_vec(),
        })
        .collect()
}

/// The tags that it should have; a list of targets has those too that are still to go.
fn tags(want: &TargetGroup, have: &HaveGroup) -> Tags {
    let mut tags = want.tags.clone();
    if let (true, Some(listed), Some(is)) = (want.shared, &have.listed, &have.detail.targets) {
        let left = record::ids(is).intersection(listed).cloned().collect();
        let all = record::ids(&want.targets).union(&left).cloned().collect();
        tags.extend(record::list(&all).unwrap_or_default());
    }
    tags
}

fn checks_differ(want: &TargetGroup, check: &HealthCheck, is: &HealthCheck) -> bool {
    let mut is = is.clone();
    if want.health_check.protocol == CheckProtocol::Tcp {
        // AWS may go on to tell what was there before.
        is.path.clone_from(&check.path);
        is.success_codes.clone_from(&check.success_codes);
    }
    if check.path.is_none() {
        is.path = None;
    }
    if check.success_codes.is_none() {
        is.success_codes = None;
    }
    *check != is
}

/// Deletes the Service's target groups that are not wanted any more, unless a load
/// balancer that is to stay for a while forwards to them. Those that are `kept` for a
/// listener only lose the targets that are named beside.
pub(super) fn unused(
    observed: &Observed,
    spec: &Spec,
    kept: &[(String, Vec<Target>)],
) -> Vec<Step> {
    let wanted: BTreeSet<&str> = spec
        .target_groups
        .iter()
        .map(|group| group.name.as_str())
        .collect();
    let current = observed
        .current
        .as_ref()
        .map(|have| have.load_balancer.arn.as_str());
    let listeners_known = observed
        .current
        .as_ref()
        .is_none_or(|have| have.detail.is_some());
    let moved = |group: &HaveGroup| {
        group
            .group
            .load_balancers
            .iter()
            .all(|arn| Some(arn.as_str()) == current)
            && (group.group.load_balancers.is_empty() || listeners_known)
    };
    observed
        .target_groups
        .values()
        .filter(|have| have.ours && !wanted.contains(have.group.name.as_str()))
        .filter(|have| moved(have))
        .flat_map(|have| {
            let group = || Named::existing(&have.group.arn, &have.group.name);
            match kept.iter().find(|(arn, _)| *arn == have.group.arn) {
                Some((_, doomed)) => doomed
                    .chunks(TARGETS)
                    .map(|targets| Step::Deregister {
                        group: group(),
                        targets: targets.to_vec(),
                    })
                    .collect(),
                None => vec![Step::DeleteTargetGroup { group: group() }],
            }
        })
        .collect()
}
