//! What happens in a run, drawn from a seed: the cluster, what goes wrong with
//! it, and when.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use herald_election::{Policy, Profile};

/// Microseconds since the run began.
pub type Micros = u64;

/// A second.
pub const SECOND: Micros = 1_000_000;
const MILLI: Micros = 1000;

/// Nobody disturbs the cluster before.
const QUIET_START: Micros = 4 * SECOND;

/// Groups of a run.
const MOST_GROUPS: usize = 8;

/// Something that happens to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// A node stops: its speaker, its kernel, its link.
    Crash(usize),
    /// The speaker's process is killed; its node stays.
    Kill(usize),
    /// A speaker starts anew, and its node with it if that was down.
    Start(usize),
    /// A speaker does not run for this long.
    Stall(usize, Micros),
    /// A speaker is told to end: it drains, leaves, and ends.
    Drain(usize),
    /// The carrier of a node's link is lost.
    LinkDown(usize),
    /// It is back.
    LinkUp(usize),
    /// Nothing reaches the second node from the first.
    Cut(usize, usize),
    /// Nothing reaches a node.
    Deafen(usize),
    /// Nothing that a node sends reaches anybody.
    Mute(usize),
    /// A node speaks to the others, and answers nobody who asks for its addresses.
    Unanswering(usize),
    /// All nodes answer.
    Answering,
    /// The segment is in two parts.
    Split(BTreeSet<usize>),
    /// All cuts are mended.
    Heal,
    /// So many datagrams of a thousand are lost.
    Loss(u32),
    /// The API says that a node may not own anything, or may again.
    Exclude(usize, bool),
    /// The API says that so many of the groups exist.
    Groups(usize),
    /// The API is away for these nodes: what it says from now on is not heard.
    ApiAway(BTreeSet<usize>),
    /// It is back for all.
    ApiBack,
    /// An operator wants everything where it belongs.
    Rebalance,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: &usize| format!("n{}", node + 1);
        let names = |nodes: &BTreeSet<usize>| {
            let names: Vec<_> = nodes.iter().map(name).collect();
            names.join(" ")
        };
        match self {
            Self::Crash(n) => write!(f, "{} crashes", name(n)),
            Self::Kill(n) => write!(f, "the speaker of {} is killed", name(n)),
            Self::Start(n) => write!(f, "the speaker of {} starts", name(n)),
            Self::Stall(n, time) => write!(f, "{} stalls for {} ms", name(n), time / MILLI),
            Self::Drain(n) => write!(f, "{} is drained", name(n)),
            Self::LinkDown(n) => write!(f, "the link of {} goes down", name(n)),
            Self::LinkUp(n) => write!(f, "the link of {} comes up", name(n)),
            Self::Cut(a, b) => write!(f, "nothing reaches {} from {}", name(b), name(a)),
            Self::Deafen(n) => write!(f, "nothing reaches {}", name(n)),
            Self::Mute(n) => write!(f, "nothing from {} reaches anybody", name(n)),
            Self::Unanswering(n) => write!(f, "{} answers no questions", name(n)),
            Self::Answering => write!(f, "all answer questions"),
            Self::Split(part) => write!(f, "{} are cut off from the rest", names(part)),
            Self::Heal => write!(f, "the segment is whole"),
            Self::Loss(p) => write!(f, "{p} of 1000 datagrams are lost"),
            Self::Exclude(n, true) => write!(f, "API: {} may not own", name(n)),
            Self::Exclude(n, false) => write!(f, "API: {} may own", name(n)),
            Self::Groups(count) => write!(f, "API: there are {count} groups"),
            Self::ApiAway(nodes) => write!(f, "the API is away for {}", names(nodes)),
            Self::ApiBack => write!(f, "the API is back"),
            Self::Rebalance => write!(f, "rebalance"),
        }
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// How many speakers.
    pub nodes: usize,
    /// How many groups at most.
    pub groups: usize,
    /// Of all groups.
    pub policy: Policy,
    /// Of all groups.
    pub profile: Profile,
    /// Whether groups go to their first candidates as these join.
    pub rebalance: bool,
    /// Whether heartbeats go through the codec and the seal.
    pub bytes: bool,
    /// What happens when, in order.
    pub faults: Vec<(Micros, Fault)>,
    /// When it ends.
    pub end: Micros,
}

impl Schedule {
    /// These faults, and then all is well. The groups are as many as a run has at
    /// most.
    pub fn of(
        nodes: usize,
        policy: Policy,
        profile: Profile,
        faults: Vec<(Micros, Fault)>,
    ) -> Self {
        let mut schedule = Self {
            nodes,
            groups: MOST_GROUPS,
            policy,
            profile,
            rebalance: false,
            bytes: false,
            faults,
            end: 0,
        };
        schedule.mend(0);
        schedule
    }

    /// Draws a run.
    pub fn draw(rng: &mut Rng) -> Self {
        // Most mistakes need few nodes, and many nodes take long.
        let nodes = match rng.u32(0..500) {
            0 => rng.usize(11..=50),
            1..=25 => rng.usize(6..=10),
            _ => rng.usize(2..=5),
        };
        let profile = match rng.u32(0..5) {
            0 if nodes <= 10 => Profile::Fast,
            1 => Profile::Safe,
            _ => Profile::Default,
        };
        let mut schedule = Self {
            nodes,
            groups: rng.usize(1..=MOST_GROUPS),
            policy: if rng.bool() {
                Policy::Strict
            } else {
                Policy::Available
            },
            profile,
            rebalance: rng.u32(0..5) == 0,
            bytes: rng.u32(0..8) == 0,
            faults: Vec::new(),
            end: 0,
        };
        let mut at = QUIET_START;
        let detect = micros(profile.detect());
        for _ in 0..rng.usize(1..=6) {
            at = schedule.incident(rng, at);
            // Often into the middle of what the last one set off.
            at += match rng.u32(0..4) {
                0 => rng.u64(0..detect / 4),
                1 | 2 => rng.u64(0..2 * detect),
                _ => 5 * SECOND,
            };
        }
        schedule.mend(at);
        schedule
    }

    /// Something goes wrong at `at`, and is mostly undone later. Returns when
    /// the next may begin.
    fn incident(&mut self, rng: &mut Rng, at: Micros) -> Micros {
        let n = rng.usize(0..self.nodes);
        let detect = micros(self.profile.detect());
        let lasting = match rng.u32(0..3) {
            0 => rng.u64(1..detect),
            1 => rng.u64(1..4 * detect),
            _ => rng.u64(1..4 * SECOND),
        };
        let later = at + lasting;
        let mut add = |at, fault| self.faults.push((at, fault));
        match rng.u32(0..16) {
            0 => {
                add(at, Fault::Crash(n));
                add(later + SECOND, Fault::Start(n));
            }
            1 => {
                add(at, Fault::Kill(n));
                add(later, Fault::Start(n));
            }
            2 | 3 => add(at, Fault::Stall(n, lasting)),
            4 => {
                add(at, Fault::Drain(n));
                add(later + SECOND, Fault::Start(n));
            }
            5 => {
                add(at, Fault::LinkDown(n));
                add(later, Fault::LinkUp(n));
            }
            6 => {
                // The trap: the link flaps, and then the node dies.
                let flap = rng.u64(1..2 * detect);
                let crash = at + flap + rng.u64(1..3 * detect);
                add(at, Fault::LinkDown(n));
                add(at + flap, Fault::LinkUp(n));
                add(crash, Fault::Crash(n));
                add(crash + lasting + SECOND, Fault::Start(n));
            }
            7 => {
                let other = (n + rng.usize(1..self.nodes)) % self.nodes;
                add(at, Fault::Cut(n, other));
                add(later, Fault::Heal);
            }
            8 => {
                add(at, Fault::Deafen(n));
                add(later, Fault::Heal);
            }
            9 => {
                add(at, Fault::Mute(n));
                add(later, Fault::Heal);
            }
            10 | 11 => {
                let part = (0..self.nodes).filter(|_| rng.bool()).collect();
                add(at, Fault::Split(part));
                add(later, Fault::Heal);
            }
            12 => {
                add(at, Fault::Loss(rng.u32(5..300)));
                add(later, Fault::Loss(0));
            }
            13 => match rng.u32(0..4) {
                0 => add(at, Fault::Groups(rng.usize(0..=self.groups))),
                1 => add(at, Fault::Rebalance),
                _ => {
                    add(at, Fault::Exclude(n, true));
                    add(later, Fault::Exclude(n, false));
                }
            },
            14 => {
                add(at, Fault::Unanswering(n));
                add(later + 8 * SECOND, Fault::Answering);
            }
            _ => {
                let away = (0..self.nodes).filter(|_| rng.u32(0..3) != 0).collect();
                add(at, Fault::ApiAway(away));
                add(later + SECOND, Fault::ApiBack);
            }
        }
        at
    }

    /// In the end all is well, and stays so for a while.
    fn mend(&mut self, at: Micros) {
        let last = self.faults.iter().map(|(at, _)| *at).max().unwrap_or(0);
        let at = at.max(last) + SECOND + MILLI;
        for fault in [
            Fault::Heal,
            Fault::Answering,
            Fault::Loss(0),
            Fault::ApiBack,
            Fault::Groups(self.groups),
        ] {
            self.faults.push((at, fault));
        }
        for node in 0..self.nodes {
            self.faults.push((at, Fault::LinkUp(node)));
            self.faults.push((at, Fault::Exclude(node, false)));
        }
        self.faults.sort_by_key(|(at, _)| *at);
        let rest = 6 * SECOND + 12 * micros(self.profile.detect());
        self.end = at + rest;
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, {} groups, policy {:?}, profile {:?}{}{}",
            self.nodes,
            self.groups,
            self.policy,
            self.profile,
            if self.rebalance {
                ", rebalance onJoin"
            } else {
                ""
            },
            if self.bytes {
                ", heartbeats as bytes"
            } else {
                ""
            },
        )
    }
}

/// A time in microseconds.
pub fn micros(time: Duration) -> Micros {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
