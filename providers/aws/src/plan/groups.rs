//! A Service's own security group.

use std::collections::BTreeSet;

use crate::action::{Named, Step};
use crate::cloud::{Ingress, SecurityGroup};
use crate::observed::Observed;
use crate::plan::{missing_tags, stale_tags};
use crate::spec::{ManagedGroup, SecurityGroups, Spec};

fn managed(spec: &Spec) -> Option<&ManagedGroup> {
    match &spec.security_groups {
        SecurityGroups::Managed(group) => Some(group),
        SecurityGroups::Given { .. } | SecurityGroups::None => None,
    }
}

pub(super) fn own<'a>(observed: &'a Observed, name: &str) -> Option<&'a SecurityGroup> {
    observed
        .security_groups
        .iter()
        .find(|group| group.name == name)
}

fn wanted(group: &ManagedGroup) -> BTreeSet<Ingress> {
    group.rules.iter().map(Ingress::from).collect()
}

pub(super) fn let_clients_in(observed: &Observed, spec: &Spec, steps: &mut Vec<Step>) {
    let Some(want) = managed(spec) else {
        return;
    };
    let rules = wanted(want);
    let Some(is) = own(observed, &want.name) else {
        steps.push(Step::CreateSecurityGroup {
            vpc_id: spec.vpc_id.clone(),
            group: want.clone(),
        });
        if !rules.is_empty() {
            steps.push(Step::Authorize {
                group: Named::planned(&want.name),
                rules,
            });
        }
        return;
    };
    let missing: BTreeSet<Ingress> = rules.difference(&is.ingress).cloned().collect();
    if !missing.is_empty() {
        steps.push(Step::Authorize {
            group: Named::existing(&is.id, &is.name),
            rules: missing,
        });
    }
    let (set, unset) = (
        missing_tags(&want.tags, &is.tags),
        stale_tags(&want.tags, &is.tags),
    );
    if !set.is_empty() || !unset.is_empty() {
        steps.push(Step::TagSecurityGroup {
            group: Named::existing(&is.id, &is.name),
            set,
            unset,
        });
    }
}

/// What clients may send no more, and groups that are not wanted any more.
pub(super) fn keep_clients_out(observed: &Observed, spec: &Spec, steps: &mut Vec<Step>) {
    let want = managed(spec);
    for group in &observed.security_groups {
        let named = Named::existing(&group.id, &group.name);
        match want.filter(|want| want.name == group.name) {
            Some(want) => {
                let extra: BTreeSet<Ingress> =
                    group.ingress.difference(&wanted(want)).cloned().collect();
                if !extra.is_empty() {
                    steps.push(Step::Revoke {
                        group: named,
                        rules: extra,
                    });
                }
            }
            None if observed
                .old
                .iter()
                .any(|old| old.security_groups.contains(&group.id)) => {}
            None => steps.push(Step::DeleteSecurityGroup { group: named }),
        }
    }
}
