//! Nodes, network, clocks and API on virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use herald_election::{
    Candidate, Cause, Config, Election, Event, Group, GroupId, Heartbeat, KeyRing, NodeId, Policy,
    Rebalance, Unanswered, View, spread,
};

use crate::Summary;
use crate::invariants::{HARMLESS_LOSS, Invariants};
use crate::schedule::{Fault, Micros, SECOND, Schedule, micros};

/// Between two checks of what must hold at all times.
const CHECK: Micros = 10_000;

/// A drain that nobody helps with ends after this.
const DRAIN: Micros = 3 * SECOND;

/// A part that has had no trouble for so long, the start of a speaker
/// included, is well.
const WELL: Micros = 3_500_000;

/// Between two rounds of questions about what others own.
const JUDGE: Micros = SECOND;

/// How long an owner is asked in vain before that is believed.
pub const BELIEVED: Micros = 3 * SECOND;

/// Datagrams that wait in the socket of a speaker that does not run.
const SOCKET: usize = 2000;

/// A set of running nodes that all hear each other and nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// A bit for each node.
    pub members: u64,
    /// Since when it has had no trouble.
    pub since: Micros,
    /// Whether all was well before.
    pub well: bool,
}

#[derive(Debug)]
enum Datagram {
    Plain(Rc<Heartbeat>),
    Sealed(Rc<Vec<u8>>),
}

impl Clone for Datagram {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(heartbeat) => Self::Plain(heartbeat.clone()),
            Self::Sealed(bytes) => Self::Sealed(bytes.clone()),
        }
    }
}

#[derive(Debug)]
enum Job {
    Fault(Fault),
    Deliver(usize, Datagram),
    /// A node that let datagrams gather reads them, if it is still the same start.
    Read(usize, u64),
    /// What another node said by another network when its link went down.
    LastWord(usize, Rc<Heartbeat>),
    /// A timer of a node, if it is still the last one that was set.
    Wake(usize, u64),
    /// The end of a stall.
    Resume(usize, u64),
    /// A node that was asked for its own address answers.
    Answer(usize, usize),
    /// What the API said reaches a node.
    News(usize, Rc<Api>),
    /// A node looks at the carrier of its link.
    Carrier(usize),
    DrainEnds(usize, u64),
    /// A node has asked for what others own, and judges the answers.
    Judge(usize),
    Check,
}

/// What the API says.
#[derive(Clone, Debug)]
struct Api {
    number: u64,
    excluded: u64,
    groups: usize,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact that stands by itself"
)]
struct Node {
    id: NodeId,
    /// None while its process does not exist.
    election: Option<Election>,
    /// Counts starts.
    start: u64,
    machine: bool,
    link: bool,
    stalled: bool,
    /// What came and was not read yet, and when.
    socket: Vec<(Instant, Datagram)>,
    /// When it reads next.
    reads: Micros,
    /// Local time at the begin of the run, and its rate in millionths.
    origin: Instant,
    rate: u64,
    timer: u64,
    /// When its timer is set to.
    wakes: Option<Instant>,
    view: Option<Rc<Api>>,
    /// Whether it does not hear the API, and what it missed.
    api_away: bool,
    /// A bit for each group that it answers for.
    owned: u64,
    /// When it last took a group.
    took: BTreeMap<GroupId, Micros>,
    /// Since when it answers nobody who asks for what it owns.
    mute: Option<Micros>,
    /// Whether it complained of others when it last asked.
    complains: bool,
    draining: bool,
    drained: Micros,
    trouble: Micros,
}

/// A cluster in the middle of a run.
pub struct World {
    /// What happens.
    pub schedule: Schedule,
    /// The time.
    pub now: Micros,
    /// When anything last happened to anybody.
    pub last_trouble: Micros,
    /// Whether an operator asked for a rebalance.
    pub rebalanced: bool,
    /// What happened so far, if the run is traced.
    pub timeline: Vec<String>,
    traced: bool,
    rng: Rng,
    keys: KeyRing,
    nodes: Vec<Node>,
    ids: BTreeMap<NodeId, usize>,
    group_ids: Vec<GroupId>,
    /// For each node, whom it can't hear.
    cut: Vec<u64>,
    loss: u32,
    api: Rc<Api>,
    jobs: BinaryHeap<Reverse<(Micros, u64)>>,
    bodies: HashMap<u64, Job>,
    next_job: u64,
    parts: Vec<Part>,
    invariants: Invariants,
    summary: Summary,
}

impl World {
    /// A cluster that is about to start.
    pub fn new(schedule: Schedule, mut rng: Rng, traced: bool) -> Self {
        let base = Instant::now() + Duration::from_secs(100_000);
        let nodes: Vec<Node> = (0..schedule.nodes)
            .map(|n| Node {
                id: NodeId::of(&format!("n{}", n + 1)),
                election: None,
                start: 0,
                machine: true,
                link: true,
                stalled: false,
                socket: Vec::new(),
                reads: 0,
                origin: base + Duration::from_secs(rng.u64(0..50_000)),
                rate: rng.u64(995_000..=1_005_000),
                timer: 0,
                wakes: None,
                view: None,
                api_away: false,
                owned: 0,
                took: BTreeMap::new(),
                mute: None,
                complains: false,
                draining: false,
                drained: 0,
                trouble: 0,
            })
            .collect();
        let ids = nodes
            .iter()
            .enumerate()
            .map(|(n, node)| (node.id, n))
            .collect();
        let group_ids = (0..schedule.groups)
            .map(|i| {
                let host = u32::try_from(i).unwrap_or(0);
                GroupId::of(&IpAddr::V4(Ipv4Addr::from_bits(0x0a14_6400 + host)))
            })
            .collect();
        let api = Rc::new(Api {
            number: 1,
            excluded: 0,
            groups: schedule.groups,
        });
        let (count, faults) = (schedule.nodes, schedule.faults.clone());
        let mut world = Self {
            cut: vec![0; count],
            schedule,
            now: 0,
            last_trouble: 0,
            rebalanced: false,
            timeline: Vec::new(),
            traced,
            keys: KeyRing::new([[7; 32]]).unwrap_or_else(|error| unreachable!("{error}")),
            nodes,
            ids,
            group_ids,
            loss: 0,
            api,
            jobs: BinaryHeap::new(),
            bodies: HashMap::new(),
            next_job: 0,
            parts: Vec::new(),
            invariants: Invariants::default(),
            summary: Summary::default(),
            rng,
        };
        for n in 0..count {
            let at = world.rng.u64(0..SECOND);
            world.job(at, Job::Fault(Fault::Start(n)));
        }
        for n in 0..count {
            let at = world.rng.u64(0..JUDGE);
            world.job(at, Job::Judge(n));
        }
        for (at, fault) in faults {
            world.job(at, Job::Fault(fault));
        }
        world.job(CHECK, Job::Check);
        world
    }

    /// What it came to.
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// Runs to the end, or until something does not hold.
    pub fn run(&mut self) -> Result<(), String> {
        if self.traced {
            let head = self.schedule.to_string();
            self.timeline.push(head);
        }
        while let Some(Reverse((at, id))) = self.jobs.pop() {
            if at > self.schedule.end {
                break;
            }
            self.now = at;
            let Some(job) = self.bodies.remove(&id) else {
                continue;
            };
            if let Err(broken) = self.perform(job) {
                let broken = format!("{broken} (at {:.3} s)", seconds(self.now));
                self.note(|| format!("BROKEN: {broken}"));
                return Err(broken);
            }
        }
        Ok(())
    }

    fn perform(&mut self, job: Job) -> Result<(), String> {
        match job {
            Job::Fault(fault) => self.fault(&fault),
            Job::Deliver(n, datagram) => self.deliver(n, datagram),
            Job::Read(n, start) => {
                if self.nodes[n].start == start && !self.nodes[n].stalled {
                    return self.read(n);
                }
                Ok(())
            }
            Job::LastWord(n, word) => self.hear_last_word(n, &word),
            Job::Wake(n, timer) => {
                if self.nodes[n].timer == timer && !self.nodes[n].stalled {
                    self.nodes[n].wakes = None;
                    return self.read(n);
                }
                Ok(())
            }
            Job::Resume(n, start) => self.resume(n, start),
            Job::Answer(n, about) => {
                let id = self.nodes[about].id;
                if self.nodes[n].stalled {
                    return Ok(());
                }
                self.with(n, |election, now| election.node_answered(id, now))
            }
            Job::News(n, api) => self.news(n, &api),
            Job::Judge(n) => self.judge(n),
            Job::Carrier(n) | Job::DrainEnds(n, _) if self.nodes[n].stalled => {
                self.job(self.now + CHECK, job);
                Ok(())
            }
            Job::Carrier(n) => {
                let up = self.nodes[n].link;
                self.with(n, |election, now| election.set_link(up, now))
            }
            Job::DrainEnds(n, start) => {
                if self.nodes[n].start == start && self.nodes[n].draining {
                    return self.leave(n);
                }
                Ok(())
            }
            Job::Check => {
                self.job(self.now + CHECK, Job::Check);
                let mut invariants = std::mem::take(&mut self.invariants);
                let result = invariants.check(self);
                self.invariants = invariants;
                result
            }
        }
    }

    fn job(&mut self, at: Micros, job: Job) {
        self.next_job += 1;
        self.jobs.push(Reverse((at, self.next_job)));
        self.bodies.insert(self.next_job, job);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.traced {
            let line = format!("{:9.3} s  {}", seconds(self.now), line());
            self.timeline.push(line);
        }
    }

    // The world as the invariants see it.

    /// Groups that there may be.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.group_ids.iter().copied()
    }

    fn bit(&self, group: GroupId) -> u64 {
        let place = self.group_ids.iter().position(|other| *other == group);
        place.map_or(0, |place| 1 << place)
    }

    /// A short name of a group.
    pub fn group_name(&self, group: GroupId) -> String {
        let place = self.group_ids.iter().position(|other| *other == group);
        format!("g{}", place.map_or(0, |place| place + 1))
    }

    /// Who owns a group, a bit each.
    pub fn owners(&self, group: GroupId) -> u64 {
        let bit = self.bit(group);
        self.set(|node| node.runs() && node.owned & bit != 0)
    }

    /// Another node that has had a group for longer than a heartbeat takes, that
    /// `n` can hear and that can hear `n`, and that has had no trouble for two
    /// detection times.
    pub fn sees_owner(&self, n: usize, group: GroupId) -> Option<usize> {
        let profile = self.schedule.profile;
        let told = self.now.saturating_sub(micros(profile.interval()));
        let peace = self.now.saturating_sub(2 * micros(profile.detect()));
        let owners = self.owners(group);
        (0..self.nodes.len()).find(|other| {
            let took = self.nodes[*other].took.get(&group);
            *other != n
                && owners & (1 << other) != 0
                && took.is_some_and(|at| *at < told)
                && self.trouble(*other) < peace
                && self.reaches(n, *other)
                && self.reaches(*other, n)
        })
    }

    /// Since when a node answers nobody.
    pub fn mute(&self, n: usize) -> Option<Micros> {
        self.nodes[n].mute
    }

    /// Those of `members` that could own a group.
    pub fn able(&self, members: u64, group: GroupId) -> u64 {
        let place = self.group_ids.iter().position(|other| *other == group);
        self.set(|node| {
            let n = self.ids[&node.id];
            members & (1 << n) != 0
                && !node.draining
                && node.view.as_ref().is_some_and(|api| {
                    place.is_some_and(|place| place < api.groups) && api.excluded & (1 << n) == 0
                })
        })
    }

    /// Whether these nodes are enough to own anything: under `strict` most voters.
    pub fn may_own(&self, members: u64) -> bool {
        self.schedule.policy == Policy::Available || self.is_most(members)
    }

    /// Whether these nodes are most of the voters.
    fn is_most(&self, members: u64) -> bool {
        let (count, all) = (members.count_ones() as usize * 2, self.nodes.len());
        let lowest = self.ids.values().next().copied().unwrap_or(0);
        count > all || count == all && members & (1 << lowest) != 0
    }

    /// The parts of the segment; none while it is not clear who hears whom.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// When something last happened to a node; now, while it goes on.
    pub fn trouble(&self, n: usize) -> Micros {
        let node = &self.nodes[n];
        let hurt = !node.runs()
            || !node.link
            || self.cut[n] != 0
            || self.cut.iter().any(|cut| cut & (1 << n) != 0)
            || self.loss > HARMLESS_LOSS;
        if hurt { self.now } else { node.trouble }
    }

    /// How often the speaker of a node was started.
    pub fn starts(&self, n: usize) -> u64 {
        self.nodes[n].start
    }

    /// The place of a node in the cluster.
    pub fn number(&self, id: NodeId) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    /// Whether a node drains, or did lately.
    pub fn drained(&self, n: usize) -> bool {
        self.nodes[n].draining
            || self.now <= self.nodes[n].drained + SECOND + micros(self.schedule.profile.detect())
    }

    /// Whether `other` may own anything in the view of `n`.
    pub fn is_candidate(&self, n: usize, other: usize) -> bool {
        let view = &self.nodes[n].view;
        view.as_ref()
            .is_some_and(|api| api.excluded & (1 << other) == 0)
    }

    fn set(&self, holds: impl Fn(&Node) -> bool) -> u64 {
        self.nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| holds(node))
            .fold(0, |set, (n, _)| set | 1 << n)
    }

    /// Whether all is well with the segment.
    pub fn is_whole(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| !node.stalled && (node.election.is_none() || node.link))
            && self.cut.iter().all(|cut| *cut == 0)
            && self.loss <= HARMLESS_LOSS
    }

    /// Computes the parts anew after something happened to `troubled`.
    fn part(&mut self, troubled: u64) {
        let live = self.set(|node| node.runs() && node.link);
        let hears: Vec<u64> = (0..self.nodes.len())
            .map(|n| live & !self.cut[n] | 1 << n)
            .collect();
        let members = |n: usize| hears[n];
        let clear = self.loss == 0
            && (0..self.nodes.len())
                .filter(|n| live & (1 << n) != 0)
                .all(|n| {
                    (0..self.nodes.len())
                        .filter(|other| members(n) & (1 << other) != 0)
                        .all(|other| members(other) == members(n))
                });
        let able = matches!(self.parts[..], [part] if self.may_own(part.members));
        let well = self.now > self.last_trouble + WELL && able;
        let before = std::mem::take(&mut self.parts);
        if !clear {
            return;
        }
        let mut seen = 0;
        for n in 0..self.nodes.len() {
            if live & (1 << n) == 0 || seen & (1 << n) != 0 {
                continue;
            }
            seen |= members(n);
            let same = before
                .iter()
                .find(|part| part.members == members(n) && part.members & troubled == 0);
            self.parts.push(same.copied().unwrap_or(Part {
                members: members(n),
                since: self.now,
                well,
            }));
        }
    }

    fn trouble_for(&mut self, troubled: u64) {
        self.part(troubled);
        for (n, node) in self.nodes.iter_mut().enumerate() {
            if troubled & (1 << n) != 0 {
                node.trouble = self.now;
            }
        }
        self.last_trouble = self.now;
    }
}

impl Node {
    const fn runs(&self) -> bool {
        self.election.is_some() && !self.stalled
    }

    fn local(&self, at: Micros) -> Instant {
        self.origin + Duration::from_micros(at * self.rate / 1_000_000)
    }

    fn global(&self, at: Instant) -> Micros {
        let local = at.saturating_duration_since(self.origin).as_micros();
        u64::try_from(local * 1_000_000 / u128::from(self.rate)).unwrap_or(u64::MAX) + 1
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(at: Micros) -> f64 {
    at as f64 / SECOND as f64
}

mod faults;
mod node;
