//! The load balancer itself.

use std::collections::BTreeSet;

use herald_provider::Refusal;

use crate::action::{LOAD_BALANCER, Named, Step};
use crate::cloud::{LoadBalancer, State};
use crate::identity::{LBC_TAG_CLUSTER, LBC_TAG_RESOURCE, LBC_TAG_STACK};
use crate::observed::{Adoption, Have, Observed};
use crate::plan::{backend, fresh, given, groups, missing_tags, refuse, stale_tags};
use crate::record::{TAG_ADOPTED, TAG_RETIRES};
use crate::spec::{SecurityGroups, Spec, SubnetMapping, Tags};

/// Takes over what is to be taken over.
pub(super) fn adoption(observed: &Observed, spec: &Spec) -> Result<Vec<Step>, Refusal> {
    if let Some(other) = &observed.taken_by {
        return Err(refuse(
            observed,
            "NameTaken",
            format!(
                "name {:?} is taken by {}, which does not bear this Service's tags and is left \
                 alone; choose another name, or say that it is to be taken over",
                other.name, other.arn
            ),
        ));
    }
    let tags = |how: String| {
        let mut tags = spec.load_balancer.tags.clone();
        tags.insert(TAG_ADOPTED.to_owned(), how);
        tags
    };
    match &observed.adoption {
        Adoption::Nothing => Ok(Vec::new()),
        Adoption::Impossible(why) => Err(refuse(observed, "CannotAdopt", why.clone())),
        Adoption::Given(is) => {
            // What it goes back with.
            let groups: Vec<&str> = is.security_groups.iter().map(String::as_str).collect();
            Ok(vec![Step::Adopt {
                load_balancer: Named::existing(&is.arn, &is.name),
                set: tags(format!("given {}", groups.join(" ")).trim().to_owned()),
                unset: BTreeSet::new(),
            }])
        }
        Adoption::Controller {
            load_balancer,
            target_groups,
            security_groups,
        } => {
            let unset = || {
                [LBC_TAG_CLUSTER, LBC_TAG_STACK, LBC_TAG_RESOURCE]
                    .map(ToOwned::to_owned)
                    .into()
            };
            let identity = |resource: &str| spec.identity.tags(resource);
            // The load balancer last: until then all of this is done again.
            let mut steps: Vec<Step> = target_groups
                .iter()
                .map(|group| Step::AdoptTargetGroup {
                    group: Named::existing(&group.arn, &group.name),
                    set: identity(&format!("target-group/{}", group.name)),
                    unset: unset(),
                })
                .collect();
            steps.extend(security_groups.iter().map(|group| Step::TagSecurityGroup {
                group: Named::existing(&group.id, &group.name),
                set: identity("security-group"),
                unset: unset(),
            }));
            steps.push(Step::Adopt {
                load_balancer: Named::existing(&load_balancer.arn, &load_balancer.name),
                set: tags("controller".to_owned()),
                unset: unset(),
            });
            Ok(steps)
        }
    }
}

/// Why a load balancer can't become what is wanted.
fn cannot_become(is: &LoadBalancer, spec: &Spec) -> Option<String> {
    let want = &spec.load_balancer;
    if is.scheme != want.scheme {
        return Some(format!("its scheme is {}, not {}", is.scheme, want.scheme));
    }
    if is.vpc_id != spec.vpc_id {
        return Some(format!("it is in {}, not in {}", is.vpc_id, spec.vpc_id));
    }
    match (&spec.security_groups, is.security_groups.is_empty()) {
        (SecurityGroups::None, false) => {
            return Some("it was made with security groups and can't be without any".to_owned());
        }
        (SecurityGroups::Managed(_) | SecurityGroups::Given { .. }, true) => {
            return Some("it was made without security groups and can never have any".to_owned());
        }
        _ => {}
    }
    let differs = |is: &SubnetMapping, want: &SubnetMapping| {
        (want.allocation.is_some() && want.allocation != is.allocation)
            || (want.private_ipv4.is_some() && want.private_ipv4 != is.private_ipv4)
            || (want.ipv6.is_some() && is.ipv6.is_some() && want.ipv6 != is.ipv6)
    };
    let subnet = want.subnets.iter().find(|want| {
        is.subnets
            .iter()
            .any(|is| is.subnet == want.subnet && differs(is, want))
    })?;
    Some(format!(
        "its address in {} is another one than was asked for",
        subnet.subnet
    ))
}

/// The load balancer, if it must go before another of its name can come, and may.
pub(super) fn must_be_deleted_first(
    observed: &Observed,
    spec: &Spec,
) -> Result<Option<Named>, Refusal> {
    let Some(have) = &observed.current else {
        return Ok(None);
    };
    let is = &have.load_balancer;
    if let State::Failed(why) = &is.state {
        // AWS could not make it; it never served.
        tracing::warn!(load_balancer = is.name, why, "AWS could not make it");
        return Ok(Some(Named::existing(&is.arn, &is.name)));
    }
    let Some(why) = cannot_become(is, spec) else {
        return Ok(None);
    };
    let given_back = given(is.tag(TAG_ADOPTED));
    if spec.allow_outage && !given_back {
        return Ok(Some(Named::existing(&is.arn, &is.name)));
    }
    let how = if spec.load_balancer.name_given {
        "give it another name too, so that the new one is made beside the old, or allow an \
         outage with annotation herald.dev/aws-allow-outage: \"true\""
    } else {
        "set annotation herald.dev/aws-replace to a word, so that a new one is made beside the \
         old, or set the old value back"
    };
    Err(refuse(
        observed,
        "CannotChangeInPlace",
        format!(
            "load balancer {:?} can't become what the Service asks for: {why}; {how}",
            is.name
        ),
    ))
}

/// Security groups that the load balancer should have; none for one without.
fn wanted_groups(observed: &Observed, spec: &Spec) -> Option<(Vec<Named>, Option<bool>)> {
    let (mut groups, enforce) = match &spec.security_groups {
        SecurityGroups::None => return None,
        SecurityGroups::Given {
            ids,
            enforce_on_private_link,
        } => (
            ids.iter().map(|id| Named::existing(id, id)).collect(),
            *enforce_on_private_link,
        ),
        SecurityGroups::Managed(group) => {
            let named = match groups::own(observed, &group.name) {
                Some(is) => Named::existing(&is.id, &is.name),
                None => Named::planned(&group.name),
            };
            (vec![named], group.enforce_on_private_link)
        }
    };
    if spec.backend_rules.is_some() {
        groups.push(match &observed.backend {
            Some(is) => Named::existing(&is.id, &is.name),
            None => Named::planned(backend::name(&observed.cluster_id)),
        });
    }
    Some((groups, enforce))
}

pub(super) fn steps(
    observed: &Observed,
    spec: &Spec,
    current: Option<&Have>,
    steps: &mut Vec<Step>,
) {
    let want = &spec.load_balancer;
    let groups = wanted_groups(observed, spec);
    let Some(have) = current else {
        let enforce = groups.as_ref().and_then(|(_, enforce)| *enforce);
        steps.push(Step::CreateLoadBalancer {
            spec: Box::new(want.clone()),
            groups: groups.as_ref().map(|(groups, _)| groups.clone()),
        });
        let load_balancer = Named::planned(&want.name);
        if let (Some((groups, _)), Some(false)) = (groups, enforce) {
            // On is what AWS begins with.
            steps.push(Step::SetSecurityGroups {
                load_balancer: load_balancer.clone(),
                groups,
                enforce_on_private_link: enforce,
            });
        }
        let attributes = fresh(&want.attributes);
        if !attributes.is_empty() {
            steps.push(Step::SetLoadBalancerAttributes {
                load_balancer,
                attributes,
            });
        }
        return;
    };
    let is = &have.load_balancer;
    let named = || Named::existing(&is.arn, &is.name);
    if let Some((groups, enforce)) = groups {
        let ids: BTreeSet<String> = groups.iter().filter_map(|group| group.id.clone()).collect();
        let enforce_differs =
            enforce.is_some_and(|on| is.enforce_on_private_link.unwrap_or(true) != on);
        if ids.len() < groups.len() || ids != is.security_groups || enforce_differs {
            steps.push(Step::SetSecurityGroups {
                load_balancer: named(),
                groups,
                enforce_on_private_link: enforce,
            });
        }
    }
    network(is, spec, steps);
    let mut unset = is
        .tags
        .as_ref()
        .map(|tags| stale_tags(&want.tags, tags))
        .unwrap_or_default();
    let set = is
        .tags
        .as_ref()
        .map(|tags| missing_tags(&want.tags, tags))
        .unwrap_or_default();
    if is.tag(TAG_RETIRES).is_some() {
        // It is wanted again.
        unset.insert(TAG_RETIRES.to_owned());
    }
    let adopting = steps.iter().any(|step| matches!(step, Step::Adopt { .. }));
    if (!set.is_empty() || !unset.is_empty()) && !adopting {
        steps.push(Step::Tag {
            kind: LOAD_BALANCER,
            object: named(),
            set,
            unset,
        });
    }
    let Some(detail) = &have.detail else {
        return;
    };
    let attributes = want.attributes.changes(&detail.attributes);
    if !attributes.is_empty() {
        steps.push(Step::SetLoadBalancerAttributes {
            load_balancer: named(),
            attributes,
        });
    }
}

/// Reserves capacity, after all else: AWS may not have it.
pub(super) fn capacity(spec: &Spec, current: Option<&Have>, steps: &mut Vec<Step>) {
    let Some((have, detail)) = current.and_then(|have| Some((have, have.detail.as_ref()?))) else {
        return;
    };
    let (is, units) = (&have.load_balancer, spec.load_balancer.capacity_units);
    if is.state == State::Active && detail.capacity_units != units {
        steps.push(Step::SetCapacity {
            load_balancer: Named::existing(&is.arn, &is.name),
            units,
        });
    }
}

fn network(is: &LoadBalancer, spec: &Spec, steps: &mut Vec<Step>) {
    let want = &spec.load_balancer;
    let ids = |subnets: &[SubnetMapping]| -> BTreeSet<String> {
        subnets.iter().map(|subnet| subnet.subnet.clone()).collect()
    };
    let families = is.ip_address_type != want.ip_address_type;
    let source_nat = want
        .ipv6_source_nat
        .is_some_and(|on| is.ipv6_source_nat.unwrap_or(false) != on);
    let addresses = want.subnets.iter().any(|subnet| subnet.ipv6.is_some());
    if ids(&is.subnets) != ids(&want.subnets) || source_nat || (families && addresses) {
        steps.push(Step::SetSubnets {
            load_balancer: Named::existing(&is.arn, &is.name),
            spec: Box::new(want.clone()),
        });
    } else if families {
        steps.push(Step::SetIpAddressType {
            load_balancer: Named::existing(&is.arn, &is.name),
            value: want.ip_address_type,
        });
    }
}

/// Whether nothing waits for the load balancer to become active.
pub(super) fn settled(observed: &Observed, spec: &Spec) -> bool {
    let Some(have) = &observed.current else {
        return spec.load_balancer.capacity_units.is_none();
    };
    let reserved = have
        .detail
        .as_ref()
        .and_then(|detail| detail.capacity_units);
    have.load_balancer.state == State::Active
        || have.detail.is_none()
        || reserved == spec.load_balancer.capacity_units
}

/// Tags of Herald's, which go when a load balancer is given back.
pub(super) fn own_tags(tags: &Tags) -> BTreeSet<String> {
    tags.keys()
        .filter(|key| key.starts_with(crate::identity::TAG_PREFIX))
        .cloned()
        .collect()
}
