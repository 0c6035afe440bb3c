//! What a Service's status says.

use std::time::Duration;

use herald_core::{Ingress, IngressPoint};
use herald_provider::Status;

use crate::cloud::{LoadBalancer, State};
use crate::observed::Observed;
use crate::plan::handover::{self, Stage};
use crate::record::TAG_RETIRES;
use crate::spec::HostnameWhen;

/// How often a load balancer that AWS makes is asked for; all of them in one call.
pub(crate) const POLL: Duration = Duration::from_secs(4);

/// How often it is asked whether what was replaced has drained.
const DRAIN_POLL: Duration = Duration::from_secs(15);

fn point(hostname: &str) -> Ingress {
    // The API allows ipMode only beside an address.
    Ingress {
        point: IngressPoint::Hostname(hostname.to_owned()),
        ip_mode: None,
        ports: Vec::new(),
    }
}

fn publishes(observed: &Observed, load_balancer: &LoadBalancer) -> bool {
    observed
        .published
        .iter()
        .any(|is| is.point == IngressPoint::Hostname(load_balancer.dns_name.clone()))
}

/// The load balancer that clients should use: the one that serves, until another has
/// taken its place.
fn serving(observed: &Observed) -> Option<&LoadBalancer> {
    let current = observed.current.as_ref().map(|have| &have.load_balancer);
    if current.is_some_and(|is| publishes(observed, is)) {
        return current;
    }
    let not_retired = |is: &&LoadBalancer| is.tag(TAG_RETIRES).is_none();
    let old = observed.old.iter().find(|is| publishes(observed, is));
    let old = old
        .filter(not_retired)
        .or_else(|| observed.old.iter().find(not_retired));
    old.or(current)
}

fn ingress(observed: &Observed, when: HostnameWhen) -> Vec<Ingress> {
    let Some(is) = serving(observed) else {
        return Vec::new();
    };
    let shown = match is.state {
        State::Active | State::Impaired(_) => true,
        State::Provisioning => when == HostnameWhen::Provisioning,
        State::Failed(_) => false,
    };
    if shown && !is.dns_name.is_empty() {
        vec![point(&is.dns_name)]
    } else {
        Vec::new()
    }
}

/// What a Service keeps while its request is refused: what it has.
pub(crate) fn kept(observed: &Observed) -> Vec<Ingress> {
    ingress(observed, HostnameWhen::Active)
}

/// What the status says when nothing can be done now.
pub(crate) fn status(observed: &Observed) -> Status {
    let Some(Ok(want)) = &observed.want else {
        return Status {
            ingress: Vec::new(),
            ready: false,
            reason: "Deleted",
            message: "nothing is left in AWS".to_owned(),
            recheck: None,
            pods: Vec::new(),
        };
    };
    let ingress = ingress(observed, want.spec.hostname_when);
    let say = |ready, reason, message: String, recheck| Status {
        ingress: ingress.clone(),
        ready,
        reason,
        message,
        recheck: Some(recheck),
        pods: observed.pods.clone(),
    };
    let Some(have) = &observed.current else {
        return say(
            false,
            "Provisioning",
            "nothing is there yet".to_owned(),
            POLL,
        );
    };
    let is = &have.load_balancer;
    let serves = !ingress.is_empty();
    let replacing = observed
        .old
        .iter()
        .any(|old| old.tag(TAG_RETIRES).is_none());
    let passing = handover::passing(observed, &want.spec);
    match &is.state {
        State::Failed(why) => say(
            serves,
            "ProvisioningFailed",
            format!("AWS could not make load balancer {:?}: {why}", is.name),
            POLL,
        ),
        State::Provisioning if replacing => say(
            serves,
            "Replacing",
            format!(
                "AWS makes load balancer {:?}, which is to take the place of the one that serves",
                is.name
            ),
            POLL,
        ),
        State::Provisioning => say(
            false,
            "Provisioning",
            format!(
                "AWS makes load balancer {:?}, which takes some minutes",
                is.name
            ),
            POLL,
        ),
        _ if replacing => say(
            serves,
            "Replacing",
            format!(
                "load balancer {:?} takes the place of the one that serves when its targets are \
                 healthy",
                is.name
            ),
            POLL,
        ),
        State::Active | State::Impaired(_) if !passing.is_empty() => {
            let draining = passing.iter().all(|is| is.stage == Stage::Draining);
            let (message, recheck) = if draining {
                ("the target groups that were replaced drain", DRAIN_POLL)
            } else {
                (
                    "new target groups take the place of those that serve when their targets \
                     are healthy",
                    POLL,
                )
            };
            say(
                serves,
                "Replacing",
                format!("load balancer {:?} is active; {message}", is.name),
                recheck,
            )
        }
        State::Impaired(why) => say(
            serves,
            "Impaired",
            format!("load balancer {:?} serves, but AWS says: {why}", is.name),
            observed.recheck,
        ),
        State::Active => {
            let targets: usize = want
                .spec
                .target_groups
                .iter()
                .map(|group| group.targets.len())
                .sum();
            if targets == 0 {
                return say(
                    false,
                    "NoTargets",
                    format!(
                        "load balancer {:?} is active but has no targets: no node or pod may \
                         carry its traffic",
                        is.name
                    ),
                    observed.recheck,
                );
            }
            say(
                true,
                "Provisioned",
                format!("load balancer {:?} is active", is.name),
                recheck(observed),
            )
        }
    }
}

/// When to look next: when an old load balancer goes, what was gathered is due, or
/// the next check.
fn recheck(observed: &Observed) -> Duration {
    let retires = observed
        .old
        .iter()
        .filter_map(|old| old.tag(TAG_RETIRES)?.parse::<u64>().ok())
        .map(|at| {
            Duration::from_secs(at.saturating_sub(observed.unix)) + Duration::from_millis(200)
        });
    retires
        .chain(observed.gather)
        .chain([observed.recheck])
        .min()
        .unwrap_or(observed.recheck)
}
