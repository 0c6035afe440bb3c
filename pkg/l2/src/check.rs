//! The self-test: whether addresses that other nodes hold are answered for, as
//! a client on the segment would see it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::arp::{ArpOperation, ArpPacket};
use crate::ethernet::{self, Mac, TYPE_ARP, TYPE_IPV6};
use crate::frame::Frame;
use crate::ndp::{NeighborMessage, NeighborSolicitation};

/// Between two questions about one address, if the rate has room for it.
const INTERVAL: Duration = Duration::from_secs(10);

/// A host that has not answered by then has not answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// An owner is mute if it has answered nothing for so long: all that it has was
/// asked for meanwhile, as far as the rate allows.
const MUTE: Duration = Duration::from_secs(12);

/// So many questions in a row say the same before it is believed: frames are
/// lost, and at a hand-over two answer for a moment.
const DOUBTS: u8 = 3;

/// What the segment says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One host answers for it.
    Answered(Mac),
    /// Nobody does, though answers to other questions come in.
    Silent,
    /// Nobody does, and nobody answers anything else either: it may be us who
    /// hear nothing.
    Unheard,
    /// Several do; two of them.
    Several(Mac, Mac),
}

/// What a checker has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckEvent {
    /// The verdict on an address is another than before. The first that is good
    /// is told too.
    Verdict {
        /// The address.
        address: IpAddr,
        /// What is so now.
        verdict: Verdict,
    },
    /// An owner has answered none of the questions about its addresses for as
    /// long as it takes to believe it; or it answers again, or is not asked any
    /// more.
    Mute {
        /// The owner, as given to [`Checker::set_targets`].
        owner: u64,
        /// Whether it is so now.
        mute: bool,
    },
    /// Somebody answers to [`Checker::ask`].
    Answer {
        /// The address.
        address: Ipv4Addr,
        /// Who answered.
        mac: Mac,
    },
}

/// The interface's own addresses, from which questions come. With 0.0.0.0 they
/// are ARP probes, which everybody answers too; without a link-local address
/// nothing is asked about IPv6, as a question from `::` would be answered to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The interface's IPv4 address, or 0.0.0.0.
    pub v4: Ipv4Addr,
    /// A link-local address, or `::`.
    pub v6: Ipv6Addr,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            v4: Ipv4Addr::UNSPECIFIED,
            v6: Ipv6Addr::UNSPECIFIED,
        }
    }
}

/// An address that is asked about again and again.
#[derive(Debug)]
struct Target {
    owner: u64,
    turn: Turn,
    first: Option<Mac>,
    second: Option<Mac>,
    /// What the last questions said, and how many of them.
    doubt: Option<(Verdict, u8)>,
    verdict: Option<Verdict>,
}

/// What comes next for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A question. One that is in doubt comes before the others.
    Question { certain: bool, due: Instant },
    /// Its answer is judged.
    Judgement { due: Instant },
}

/// One who holds addresses.
#[derive(Debug, Default)]
struct Owner {
    /// When it last answered for one of them.
    answered: Option<Instant>,
    mute: bool,
}

/// Asks on one interface about addresses that others hold, at a low rate, and
/// judges the answers. Driven like [`Announcer`](crate::Announcer).
#[derive(Debug)]
pub struct Checker {
    mac: Mac,
    source: Source,
    /// Between two questions.
    gap: Duration,
    targets: HashMap<IpAddr, Target>,
    /// What is wrong with some of the targets.
    faulty: BTreeMap<IpAddr, Verdict>,
    owners: HashMap<u64, Owner>,
    /// Addresses that hosts have for their own: who is not deaf hears these.
    controls: BTreeSet<IpAddr>,
    /// When they were last asked for.
    controlled: Option<Instant>,
    /// When anybody last answered anything.
    answered: Option<Instant>,
    /// Questions to come. What is in doubt is always due.
    questions: BTreeSet<(bool, Instant, IpAddr)>,
    judgements: BTreeSet<(Instant, IpAddr)>,
    /// The last regular question.
    asked: Option<Instant>,
    /// Asked about once, and until when an answer counts.
    once: Vec<(Ipv4Addr, Instant)>,
    transmit: VecDeque<Frame>,
    events: VecDeque<CheckEvent>,
}

impl Checker {
    /// Asks about nothing yet, and later not more than `per_second` times a
    /// second (at least 1).
    pub fn new(mac: Mac, per_second: u32) -> Self {
        Self {
            mac,
            source: Source::default(),
            gap: Duration::from_secs(1) / per_second.max(1),
            targets: HashMap::new(),
            faulty: BTreeMap::new(),
            owners: HashMap::new(),
            controls: BTreeSet::new(),
            controlled: None,
            answered: None,
            questions: BTreeSet::new(),
            judgements: BTreeSet::new(),
            asked: None,
            once: Vec::new(),
            transmit: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The interface's addresses.
    pub const fn set_source(&mut self, mac: Mac, source: Source) {
        self.mac = mac;
        self.source = source;
    }

    /// Addresses that are surely answered for, by hosts other than those under
    /// test: asked for while something is in doubt, to know that we hear at all.
    pub fn set_controls(&mut self, controls: &BTreeSet<IpAddr>) {
        self.controls.clone_from(controls);
    }

    /// What to ask about from now on, and who owns it. Addresses that are new,
    /// or another's than before, come first, and nothing is known of them.
    pub fn set_targets(&mut self, wanted: &BTreeMap<IpAddr, u64>, now: Instant) {
        let gone: Vec<IpAddr> = self
            .targets
            .iter()
            .filter(|(address, target)| wanted.get(address) != Some(&target.owner))
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            self.faulty.remove(&address);
            if let Some(target) = self.targets.remove(&address) {
                self.remove(address, target.turn);
            }
        }
        for (address, owner) in wanted {
            if !self.targets.contains_key(address) {
                self.insert(*address, *owner, now);
            }
        }
        let owners: BTreeSet<u64> = wanted.values().copied().collect();
        let events = &mut self.events;
        self.owners.retain(|owner, state| {
            let stays = owners.contains(owner);
            if !stays && state.mute {
                let (owner, mute) = (*owner, false);
                events.push_back(CheckEvent::Mute { owner, mute });
            }
            stays
        });
    }

    fn insert(&mut self, address: IpAddr, owner: u64, now: Instant) {
        let turn = Turn::Question {
            certain: true,
            due: now,
        };
        self.owners.entry(owner).or_default();
        let target = Target {
            owner,
            turn,
            first: None,
            second: None,
            doubt: None,
            verdict: None,
        };
        self.targets.insert(address, target);
        self.turn(address, turn);
    }

    /// Gives a target its next turn, in the place of the one it has.
    fn turn(&mut self, address: IpAddr, turn: Turn) {
        let Some(target) = self.targets.get_mut(&address) else {
            return;
        };
        let before = std::mem::replace(&mut target.turn, turn);
        self.remove(address, before);
        match turn {
            Turn::Question { certain, due } => self.questions.insert((certain, due, address)),
            Turn::Judgement { due } => self.judgements.insert((due, address)),
        };
    }

    fn remove(&mut self, address: IpAddr, turn: Turn) {
        match turn {
            Turn::Question { certain, due } => self.questions.remove(&(certain, due, address)),
            Turn::Judgement { due } => self.judgements.remove(&(due, address)),
        };
    }

    /// Targets that are not answered for, and those that several answer for.
    pub fn faults(&self) -> (usize, usize) {
        let faulty = self.faulty.values();
        let several = faulty.filter(|verdict| matches!(verdict, Verdict::Several(..)));
        let several = several.count();
        (self.faulty.len() - several, several)
    }

    /// Asks about any address at once, from an address of ours (or 0.0.0.0) and
    /// whatever the rate, and tells of every answer that comes within a second.
    pub fn ask(&mut self, from: Ipv4Addr, address: Ipv4Addr, now: Instant) {
        self.once.retain(|(asked, _)| *asked != address);
        self.once.push((address, now + ANSWERED_WITHIN));
        let question = ArpPacket::question(self.mac, from, address);
        self.transmit.push_back(question.to_frame());
    }

    /// Takes in a frame from the interface. What is malformed or answers no
    /// question has no effect.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        let answer = match ethernet::kind(frame) {
            Some(TYPE_ARP) => ArpPacket::parse(frame).ok().and_then(|packet| {
                (packet.operation == ArpOperation::Reply && packet.destination == self.mac)
                    .then_some((packet.sender_ip.into(), packet.sender_mac))
            }),
            Some(TYPE_IPV6) => match NeighborMessage::parse(frame) {
                Ok(NeighborMessage::Advertisement(said)) if said.destination_mac == self.mac => {
                    Some((
                        said.target.into(),
                        said.target_link.unwrap_or(said.source_mac),
                    ))
                }
                _ => None,
            },
            _ => None,
        };
        if let Some((address, mac)) = answer
            && mac.is_unicast()
        {
            self.answered(address, mac, now);
        }
    }

    fn answered(&mut self, address: IpAddr, mac: Mac, now: Instant) {
        self.answered = Some(now);
        if let IpAddr::V4(address) = address
            && self
                .once
                .iter()
                .any(|(asked, until)| *asked == address && now <= *until)
        {
            self.events.push_back(CheckEvent::Answer { address, mac });
        }
        if let Some(target) = self.targets.get_mut(&address)
            && matches!(target.turn, Turn::Judgement { .. })
        {
            match target.first {
                None => target.first = Some(mac),
                Some(first) if first != mac => target.second = Some(mac),
                Some(_) => {}
            }
            let (owner, mute) = (target.owner, false);
            if let Some(state) = self.owners.get_mut(&owner) {
                state.answered = Some(now);
                if std::mem::replace(&mut state.mute, mute) {
                    self.events.push_back(CheckEvent::Mute { owner, mute });
                }
            }
        }
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        self.transmit.pop_front()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<CheckEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let judgement = self.judgements.first().map(|(due, _)| *due);
        let question = self.questions.first().map(|(_, due, _)| match self.asked {
            Some(asked) => (*due).max(asked + self.gap),
            None => *due,
        });
        judgement.into_iter().chain(question).min()
    }

    /// Judges what has been asked, and asks what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.once.retain(|(_, until)| *until >= now);
        while let Some((due, address)) = self.judgements.first().copied()
            && due <= now
        {
            self.judge(address, now);
        }
        while let Some((_, due, address)) = self.questions.first().copied()
            && due <= now
            && self.asked.is_none_or(|asked| asked + self.gap <= now)
        {
            if self.can_ask(&address) {
                self.asked = Some(now);
                self.transmit_question(address);
                self.ask_controls(address, now);
                let due = now + ANSWERED_WITHIN;
                self.turn(address, Turn::Judgement { due });
            } else {
                let (certain, due) = (true, now + INTERVAL);
                self.turn(address, Turn::Question { certain, due });
            }
        }
    }

    fn judge(&mut self, address: IpAddr, now: Instant) {
        let Some(target) = self.targets.get_mut(&address) else {
            return;
        };
        let seen = match (target.first.take(), target.second.take()) {
            (None, _) => Verdict::Silent,
            (Some(one), None) => Verdict::Answered(one),
            // In one order, so that the same two are no news.
            (Some(one), Some(other)) => Verdict::Several(one.min(other), one.max(other)),
        };
        let asked = now.checked_sub(ANSWERED_WITHIN).unwrap_or(now);
        let times = match target.doubt {
            Some((before, times)) if before == seen => times.saturating_add(1),
            _ => 1,
        };
        target.doubt = Some((seen, times));
        // A good answer needs no second one.
        let believed = times >= DOUBTS || matches!(seen, Verdict::Answered(_));
        let hears = self
            .answered
            .is_some_and(|at| at + ANSWERED_WITHIN >= asked);
        let verdict = match seen {
            Verdict::Silent if !hears => Verdict::Unheard,
            _ => seen,
        };
        if believed && target.verdict != Some(verdict) {
            target.verdict = Some(verdict);
            match verdict {
                Verdict::Answered(_) => self.faulty.remove(&address),
                _ => self.faulty.insert(address, verdict),
            };
            self.events
                .push_back(CheckEvent::Verdict { address, verdict });
        }
        let owner = target.owner;
        if believed
            && verdict == Verdict::Silent
            && let Some(state) = self.owners.get_mut(&owner)
            && state.answered.is_none_or(|at| at + MUTE <= now)
            && !std::mem::replace(&mut state.mute, true)
        {
            let mute = true;
            self.events.push_back(CheckEvent::Mute { owner, mute });
        }
        let turn = Turn::Question {
            certain: believed,
            due: if believed { now + INTERVAL } else { now },
        };
        self.turn(address, turn);
    }

    /// A question about IPv6 needs an address to be answered to.
    const fn can_ask(&self, address: &IpAddr) -> bool {
        address.is_ipv4() || !self.source.v6.is_unspecified()
    }

    /// While an address is in doubt, asks for what is surely answered for.
    fn ask_controls(&mut self, address: IpAddr, now: Instant) {
        let silent = |target: &Target| matches!(target.doubt, Some((Verdict::Silent, _)));
        let recent = |at: Instant| now < at + ANSWERED_WITHIN / 2;
        if !self.targets.get(&address).is_some_and(silent) || self.controlled.is_some_and(recent) {
            return;
        }
        self.controlled = Some(now);
        for control in self.controls.clone() {
            if self.can_ask(&control) {
                self.transmit_question(control);
            }
        }
    }

    fn transmit_question(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(target) => self
                .transmit
                .push_back(ArpPacket::question(self.mac, self.source.v4, target).to_frame()),
            IpAddr::V6(target) => self.transmit.push_back(
                NeighborSolicitation::question(self.mac, self.source.v6, target).to_frame(),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
