//! A listener passes from one target group to another, which AWS can't do in place
//! where port, protocol or target type change.
//!
//! ```text
//!   old 1          the new group is made and its targets are registered
//!   old 1, new 0   AWS checks the new targets: it does so only where a listener
//!                  forwards to them, at whatever weight
//!   old 0, new 1   new connections go to the new group; the old targets are
//!                  deregistered, and drain for the old group's delay
//!   new 1          the old group is deleted
//! ```
//!
//! Where it stands is read from the listener's weights and the old group's targets, so
//! that a restart at any moment goes on where it was. Weights are for nothing else here:
//! all new connections change over at once, when the new group can take them.

use std::collections::BTreeSet;

use crate::action::Named;
use crate::cloud::{self, State};
use crate::observed::{GroupHealth, Have, HaveGroup, Observed};
use crate::plan::listeners::groups;
use crate::spec::{Forward, GroupRef, Listener, NlbProtocol, Spec, Target, WeightedGroup};

/// AWS forwards one listener to at most so many target groups.
const GROUPS: usize = 5;

/// How far a listener has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The old group serves; the new one's targets are checked.
    Checking,
    /// The new group serves; the old one's targets drain.
    Draining,
}

/// A listener that passes from one target group to another.
pub(crate) struct Passing<'a> {
    pub(crate) listener: &'a Listener,
    pub(crate) stage: Stage,
    /// What the listener should be meanwhile, and its groups in order.
    pub(super) meanwhile: (Listener, Vec<Named>),
    /// The groups that it leaves.
    pub(crate) old: Vec<&'a HaveGroup>,
    /// Those it goes to and that have no weight yet; an ARN where there is one.
    pub(crate) fresh: Vec<Named>,
}

/// All listeners that pass, in order.
pub(crate) fn passing<'a>(observed: &'a Observed, spec: &'a Spec) -> Vec<Passing<'a>> {
    let Some(have) = &observed.current else {
        return Vec::new();
    };
    spec.listeners
        .iter()
        .filter_map(|want| passes(observed, spec, have, want))
        .collect()
}

/// Target groups whose health decides, by ARN.
pub(crate) fn involved(observed: &Observed, spec: &Spec) -> BTreeSet<String> {
    let passing = passing(observed, spec);
    let old = passing
        .iter()
        .flat_map(|passing| &passing.old)
        .map(|have| have.group.arn.clone());
    let fresh = passing
        .iter()
        .flat_map(|passing| &passing.fresh)
        .filter_map(|group| group.id.clone());
    old.chain(fresh).collect()
}

/// Old groups that are still needed, and what is to be deregistered from them.
pub(super) fn kept(observed: &Observed, spec: &Spec) -> Vec<(String, Vec<Target>)> {
    let mut kept = Vec::new();
    for passing in passing(observed, spec) {
        for old in &passing.old {
            let health = observed.group_health.get(&old.group.arn);
            let doomed = match (passing.stage, health) {
                (Stage::Draining, Some(health)) => own_targets(old, health),
                _ => Vec::new(),
            };
            kept.push((old.group.arn.clone(), doomed));
        }
    }
    kept
}

/// What this cluster registered of what is registered.
fn own_targets(old: &HaveGroup, health: &GroupHealth) -> Vec<Target> {
    let own = |target: &&Target| {
        old.listed
            .as_ref()
            .is_none_or(|listed| listed.contains(&target.id()))
    };
    health.serving.iter().filter(own).cloned().collect()
}

fn passes<'a>(
    observed: &'a Observed,
    spec: &'a Spec,
    have: &'a Have,
    want: &'a Listener,
) -> Option<Passing<'a>> {
    let serves = matches!(have.load_balancer.state, State::Active | State::Impaired(_));
    let is = have.listener(want.port).filter(|_| serves)?;
    if observed.unweighted.contains(&is.arn) {
        return None;
    }
    let new = groups(observed, spec, want);
    let old: Vec<&HaveGroup> = is
        .forward
        .iter()
        .filter(|(arn, _)| !new.iter().any(|new| new.id.as_ref() == Some(arn)))
        .filter_map(|(arn, _)| {
            let own = observed.target_groups.values().filter(|have| have.ours);
            own.chain(&observed.owners_groups)
                .find(|have| have.group.arn == *arn)
        })
        .collect();
    // What is neither the Service's own nor came with a load balancer that was lent is left
    // to whoever it belongs to.
    let known = old.len() + new.len();
    if old.is_empty() || known > GROUPS || is.forward.len() > known {
        return None;
    }
    let protocol = common_protocol(spec, want, is, &old)?;
    let fresh: Vec<Named> = new
        .iter()
        .zip(&want.forward.targets)
        .filter(|(new, target)| {
            let weight = new.id.as_deref().and_then(|arn| weight(is, arn));
            weight.is_none() || (weight == Some(0) && target.weight != Some(0))
        })
        .map(|(new, _)| new.clone())
        .collect();
    let serving = old
        .iter()
        .any(|have| weight(is, &have.group.arn).is_some_and(|weight| weight > 0));
    let stage = if serving && !may_switch(observed, spec, &old, &fresh) {
        Stage::Checking
    } else {
        Stage::Draining
    };
    if stage == Stage::Draining && !serving && fresh.is_empty() && drained(observed, &old) {
        return None;
    }
    let weigh = |group: &Named, meant: i32| match stage {
        Stage::Checking => group
            .id
            .as_deref()
            .and_then(|arn| weight(is, arn))
            .unwrap_or(0),
        Stage::Draining => meant,
    };
    let mut shares: Vec<(Named, i32)> = new
        .iter()
        .zip(&want.forward.targets)
        .map(|(group, target)| {
            let meant = i32::from(target.weight.unwrap_or(1));
            (group.clone(), weigh(group, meant))
        })
        .collect();
    shares.extend(old.iter().map(|have| {
        let group = Named::existing(&have.group.arn, &have.group.name);
        let weight = weigh(&group, 0);
        (group, weight)
    }));
    let mut meanwhile = want.clone();
    meanwhile.protocol = protocol;
    if protocol != NlbProtocol::Tls {
        meanwhile.certificates.clear();
        meanwhile.ssl_policy = None;
        meanwhile.alpn_policy = None;
    }
    meanwhile.forward = Forward {
        targets: shares
            .iter()
            .map(|(group, weight)| WeightedGroup {
                group: GroupRef::Arn(group.name.clone()),
                weight: u16::try_from(*weight).ok(),
            })
            .collect(),
        // A client that stayed with the old group would never leave it.
        sticky: want.forward.sticky && stage == Stage::Checking && is.sticky,
    };
    let named = shares.into_iter().map(|(group, _)| group).collect();
    Some(Passing {
        listener: want,
        stage,
        meanwhile: (meanwhile, named),
        old,
        fresh,
    })
}

/// A group's weight in a listener; a group by itself has all.
fn weight(is: &cloud::Listener, arn: &str) -> Option<i32> {
    let (_, weight) = is.forward.iter().find(|(other, _)| other == arn)?;
    Some(weight.unwrap_or(1))
}

/// Whether the new groups can take over: each has a healthy target and none that AWS has
/// not judged, or the old ones have none either, or an outage is allowed.
fn may_switch(observed: &Observed, spec: &Spec, old: &[&HaveGroup], fresh: &[Named]) -> bool {
    let health = |arn: &str| observed.group_health.get(arn);
    let empty = |group: &Named| {
        let mut wanted = spec.target_groups.iter();
        wanted.any(|want| want.name == group.name && want.targets.is_empty())
    };
    let ready = |group: &Named| {
        let health = group.id.as_deref().and_then(health);
        empty(group) || health.is_some_and(|health| health.healthy && !health.initial)
    };
    let dead = |have: &&HaveGroup| {
        health(&have.group.arn).is_some_and(|health| !health.healthy && !health.initial)
    };
    spec.allow_outage || fresh.iter().all(ready) || old.iter().all(dead)
}

fn drained(observed: &Observed, old: &[&HaveGroup]) -> bool {
    old.iter().all(|have| {
        observed
            .group_health
            .get(&have.group.arn)
            .is_some_and(|health| own_targets(have, health).is_empty() && !health.draining)
    })
}

/// A protocol by which the listener can forward to all groups: the wanted one, or the
/// one it has.
fn common_protocol(
    spec: &Spec,
    want: &Listener,
    is: &cloud::Listener,
    old: &[&HaveGroup],
) -> Option<NlbProtocol> {
    let of_new = want.forward.targets.iter().filter_map(|target| {
        let GroupRef::Key(key) = &target.group else {
            return None;
        };
        let group = spec.target_groups.iter().find(|group| group.key == *key)?;
        Some(group.protocol.as_str())
    });
    let all: BTreeSet<&str> = old
        .iter()
        .map(|have| have.group.protocol.as_str())
        .chain(of_new)
        .collect();
    let carries = |listener: NlbProtocol| {
        all.iter().all(|group| match listener {
            NlbProtocol::Tcp => matches!(*group, "TCP" | "TCP_UDP"),
            NlbProtocol::Tls => matches!(*group, "TCP" | "TLS"),
            NlbProtocol::Udp => matches!(*group, "UDP" | "TCP_UDP"),
            other => *group == other.as_str(),
        })
    };
    // What it has needs no certificate that the Service does not name any more.
    let has = [NlbProtocol::Tcp, NlbProtocol::Udp, NlbProtocol::TcpUdp];
    let has = has.into_iter().find(|known| known.as_str() == is.protocol);
    [Some(want.protocol), has]
        .into_iter()
        .flatten()
        .find(|listener| carries(*listener))
}
