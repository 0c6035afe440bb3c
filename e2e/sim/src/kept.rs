//! Schedules that each show what one rule of the election is for: without it they
//! break an invariant. Seeds are of no use for that, as with every change of the
//! election a seed comes to mean another run.

use std::collections::BTreeSet;

use herald_election::{Policy, Profile};

use crate::schedule::{Fault, Micros, SECOND, Schedule};

/// A schedule and what it is for.
pub struct Kept {
    /// The rule without which it breaks an invariant.
    pub rule: &'static str,
    /// What happens.
    pub schedule: Schedule,
}

/// When the first thing goes wrong: all is settled by then.
const BEGIN: Micros = 5 * SECOND;

const MILLI: Micros = 1000;

/// All of them.
pub fn all() -> Vec<Kept> {
    nodes(2)
        .map(settlement)
        .chain(nodes(3).map(leases))
        .chain(nodes(5).flat_map(objections))
        .chain(nodes(4).flat_map(stalls))
        .chain(nodes(2).map(voters))
        .chain(nodes(4).map(mute))
        .chain(nodes(3).map(slow_start))
        .chain(nodes(4).flat_map(late_witnesses))
        .collect()
}

fn nodes(count: usize) -> std::ops::Range<usize> {
    0..count
}

fn new(rule: &'static str, nodes: usize, policy: Policy, faults: Vec<(Micros, Fault)>) -> Kept {
    Kept {
        rule,
        schedule: Schedule::of(nodes, policy, Profile::Default, faults),
    }
}

fn settlement(n: usize) -> Kept {
    let faults = vec![
        (BEGIN, Fault::Split(BTreeSet::from([n]))),
        (BEGIN + 3 * SECOND, Fault::Heal),
    ];
    let rule = "of two owners that hear each other one gives way";
    new(rule, 2, Policy::Available, faults)
}

fn leases(n: usize) -> Kept {
    let faults = vec![
        (BEGIN, Fault::Split(BTreeSet::from([n]))),
        (BEGIN + 3 * SECOND, Fault::Heal),
    ];
    let rule = "an owner under strict is silent when most have not heard it lately";
    new(rule, 3, Policy::Strict, faults)
}

/// An owner dies, and of two who would be the next one does not hear the other.
fn objections(n: usize) -> impl Iterator<Item = Kept> {
    let others = nodes(5).filter(move |other| *other != n);
    let pairs = others
        .clone()
        .flat_map(move |a| others.clone().map(move |b| (a, b)));
    pairs.filter(|(a, b)| a != b).map(move |(a, b)| {
        let faults = vec![
            (BEGIN, Fault::Cut(a, b)),
            (BEGIN + 100 * MILLI, Fault::Crash(n)),
            (BEGIN + 3 * SECOND, Fault::Start(n)),
            (BEGIN + 4 * SECOND, Fault::Heal),
        ];
        let rule = "who has voted for one objects to another";
        new(rule, 5, Policy::Strict, faults)
    })
}

/// One who is not heard does not run while an owner hands over and ends.
fn stalls(n: usize) -> impl Iterator<Item = Kept> {
    nodes(4).filter(move |owner| *owner != n).map(move |owner| {
        let faults = vec![
            (BEGIN, Fault::Mute(n)),
            (BEGIN + 400 * MILLI, Fault::Stall(n, 4 * SECOND)),
            (BEGIN + SECOND, Fault::Drain(owner)),
            (BEGIN + 2 * SECOND, Fault::Heal),
            (BEGIN + 6 * SECOND, Fault::Start(owner)),
        ];
        let rule = "after a stall nothing is believed that may have waited to be read";
        new(rule, 4, Policy::Available, faults)
    })
}

/// Of two nodes one starts while the API is away.
fn voters(n: usize) -> Kept {
    let faults = vec![
        (BEGIN, Fault::ApiAway(nodes(2).collect())),
        (BEGIN + SECOND, Fault::Crash(n)),
        (BEGIN + 3 * SECOND, Fault::Start(n)),
        (BEGIN + 20 * SECOND, Fault::ApiBack),
    ];
    let rule = "a vote takes no view of the API";
    new(rule, 2, Policy::Strict, faults)
}

fn mute(n: usize) -> Kept {
    let faults = vec![
        (BEGIN, Fault::Unanswering(n)),
        (BEGIN + 20 * SECOND, Fault::Answering),
    ];
    let rule = "an owner that two ask in vain loses what it has";
    new(rule, 4, Policy::Available, faults)
}

/// A speaker that starts hears nobody, and then does not run for longer than it would
/// listen.
fn slow_start(n: usize) -> Kept {
    let faults = vec![
        (BEGIN, Fault::Deafen(n)),
        (BEGIN + 100 * MILLI, Fault::Kill(n)),
        (BEGIN + 120 * MILLI, Fault::Start(n)),
        (BEGIN + 400 * MILLI, Fault::Stall(n, 4 * SECOND)),
        (BEGIN + SECOND, Fault::Heal),
    ];
    let rule = "only time in which a speaker runs is time in which it listens";
    new(rule, 3, Policy::Available, faults)
}

/// An owner is mute for a while and loses what it has; another speaker starts anew, and
/// then one that owns is killed, on a node that lives.
fn late_witnesses(mute: usize) -> impl Iterator<Item = Kept> {
    let others = move || nodes(4).filter(move |other| *other != mute);
    let pairs = others().flat_map(move |late| others().map(move |owner| (late, owner)));
    pairs
        .filter(|(late, owner)| late != owner)
        .map(move |(late, owner)| {
            let faults = vec![
                (BEGIN, Fault::Unanswering(mute)),
                (BEGIN + 7 * SECOND, Fault::Answering),
                (BEGIN + 8 * SECOND, Fault::Kill(late)),
                (BEGIN + 9 * SECOND, Fault::Start(late)),
                (BEGIN + 20 * SECOND, Fault::Kill(owner)),
            ];
            let rule = "who did not answer tells those who could not know";
            new(rule, 4, Policy::Available, faults)
        })
}
