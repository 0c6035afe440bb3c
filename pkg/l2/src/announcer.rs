//! One interface's announcer: who is answered, what is announced and when, and
//! when an address goes to another node.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::arp::{ArpOperation, ArpPacket};
use crate::ethernet::{Mac, TYPE_ARP, TYPE_IPV6};
use crate::ndp::{NeighborAdvertisement, NeighborMessage};
use crate::pace::Pace;
use crate::schedule::gap;

/// Between two announcements of an address that stays where it is. A switch
/// forgets a quiet port after 300 s while a router keeps its ARP entry longer.
pub const REFRESH: Duration = Duration::from_secs(90);

/// A claim this recent, when an address is handed over, is the successor's: it
/// saw before us that it is its turn.
const RECENT: Duration = Duration::from_secs(2);

/// Another host that claims an address for longer than this is no successor
/// whose turn we have not heard of yet.
const CONFLICT_AFTER: Duration = Duration::from_secs(3);

/// A claim that is not repeated for so long is over. Longer than the refresh
/// of any announcer that is known.
const CLAIM_ENDS: Duration = Duration::from_mins(3);

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
    /// An address was to be handed over, nobody was heard in the time given,
    /// and we are silent.
    Unclaimed {
        /// The address.
        address: IpAddr,
    },
    /// Another host keeps saying that an address we hold is its own. Told once
    /// for each host; we hold on and defend it.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The other host's hardware address.
        mac: Mac,
    },
}

/// What an announcer has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests and solicitations for our addresses.
    pub requests_received: u64,
    /// Answers to them.
    pub responses_sent: u64,
    /// Announcements that nobody asked for.
    pub gratuitous_sent: u64,
    /// Frames in which another host claimed one of our addresses.
    pub claims_heard: u64,
}

/// An address that we answer for.
#[derive(Debug)]
struct Entry {
    /// Announcements made since the take-over.
    step: usize,
    /// When the next announcement is due; none while it is handed over.
    due: Option<Instant>,
    yielding: Option<Yielding>,
    claim: Option<Claim>,
    defended: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Yielding {
    since: Instant,
    until: Instant,
}

/// Another host's word that an address is its own.
#[derive(Clone, Copy, Debug)]
struct Claim {
    mac: Mac,
    first: Instant,
    last: Instant,
    told: bool,
}

impl Entry {
    const fn new() -> Self {
        Self {
            step: 0,
            due: None,
            yielding: None,
            claim: None,
            defended: None,
        }
    }
}

/// Answers for addresses on one interface and announces them.
///
/// An address is *held* from [`announce`](Self::announce) on: answered for and
/// announced. From [`hand_over`](Self::hand_over) on it is still answered for,
/// until its successor is heard or time is up. [`withdraw`](Self::withdraw)
/// ends it at once.
///
/// The caller feeds [`handle_frame`](Self::handle_frame) and
/// [`handle_timeout`](Self::handle_timeout), then drains
/// [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event),
/// and waits until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Announcer {
    mac: Mac,
    entries: HashMap<IpAddr, Entry>,
    /// Announcements to make: when, the how many-th it is, of what.
    due: BTreeSet<(Instant, usize, IpAddr)>,
    /// When handing over ends without a successor.
    deadlines: BTreeSet<(Instant, IpAddr)>,
    pace: Pace,
    transmit: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Announcer {
    /// Announces nothing yet. `mac` is the interface's hardware address.
    pub fn new(mac: Mac, now: Instant) -> Self {
        Self {
            mac,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            pace: Pace::new(now),
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What it has done so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether it answers for this address.
    pub fn answers(&self, address: &IpAddr) -> bool {
        self.entries.contains_key(address)
    }

    /// The addresses that it answers for.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.entries.keys().copied()
    }

    /// Holds `address` from now on: answers for it and announces it. Nothing
    /// changes for one that is held already; one that was being handed over is
    /// announced anew, as another host may have been heard meanwhile.
    pub fn announce(&mut self, address: IpAddr, now: Instant) {
        match self.entries.get(&address) {
            Some(Entry { yielding: None, .. }) => return,
            Some(_) => self.withdraw(&address),
            None => {}
        }
        self.entries.insert(address, Entry::new());
        self.schedule(address, now);
        self.handle_timeout(now);
    }

    /// Another node's turn: announces `address` no more, and answers for it
    /// until that one is heard, at the most for `grace` since the first call.
    /// Nothing happens for an address that is not answered for.
    pub fn hand_over(&mut self, address: IpAddr, grace: Duration, now: Instant) {
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        if let Some(due) = entry.due.take() {
            self.due.remove(&(due, entry.step, address));
        }
        let since = match entry.yielding.take() {
            Some(Yielding { since, until }) => {
                self.deadlines.remove(&(until, address));
                since
            }
            None => now,
        };
        let until = since + grace;
        entry.yielding = Some(Yielding { since, until });
        self.deadlines.insert((until, address));
        if let Some(claim) = entry.claim
            && claim.last + RECENT >= now
        {
            self.succeeded(address, claim.mac);
        }
        self.handle_timeout(now);
    }

    /// Neither answers for `address` nor announces it any more.
    pub fn withdraw(&mut self, address: &IpAddr) {
        let Some(entry) = self.entries.remove(address) else {
            return;
        };
        if let Some(due) = entry.due {
            self.due.remove(&(due, entry.step, *address));
        }
        if let Some(yielding) = entry.yielding {
            self.deadlines.remove(&(yielding.until, *address));
        }
    }

    /// The interface has another hardware address or a new link: everything
    /// that is held is announced anew.
    pub fn reannounce(&mut self, mac: Mac, now: Instant) {
        self.mac = mac;
        self.due.clear();
        let held: Vec<IpAddr> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.yielding.is_none())
            .map(|(address, entry)| {
                entry.step = 0;
                *address
            })
            .collect();
        for address in held {
            self.schedule(address, now);
        }
        self.handle_timeout(now);
    }

    /// Takes in a frame from the interface. What is malformed or about other
    /// addresses has no effect.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        let kind = frame
            .get(12..14)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        match kind {
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
            self.answer(packet.reply(self.mac).to_frame());
        }
    }

    fn handle_neighbor(&mut self, message: &NeighborMessage, now: Instant) {
        match message {
            NeighborMessage::Solicitation(solicitation) => {
                if self.answers(&solicitation.target.into()) && solicitation.source_mac.is_unicast()
                {
                    self.answer(NeighborAdvertisement::answer(solicitation, self.mac).to_frame());
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
        if mac == self.mac {
            return;
        }
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        self.counters.claims_heard += 1;
        if entry.yielding.is_some() {
            if announces {
                self.succeeded(address, mac);
            }
            return;
        }
        let claim = match &mut entry.claim {
            Some(claim) if claim.mac == mac && claim.last + CLAIM_ENDS >= now => claim,
            other => other.insert(Claim {
                mac,
                first: now,
                last: now,
                told: false,
            }),
        };
        claim.last = now;
        if now < claim.first + CONFLICT_AFTER {
            return;
        }
        if !claim.told {
            claim.told = true;
            self.events.push_back(Event::Conflict { address, mac });
        }
        if entry
            .defended
            .is_none_or(|defended| defended + DEFEND_INTERVAL <= now)
        {
            entry.defended = Some(now);
            self.transmit_announcement(address);
        }
    }

    fn succeeded(&mut self, address: IpAddr, mac: Mac) {
        self.withdraw(&address);
        self.events.push_back(Event::Succeeded { address, mac });
    }

    fn answer(&mut self, frame: Vec<u8>) {
        self.counters.requests_received += 1;
        self.counters.responses_sent += 1;
        self.transmit.push_back(frame);
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmit.pop_front()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let announcement = self
            .due
            .first()
            .map(|(due, ..)| (*due).max(self.pace.next()));
        let deadline = self.deadlines.first().map(|(until, _)| *until);
        announcement.into_iter().chain(deadline).min()
    }

    /// Gives up what time is up for, and announces what is due, as far as the
    /// pace allows. What came due first goes first, so that each address gets
    /// its first announcement before any gets its second.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((until, address)) = self.deadlines.first().copied()
            && until <= now
        {
            self.withdraw(&address);
            self.events.push_back(Event::Unclaimed { address });
        }
        while let Some((due, step, address)) = self.due.first().copied()
            && due <= now
            && self.pace.take(now)
        {
            self.due.remove(&(due, step, address));
            self.transmit_announcement(address);
            if let Some(entry) = self.entries.get_mut(&address) {
                entry.step = step + 1;
            }
            self.schedule(address, now);
        }
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

    fn schedule(&mut self, address: IpAddr, now: Instant) {
        let Some(entry) = self.entries.get_mut(&address) else {
            return;
        };
        let due = match entry.step {
            0 => now,
            step => now + gap(step, last_byte(&address), REFRESH),
        };
        entry.due = Some(due);
        self.due.insert((due, entry.step, address));
    }
}

const fn last_byte(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

#[cfg(test)]
mod tests;
