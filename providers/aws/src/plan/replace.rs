//! One load balancer takes the place of another: made beside it, published when its
//! targets are healthy, and the old one goes after a delay.
//!
//! ```text
//!   old serves --> new is made, new's targets healthy --> [Retire]: old gets a date
//!     --> status has the new name --> the date is past --> old is deleted
//! ```
//!
//! The date stands in a tag of the old one, so that a restart at any moment goes on
//! where it was.

use std::collections::BTreeMap;

use crate::action::{Named, Step};
use crate::cloud::State;
use crate::observed::{Adoption, Observed, Want};
use crate::record::{TAG_ADOPTED, TAG_RETIRES};

/// Attribute that keeps a load balancer from being deleted.
pub(super) const DELETION_PROTECTION: &str = "deletion_protection.enabled";

pub(super) fn steps(observed: &Observed, want: &Want, done: bool, steps: &mut Vec<Step>) {
    let active = observed
        .current
        .as_ref()
        .is_some_and(|have| matches!(have.load_balancer.state, State::Active | State::Impaired(_)));
    for old in &observed.old {
        let load_balancer = || Named::existing(&old.arn, &old.name);
        match old.tag(TAG_RETIRES).map(str::parse::<u64>) {
            None | Some(Err(_)) => {
                if done && active && observed.healthy == Some(true) {
                    steps.push(Step::Retire {
                        load_balancer: load_balancer(),
                        after: want.delay,
                    });
                }
            }
            Some(Ok(at)) if at > observed.unix => {}
            Some(Ok(_)) if given(old.tag(TAG_ADOPTED)) => steps.push(Step::GiveBack {
                load_balancer: load_balancer(),
                unset: old
                    .tags
                    .as_ref()
                    .map(super::balancer::own_tags)
                    .unwrap_or_default(),
            }),
            Some(Ok(_)) => {
                if observed.protected.contains(&old.arn) {
                    steps.push(Step::SetLoadBalancerAttributes {
                        load_balancer: load_balancer(),
                        attributes: BTreeMap::from([(
                            DELETION_PROTECTION.to_owned(),
                            "false".to_owned(),
                        )]),
                    });
                }
                steps.push(Step::DeleteLoadBalancer {
                    load_balancer: load_balancer(),
                });
            }
        }
    }
}

/// Whether the Service's load balancer is not Herald's own, or will be taken over as one.
pub(crate) fn lent(observed: &Observed) -> bool {
    let tag = observed
        .current
        .as_ref()
        .and_then(|have| have.load_balancer.tag(TAG_ADOPTED));
    matches!(observed.adoption, Adoption::Given(_)) || given(tag)
}

/// Whether the tag says that the load balancer is not Herald's own.
pub(crate) fn given(tag: Option<&str>) -> bool {
    tag.is_some_and(|how| how.starts_with("given"))
}
