//! The self-test: whether addresses that other nodes hold are answered for, as
//! a client on the segment would see it.

use std::collections::{BTreeSet, HashMap, VecDeque};
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

/// So many questions in a row say the same before it is believed: frames are
/// lost, and at a hand-over two answer for a moment.
const DOUBTS: u8 = 3;

/// What the segment says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One host answers for it.
    Answered(Mac),
    /// Nobody does.
    Silent,
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

/// Asks on one interface about addresses that others hold, at a low rate, and
/// judges the answers. Driven like [`Announcer`](crate::Announcer).
#[derive(Debug)]
pub struct Checker {
    mac: Mac,
    source: Source,
    /// Between two questions.
    gap: Duration,
    targets: HashMap<IpAddr, Target>,
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

    /// What to ask about from now on. Addresses that are new come first.
    pub fn set_targets(&mut self, wanted: &BTreeSet<IpAddr>, now: Instant) {
        let gone: Vec<IpAddr> = self
            .targets
            .keys()
            .filter(|address| !wanted.contains(address))
            .copied()
            .collect();
        for address in gone {
            if let Some(target) = self.targets.remove(&address) {
                self.remove(address, target.turn);
            }
        }
        for address in wanted {
            if !self.targets.contains_key(address) {
                self.insert(*address, now);
            }
        }
    }

    fn insert(&mut self, address: IpAddr, now: Instant) {
        let turn = Turn::Question {
            certain: true,
            due: now,
        };
        let target = Target {
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
        let count = |wanted: fn(&Verdict) -> bool| {
            let verdicts = self.targets.values().filter_map(|target| target.verdict);
            verdicts.filter(wanted).count()
        };
        (
            count(|verdict| *verdict == Verdict::Silent),
            count(|verdict| matches!(verdict, Verdict::Several(..))),
        )
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
        let times = match target.doubt {
            Some((before, times)) if before == seen => times.saturating_add(1),
            _ => 1,
        };
        target.doubt = Some((seen, times));
        // A good answer needs no second one.
        let believed = times >= DOUBTS || matches!(seen, Verdict::Answered(_));
        if believed && target.verdict != Some(seen) {
            target.verdict = Some(seen);
            let verdict = seen;
            self.events
                .push_back(CheckEvent::Verdict { address, verdict });
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
