//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).
//!
//! ```text
//!  0        2        4     5     6        8
//! +--------+--------+-----+-----+--------+
//! | htype  | ptype  | hln | pln |  oper  |
//! +--------+--------+-----+-----+--------+-----------+
//! | sender hardware (6)         | sender protocol (4)|
//! +-----------------------------+--------------------+
//! | target hardware (6)         | target protocol (4)|
//! +-----------------------------+--------------------+
//! ```

use std::net::Ipv4Addr;

use crate::ethernet::{self, Mac, Malformed, TYPE_ARP, array};
use crate::frame::Frame;

/// `oper`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// 1: who has?
    Request,
    /// 2: I have.
    Reply,
}

/// An ARP packet and the Ethernet addresses it travels between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Ethernet destination.
    pub destination: Mac,
    /// Ethernet source.
    pub source: Mac,
    /// `oper`.
    pub operation: ArpOperation,
    /// Sender hardware address.
    pub sender_mac: Mac,
    /// Sender protocol address; 0.0.0.0 in a probe (RFC 5227 §1.1).
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: Mac,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// Reads an Ethernet frame. Bytes behind the packet (padding) are ignored.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let (destination, source, kind, payload) = ethernet::split(frame)?;
        if kind != TYPE_ARP {
            return Err(Malformed::Kind);
        }
        // Ethernet (1), IPv4 (0x0800), lengths 6 and 4.
        if array::<6>(payload, 0)? != [0, 1, 8, 0, 6, 4] {
            return Err(Malformed::Field("not ARP for IPv4 over Ethernet"));
        }
        let operation = match u16::from_be_bytes(array(payload, 6)?) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return Err(Malformed::Field("neither request nor reply")),
        };
        Ok(Self {
            destination,
            source,
            operation,
            sender_mac: Mac(array(payload, 8)?),
            sender_ip: array::<4>(payload, 14)?.into(),
            target_mac: Mac(array(payload, 18)?),
            target_ip: array::<4>(payload, 24)?.into(),
        })
    }

    /// The frame to send.
    pub fn to_frame(&self) -> Frame {
        let mut frame = Frame::new(self.destination, self.source, TYPE_ARP);
        let operation = match self.operation {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
        };
        frame.push(&[0, 1, 8, 0, 6, 4, 0, operation]);
        frame.push(&self.sender_mac.0);
        frame.push(&self.sender_ip.octets());
        frame.push(&self.target_mac.0);
        frame.push(&self.target_ip.octets());
        frame
    }

    /// An announcement (RFC 5227 §3): a broadcast request for one's own
    /// address. The request form moves a neighbour's entry even within its
    /// lock time, which the reply form does not.
    pub const fn announcement(mac: Mac, address: Ipv4Addr) -> Self {
        Self {
            destination: Mac::BROADCAST,
            source: mac,
            operation: ArpOperation::Request,
            sender_mac: mac,
            sender_ip: address,
            target_mac: Mac::ZERO,
            target_ip: address,
        }
    }

    /// An announcement in the reply form, with the sender as the target too:
    /// neighbours recognise no other reply as an announcement. For devices that
    /// heed no requests about others.
    pub const fn reply_announcement(mac: Mac, address: Ipv4Addr) -> Self {
        Self {
            operation: ArpOperation::Reply,
            target_mac: mac,
            ..Self::announcement(mac, address)
        }
    }

    /// A question to all for `target`, from `source`. From 0.0.0.0 it is a
    /// probe (RFC 5227 §1.1), from which nobody learns a thing.
    pub const fn question(mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            destination: Mac::BROADCAST,
            source: mac,
            operation: ArpOperation::Request,
            sender_mac: mac,
            sender_ip: source,
            target_mac: Mac::ZERO,
            target_ip: target,
        }
    }

    /// The answer to this request, for an address that `mac` stands for.
    #[must_use]
    pub const fn reply(&self, mac: Mac) -> Self {
        Self {
            destination: self.sender_mac,
            source: mac,
            operation: ArpOperation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// Whether the sender claims its own address to all (RFC 5227 §3), in the
    /// request or the reply form.
    pub fn is_announcement(&self) -> bool {
        self.sender_ip == self.target_ip && !self.sender_ip.is_unspecified()
    }

    /// Whether the sender tests an address before it uses it (RFC 5227 §1.1).
    pub fn is_probe(&self) -> bool {
        self.operation == ArpOperation::Request && self.sender_ip.is_unspecified()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{ArpPacket as Oracle, ArpRepr, EthernetFrame};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ArpPacket::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read_back_by_us_and_by_another(
            macs in any::<[[u8; 6]; 2]>(), ips in any::<[[u8; 4]; 2]>(), request in any::<bool>(),
        ) {
            let packet = ArpPacket {
                destination: Mac(macs[1]),
                source: Mac(macs[0]),
                operation: if request { ArpOperation::Request } else { ArpOperation::Reply },
                sender_mac: Mac(macs[0]),
                sender_ip: ips[0].into(),
                target_mac: Mac(macs[1]),
                target_ip: ips[1].into(),
            };
            let frame = packet.to_frame();
            prop_assert_eq!(ArpPacket::parse(&frame), Ok(packet));
            let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
            let theirs = ArpRepr::parse(&Oracle::new_checked(ethernet.payload()).unwrap()).unwrap();
            let ArpRepr::EthernetIpv4 { source_hardware_addr, target_protocol_addr, .. } = theirs
            else { panic!("the oracle reads another kind") };
            prop_assert_eq!(source_hardware_addr.0, macs[0]);
            prop_assert_eq!(target_protocol_addr.octets(), ips[1]);
        }
    }

    #[test]
    fn other_hardware_is_refused() {
        let mut frame = ArpPacket::announcement(Mac([2; 6]), Ipv4Addr::LOCALHOST)
            .to_frame()
            .to_vec();
        frame[15] = 6;
        assert!(matches!(ArpPacket::parse(&frame), Err(Malformed::Field(_))));
    }
}
