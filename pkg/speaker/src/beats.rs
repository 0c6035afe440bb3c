//! Heartbeats on one interface: which sockets there are, where to send, and what
//! of that which comes is one.
//!
//! A speaker speaks IPv4 where its interface has an IPv4 address, else IPv6, and
//! listens to both. It speaks the other family too for as long as somebody is
//! heard who speaks only that one.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_election::{AuthError, Heartbeat, KeyRing, NodeId, WireError};
use herald_net::{Datagram, HeartbeatError, HeartbeatSocket, Interface, ON_LINK};

use crate::metrics::{InterfaceLabel, Metrics, ReasonLabel};

/// Who is heard by one family and not by the other for so long speaks only that.
const ONLY: Duration = Duration::from_secs(10);

/// The same datagram by the other family comes within this time.
const TWIN: Duration = Duration::from_secs(1);

/// Larger than any heartbeat; a longer datagram is cut, and its seal broken.
pub(crate) const BUFFER: usize = 2048;

/// A heartbeat, and how it came.
#[derive(Debug)]
pub(crate) struct Beat {
    pub(crate) heartbeat: Heartbeat,
    pub(crate) at: Instant,
    pub(crate) source: IpAddr,
    /// Whether it surely comes from the link.
    pub(crate) on_link: bool,
}

/// When a node was last heard, and where it is.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    v4: Option<(Instant, Ipv4Addr)>,
    v6: Option<Instant>,
    /// As it says itself.
    hardware: Option<[u8; 6]>,
}

/// The sockets of one interface.
pub(crate) struct Beats {
    name: String,
    interface: u32,
    v4: Option<HeartbeatSocket>,
    v6: Option<HeartbeatSocket>,
    /// Whether the interface has addresses of the family to send from.
    has_v4: bool,
    has_v6: bool,
    heard: HashMap<NodeId, Heard>,
    metrics: Arc<Metrics>,
}

impl Beats {
    pub(crate) fn new(interface: &Interface, metrics: Arc<Metrics>) -> Self {
        let mut beats = Self {
            name: interface.name.clone(),
            interface: interface.index,
            v4: None,
            v6: None,
            has_v4: false,
            has_v6: false,
            heard: HashMap::new(),
            metrics,
        };
        beats.follow(interface);
        beats
    }

    /// The interface has other addresses now.
    pub(crate) fn follow(&mut self, interface: &Interface) {
        self.has_v4 = interface
            .addresses
            .iter()
            .any(|(address, _)| address.is_ipv4());
        self.has_v6 = interface
            .addresses
            .iter()
            .any(|(address, _)| match address {
                IpAddr::V6(address) => address.is_unicast_link_local(),
                IpAddr::V4(_) => false,
            });
    }

    /// Opens what is not open. Without IPv6 on this host there is only IPv4.
    pub(crate) fn open(&mut self) -> Result<(), HeartbeatError> {
        if self.v4.is_none() {
            self.v4 = Some(HeartbeatSocket::open(self.interface, false)?);
        }
        if self.v6.is_none() {
            match HeartbeatSocket::open(self.interface, true) {
                Ok(socket) => self.v6 = Some(socket),
                Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => return Err(error),
                Err(error) => {
                    tracing::debug!(interface = self.name, %error, "heartbeats by IPv4 only");
                }
            }
        }
        Ok(())
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.v4.is_some()
    }

    /// Receives a datagram of either family.
    pub(crate) async fn receive(
        &self,
        four: &mut [u8],
        six: &mut [u8],
    ) -> (bool, io::Result<Datagram>) {
        // One that has waited costs no registration.
        if let Some(datagram) = self.try_receive(false, four) {
            return (false, Ok(datagram));
        }
        if let Some(datagram) = self.try_receive(true, six) {
            return (true, Ok(datagram));
        }
        tokio::select! {
            datagram = receive(self.v4.as_ref(), four) => (false, datagram),
            datagram = receive(self.v6.as_ref(), six) => (true, datagram),
        }
    }

    /// Receives another of the same family, if one is there.
    pub(crate) fn try_receive(&self, ipv6: bool, buffer: &mut [u8]) -> Option<Datagram> {
        let socket = if ipv6 { &self.v6 } else { &self.v4 };
        socket.as_ref()?.try_receive(buffer).ok()
    }

    /// The heartbeat in a datagram; none where it is none, or one that has come by
    /// the other family.
    pub(crate) fn read(
        &mut self,
        datagram: &Datagram,
        bytes: &[u8],
        keys: &KeyRing,
        now: Instant,
    ) -> Option<Beat> {
        let message = match keys.open(bytes) {
            Ok(message) => message,
            Err(error) => {
                self.reject(reason_of(error), &error);
                return None;
            }
        };
        let heartbeat = match Heartbeat::parse(message) {
            Ok(heartbeat) => heartbeat,
            Err(error) => {
                let reason = match error {
                    WireError::Foreign => "foreign",
                    WireError::Version(_) => "version",
                    WireError::Malformed => "malformed",
                };
                self.reject(reason, &error);
                return None;
            }
        };
        let on_link = datagram.hops == ON_LINK;
        if on_link && self.is_twin(heartbeat.sender, datagram.source, now) {
            return None;
        }
        Some(Beat {
            heartbeat,
            at: now.checked_sub(datagram.age).unwrap_or(now),
            source: datagram.source,
            on_link,
        })
    }

    /// Whether what came by IPv6 has come by IPv4, too.
    fn is_twin(&self, node: NodeId, source: IpAddr, now: Instant) -> bool {
        let four = self.heard.get(&node).and_then(|heard| heard.v4);
        source.is_ipv6() && four.is_some_and(|(at, _)| now < at + TWIN)
    }

    /// Notes where a node is that was heard in a session that is no recording.
    /// Says whether its hardware address is another than before.
    pub(crate) fn heard(&mut self, heartbeat: &Heartbeat, source: IpAddr, now: Instant) -> bool {
        let heard = self.heard.entry(heartbeat.sender).or_default();
        match source {
            IpAddr::V4(address) => heard.v4 = Some((now, address)),
            IpAddr::V6(_) => heard.v6 = Some(now),
        }
        std::mem::replace(&mut heard.hardware, heartbeat.hardware) != heartbeat.hardware
    }

    /// Notes that a node was heard that may be a recording: nothing is believed of
    /// it, but it is to hear us, whichever family it knows.
    pub(crate) fn heard_stranger(&mut self, node: NodeId, source: IpAddr, now: Instant) {
        if source.is_ipv6() {
            self.heard.entry(node).or_default().v6 = Some(now);
        }
    }

    /// Forgets nodes that are gone from the cluster.
    pub(crate) fn retain(&mut self, stays: impl Fn(&NodeId) -> bool) {
        self.heard.retain(|node, _| stays(node));
    }

    /// The hardware addresses of the other speakers, as far as they are known.
    pub(crate) fn hardware(&self) -> BTreeSet<[u8; 6]> {
        let heard = self.heard.values();
        heard.filter_map(|heard| heard.hardware).collect()
    }

    /// Counts a datagram that was not taken in; tells of the first of its kind.
    pub(crate) fn reject(&self, reason: &'static str, error: &dyn std::fmt::Display) {
        let counter = self
            .metrics
            .beats_rejected
            .get_or_create_owned(&ReasonLabel {
                interface: self.name.clone(),
                reason,
            });
        if counter.inc() == 0 {
            tracing::warn!(interface = self.name, %error, "a datagram is not taken in");
        }
    }

    /// Sends to everybody on the link.
    pub(crate) fn send_to_all(&self, datagram: &[u8], now: Instant) {
        let (four, six) = self.families(now);
        for (wanted, socket) in [(four, &self.v4), (six, &self.v6)] {
            if let (true, Some(socket)) = (wanted, socket) {
                self.sent(socket.send_to_group(datagram));
            }
        }
    }

    /// Sends to one host on the link.
    pub(crate) fn send_to(&self, datagram: &[u8], host: IpAddr) {
        let socket = if host.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some(socket) = socket {
            self.sent(socket.send_to(datagram, host));
        }
    }

    fn sent(&self, result: io::Result<()>) {
        match result {
            Ok(()) => {
                let label = InterfaceLabel {
                    interface: self.name.clone(),
                };
                self.metrics.beats_sent.get_or_create(&label).inc();
            }
            Err(error) => tracing::debug!(interface = self.name, %error, "sending a heartbeat"),
        }
    }

    /// By which families to speak: IPv4, IPv6.
    fn families(&self, now: Instant) -> (bool, bool) {
        let fresh = |at: Option<Instant>| at.is_some_and(|at| now < at + ONLY);
        let only_v6 = self
            .heard
            .values()
            .any(|heard| fresh(heard.v6) && !fresh(heard.v4.map(|(at, _)| at)));
        if self.has_v4 {
            (true, self.has_v6 && only_v6)
        } else {
            (false, true)
        }
    }

    /// Where a node was last heard by IPv4, to ask whether it is there.
    pub(crate) fn whereabouts(&self, node: NodeId) -> Option<Ipv4Addr> {
        self.heard.get(&node)?.v4.map(|(_, address)| address)
    }

    /// When a node was last heard.
    pub(crate) fn last_heard(&self, node: NodeId) -> Option<Instant> {
        let heard = self.heard.get(&node)?;
        heard.v4.map(|(at, _)| at).max(heard.v6)
    }

    /// The node that was heard at an address.
    pub(crate) fn node_at(&self, address: Ipv4Addr) -> Option<NodeId> {
        self.heard
            .iter()
            .find(|(_, heard)| heard.v4.is_some_and(|(_, at)| at == address))
            .map(|(node, _)| *node)
    }
}

const fn reason_of(error: AuthError) -> &'static str {
    match error {
        AuthError::Short => "unsealed",
        AuthError::UnknownKey => "unknown-key",
        AuthError::Forged => "forged",
    }
}

async fn receive(socket: Option<&HeartbeatSocket>, buffer: &mut [u8]) -> io::Result<Datagram> {
    match socket {
        Some(socket) => socket.receive(buffer).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use herald_telemetry::Registry;
    use proptest::prelude::*;

    use super::*;

    fn beats(addresses: &[&str]) -> Beats {
        let interface = Interface {
            index: 7,
            name: "lan0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running: true,
            no_arp: false,
            loopback: false,
            enslaved: false,
            carrier_changes: 0,
            addresses: addresses.iter().map(|a| (a.parse().unwrap(), 64)).collect(),
        };
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        Beats::new(&interface, metrics)
    }

    #[test]
    fn the_other_family_is_spoken_for_those_who_know_no_other() {
        let now = Instant::now();
        let (a, b) = (NodeId(1), NodeId(2));
        let mut dual = beats(&["10.20.0.11", "fe80::1"]);
        assert_eq!(dual.families(now), (true, false));
        dual.heard(&heartbeat(a, None), "10.20.0.12".parse().unwrap(), now);
        // Twice the same is one.
        assert!(dual.is_twin(a, "fe80::2".parse().unwrap(), now));
        assert!(!dual.is_twin(a, "10.20.0.12".parse().unwrap(), now));
        assert!(!dual.is_twin(a, "fe80::2".parse().unwrap(), now + TWIN));
        assert_eq!(dual.families(now), (true, false), "it speaks both");
        dual.heard(&heartbeat(b, None), "fe80::3".parse().unwrap(), now);
        assert_eq!(dual.families(now), (true, true));
        assert_eq!(dual.families(now + ONLY), (true, false));
        assert_eq!(beats(&["fe80::1"]).families(now), (false, true));
        assert_eq!(dual.whereabouts(a), Some(Ipv4Addr::new(10, 20, 0, 12)));
        assert_eq!(dual.node_at(Ipv4Addr::new(10, 20, 0, 12)), Some(a));
        assert_eq!(dual.last_heard(b), Some(now));
    }

    #[test]
    fn of_a_recording_nothing_is_believed() {
        let now = Instant::now();
        let (a, foe) = (NodeId(1), "10.20.0.66".parse().unwrap());
        let mut dual = beats(&["10.20.0.11", "fe80::1"]);
        dual.heard_stranger(a, foe, now);
        assert_eq!(dual.whereabouts(a), None);
        // One that knows only IPv6 is to hear us before it can prove anything.
        dual.heard_stranger(a, "fe80::2".parse().unwrap(), now);
        assert_eq!(dual.families(now), (true, true));
        assert_eq!(dual.node_at(Ipv4Addr::new(10, 20, 0, 66)), None);
        assert!(dual.hardware().is_empty());
    }

    #[test]
    fn speakers_are_known_by_the_hardware_addresses_that_they_tell() {
        let (now, source) = (Instant::now(), "10.20.0.12".parse().unwrap());
        let mut beats = beats(&["10.20.0.11"]);
        let (one, other) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]);
        assert!(!beats.heard(&heartbeat(NodeId(1), None), source, now));
        assert!(beats.heard(&heartbeat(NodeId(1), Some(one)), source, now));
        assert!(!beats.heard(&heartbeat(NodeId(1), Some(one)), source, now));
        assert!(beats.heard(&heartbeat(NodeId(1), Some(other)), source, now));
        assert!(beats.heard(&heartbeat(NodeId(2), Some(one)), source, now));
        assert_eq!(beats.hardware(), BTreeSet::from([one, other]));
        beats.retain(|node| *node == NodeId(2));
        assert_eq!(beats.hardware(), BTreeSet::from([one]));
    }

    fn heartbeat(sender: NodeId, hardware: Option<[u8; 6]>) -> Heartbeat {
        Heartbeat {
            sender,
            session: 1,
            sequence: 1,
            interval: Duration::from_millis(70),
            ready: true,
            votes: true,
            draining: false,
            leaving: false,
            view: 1,
            claims: 0,
            floor: 0,
            opinion: None,
            page: None,
            hardware,
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_taken_in_or_not(
            bytes in proptest::collection::vec(any::<u8>(), 0..1500),
            sealed: bool,
            hops: u8,
        ) {
            let keys = KeyRing::new([[1; 32]]).unwrap();
            let bytes = if sealed { keys.seal(bytes) } else { bytes };
            let datagram = Datagram {
                length: bytes.len(),
                source: "fe80::9".parse().unwrap(),
                hops,
                age: Duration::from_secs(u64::MAX),
            };
            let beat = beats(&["fe80::1"]).read(&datagram, &bytes, &keys, Instant::now());
            prop_assert!(beat.is_none() || sealed);
        }
    }

    #[test]
    fn what_is_no_heartbeat_is_counted_and_has_no_effect() {
        let now = Instant::now();
        let keys = KeyRing::new([[1; 32]]).unwrap();
        let other = KeyRing::new([[2; 32]]).unwrap();
        let mut beats = beats(&["10.20.0.11"]);
        let mut forged = keys.seal(b"HB".to_vec());
        forged[0] ^= 1;
        for bytes in [
            b"short".to_vec(),
            other.seal(b"HB".to_vec()),
            forged,
            keys.seal(b"XX and more".to_vec()),
            keys.seal(b"HB\x09\x38".to_vec()),
            keys.seal(b"HB\x01\x38".to_vec()),
        ] {
            let datagram = Datagram {
                length: bytes.len(),
                source: "10.20.0.12".parse().unwrap(),
                hops: 255,
                age: Duration::ZERO,
            };
            assert!(beats.read(&datagram, &bytes, &keys, now).is_none());
        }
        for reason in [
            "unsealed",
            "unknown-key",
            "forged",
            "foreign",
            "version",
            "malformed",
        ] {
            let label = ReasonLabel {
                interface: "lan0".into(),
                reason,
            };
            assert_eq!(
                beats.metrics.beats_rejected.get_or_create(&label).get(),
                1,
                "{reason}"
            );
        }
        assert!(beats.heard.is_empty());
    }
}
