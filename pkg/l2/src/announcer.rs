//! One interface's announcer: who is answered, what is announced and when.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::arp::{ArpOperation, ArpPacket};
use crate::ethernet::{Mac, TYPE_ARP, TYPE_IPV6};
use crate::ndp::{NeighborAdvertisement, NeighborMessage};
use crate::schedule::gap;

/// Between two announcements of an address that stays where it is. A switch
/// forgets a quiet port after 300 s while a router keeps its ARP entry longer.
pub const REFRESH: Duration = Duration::from_secs(90);

/// Announcements a second on one interface; beyond it they wait their turn.
const RATE: u32 = 200;
/// Announcements that may go out at once after a quiet time.
const BUCKET: u32 = 500;

/// Somebody else on the segment says that an announced address is his.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// The hardware address it is claimed for.
    pub mac: Mac,
}

/// What an announcer has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests and solicitations for announced addresses.
    pub requests_received: u64,
    /// Answers to them.
    pub responses_sent: u64,
    /// Announcements that nobody asked for.
    pub gratuitous_sent: u64,
}

#[derive(Debug)]
struct Announced {
    /// Announcements made since the take-over.
    step: usize,
    /// Its entry in the order of due announcements; none waits in line.
    due: Option<Instant>,
}

/// Answers for addresses on one interface and announces them.
///
/// The caller feeds [`handle_frame`](Self::handle_frame) and
/// [`handle_timeout`](Self::handle_timeout), then drains
/// [`poll_transmit`](Self::poll_transmit) and [`poll_claim`](Self::poll_claim),
/// and waits until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Announcer {
    mac: Mac,
    addresses: HashMap<IpAddr, Announced>,
    due: BTreeMap<(Instant, usize, IpAddr), ()>,
    tokens: f64,
    filled: Instant,
    transmit: VecDeque<Vec<u8>>,
    claims: VecDeque<Claim>,
    counters: Counters,
}

impl Announcer {
    /// Announces nothing yet. `mac` is the interface's hardware address.
    pub fn new(mac: Mac, now: Instant) -> Self {
        Self {
            mac,
            addresses: HashMap::new(),
            due: BTreeMap::new(),
            tokens: f64::from(BUCKET),
            filled: now,
            transmit: VecDeque::new(),
            claims: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What it has done so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether it answers for this address.
    pub fn announces(&self, address: &IpAddr) -> bool {
        self.addresses.contains_key(address)
    }

    /// Answers for `address` from now on and announces it. Nothing changes for
    /// one that is announced already.
    pub fn announce(&mut self, address: IpAddr, now: Instant) {
        if self.announces(&address) {
            return;
        }
        self.addresses.insert(address, Announced { step: 0, due: None });
        self.schedule(address, now);
        self.handle_timeout(now);
    }

    /// Neither answers for `address` nor announces it any more.
    pub fn withdraw(&mut self, address: &IpAddr) {
        if let Some(Announced { step, due: Some(due) }) = self.addresses.remove(address) {
            self.due.remove(&(due, step, *address));
        }
    }

    /// The interface has another hardware address, or a new link: everything
    /// is announced anew.
    pub fn reannounce(&mut self, mac: Mac, now: Instant) {
        self.mac = mac;
        self.due.clear();
        let addresses: Vec<IpAddr> = self.addresses.keys().copied().collect();
        for address in addresses {
            self.addresses.insert(address, Announced { step: 0, due: None });
            self.schedule(address, now);
        }
        self.handle_timeout(now);
    }

    /// Takes in a frame from the interface. What is malformed or not for an
    /// announced address has no effect.
    pub fn handle_frame(&mut self, frame: &[u8]) {
        let kind = frame.get(12..14).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        match kind {
            Some(TYPE_ARP) => {
                if let Ok(packet) = ArpPacket::parse(frame) {
                    self.handle_arp(&packet);
                }
            }
            Some(TYPE_IPV6) => {
                if let Ok(message) = NeighborMessage::parse(frame) {
                    self.handle_neighbor(&message);
                }
            }
            _ => {}
        }
    }

    fn handle_arp(&mut self, packet: &ArpPacket) {
        let sender = IpAddr::V4(packet.sender_ip);
        if packet.sender_mac != self.mac && self.announces(&sender) {
            self.claims.push_back(Claim { address: sender, mac: packet.sender_mac });
            // A claim is not a question.
            if packet.is_announcement() {
                return;
            }
        }
        let asked = packet.operation == ArpOperation::Request
            && packet.sender_mac.is_unicast()
            && (packet.destination == Mac::BROADCAST || packet.destination == self.mac)
            && self.announces(&IpAddr::V4(packet.target_ip));
        if asked {
            self.answer(packet.reply(self.mac).to_frame());
        }
    }

    fn handle_neighbor(&mut self, message: &NeighborMessage) {
        match message {
            NeighborMessage::Solicitation(solicitation) => {
                if self.announces(&IpAddr::V6(solicitation.target))
                    && solicitation.source_mac.is_unicast()
                {
                    self.answer(NeighborAdvertisement::answer(solicitation, self.mac).to_frame());
                }
            }
            NeighborMessage::Advertisement(advertisement) => {
                let address = IpAddr::V6(advertisement.target);
                let mac = advertisement.target_link.unwrap_or(advertisement.source_mac);
                if mac != self.mac && self.announces(&address) {
                    self.claims.push_back(Claim { address, mac });
                }
            }
        }
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

    /// The next claim that was heard.
    pub fn poll_claim(&mut self) -> Option<Claim> {
        self.claims.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ((due, ..), ()) = self.due.first_key_value()?;
        if self.tokens >= 1.0 {
            return Some(*due);
        }
        let wait = Duration::from_secs_f64((1.0 - self.tokens) / f64::from(RATE));
        Some((*due).max(self.filled + wait))
    }

    /// Announces what is due, as far as the rate allows. Of what is due at one
    /// time the addresses announced least often come first, so that each gets
    /// its first announcement before any gets its second.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.refill(now);
        while self.tokens >= 1.0 {
            let Some(((due, step, address), ())) =
                self.due.first_key_value().map(|(key, ())| (*key, ()))
            else {
                return;
            };
            if due > now {
                return;
            }
            self.due.remove(&(due, step, address));
            self.tokens -= 1.0;
            self.counters.gratuitous_sent += 1;
            self.transmit.push_back(match address {
                IpAddr::V4(address) => ArpPacket::announcement(self.mac, address).to_frame(),
                IpAddr::V6(address) => {
                    NeighborAdvertisement::announcement(self.mac, address).to_frame()
                }
            });
            if let Some(announced) = self.addresses.get_mut(&address) {
                announced.step = step + 1;
                announced.due = None;
            }
            self.schedule(address, now);
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.tokens = (self.tokens + passed.as_secs_f64() * f64::from(RATE)).min(BUCKET.into());
        self.filled = self.filled.max(now);
    }

    fn schedule(&mut self, address: IpAddr, now: Instant) {
        let Some(announced) = self.addresses.get_mut(&address) else { return };
        let due = if announced.step == 0 {
            now
        } else {
            now + gap(announced.step, last_byte(&address), REFRESH)
        };
        announced.due = Some(due);
        self.due.insert((due, announced.step, address), ());
    }
}

const fn last_byte(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 20, 100, 0);

    fn announcer() -> (Announcer, Instant) {
        let now = Instant::now();
        let mut announcer = Announcer::new(OURS, now);
        announcer.announce(VIP.into(), now);
        (announcer, now)
    }

    fn drain(announcer: &mut Announcer) -> Vec<ArpPacket> {
        std::iter::from_fn(|| announcer.poll_transmit())
            .map(|frame| ArpPacket::parse(&frame).unwrap())
            .collect()
    }

    fn request(target: Ipv4Addr) -> ArpPacket {
        ArpPacket {
            destination: Mac::BROADCAST,
            source: THEIRS,
            operation: ArpOperation::Request,
            sender_mac: THEIRS,
            sender_ip: Ipv4Addr::new(10, 20, 1, 1),
            target_mac: Mac::ZERO,
            target_ip: target,
        }
    }

    #[test]
    fn a_take_over_is_announced_at_once_and_again() {
        let (mut announcer, begin) = announcer();
        assert_eq!(drain(&mut announcer), [ArpPacket::announcement(OURS, VIP)]);
        let mut times = Vec::new();
        while times.len() < 6 {
            let now = announcer.poll_timeout().unwrap();
            announcer.handle_timeout(now);
            assert_eq!(drain(&mut announcer).len(), 1);
            times.push((now - begin).as_millis());
        }
        assert_eq!(times, [20, 100, 300, 1100, 2200, 5000]);
    }

    #[test]
    fn only_announced_addresses_are_answered() {
        let (mut announcer, _) = announcer();
        drain(&mut announcer);
        announcer.handle_frame(&request(VIP).to_frame());
        assert_eq!(drain(&mut announcer), [request(VIP).reply(OURS)]);
        announcer.handle_frame(&request(Ipv4Addr::new(10, 20, 100, 1)).to_frame());
        assert!(drain(&mut announcer).is_empty());
        announcer.withdraw(&VIP.into());
        announcer.handle_frame(&request(VIP).to_frame());
        assert!(drain(&mut announcer).is_empty());
        assert_eq!(announcer.poll_timeout(), None);
    }

    #[test]
    fn a_probe_is_answered_which_defends_the_address() {
        let (mut announcer, _) = announcer();
        drain(&mut announcer);
        let probe = ArpPacket { sender_ip: Ipv4Addr::UNSPECIFIED, ..request(VIP) };
        announcer.handle_frame(&probe.to_frame());
        assert_eq!(drain(&mut announcer).len(), 1);
    }

    #[test]
    fn a_request_for_another_host_is_not_answered() {
        let (mut announcer, _) = announcer();
        drain(&mut announcer);
        let other = ArpPacket { destination: Mac([2, 0, 0, 0, 0, 9]), ..request(VIP) };
        announcer.handle_frame(&other.to_frame());
        assert!(drain(&mut announcer).is_empty());
    }

    #[test]
    fn a_foreign_claim_is_told() {
        let (mut announcer, _) = announcer();
        announcer.handle_frame(&ArpPacket::announcement(THEIRS, VIP).to_frame());
        assert_eq!(announcer.poll_claim(), Some(Claim { address: VIP.into(), mac: THEIRS }));
        announcer.handle_frame(&ArpPacket::announcement(OURS, VIP).to_frame());
        assert_eq!(announcer.poll_claim(), None);
        let v6: std::net::Ipv6Addr = "fd20::1:0".parse().unwrap();
        announcer.announce(v6.into(), Instant::now());
        announcer.handle_frame(&NeighborAdvertisement::announcement(THEIRS, v6).to_frame());
        assert_eq!(announcer.poll_claim(), Some(Claim { address: v6.into(), mac: THEIRS }));
    }

    #[test]
    fn every_address_is_announced_once_before_any_is_twice() {
        let now = Instant::now();
        let mut announcer = Announcer::new(OURS, now);
        let count = 2 * usize::try_from(BUCKET).unwrap();
        for i in 0..count {
            let [.., a, b] = u32::try_from(i).unwrap().to_be_bytes();
            announcer.announce(Ipv4Addr::new(10, 20, a, b).into(), now);
        }
        let mut seen = HashMap::new();
        while seen.len() < count {
            let at = announcer.poll_timeout().unwrap();
            announcer.handle_timeout(at);
            for packet in drain(&mut announcer) {
                *seen.entry(packet.sender_ip).or_insert(0) += 1;
            }
            assert!(at - now < Duration::from_secs(10), "the rate starves some address");
        }
    }
}
