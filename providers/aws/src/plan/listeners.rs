//! Listeners.

use std::collections::BTreeSet;

use crate::action::{Named, Step};
use crate::cloud;
use crate::observed::{Have, Observed};
use crate::plan::handover::Passing;
use crate::plan::replace::lent;
use crate::plan::{fresh, group_named, handover};
use crate::spec::{GroupRef, Listener, NlbProtocol, Spec};

/// The target groups of a listener, in order.
pub(super) fn groups(observed: &Observed, spec: &Spec, listener: &Listener) -> Vec<Named> {
    listener
        .forward
        .targets
        .iter()
        .map(|target| match &target.group {
            GroupRef::Arn(arn) => Named::existing(arn, arn),
            GroupRef::Key(key) => {
                group_named(observed, spec, key).unwrap_or_else(|| Named::planned(key))
            }
        })
        .collect()
}

fn more_certificates(listener: &Listener) -> BTreeSet<String> {
    listener.certificates.iter().skip(1).cloned().collect()
}

pub(super) fn steps(
    observed: &Observed,
    spec: &Spec,
    current: Option<&Have>,
    steps: &mut Vec<Step>,
) {
    if current.is_some_and(|have| have.detail.is_none()) {
        return;
    }
    let named = current.map_or_else(
        || Named::planned(&spec.load_balancer.name),
        |have| Named::existing(&have.load_balancer.arn, &have.load_balancer.name),
    );
    let passing = current.map_or_else(Vec::new, |_| handover::passing(observed, spec));
    for want in &spec.listeners {
        let groups = groups(observed, spec, want);
        let passing = passing
            .iter()
            .find(|passing| passing.listener.port == want.port);
        match current.and_then(|have| have.listener(want.port)) {
            None => create(&named, want, groups, steps),
            Some(is) => change(&named, want, groups, passing, is, steps),
        }
    }
    let lent = lent(observed);
    let ours = |arn: &String| {
        let mut groups = observed.target_groups.values();
        groups.any(|have| have.ours && have.group.arn == *arn)
    };
    let unwanted = current
        .and_then(|have| have.detail.as_ref())
        .into_iter()
        .flat_map(|detail| detail.listeners.values())
        .filter(|is| !spec.listeners.iter().any(|want| want.port == is.port))
        // One that was lent may have others of its owner's.
        .filter(|is| !lent || is.forward.iter().any(|(arn, _)| ours(arn)));
    steps.extend(unwanted.map(|is| Step::DeleteListener {
        load_balancer: named.clone(),
        arn: is.arn.clone(),
        port: is.port,
    }));
}

fn create(named: &Named, want: &Listener, groups: Vec<Named>, steps: &mut Vec<Step>) {
    steps.push(Step::CreateListener {
        load_balancer: named.clone(),
        spec: Box::new(want.clone()),
        groups,
    });
    let attributes = fresh(&want.attributes);
    if !attributes.is_empty() {
        steps.push(Step::SetListenerAttributes {
            load_balancer: named.clone(),
            port: want.port,
            attributes,
        });
    }
    let certificates = more_certificates(want);
    if !certificates.is_empty() {
        steps.push(Step::AddCertificates {
            load_balancer: named.clone(),
            port: want.port,
            certificates,
        });
    }
}

fn change(
    named: &Named,
    want: &Listener,
    groups: Vec<Named>,
    passing: Option<&Passing<'_>>,
    is: &cloud::Listener,
    steps: &mut Vec<Step>,
) {
    // New certificates before what needs them, old ones after.
    let certificates = more_certificates(want);
    let new: BTreeSet<String> = certificates
        .difference(&is.more_certificates)
        .filter(|arn| is.certificate.as_ref() != Some(arn))
        .cloned()
        .collect();
    let add = (!new.is_empty()).then(|| Step::AddCertificates {
        load_balancer: named.clone(),
        port: want.port,
        certificates: new,
    });
    // Only a TLS listener takes any, and one that is none any more has lost them.
    let tls = |protocol: &str| protocol == NlbProtocol::Tls.as_str();
    let (first, then) = if tls(&is.protocol) {
        (add, None)
    } else {
        (None, add)
    };
    steps.extend(first);
    if let Some(passing) = passing {
        let (meanwhile, groups) = &passing.meanwhile;
        if differs(meanwhile, groups, is) {
            steps.push(Step::HandOver {
                load_balancer: named.clone(),
                arn: is.arn.clone(),
                spec: Box::new(meanwhile.clone()),
                groups: groups.clone(),
            });
        }
    } else if differs(want, &groups, is) {
        steps.push(Step::ModifyListener {
            load_balancer: named.clone(),
            arn: is.arn.clone(),
            spec: Box::new(want.clone()),
            groups,
        });
    }
    steps.extend(then);
    let old: BTreeSet<String> = is
        .more_certificates
        .iter()
        .filter(|arn| !want.certificates.contains(arn))
        .cloned()
        .collect();
    if !old.is_empty() && want.protocol == NlbProtocol::Tls {
        steps.push(Step::RemoveCertificates {
            load_balancer: named.clone(),
            port: want.port,
            certificates: old,
        });
    }
    let attributes = want.attributes.changes(&is.attributes);
    if !attributes.is_empty() {
        steps.push(Step::SetListenerAttributes {
            load_balancer: named.clone(),
            port: want.port,
            attributes,
        });
    }
}

fn differs(want: &Listener, groups: &[Named], is: &cloud::Listener) -> bool {
    let weight_of = |weight: Option<u16>| {
        // A weight among one says nothing; AWS gives 1 where none is said.
        (groups.len() > 1).then(|| i32::from(weight.unwrap_or(1)))
    };
    let mut forward: Vec<(Option<&str>, Option<i32>)> = groups
        .iter()
        .zip(&want.forward.targets)
        .map(|(group, target)| (group.id.as_deref(), weight_of(target.weight)))
        .collect();
    let mut is_forward: Vec<(Option<&str>, Option<i32>)> = is
        .forward
        .iter()
        .map(|(arn, weight)| (Some(arn.as_str()), *weight))
        .collect();
    forward.sort();
    is_forward.sort();
    let tls = want.ssl_policy.is_some() || !want.certificates.is_empty();
    want.protocol.as_str() != is.protocol
        || forward != is_forward
        || want.forward.sticky != is.sticky
        || (tls
            && (want.certificates.first() != is.certificate.as_ref()
                || (want.ssl_policy.is_some() && want.ssl_policy != is.ssl_policy)
                || want.alpn_policy.as_deref().unwrap_or("None")
                    != is.alpn_policy.as_deref().unwrap_or("None")))
}
