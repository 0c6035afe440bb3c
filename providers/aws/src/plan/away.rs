//! Nothing should exist: a deletion is a plan like any other.

use crate::action::{Named, Step};
use crate::observed::{Have, Observed};
use crate::plan::{backend, balancer, replace};
use crate::record::TAG_ADOPTED;

pub(super) fn steps(observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let current = observed.current.iter().map(|have| &have.load_balancer);
    for load_balancer in current.chain(&observed.old) {
        if replace::given(load_balancer.tag(TAG_ADOPTED)) {
            continue;
        }
        steps.push(Step::DeleteLoadBalancer {
            load_balancer: Named::existing(&load_balancer.arn, &load_balancer.name),
        });
    }
    if let Some(have) = &observed.current
        && replace::given(have.load_balancer.tag(TAG_ADOPTED))
    {
        give_back(observed, have, &mut steps);
    }
    for have in observed.target_groups.values().filter(|have| have.ours) {
        steps.push(Step::DeleteTargetGroup {
            group: Named::existing(&have.group.arn, &have.group.name),
        });
    }
    for group in &observed.security_groups {
        steps.push(Step::DeleteSecurityGroup {
            group: Named::existing(&group.id, &group.name),
        });
    }
    if let Some(have) = &observed.current
        && let Some(tags) = &have.load_balancer.tags
        && replace::given(have.load_balancer.tag(TAG_ADOPTED))
    {
        // Last: until then the rest of it is found by these tags.
        steps.push(Step::GiveBack {
            load_balancer: Named::existing(&have.load_balancer.arn, &have.load_balancer.name),
            unset: balancer::own_tags(tags),
        });
    }
    backend::away(observed, &mut steps);
    if steps.is_empty() && !observed.sure {
        steps.push(Step::Confirm);
    }
    steps
}

/// Takes off what is Herald's: listeners that forward to the Service's target groups,
/// and the Service's security groups.
fn give_back(observed: &Observed, have: &Have, steps: &mut Vec<Step>) {
    let is = &have.load_balancer;
    let named = Named::existing(&is.arn, &is.name);
    let ours = |arn: &String| {
        observed
            .target_groups
            .values()
            .any(|group| group.ours && group.group.arn == *arn)
    };
    let listeners = have
        .detail
        .iter()
        .flat_map(|detail| detail.listeners.values());
    for listener in listeners {
        if listener.forward.iter().any(|(arn, _)| ours(arn)) {
            steps.push(Step::DeleteListener {
                load_balancer: named.clone(),
                arn: listener.arn.clone(),
                port: listener.port,
            });
        }
    }
    let before: Vec<Named> = is
        .tag(TAG_ADOPTED)
        .unwrap_or_default()
        .split(' ')
        .filter(|id| id.starts_with("sg-"))
        .map(|id| Named::existing(id, id))
        .collect();
    let has = before.iter().filter_map(|group| group.id.clone()).collect();
    if !before.is_empty() && is.security_groups != has {
        steps.push(Step::SetSecurityGroups {
            load_balancer: named,
            groups: before,
            enforce_on_private_link: None,
        });
    }
}
