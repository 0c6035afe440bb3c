//! What must hold, whatever goes wrong.
//!
//! "Owns" means: its process runs and answers for the group. "Whole" means: all
//! processes run, nothing is cut, nothing is lost beyond one in 200. "Trouble"
//! is anything that happens to a node: a fault that begins or ends, a start, or
//! news from the API.
//!
//! 1. **One owner.** While the segment is whole, nobody shares a group for longer
//!    than [`settle`]: in a planned move the new owner speaks before the old one
//!    is silent, and after a split owners must find each other.
//! 2. **Some owner.** A *part* is a set of running nodes that all hear each
//!    other and nobody else. A part without trouble for [`bound`] has an owner of
//!    every group for which one of its ready members is a candidate; under
//!    `strict` only the part with most voters has. When all was well for some
//!    seconds before one thing went wrong, the bound is the profile's; without most
//!    voters nothing is well, as one that starts has no vote before its hold-down ends.
//! 3. **No move without a cause.** Without trouble for [`SETTLED`] nobody takes
//!    anything. Whoever takes what another lost, or was told to give up, has
//!    reason to: that one or itself was in trouble lately (under `strict` anybody,
//!    as an owner falls with its votes), drains, or is no candidate in the
//!    taker's view. Nobody takes as nobody's what another has who was well and whom it
//!    can hear: whoever returns listens first.
//! 4. **Damping.** A speaker takes a group from a well owner at most
//!    [`MOST_MOVES`] times in [`DAMPING`]. What it took before it was started anew
//!    it does not know, unless another that saw it owns the group.
//! 5. **Strict.** Under `strict` no two ever own a group: an isolated owner is
//!    silent before another owns.
//! 6. **A mute owner.** Who speaks and does not answer has nothing any more when
//!    that was believed and a part was well for [`bound`], if another of the part
//!    could have it and the group has not moved too often.
//!
//! The run ends with a time in which nothing goes wrong, so by 1 and 2 it ends
//! with one owner for each group.

use std::collections::BTreeMap;

use herald_election::{Cause, DAMPING, GroupId, MOST_MOVES, Policy, Profile};

use crate::schedule::{Micros, SECOND, Schedule, micros};
use crate::world::{BELIEVED, World};

/// After so long without trouble nothing moves.
pub const SETTLED: Micros = 5 * SECOND;

/// Losses of so many in a thousand are not trouble.
pub const HARMLESS_LOSS: u32 = 5;

/// How long a group may have two owners while the segment is whole.
pub fn settle(profile: Profile) -> Micros {
    micros(profile.detect()) * 2 + micros(profile.interval()) * 4
}

/// How long a part may be without an owner; `well` is whether all was well
/// before, and `alone` whether it is a single node that lost several.
pub fn bound(schedule: &Schedule, well: bool, alone: bool) -> Micros {
    let profile = schedule.profile;
    let (detect, interval) = (micros(profile.detect()), micros(profile.interval()));
    let votes = match schedule.policy {
        Policy::Available => 0,
        Policy::Strict => 2 * interval,
    };
    if well && !alone {
        // A process may have stopped whose node lives.
        return micros(profile.stalled()) + 2 * interval + 25_000 + votes;
    }
    let nodes = u64::try_from(schedule.nodes).unwrap_or(u64::MAX);
    // Hold-down, a view that lags, detection, those before it in the order, and
    // asking again.
    3 * SECOND + detect * (6 + nodes) + votes * 8
}

/// What is remembered between checks.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Since when groups are shared on a segment that is whole.
    shared: BTreeMap<GroupId, Micros>,
    /// When a speaker, of a node and since a start, took a group from a well owner.
    elective: BTreeMap<(usize, u64, GroupId), Vec<Micros>>,
    /// When a group came to a node.
    moves: BTreeMap<GroupId, Vec<Micros>>,
}

impl Invariants {
    /// Checks 1, 2 and 6, as the world is now.
    pub fn check(&mut self, world: &World) -> Result<(), String> {
        self.one_owner(world)?;
        some_owner(world)?;
        self.mute_owner(world)
    }

    fn mute_owner(&self, world: &World) -> Result<(), String> {
        for part in world.parts() {
            let bound = bound(&world.schedule, false, false);
            if world.now <= part.since + BELIEVED + SECOND + bound || !world.may_own(part.members) {
                continue;
            }
            let mute = (0..64).filter(|n| part.members & (1 << n) != 0);
            let mute = mute
                .filter(|n| world.mute(*n).is_some_and(|at| at <= part.since))
                .fold(0, |set, n| set | 1 << n);
            for group in world.groups() {
                let others = world.able(part.members, group) & !mute;
                let moved = self.moves.get(&group).map_or(0, |moves| {
                    let recent = |at: &&Micros| world.now < **at + micros(DAMPING);
                    moves.iter().filter(recent).count()
                });
                let owners = world.owners(group) & part.members;
                if owners & mute != 0 && others != 0 && moved < MOST_MOVES {
                    return Err(format!(
                        "6 (a mute owner): {} still has {}, though {} can",
                        names(owners & mute),
                        world.group_name(group),
                        names(others)
                    ));
                }
            }
        }
        Ok(())
    }

    fn one_owner(&mut self, world: &World) -> Result<(), String> {
        for group in world.groups() {
            let owners = world.owners(group);
            if !world.is_whole() || owners.count_ones() < 2 {
                self.shared.remove(&group);
                continue;
            }
            let since = *self.shared.entry(group).or_insert(world.now);
            if world.now > since + settle(world.schedule.profile) {
                return Err(format!(
                    "1 (one owner): {} is owned by {}, though the segment is whole",
                    world.group_name(group),
                    names(owners)
                ));
            }
        }
        Ok(())
    }

    /// Checks 3 and 4, as `node` takes a group.
    pub fn taken(
        &mut self,
        world: &World,
        node: usize,
        group: GroupId,
        cause: Cause,
    ) -> Result<(), String> {
        if cause != Cause::Resumed {
            self.moves.entry(group).or_default().push(world.now);
        }
        let what = || format!("n{} takes {}: {cause:?}", node + 1, world.group_name(group));
        if world.now > world.last_trouble + SETTLED && !world.schedule.rebalance {
            return Err(format!(
                "3 (no move without a cause): {}, in quiet times",
                what()
            ));
        }
        let troubled = |other: usize| world.now <= world.trouble(other) + SETTLED;
        let strict = world.schedule.policy == Policy::Strict;
        let reason = match cause {
            Cause::Vacant => world.sees_owner(node, group).is_none(),
            Cause::Resumed => true,
            Cause::Lost(other) => world
                .number(other)
                .is_none_or(|other| troubled(other) || troubled(node) || strict),
            Cause::Drained(other) => world.number(other).is_none_or(|other| world.drained(other)),
            Cause::Ineligible(other) => world
                .number(other)
                .is_none_or(|other| !world.is_candidate(node, other)),
            Cause::Unanswered(other) => world
                .number(other)
                .is_none_or(|other| world.mute(other).is_some() || troubled(other)),
            Cause::Rebalanced(_) => world.schedule.rebalance || world.rebalanced,
        };
        if !reason {
            return Err(format!("3 (no move without a cause): {}", what()));
        }
        if matches!(
            cause,
            Cause::Ineligible(_) | Cause::Rebalanced(_) | Cause::Unanswered(_)
        ) {
            let speaker = (node, world.starts(node), group);
            let times = self.elective.entry(speaker).or_default();
            times.retain(|at| world.now < at + micros(DAMPING));
            times.push(world.now);
            if times.len() > MOST_MOVES {
                return Err(format!("4 (damping): {}, once too often", what()));
            }
        }
        Ok(())
    }
}

fn some_owner(world: &World) -> Result<(), String> {
    for part in world.parts() {
        let alone = part.members.is_power_of_two();
        let bound = bound(&world.schedule, part.well, alone);
        if world.now <= part.since + bound || !world.may_own(part.members) {
            continue;
        }
        for group in world.groups() {
            let able = world.able(part.members, group);
            if able != 0 && world.owners(group) & part.members == 0 {
                return Err(format!(
                    "2 (some owner): nobody of {} owns {} for {} ms, though {} can",
                    names(part.members),
                    world.group_name(group),
                    (world.now - part.since) / 1000,
                    names(able)
                ));
            }
        }
    }
    Ok(())
}

/// Checks 5 whenever somebody begins to own a group.
pub fn strict(world: &World, group: GroupId) -> Result<(), String> {
    let owners = world.owners(group);
    if world.schedule.policy == Policy::Strict && owners.count_ones() > 1 {
        return Err(format!(
            "5 (strict): {} is owned by {}",
            world.group_name(group),
            names(owners)
        ));
    }
    Ok(())
}

/// The names of a set of nodes.
pub fn names(nodes: u64) -> String {
    let names: Vec<_> = (0..64)
        .filter(|node| nodes & (1 << node) != 0)
        .map(|node| format!("n{}", node + 1))
        .collect();
    names.join(" and ")
}
