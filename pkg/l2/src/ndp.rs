//! Neighbor Solicitation and Advertisement (RFC 4861 §4.3, §4.4) in Ethernet
//! frames.
//!
//! ```text
//!  Ethernet (14) | IPv6 (40) | ICMPv6:
//!  0      1      2             4                  8
//! +------+------+-------------+------------------+----------------+---------
//! | type | code |  checksum   | R S O reserved   | target (16)    | options
//! +------+------+-------------+------------------+----------------+---------
//!  option: type (1), length in units of 8 bytes (1), value
//! ```

use std::net::Ipv6Addr;

use crate::ethernet::{self, HEADER, Mac, Malformed, TYPE_IPV6, array};
use crate::frame::Frame;

const IPV6_HEADER: usize = 40;
const BODY: usize = HEADER + IPV6_HEADER;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
pub(crate) const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The solicited-node group of an address (RFC 4291 §2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | a as u16,
        (b as u16) << 8 | c as u16,
    )
}

/// The Ethernet address of an IPv6 group (RFC 2464 §7).
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// Either message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborMessage {
    /// Who has?
    Solicitation(NeighborSolicitation),
    /// I have.
    Advertisement(NeighborAdvertisement),
}

/// A Neighbor Solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// Ethernet destination.
    pub destination_mac: Mac,
    /// Ethernet source.
    pub source_mac: Mac,
    /// IPv6 source; `::` while the sender tests the address for itself.
    pub source: Ipv6Addr,
    /// IPv6 destination: the target's solicited-node group, or the target.
    pub destination: Ipv6Addr,
    /// Whose hardware address is asked for.
    pub target: Ipv6Addr,
    /// Source link-layer address option.
    pub source_link: Option<Mac>,
}

/// A Neighbor Advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// Ethernet destination.
    pub destination_mac: Mac,
    /// Ethernet source.
    pub source_mac: Mac,
    /// IPv6 source.
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// Whose hardware address is told.
    pub target: Ipv6Addr,
    /// S: it answers a solicitation.
    pub solicited: bool,
    /// O: it replaces what the receiver has.
    pub override_: bool,
    /// Target link-layer address option.
    pub target_link: Option<Mac>,
}

impl NeighborMessage {
    /// Reads an Ethernet frame and checks what RFC 4861 §7.1.1 and §7.1.2 ask
    /// for, the checksum too.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let (destination_mac, source_mac, kind, packet) = ethernet::split(frame)?;
        if kind != TYPE_IPV6 {
            return Err(Malformed::Kind);
        }
        let (header, body) = packet
            .split_at_checked(IPV6_HEADER)
            .ok_or(Malformed::Short)?;
        let [version, .., next, hops] = array::<8>(header, 0)?;
        if version >> 4 != 6 || next != ICMPV6 {
            return Err(Malformed::Kind);
        }
        if hops != 255 {
            return Err(Malformed::Field("hop limit is not 255: it was forwarded"));
        }
        let length = usize::from(u16::from_be_bytes(array(header, 4)?));
        // Ethernet may have padded the frame.
        let body = body.get(..length).ok_or(Malformed::Short)?;
        let source = Ipv6Addr::from(array::<16>(header, 8)?);
        let destination = Ipv6Addr::from(array::<16>(header, 24)?);
        let [icmp_type, code] = array(body, 0)?;
        if !matches!(icmp_type, SOLICITATION | ADVERTISEMENT) {
            return Err(Malformed::Kind);
        }
        if code != 0 {
            return Err(Malformed::Field("code is not 0"));
        }
        if checksum(source, destination, body) != 0 {
            return Err(Malformed::Field("wrong checksum"));
        }
        let [flags, ..] = array::<4>(body, 4)?;
        let target = Ipv6Addr::from(array::<16>(body, 8)?);
        if target.is_multicast() || source.is_multicast() {
            return Err(Malformed::Field("target or source is a group"));
        }
        let options = body.get(24..).ok_or(Malformed::Short)?;
        if icmp_type == SOLICITATION {
            let source_link = link_option(options, OPTION_SOURCE)?;
            if source.is_unspecified()
                && (source_link.is_some() || destination != solicited_node(target))
            {
                return Err(Malformed::Field(
                    "address test with the wrong destination or option",
                ));
            }
            return Ok(Self::Solicitation(NeighborSolicitation {
                destination_mac,
                source_mac,
                source,
                destination,
                target,
                source_link,
            }));
        }
        let solicited = flags & FLAG_SOLICITED != 0;
        if solicited && destination.is_multicast() {
            return Err(Malformed::Field("solicited, but sent to a group"));
        }
        Ok(Self::Advertisement(NeighborAdvertisement {
            destination_mac,
            source_mac,
            source,
            destination,
            target,
            solicited,
            override_: flags & FLAG_OVERRIDE != 0,
            target_link: link_option(options, OPTION_TARGET)?,
        }))
    }
}

/// The link-layer address in the option of kind `wanted`. A length of zero
/// makes the whole message invalid (RFC 4861 §4.6).
pub(crate) fn link_option(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, Malformed> {
    let mut found = None;
    while !options.is_empty() {
        let [kind, units] = array(options, 0)?;
        if units == 0 {
            return Err(Malformed::Field("option of length 0"));
        }
        let length = usize::from(units) * 8;
        let option = options.get(..length).ok_or(Malformed::Short)?;
        if kind == wanted && units == 1 {
            found = Some(Mac(array(option, 2)?));
        }
        options = &options[length..];
    }
    Ok(found)
}

impl NeighborSolicitation {
    /// A question to the target's group, from `source`. From `::` it tests
    /// whether the address is free (RFC 4862 §5.4.2).
    pub fn question(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Self {
        let destination = solicited_node(target);
        Self {
            destination_mac: group_mac(destination),
            source_mac: mac,
            source,
            destination,
            target,
            source_link: (!source.is_unspecified()).then_some(mac),
        }
    }

    /// Whether the sender tests the address before it uses it.
    pub const fn is_probe(&self) -> bool {
        self.source.is_unspecified()
    }

    /// The frame to send.
    pub fn to_frame(&self) -> Frame {
        let mut frame = headers(
            self.destination_mac,
            self.source_mac,
            self.source,
            self.destination,
            self.source_link.is_some(),
        );
        frame.push(&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
        frame.push(&self.target.octets());
        if let Some(mac) = self.source_link {
            frame.push(&[OPTION_SOURCE, 1]);
            frame.push(&mac.0);
        }
        sealed(frame, self.source, self.destination)
    }
}

impl NeighborAdvertisement {
    /// An announcement to all nodes (RFC 4861 §7.2.6). It comes from the
    /// address itself, as the interface may have no other.
    pub fn announcement(mac: Mac, address: Ipv6Addr) -> Self {
        Self {
            destination_mac: group_mac(ALL_NODES),
            source_mac: mac,
            source: address,
            destination: ALL_NODES,
            target: address,
            solicited: false,
            override_: true,
            target_link: Some(mac),
        }
    }

    /// The answer to a solicitation. One that tests the address (from `::`) is
    /// answered to all (RFC 4861 §7.2.4), which defends it (RFC 4862 §5.4).
    pub fn answer(solicitation: &NeighborSolicitation, mac: Mac) -> Self {
        let announcement = Self::announcement(mac, solicitation.target);
        if solicitation.is_probe() {
            return announcement;
        }
        Self {
            destination_mac: solicitation
                .source_link
                .filter(|mac| mac.is_unicast())
                .unwrap_or(solicitation.source_mac),
            destination: solicitation.source,
            solicited: true,
            ..announcement
        }
    }

    /// The frame to send.
    pub fn to_frame(&self) -> Frame {
        let mut frame = headers(
            self.destination_mac,
            self.source_mac,
            self.source,
            self.destination,
            self.target_link.is_some(),
        );
        let mut flags = 0;
        if self.solicited {
            flags |= FLAG_SOLICITED;
        }
        if self.override_ {
            flags |= FLAG_OVERRIDE;
        }
        frame.push(&[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
        frame.push(&self.target.octets());
        if let Some(mac) = self.target_link {
            frame.push(&[OPTION_TARGET, 1]);
            frame.push(&mac.0);
        }
        sealed(frame, self.source, self.destination)
    }
}

/// Ethernet and IPv6 headers of a neighbour message.
fn headers(to: Mac, from: Mac, source: Ipv6Addr, destination: Ipv6Addr, option: bool) -> Frame {
    let mut frame = Frame::new(to, from, TYPE_IPV6);
    let length = if option { 32 } else { 24 };
    frame.push(&[0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.push(&source.octets());
    frame.push(&destination.octets());
    debug_assert_eq!(frame.len(), BODY);
    frame
}

/// A neighbour message with its checksum.
fn sealed(mut frame: Frame, source: Ipv6Addr, destination: Ipv6Addr) -> Frame {
    let sum = checksum(source, destination, &frame[BODY..]);
    frame.set(BODY + 2, &sum.to_be_bytes());
    frame
}

/// The `ICMPv6` checksum over pseudo-header and body (RFC 4443 §2.3); 0 over a
/// body that holds its own right checksum.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or(0);
    let mut sum = length + u32::from(ICMPV6);
    for word in source.segments().into_iter().chain(destination.segments()) {
        sum += u32::from(word);
    }
    for pair in body.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetFrame, Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscNeighborFlags, NdiscRepr,
        RawHardwareAddress,
    };

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn solicitation(source: Ipv6Addr, target: Ipv6Addr, link: Option<[u8; 6]>) -> Vec<u8> {
        let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr: link.map(|mac| RawHardwareAddress::from_bytes(&mac)),
        });
        let destination = solicited_node(target);
        let mut frame = Frame::new(group_mac(destination), Mac([2; 6]), TYPE_IPV6).to_vec();
        frame.extend_from_slice(&[0x60, 0, 0, 0, 0, u8::try_from(repr.buffer_len()).unwrap()]);
        frame.extend_from_slice(&[ICMPV6, 255]);
        frame.extend_from_slice(&source.octets());
        frame.extend_from_slice(&destination.octets());
        let mut body = vec![0; repr.buffer_len()];
        repr.emit(
            &source,
            &destination,
            &mut Icmpv6Packet::new_unchecked(&mut body),
            &ChecksumCapabilities::default(),
        );
        frame.extend_from_slice(&body);
        frame
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = NeighborMessage::parse(&bytes);
        }

        #[test]
        fn a_damaged_message_is_read_or_refused(
            at in 0usize..86, value in any::<u8>(), cut in 0usize..90,
        ) {
            let target: Ipv6Addr = "fd20::1:0".parse().unwrap();
            let mut frame = solicitation("fe80::1".parse().unwrap(), target, Some([2; 6]));
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
            frame.truncate(cut);
            let _ = NeighborMessage::parse(&frame);
        }

        #[test]
        fn a_solicitation_of_another_stack_is_read(
            source in any::<u128>(), target in any::<u128>(), mac in any::<[u8; 6]>(),
        ) {
            let (source, target) = (Ipv6Addr::from_bits(source), Ipv6Addr::from_bits(target));
            prop_assume!(!source.is_multicast() && !target.is_multicast());
            prop_assume!(!source.is_unspecified());
            let frame = solicitation(source, target, Some(mac));
            let Ok(NeighborMessage::Solicitation(read)) = NeighborMessage::parse(&frame)
            else { panic!("refused") };
            prop_assert_eq!(read.target, target);
            prop_assert_eq!(read.source_link, Some(Mac(mac)));
        }

        #[test]
        fn a_question_is_read_by_us_and_by_another_stack(
            source in any::<u128>(), target in any::<u128>(), test in any::<bool>(),
        ) {
            let source = if test { Ipv6Addr::UNSPECIFIED } else { Ipv6Addr::from_bits(source) };
            let target = Ipv6Addr::from_bits(target);
            prop_assume!(!source.is_multicast() && !target.is_multicast());
            let ours = NeighborSolicitation::question(MAC, source, target);
            let frame = ours.to_frame();
            prop_assert_eq!(
                NeighborMessage::parse(&frame),
                Ok(NeighborMessage::Solicitation(ours))
            );
            let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
            prop_assert!(ethernet.dst_addr().is_multicast());
            let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
            prop_assert_eq!(ip.hop_limit(), 255);
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            let repr = Icmpv6Repr::parse(
                &ip.src_addr(), &ip.dst_addr(), &icmp, &ChecksumCapabilities::default(),
            ).unwrap();
            let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }) = repr
            else { panic!("the oracle reads another kind") };
            prop_assert_eq!(target_addr, target);
            // RFC 4861 §4.3: no option in a test.
            prop_assert_eq!(lladdr.is_none(), source.is_unspecified());
        }

        #[test]
        fn an_advertisement_is_read_by_another_stack(target in any::<u128>()) {
            let target = Ipv6Addr::from_bits(target);
            prop_assume!(!target.is_multicast());
            let ours = NeighborAdvertisement::announcement(MAC, target);
            let frame = ours.to_frame();
            prop_assert_eq!(
                NeighborMessage::parse(&frame),
                Ok(NeighborMessage::Advertisement(ours))
            );
            let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
            let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            let repr = Icmpv6Repr::parse(
                &ip.src_addr(), &ip.dst_addr(), &icmp, &ChecksumCapabilities::default(),
            ).unwrap();
            let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) = repr
            else { panic!("the oracle reads another kind") };
            prop_assert_eq!(flags, NdiscNeighborFlags::OVERRIDE);
            prop_assert_eq!(target_addr, target);
            prop_assert_eq!(lladdr, Some(RawHardwareAddress::from_bytes(&MAC.0)));
        }
    }

    #[test]
    fn an_address_test_is_answered_to_all() {
        let target: Ipv6Addr = "fd20::1:0".parse().unwrap();
        let frame = solicitation(Ipv6Addr::UNSPECIFIED, target, None);
        let Ok(NeighborMessage::Solicitation(read)) = NeighborMessage::parse(&frame) else {
            panic!("refused")
        };
        let answer = NeighborAdvertisement::answer(&read, MAC);
        assert_eq!(answer.destination, ALL_NODES);
        assert!(!answer.solicited && answer.override_);
    }

    #[test]
    fn an_option_of_length_zero_is_refused() {
        assert!(link_option(&[1, 0, 0, 0, 0, 0, 0, 0], OPTION_SOURCE).is_err());
        assert!(link_option(&[1, 32, 0, 0], OPTION_SOURCE).is_err());
    }

    #[test]
    fn the_solicited_node_group_keeps_the_last_three_bytes() {
        let address: Ipv6Addr = "fd20::12:3456".parse().unwrap();
        assert_eq!(
            solicited_node(address),
            "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap()
        );
    }
}
