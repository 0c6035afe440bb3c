//! From what exists to what should exist, pure.
//!
//! The order leaves no gap in service: what lets traffic in comes before what sends it,
//! targets before the listener that forwards to them, the new before the old goes.

mod away;
mod backend;
mod balancer;
mod groups;
pub(crate) mod handover;
mod listeners;
mod replace;
mod targets;

use std::collections::{BTreeMap, BTreeSet};

use herald_provider::Refusal;

use crate::action::{Action, Named, Step};
use crate::observed::{Observed, Want};
use crate::record::{self, TAG_APPLIED, TAG_NODES, TAG_TAGS, TAG_TARGETS, Targets};
use crate::spec::{Attributes, Spec, Tags};
use crate::status::kept;

pub(crate) use replace::{given, lent};

/// The steps from what exists to what should exist, in order.
pub fn plan(observed: &Observed) -> Result<Vec<Action>, Refusal> {
    let steps = match &observed.want {
        None => away::steps(observed),
        Some(Err(refusal)) => {
            return Err(Refusal {
                keep: kept(observed),
                ..refusal.clone()
            });
        }
        Some(Ok(want)) => towards(observed, want)?,
    };
    let action = |step| Action {
        uid: observed.uid.clone(),
        step,
    };
    Ok(steps.into_iter().map(action).collect())
}

fn refuse(observed: &Observed, reason: &'static str, message: String) -> Refusal {
    Refusal {
        reason,
        message,
        keep: kept(observed),
    }
}

fn towards(observed: &Observed, want: &Want) -> Result<Vec<Step>, Refusal> {
    let spec = &want.spec;
    let mut steps = balancer::adoption(observed, spec)?;
    let anew = balancer::must_be_deleted_first(observed, spec)?;
    if let Some(load_balancer) = anew {
        steps.push(Step::DeleteLoadBalancer { load_balancer });
    }
    backend::let_in(observed, spec, want, &mut steps);
    groups::let_clients_in(observed, spec, &mut steps);
    let current = if steps
        .iter()
        .any(|step| matches!(step, Step::DeleteLoadBalancer { .. }))
    {
        None
    } else {
        observed.current.as_ref()
    };
    balancer::steps(observed, spec, current, &mut steps);
    let targets = targets::steps(observed, spec, &mut steps)?;
    listeners::steps(observed, spec, current, &mut steps);
    steps.extend(targets);
    let kept = if current.is_some() {
        handover::kept(observed, spec)
    } else {
        Vec::new()
    };
    let passing = !kept.is_empty();
    steps.extend(targets::unused(observed, spec, &kept));
    groups::keep_clients_out(observed, spec, &mut steps);
    backend::keep_out(observed, spec, &mut steps);
    balancer::capacity(spec, current, &mut steps);
    let done = steps.is_empty() && !passing;
    replace::steps(observed, want, done, &mut steps);
    let settled = !passing && balancer::settled(observed, spec);
    with_records(observed, want, current.is_some(), settled, &mut steps);
    Ok(steps)
}

/// Adds the steps that keep the records true: off before, on after.
fn with_records(
    observed: &Observed,
    want: &Want,
    current: bool,
    settled: bool,
    steps: &mut Vec<Step>,
) {
    let spec = &want.spec;
    let targets = record::targets(spec, &want.nodes);
    let about_targets = steps.iter().any(Step::is_about_targets);
    let recorded =
        steps.iter().any(Step::is_recorded) || (about_targets && targets == Targets::Own);
    let have = observed.current.as_ref().filter(|_| current);
    let name = have.map_or_else(
        || Named::planned(&spec.load_balancer.name),
        |have| Named::existing(&have.load_balancer.arn, &have.load_balancer.name),
    );
    let is = have.and_then(|have| have.load_balancer.tag(TAG_APPLIED));
    let mut before = Vec::new();
    if let Some(group) = &observed.backend {
        let is = group.tags.get(TAG_NODES).filter(|is| is.starts_with("1."));
        let stale = is.is_some_and(|is| *is != record::nodes(&want.nodes));
        if stale && about_targets && targets == Targets::Nodes {
            before.push(Step::ClearNodes {
                group: Named::existing(&group.id, &group.name),
            });
        }
        if let Some(due) = &observed.nodes_record_due
            && !about_targets
            && is != Some(due)
        {
            let behind = observed.stragglers.iter().cloned();
            steps.extend(behind.map(|load_balancer| Step::ClearRecord { load_balancer }));
            steps.push(Step::WriteNodes {
                group: Named::existing(&group.id, &group.name),
                record: due.clone(),
            });
        }
    }
    if recorded && is.is_some() {
        before.push(Step::ClearRecord {
            load_balancer: name.clone(),
        });
    }
    // What is being gathered is not applied yet.
    let pending = observed.gather.is_some() && targets == Targets::Own;
    if (recorded || is != Some(want.record.as_str())) && !pending && settled {
        steps.push(Step::WriteRecord {
            load_balancer: name,
            record: want.record.clone(),
        });
    }
    // Taking over comes first of all.
    let first = steps
        .iter()
        .take_while(|step| matches!(step, Step::Adopt { .. } | Step::AdoptTargetGroup { .. }))
        .count();
    steps.splice(first..first, before);
}

/// What a new object has: AWS's defaults, of which the specification knows those that
/// the Service does not set.
fn fresh(attributes: &Attributes) -> BTreeMap<String, String> {
    let changes = attributes.changes(&attributes.reset);
    changes
        .into_iter()
        .filter(|(key, value)| crate::defaults::of(key) != Some(value.as_str()))
        .collect()
}

/// Tags that are missing or differ. Others' tags stay.
fn missing_tags(want: &Tags, is: &Tags) -> Tags {
    want.iter()
        .filter(|(key, value)| is.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Tags that Herald set from what the Service said, and that it says no more. They
/// are known by the list that stands in a tag of their own. Lists of targets too.
fn stale_tags(want: &Tags, is: &Tags) -> BTreeSet<String> {
    let listed = is.get(TAG_TAGS).map(String::as_str);
    listed
        .unwrap_or_default()
        .split(' ')
        .chain([TAG_TAGS])
        .chain(
            is.keys()
                .map(String::as_str)
                .filter(|key| key.starts_with(TAG_TARGETS)),
        )
        .filter(|key| !key.is_empty() && !want.contains_key(*key) && is.contains_key(*key))
        .map(ToOwned::to_owned)
        .collect()
}

/// The target group of a key.
fn group_named<'a>(observed: &'a Observed, spec: &'a Spec, key: &str) -> Option<Named> {
    let group = spec.target_groups.iter().find(|group| group.key == key)?;
    Some(match observed.target_groups.get(&group.name) {
        Some(have) => Named::existing(&have.group.arn, &group.name),
        None => Named::planned(&group.name),
    })
}
