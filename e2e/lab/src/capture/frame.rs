//! Captured frames as the assertions want them: who said what by ARP and NDP.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use smoltcp::wire::{
    ArpOperation, ArpPacket, EthernetFrame, EthernetProtocol, Icmpv6Packet, IpProtocol, Ipv6Packet,
    NdiscNeighborFlags, NdiscRepr,
};

/// A hardware address, written `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    fn read(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, octet) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When it was captured.
    pub at: Timestamp,
    /// Ethernet source.
    pub source: Mac,
    /// Ethernet destination.
    pub destination: Mac,
    /// What it carries.
    pub packet: Packet,
}

/// What a frame carries, as far as the lab looks into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// ARP (RFC 826).
    Arp(Arp),
    /// Neighbor Solicitation (RFC 4861 section 4.3).
    Solicitation {
        /// IPv6 source; `::` when it is duplicate address detection.
        source: Ipv6Addr,
        /// IPv6 destination.
        destination: Ipv6Addr,
        /// The address asked for.
        target: Ipv6Addr,
        /// Source Link-Layer Address option.
        link_layer: Option<Mac>,
    },
    /// Neighbor Advertisement (RFC 4861 section 4.4).
    Advertisement(Advertisement),
    /// Anything else, or malformed.
    Other,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether it is a reply; a request otherwise.
    pub reply: bool,
    /// ar$sha.
    pub sender_mac: Mac,
    /// ar$spa.
    pub sender_ip: Ipv4Addr,
    /// ar$tha.
    pub target_mac: Mac,
    /// ar$tpa.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Announces the sender to everybody (RFC 5227 section 3): request or
    /// reply, the target is the sender itself.
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip == self.target_ip
    }
}

/// A Neighbor Advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// IPv6 source.
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// Hop limit; anything but 255 must be ignored by receivers (RFC 4861
    /// section 7.1.2).
    pub hop_limit: u8,
    /// The address that is advertised.
    pub target: Ipv6Addr,
    /// R flag.
    pub router: bool,
    /// S flag: the answer to a solicitation.
    pub solicited: bool,
    /// O flag: replaces what neighbours have cached.
    pub overrides: bool,
    /// Target Link-Layer Address option.
    pub link_layer: Option<Mac>,
}

impl Frame {
    /// Reads a frame; what can't be read is [`Packet::Other`]. `None` if even
    /// the Ethernet header is cut short.
    pub fn read(at: Timestamp, octets: &[u8]) -> Option<Self> {
        let frame = EthernetFrame::new_checked(octets).ok()?;
        let packet = match frame.ethertype() {
            EthernetProtocol::Arp => read_arp(frame.payload()),
            EthernetProtocol::Ipv6 => read_ipv6(frame.payload()),
            _ => None,
        };
        Some(Self {
            at,
            source: Mac(frame.src_addr().0),
            destination: Mac(frame.dst_addr().0),
            packet: packet.unwrap_or(Packet::Other),
        })
    }

    /// Whoever claims `address` by this frame, answering or announcing: the
    /// hardware address that neighbours will note.
    pub fn claims(&self, address: IpAddr) -> Option<Mac> {
        match (&self.packet, address) {
            (Packet::Arp(arp), IpAddr::V4(address))
                if arp.sender_ip == address && (arp.reply || arp.is_gratuitous()) =>
            {
                Some(arp.sender_mac)
            }
            (Packet::Advertisement(advertisement), IpAddr::V6(address))
                if advertisement.target == address =>
            {
                // Without the option receivers take the Ethernet source
                // (RFC 4861 section 4.4).
                Some(advertisement.link_layer.unwrap_or(self.source))
            }
            _ => None,
        }
    }

    /// Whether this frame announces `address` to everybody, unasked.
    pub fn announces(&self, address: IpAddr) -> bool {
        match (&self.packet, address) {
            (Packet::Arp(arp), IpAddr::V4(address)) => {
                arp.is_gratuitous()
                    && arp.sender_ip == address
                    && self.destination == Mac::BROADCAST
            }
            (Packet::Advertisement(advertisement), IpAddr::V6(address)) => {
                advertisement.target == address
                    && !advertisement.solicited
                    && advertisement.destination.is_multicast()
            }
            _ => false,
        }
    }

    /// Whether this frame asks who has `address`.
    pub fn asks_for(&self, address: IpAddr) -> bool {
        match (&self.packet, address) {
            (Packet::Arp(arp), IpAddr::V4(address)) => {
                !arp.reply && !arp.is_gratuitous() && arp.target_ip == address
            }
            (Packet::Solicitation { target, .. }, IpAddr::V6(address)) => *target == address,
            _ => false,
        }
    }
}

fn read_arp(octets: &[u8]) -> Option<Packet> {
    let arp = ArpPacket::new_checked(octets).ok()?;
    let v4 = |octets: &[u8]| <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from);
    Some(Packet::Arp(Arp {
        reply: match arp.operation() {
            ArpOperation::Request => false,
            ArpOperation::Reply => true,
            ArpOperation::Unknown(_) => return None,
        },
        sender_mac: Mac::read(arp.source_hardware_addr())?,
        sender_ip: v4(arp.source_protocol_addr())?,
        target_mac: Mac::read(arp.target_hardware_addr())?,
        target_ip: v4(arp.target_protocol_addr())?,
    }))
}

fn read_ipv6(octets: &[u8]) -> Option<Packet> {
    let ip = Ipv6Packet::new_checked(octets).ok()?;
    if ip.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    // What neighbours drop must not count as said.
    if !icmp.verify_checksum(&source, &destination) {
        return None;
    }
    match NdiscRepr::parse(&icmp).ok()? {
        NdiscRepr::NeighborSolicit {
            target_addr,
            lladdr,
        } => Some(Packet::Solicitation {
            source,
            destination,
            target: target_addr,
            link_layer: lladdr.and_then(|address| Mac::read(address.as_bytes())),
        }),
        NdiscRepr::NeighborAdvert {
            flags,
            target_addr,
            lladdr,
        } => Some(Packet::Advertisement(Advertisement {
            source,
            destination,
            hop_limit: ip.hop_limit(),
            target: target_addr,
            router: flags.contains(NdiscNeighborFlags::ROUTER),
            solicited: flags.contains(NdiscNeighborFlags::SOLICITED),
            overrides: flags.contains(NdiscNeighborFlags::OVERRIDE),
            link_layer: lladdr.and_then(|address| Mac::read(address.as_bytes())),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .bytes()
            .filter_map(|c| (c as char).to_digit(16))
            .map(|digit| u8::try_from(digit).unwrap())
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    fn read(hex: &str) -> Frame {
        Frame::read(Timestamp::UNIX_EPOCH, &octets(hex)).unwrap()
    }

    const GRATUITOUS: &str = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 \
         020000000001 0a146401 000000000000 0a146401";
    const REPLY: &str = "020000000009 020000000001 0806 0001 0800 06 04 0002 \
         020000000001 0a146401 020000000009 0a140101";
    const REQUEST: &str = "ffffffffffff 020000000009 0806 0001 0800 06 04 0001 \
         020000000009 0a140101 000000000000 0a146401";
    /// From `fd20::1` to `ff02::1`: `fd20::5` is at 02:00:00:00:00:01, override.
    const ADVERTISEMENT: &str = "333300000001 020000000001 86dd 60000000 0020 3a ff \
         fd200000000000000000000000000001 ff020000000000000000000000000001 \
         8800 CCCC 20000000 fd200000000000000000000000000005 0201 020000000001";

    fn vip4() -> IpAddr {
        "10.20.100.1".parse().unwrap()
    }

    fn vip6() -> IpAddr {
        "fd20::5".parse().unwrap()
    }

    /// The advertisement with its checksum (RFC 4443 section 2.3) filled in.
    fn advertisement() -> Vec<u8> {
        let mut frame = octets(&ADVERTISEMENT.replace("CCCC", "0000"));
        let mut sum: u32 = 32 + 58;
        for pair in frame[22..].chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair[1]);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = !u16::try_from(sum).unwrap();
        frame[56..58].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    #[test]
    fn a_gratuitous_arp_announces_and_claims() {
        let frame = read(GRATUITOUS);
        assert!(frame.announces(vip4()));
        assert!(!frame.asks_for(vip4()));
        assert_eq!(
            frame.claims(vip4()).unwrap().to_string(),
            "02:00:00:00:00:01"
        );
    }

    #[test]
    fn a_reply_claims_but_announces_nothing() {
        let frame = read(REPLY);
        assert!(!frame.announces(vip4()));
        assert!(frame.claims(vip4()).is_some());
        assert_eq!(frame.claims("10.20.1.1".parse().unwrap()), None);
    }

    #[test]
    fn a_request_claims_nothing_even_for_its_sender() {
        let frame = read(REQUEST);
        assert!(frame.asks_for(vip4()));
        assert_eq!(frame.claims("10.20.1.1".parse().unwrap()), None);
    }

    #[test]
    fn an_unsolicited_advertisement_is_read_with_its_flags() {
        let frame = Frame::read(Timestamp::UNIX_EPOCH, &advertisement()).unwrap();
        let Packet::Advertisement(said) = &frame.packet else {
            panic!("{frame:?}");
        };
        assert!(said.overrides && !said.solicited && !said.router);
        assert_eq!(said.hop_limit, 255);
        assert!(frame.announces(vip6()));
        assert_eq!(
            frame.claims(vip6()).unwrap().to_string(),
            "02:00:00:00:00:01"
        );
    }

    #[test]
    fn an_advertisement_with_a_wrong_checksum_says_nothing() {
        let mut frame = advertisement();
        frame[57] ^= 1;
        let frame = Frame::read(Timestamp::UNIX_EPOCH, &frame).unwrap();
        assert_eq!(frame.packet, Packet::Other);
    }

    #[test]
    fn frames_cut_anywhere_are_read_without_panic() {
        for whole in [octets(GRATUITOUS), advertisement()] {
            for length in 0..whole.len() {
                if let Some(frame) = Frame::read(Timestamp::UNIX_EPOCH, &whole[..length]) {
                    assert_eq!(frame.packet, Packet::Other, "{length}");
                }
            }
        }
    }
}
