//! One interface's announcer: who is answered, what is announced and when, and
//! when an address goes to another node.

mod queue;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::arp::{ArpOperation, ArpPacket};
use crate::ethernet::{self, Mac, TYPE_ARP, TYPE_IPV6};
use crate::frame::Frame;
use crate::ndp::{NeighborAdvertisement, NeighborMessage, NeighborSolicitation};
use crate::pace::Pace;
use crate::schedule::Profile;
use queue::{Queue, Slot};

/// Questions asked before an address is used for the first time, and the time
/// after each. RFC 5227 §2.1.1 waits for seconds; hosts on one segment answer
/// within milliseconds, and somebody waits for the address.
const PROBES: u8 = 3;
const PROBE_GAP: Duration = Duration::from_millis(50);

/// An address that another host uses is tried again after this.
const RETRY: Duration = Duration::from_secs(10);

/// A claim this recent, when an address is handed over, is the successor's: it
/// saw before us that it is its turn. A peer's claims are told no more often.
const RECENT: Duration = Duration::from_secs(2);

/// Another host that claims an address for longer than this is no successor
/// whose turn we have not heard of yet.
const CONFLICT_AFTER: Duration = Duration::from_secs(3);

/// A claim that is not repeated for so long is over. Longer than the refresh
/// of any announcer that is known.
const CLAIM_ENDS: Duration = Duration::from_mins(3);

/// In so many moments of the time between two refreshes they are sent.
const TOGETHER: u32 = 180;

/// RFC 5227 §2.4: an address is not defended more often.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// What an announcer has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An address was handed over: its successor was heard, and we are silent.
    Succeeded {
        /// The address.
        address: IpAddr,
        /// The successor's hardware address.
        mac: Mac,
    },
    /// An address was to be handed over, nobody was heard in the time given (or
    /// we had not begun to answer for it), and we are silent.
    Unclaimed {
        /// The address.
        address: IpAddr,
    },
    /// A host that is no speaker keeps saying that an address we hold is its
    /// own. Told once; we hold on and defend it.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The other host's hardware address.
        mac: Mac,
    },
    /// Nobody but us has claimed an address for some minutes, of which a
    /// [`Event::Conflict`] or [`Event::InUse`] was told.
    ConflictEnded {
        /// The address.
        address: IpAddr,
    },
    /// An address that was to be used for the first time is another host's
    /// already. Told once; it is tried again, and neither answered for nor
    /// announced until then.
    InUse {
        /// The address.
        address: IpAddr,
        /// The other host's hardware address.
        mac: Mac,
    },
    /// Another speaker announces an address that we hold. Which of us has it is
    /// for the speakers to settle.
    Contested {
        /// The address.
        address: IpAddr,
        /// The other speaker's hardware address.
        mac: Mac,
    },
}

/// What an announcer has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests and solicitations for our addresses.
    pub requests_received: u64,
    /// Those of them by which another host tests whether the address is free.
    pub probes_received: u64,
    /// Answers to them.
    pub responses_sent: u64,
    /// Announcements that nobody asked for.
    pub gratuitous_sent: u64,
    /// Frames in which another host claimed one of our addresses.
    pub claims_heard: u64,
}

/// What an address is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked for, before it is used for the first time; so many times already.
    Probing(u8),
    /// Another host's; to be tried again.
    InUse,
    /// Ours: answered for and announced.
    Held,
    /// Answered for until its successor is heard.
    Yielding { since: Instant, until: Instant },
}

/// An address of ours.
#[derive(Debug)]
struct Entry {
    state: State,
    /// Announcements made since the take-over, as many as the schedule knows.
    step: usize,
    /// When its next announcement or question is due, if one is.
    slot: Option<Slot>,
    claim: Option<Claim>,
    defended: Option<Instant>,
}

/// Another host's word that an address is its own.
#[derive(Clone, Copy, Debug)]
struct Claim {
    mac: Mac,
    first: Instant,
    last: Instant,
    /// When it last said so to all, as a successor does.
    announced: Option<Instant>,
    /// When a conflict that was told is over.
    ends: Option<Instant>,
}

impl Entry {
    const fn new(state: State) -> Self {
        Self {
            state,
            step: 0,
            slot: None,
            claim: None,
            defended: None,
        }
    }

    const fn is_answered(&self) -> bool {
        matches!(self.state, State::Held | State::Yielding { .. })
    }
}

/// Answers for addresses on one interface and announces them.
///
/// An address is *held* from [`announce`](Self::announce) on: answered for and
/// announced. [`acquire`](Self::acquire) asks first whether another host has
/// it. From [`hand_over`](Self::hand_over) on it is still answered for, until
/// its successor is heard or time is up. [`withdraw`](Self::withdraw) ends it
/// at once.
///
/// The caller feeds [`handle_frame`](Self::handle_frame) and
/// [`handle_timeout`](Self::handle_timeout), then drains
/// [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event),
/// and waits until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Announcer {
    mac: Mac,
    profile: Profile,
    begin: Instant,
    entries: HashMap<IpAddr, Entry>,
    /// Announcements and questions to come.
    queue: Queue,
    /// When handing over ends without a successor.
    deadlines: BTreeSet<(Instant, IpAddr)>,
    /// When conflicts that were told are over.
    conflicts: BTreeSet<(Instant, IpAddr)>,
    /// Hardware addresses of other speakers.
    peers: BTreeSet<Mac>,
    pace: Pace,
    transmit: VecDeque<Frame>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Announcer {
    /// Announces nothing yet. `mac` is the interface's hardware address.
    pub fn new(mac: Mac, profile: Profile, now: Instant) -> Self {
        Self {
            mac,
            profile,
            begin: now,
            entries: HashMap::new(),
            queue: Queue::default(),
            deadlines: BTreeSet::new(),
            conflicts: BTreeSet::new(),
            peers: BTreeSet::new(),
            pace: Pace::new(profile.rate, now),
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What it has done so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Addresses that another host uses too, or instead of us.
    pub fn conflicts(&self) -> usize {
        self.conflicts.len()
    }

    /// Whether it answers for this address.
    pub fn answers(&self, address: &IpAddr) -> bool {
        self.entries.get(address).is_some_and(Entry::is_answered)
    }

    /// The addresses that it answers for or is about to.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.entries.keys().copied()
    }

    /// Whose claims are no conflict: the hardware addresses of the other
    /// speakers on the segment, as far as they are known. One that is not known
    /// is taken for another host's if it goes on claiming for three seconds.
    pub fn set_peers(&mut self, peers: BTreeSet<Mac>) {
        self.peers = peers;
    }

    /// Holds `address` from now on: answers for it and announces it. Nothing
    /// changes for one that is held already; one that was being handed over is
    /// announced anew, as another host may have been heard meanwhile.
    pub fn announce(&mut self, address: IpAddr, now: Instant) {
        match self.entries.get(&address).map(|entry| entry.state) {
            Some(State::Yielding { .. }) => self.withdraw(&address),
            Some(_) => return,
            None => {}
        }
        self.entries.insert(address, Entry::new(State::Held));
        self.enqueue(address, now, now);
        self.handle_timeout(now);
    }

    /// Asks three times within 150 ms whether another host has `address`
    /// (RFC 5227 §2.1, RFC 4862 §5.4), and holds it if none says so. For an
    /// address that no node has used before; a take-over must not wait.
    /// Nothing changes for one that it has already.
    pub fn acquire(&mut self, address: IpAddr, now: Instant) {
        if self.entries.contains_key(&address) {
            return self.announce(address, now);
        }
        self.entries.insert(address, Entry::new(State::Probing(0)));
        self.enqueue(address, now, now);
        self.handle_timeout(now);
    }

    /// Announces an address that is held anew, as at a take-over: others may
    /// have been told otherwise.
    pub fn announce_again(&mut self, address: IpAddr, now: Instant) {
        self.restart(address, now);
        self.handle_timeout(now);
    }

    /// Another node's turn: announces `address` no more, and answers for it
    /// until that one is heard, at the most for `grace` since the first call.
    /// Nothing happens for an address that is unknown.
    pub fn hand_over(&mut self, address: IpAddr, grace: Duration, now: Instant) {
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        let since = match entry.state {
            State::Held => now,
            State::Yielding { since, until } => {
                self.deadlines.remove(&(until, address));
                since
            }
            State::Probing(_) | State::InUse => {
                self.withdraw(&address);
                self.events.push_back(Event::Unclaimed { address });
                return;
            }
        };
        self.queue.remove(address, entry.slot.take());
        let until = since + grace;
        entry.state = State::Yielding { since, until };
        self.deadlines.insert((until, address));
        if let Some(Claim {
            mac,
            announced: Some(announced),
            ..
        }) = entry.claim
            && announced + RECENT >= now
        {
            self.succeeded(address, mac);
        }
        self.handle_timeout(now);
    }

    /// Neither answers for `address` nor announces it any more.
    pub fn withdraw(&mut self, address: &IpAddr) {
        let Some(entry) = self.entries.remove(address) else {
            return;
        };
        self.queue.remove(*address, entry.slot);
        if let State::Yielding { until, .. } = entry.state {
            self.deadlines.remove(&(until, *address));
        }
        if let Some(ends) = entry.claim.and_then(|claim| claim.ends) {
            self.conflicts.remove(&(ends, *address));
        }
    }

    /// The interface has another hardware address or a new link: everything
    /// that is held is announced anew.
    pub fn reannounce(&mut self, mac: Mac, now: Instant) {
        self.mac = mac;
        for address in self.addresses().collect::<Vec<_>>() {
            self.restart(address, now);
        }
        self.handle_timeout(now);
    }

    fn restart(&mut self, address: IpAddr, now: Instant) {
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        if entry.state == State::Held {
            entry.step = 0;
            self.enqueue(address, now, now);
        }
    }

    /// Takes in a frame from the interface. What is malformed or about other
    /// addresses has no effect.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        match ethernet::kind(frame) {
            Some(TYPE_ARP) => {
                if let Ok(packet) = ArpPacket::parse(frame) {
                    self.handle_arp(&packet, now);
                }
            }
            Some(TYPE_IPV6) => {
                if let Ok(message) = NeighborMessage::parse(frame) {
                    self.handle_neighbor(&message, now);
                }
            }
            _ => {}
        }
    }

    fn handle_arp(&mut self, packet: &ArpPacket, now: Instant) {
        self.handle_claim(
            packet.sender_ip.into(),
            packet.sender_mac,
            packet.is_announcement(),
            now,
        );
        let asked = packet.operation == ArpOperation::Request
            && !packet.is_announcement()
            && packet.sender_mac.is_unicast()
            && (packet.destination == Mac::BROADCAST || packet.destination == self.mac)
            && self.answers(&packet.target_ip.into());
        if asked {
            self.answer(packet.reply(self.mac).to_frame(), packet.is_probe());
        }
    }

    fn handle_neighbor(&mut self, message: &NeighborMessage, now: Instant) {
        match message {
            NeighborMessage::Solicitation(solicitation) => {
                let to_us = solicitation.destination_mac == self.mac
                    || !solicitation.destination_mac.is_unicast();
                if to_us
                    && solicitation.source_mac.is_unicast()
                    && self.answers(&solicitation.target.into())
                {
                    let answer = NeighborAdvertisement::answer(solicitation, self.mac);
                    self.answer(answer.to_frame(), solicitation.is_probe());
                }
            }
            NeighborMessage::Advertisement(advertisement) => {
                let mac = advertisement
                    .target_link
                    .unwrap_or(advertisement.source_mac);
                self.handle_claim(advertisement.target.into(), mac, true, now);
            }
        }
    }

    /// Somebody says that `address` is at `mac`. Only one who `announces` it is
    /// taken for a successor: a kernel that has the address on an interface
    /// (kube-proxy's, with IPVS) also sends ordinary requests from it.
    fn handle_claim(&mut self, address: IpAddr, mac: Mac, announces: bool, now: Instant) {
        if mac == self.mac || !mac.is_unicast() {
            return;
        }
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        self.counters.claims_heard += 1;
        match entry.state {
            State::Yielding { .. } => {
                if announces {
                    self.succeeded(address, mac);
                }
            }
            // That one is a speaker's business, and not in the way of ours.
            State::Probing(_) if self.peers.contains(&mac) => {}
            State::Probing(_) | State::InUse => self.in_use(address, mac, now),
            State::Held => self.disputed(address, mac, announces, now),
        }
    }

    /// Another host has an address that we were to use for the first time.
    fn in_use(&mut self, address: IpAddr, mac: Mac, now: Instant) {
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        entry.state = State::InUse;
        if note(entry, mac, false, now).ends.is_none() {
            self.events.push_back(Event::InUse { address, mac });
        }
        self.conflict_goes_on(address, now);
        self.enqueue(address, now + RETRY, now);
    }

    /// Another host claims an address that we hold.
    fn disputed(&mut self, address: IpAddr, mac: Mac, announces: bool, now: Instant) {
        let peer = self.peers.contains(&mac);
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        let before = entry.claim;
        let claim = note(entry, mac, announces, now);
        if peer {
            let told =
                before.is_some_and(|before| before.mac == mac && before.first + RECENT > now);
            if !told {
                claim.first = now;
                self.events.push_back(Event::Contested { address, mac });
            }
            return;
        }
        if now < claim.first + CONFLICT_AFTER {
            return;
        }
        if claim.ends.is_none() {
            self.events.push_back(Event::Conflict { address, mac });
        }
        let defends = entry
            .defended
            .is_none_or(|defended| defended + DEFEND_INTERVAL <= now);
        if defends {
            entry.defended = Some(now);
            self.pace.spend(now);
            self.transmit_announcement(address);
        }
        self.conflict_goes_on(address, now);
    }

    /// A conflict that was told lasts as long as the other host's claims.
    fn conflict_goes_on(&mut self, address: IpAddr, now: Instant) {
        let claim = self
            .entries
            .get_mut(&address)
            .and_then(|entry| entry.claim.as_mut());
        if let Some(claim) = claim {
            if let Some(ends) = claim.ends {
                self.conflicts.remove(&(ends, address));
            }
            let ends = now + CLAIM_ENDS;
            claim.ends = Some(ends);
            self.conflicts.insert((ends, address));
        }
    }

    fn succeeded(&mut self, address: IpAddr, mac: Mac) {
        self.withdraw(&address);
        self.events.push_back(Event::Succeeded { address, mac });
    }

    fn answer(&mut self, frame: Frame, probe: bool) {
        self.counters.requests_received += 1;
        self.counters.probes_received += u64::from(probe);
        self.counters.responses_sent += 1;
        self.transmit.push_back(frame);
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        self.transmit.pop_front()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, IpAddr)>| set.first().map(|(at, _)| *at);
        [
            self.queue.next(self.pace.next()),
            first(&self.deadlines),
            first(&self.conflicts),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Gives up what time is up for, and announces what is due, as far as the
    /// pace allows: each address gets its first announcement before any gets
    /// its second.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((until, address)) = self.deadlines.first().copied()
            && until <= now
        {
            self.withdraw(&address);
            self.events.push_back(Event::Unclaimed { address });
        }
        while let Some((ends, address)) = self.conflicts.first().copied()
            && ends <= now
        {
            self.conflicts.remove(&(ends, address));
            if let Some(entry) = self.entries.get_mut(&address) {
                entry.claim = None;
            }
            self.events.push_back(Event::ConflictEnded { address });
        }
        loop {
            while let Some((address, slot)) = self.queue.ripen(now) {
                if let Some(entry) = self.entries.get_mut(&address) {
                    entry.slot = Some(slot);
                }
            }
            if self.queue.is_idle() || !self.pace.take(now) {
                return;
            }
            if let Some(address) = self.queue.pop() {
                self.act(address, now);
            }
        }
    }

    /// An address has its turn.
    fn act(&mut self, address: IpAddr, now: Instant) {
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        entry.slot = None;
        match entry.state {
            State::Probing(PROBES) => {
                entry.state = State::Held;
                let ends = entry.claim.take().and_then(|claim| claim.ends);
                if let Some(ends) = ends {
                    self.conflicts.remove(&(ends, address));
                    self.events.push_back(Event::ConflictEnded { address });
                }
                self.act(address, now);
            }
            State::Probing(asked) => {
                entry.state = State::Probing(asked + 1);
                self.transmit_probe(address);
                self.enqueue(address, now + PROBE_GAP, now);
            }
            State::InUse => {
                entry.state = State::Probing(0);
                self.act(address, now);
            }
            State::Held => {
                let step = entry.step;
                entry.step = (step + 1).min(self.profile.burst.len());
                let due = now + self.profile.gap(entry.step, last_byte(&address));
                let due = if entry.step < self.profile.burst.len() {
                    due
                } else {
                    self.together(due)
                };
                self.transmit_announcement(address);
                if let IpAddr::V4(address) = address
                    && self.profile.replies_at(step)
                {
                    self.counters.gratuitous_sent += 1;
                    self.pace.spend(now);
                    let reply = ArpPacket::reply_announcement(self.mac, address);
                    self.transmit.push_back(reply.to_frame());
                }
                self.enqueue(address, due, now);
            }
            State::Yielding { .. } => {}
        }
    }

    /// A little after `due`, when others are due as well. Refreshes have time, and with
    /// thousands of addresses it is waking up for each that costs, here and wherever it
    /// is heard.
    fn together(&self, due: Instant) -> Instant {
        let step = self.profile.refresh / TOGETHER;
        let since = due.saturating_duration_since(self.begin);
        let steps = since.as_nanos() / step.as_nanos().max(1) + 1;
        u32::try_from(steps).map_or(due, |steps| self.begin + step * steps)
    }

    fn transmit_announcement(&mut self, address: IpAddr) {
        self.counters.gratuitous_sent += 1;
        self.transmit.push_back(match address {
            IpAddr::V4(address) => ArpPacket::announcement(self.mac, address).to_frame(),
            IpAddr::V6(address) => {
                NeighborAdvertisement::announcement(self.mac, address).to_frame()
            }
        });
    }

    fn transmit_probe(&mut self, address: IpAddr) {
        self.transmit.push_back(match address {
            IpAddr::V4(address) => {
                ArpPacket::question(self.mac, Ipv4Addr::UNSPECIFIED, address).to_frame()
            }
            IpAddr::V6(address) => {
                NeighborSolicitation::question(self.mac, Ipv6Addr::UNSPECIFIED, address).to_frame()
            }
        });
    }

    /// Its turn comes at `due`, in the place of any other it had.
    fn enqueue(&mut self, address: IpAddr, due: Instant, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&address) {
            self.queue.remove(address, entry.slot.take());
            let slot = self.queue.insert(address, due, entry.step, now);
            entry.slot = Some(slot);
        }
    }
}

/// Writes a claim down. Claims of several hosts that follow each other are one
/// dispute.
fn note(entry: &mut Entry, mac: Mac, announces: bool, now: Instant) -> &mut Claim {
    let mut claim = match entry.claim {
        Some(claim) if claim.last + CLAIM_ENDS >= now => claim,
        _ => Claim {
            mac,
            first: now,
            last: now,
            announced: None,
            ends: None,
        },
    };
    claim.mac = mac;
    claim.last = now;
    if announces {
        claim.announced = Some(now);
    }
    entry.claim.insert(claim)
}

const fn last_byte(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

#[cfg(test)]
mod tests;
