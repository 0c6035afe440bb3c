//! From what exists to what should exist, as steps that read like sentences.

use std::collections::BTreeSet;
use std::fmt;

use herald_core::IpFamily;

use crate::spec::Spec;
use crate::wire::{HealthCheck, Listener, LoadBalancer, LoadBalancerState, Target};

/// A load balancer that the cloud could not make is kept this long, so that
/// people see why, and then made anew.
pub const RETRY_FAILED_AFTER_MILLIS: u64 = 5000;

/// What exists under the name of a Service's load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Nothing.
    Nothing,
    /// The Service's load balancer.
    Ours(Box<LoadBalancer>),
    /// Something without the Service's tags, which is never touched.
    Foreign {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
}

/// One step. Every one may be done twice, and may be the last thing that the
/// process ever does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Makes a load balancer with all that belongs to it.
    Create(Box<Spec>),
    /// Changes the families it has addresses of.
    SetFamilies {
        /// Which one.
        id: String,
        /// Its name.
        name: String,
        /// All of them.
        families: BTreeSet<IpFamily>,
    },
    /// Replaces all targets.
    SetTargets {
        /// Which one.
        id: String,
        /// Its name.
        name: String,
        /// All of them.
        targets: Vec<Target>,
        /// What is new among them.
        added: Vec<Target>,
        /// What is no longer among them.
        removed: Vec<Target>,
    },
    /// Changes how targets are checked.
    SetHealthCheck {
        /// Which one.
        id: String,
        /// Its name.
        name: String,
        /// How.
        health_check: HealthCheck,
    },
    /// Replaces all listeners.
    SetListeners {
        /// Which one.
        id: String,
        /// Its name.
        name: String,
        /// All of them.
        listeners: Vec<Listener>,
    },
    /// Begins to delete a load balancer.
    Delete {
        /// Which one.
        id: String,
        /// Its name.
        name: String,
    },
    /// Waits for a moment whether a load balancer being deleted goes.
    AwaitDeletion {
        /// Which one.
        id: String,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(spec) => write!(
                f,
                "create load balancer {:?} ({}) with {}, health check {} and {}",
                spec.name,
                List(&spec.families),
                Counted("listener", &spec.listeners),
                spec.health_check,
                Counted("target", &spec.targets),
            ),
            Self::SetFamilies { name, families, .. } => {
                write!(
                    f,
                    "give load balancer {name:?} addresses of {}",
                    List(families)
                )
            }
            Self::SetTargets {
                name,
                added,
                removed,
                ..
            } => {
                write!(f, "change the targets of load balancer {name:?}")?;
                if !added.is_empty() {
                    write!(f, ", add {}", List(added))?;
                }
                if !removed.is_empty() {
                    write!(f, ", remove {}", List(removed))?;
                }
                Ok(())
            }
            Self::SetHealthCheck {
                name, health_check, ..
            } => write!(
                f,
                "check the targets of load balancer {name:?} by {health_check}"
            ),
            Self::SetListeners {
                name, listeners, ..
            } => write!(
                f,
                "let load balancer {name:?} have {}",
                Counted("listener", listeners)
            ),
            Self::Delete { name, .. } => write!(f, "delete load balancer {name:?}"),
            Self::AwaitDeletion { name, .. } => {
                write!(f, "wait until load balancer {name:?} is gone")
            }
        }
    }
}

/// Items with commas between them.
struct List<I>(I);

impl<I> fmt::Display for List<I>
where
    I: IntoIterator + Copy,
    I::Item: fmt::Display,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.into_iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

/// `2 listeners (TCP 80 -> 30080, UDP 53 -> 30053)`.
struct Counted<'a, T>(&'static str, &'a [T]);

impl<T: fmt::Display> fmt::Display for Counted<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.len() {
            0 => write!(f, "no {}", self.0),
            1 => write!(f, "1 {} ({})", self.0, self.1[0]),
            count => write!(f, "{count} {}s ({})", self.0, List(self.1)),
        }
    }
}

/// The steps to a load balancer as `spec` has it. What can't be changed in
/// place (its address type) is left as it is; the caller objects to it.
pub fn towards(spec: &Spec, observed: &Observed) -> Vec<Action> {
    let create = || Action::Create(Box::new(spec.clone()));
    let load_balancer = match observed {
        Observed::Nothing => return vec![create()],
        Observed::Foreign { .. } => return Vec::new(),
        Observed::Ours(load_balancer) => load_balancer,
    };
    match load_balancer.state {
        LoadBalancerState::Provisioning | LoadBalancerState::Active => changes(spec, load_balancer),
        LoadBalancerState::Failed if load_balancer.state_age_millis < RETRY_FAILED_AFTER_MILLIS => {
            Vec::new()
        }
        LoadBalancerState::Failed | LoadBalancerState::Deleting => {
            let mut actions = away(observed);
            actions.push(create());
            actions
        }
    }
}

/// The steps to nothing.
pub fn away(observed: &Observed) -> Vec<Action> {
    let Observed::Ours(load_balancer) = observed else {
        return Vec::new();
    };
    let id = load_balancer.id.clone();
    let name = load_balancer.name.clone();
    let wait = Action::AwaitDeletion {
        id: id.clone(),
        name: name.clone(),
    };
    if load_balancer.state == LoadBalancerState::Deleting {
        vec![wait]
    } else {
        vec![Action::Delete { id, name }, wait]
    }
}

/// The order keeps what is served: first where to send, then how to check it,
/// then what to send.
fn changes(spec: &Spec, is: &LoadBalancer) -> Vec<Action> {
    let id = || is.id.clone();
    let name = || is.name.clone();
    let mut actions = Vec::new();
    if is.families != spec.families {
        actions.push(Action::SetFamilies {
            id: id(),
            name: name(),
            families: spec.families.clone(),
        });
    }
    let missing = |from: &[Target], among: &[Target]| -> Vec<Target> {
        from.iter()
            .filter(|t| !among.contains(t))
            .cloned()
            .collect()
    };
    let added = missing(&spec.targets, &is.targets);
    let removed = missing(&is.targets, &spec.targets);
    if !added.is_empty() || !removed.is_empty() {
        actions.push(Action::SetTargets {
            id: id(),
            name: name(),
            targets: spec.targets.clone(),
            added,
            removed,
        });
    }
    if is.health_check != spec.health_check {
        actions.push(Action::SetHealthCheck {
            id: id(),
            name: name(),
            health_check: spec.health_check.clone(),
        });
    }
    let listeners: BTreeSet<&Listener> = is.listeners.iter().collect();
    if listeners != spec.listeners.iter().collect() {
        actions.push(Action::SetListeners {
            id: id(),
            name: name(),
            listeners: spec.listeners.clone(),
        });
    }
    actions
}

#[cfg(test)]
mod tests;
