//! Classic BPF programs that run in the kernel on every frame of their type,
//! so that what is not for us never wakes us (Linux `socket(7)`,
//! `SO_ATTACH_FILTER`).

/// One instruction: `code`, jumps when true and when false, operand.
pub(crate) type Instruction = (u16, u8, u8, u32);

/// `A = word at k`.
const LD: u16 = 0x20;
/// `A = halfword at k`.
const LDH: u16 = 0x28;
/// `A = byte at k`.
const LDB: u16 = 0x30;
/// `if A == k`.
const JEQ: u16 = 0x15;
/// `return k` bytes of the frame.
const RET: u16 = 0x06;

/// Longer than any frame we look at.
const WHOLE: u32 = 0xffff;

/// Where the kernel lets a load find the index of the interface that a frame
/// came in on (`SKF_AD_OFF + SKF_AD_IFINDEX`).
const INTERFACE: u32 = 0xffff_f008;

/// Where it finds whom the frame is for (`SKF_AD_OFF + SKF_AD_PKTTYPE`).
const PACKET_TYPE: u32 = 0xffff_f004;

/// For another host; the interface is promiscuous. A frame with the tag of a
/// VLAN that this host does not know, the tag gone, has this type too.
const OTHER_HOST: u32 = 3;

/// What a packet socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// ARP over Ethernet.
    Arp,
    /// Neighbor Solicitations and Advertisements, without extension headers,
    /// which RFC 4861 messages do not have.
    NeighborDiscovery,
}

impl Traffic {
    /// Its Ethernet type.
    pub(crate) const fn ethertype(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::NeighborDiscovery => 0x86dd,
        }
    }

    /// The program that passes it and nothing else. The interface is checked
    /// too: a socket on an interface also gets what belongs to a VLAN on top
    /// of it, with the tag gone, and an answer would go to the wrong network.
    /// Replies pass as well as requests: they are how others' claims show, and
    /// only those to this host arrive.
    pub(crate) fn filter(self, interface: u32) -> Vec<Instruction> {
        let mut program = vec![
            (LD, 0, 0, INTERFACE),
            (JEQ, 1, 0, interface),
            (RET, 0, 0, 0),
            (LD, 0, 0, PACKET_TYPE),
            (JEQ, 0, 1, OTHER_HOST),
            (RET, 0, 0, 0),
            (LDH, 0, 0, 12),
            (JEQ, 1, 0, self.ethertype().into()),
            (RET, 0, 0, 0),
        ];
        if self == Self::NeighborDiscovery {
            program.extend([
                // Next header.
                (LDB, 0, 0, 20),
                (JEQ, 0, 5, 58),
                // Hop limit: less, and it was forwarded (RFC 4861 §7.1).
                (LDB, 0, 0, 21),
                (JEQ, 0, 3, 255),
                // ICMPv6 type.
                (LDB, 0, 0, 54),
                (JEQ, 2, 0, 135),
                (JEQ, 1, 0, 136),
                (RET, 0, 0, 0),
            ]);
        }
        program.push((RET, 0, 0, WHOLE));
        program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 3;

    /// Runs a program as the kernel would on a frame that came in on an
    /// interface; a load past the end drops the frame.
    fn passes_as(interface: u32, kind: u32, traffic: Traffic, frame: &[u8]) -> bool {
        let program = traffic.filter(OURS);
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let (code, yes, no, k) = program[at];
            let offset = usize::try_from(k).unwrap();
            at += 1;
            match code {
                LD if k == INTERFACE => accumulator = interface,
                LD if k == PACKET_TYPE => accumulator = kind,
                LDH => match frame.get(offset..offset + 2) {
                    Some(bytes) => {
                        accumulator = u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                    }
                    None => return false,
                },
                LDB => match frame.get(offset) {
                    Some(byte) => accumulator = u32::from(*byte),
                    None => return false,
                },
                JEQ => at += usize::from(if accumulator == k { yes } else { no }),
                RET => return k > 0,
                other => panic!("no instruction has code {other:#x}"),
            }
        }
    }

    fn passes_on(interface: u32, traffic: Traffic, frame: &[u8]) -> bool {
        passes_as(interface, 0, traffic, frame)
    }

    fn passes(traffic: Traffic, frame: &[u8]) -> bool {
        passes_on(OURS, traffic, frame)
    }

    fn frame(kind: u16, next: u8, icmp: u8) -> Vec<u8> {
        let mut frame = vec![0; 86];
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame[20] = next;
        frame[21] = 255;
        frame[54] = icmp;
        frame
    }

    #[test]
    fn only_arp_passes_as_arp() {
        assert!(passes(Traffic::Arp, &frame(0x0806, 0, 0)));
        assert!(!passes(Traffic::Arp, &frame(0x0800, 0, 0)));
        assert!(!passes(Traffic::Arp, &[0; 4]));
    }

    #[test]
    fn only_neighbor_messages_pass_as_neighbor_discovery() {
        let discovery = Traffic::NeighborDiscovery;
        for (icmp, wanted) in [
            (133, false),
            (134, false),
            (135, true),
            (136, true),
            (137, false),
        ] {
            assert_eq!(
                passes(discovery, &frame(0x86dd, 58, icmp)),
                wanted,
                "{icmp}"
            );
        }
        let mut forwarded = frame(0x86dd, 58, 135);
        forwarded[21] = 254;
        assert!(!passes(discovery, &forwarded));
        assert!(!passes(discovery, &frame(0x86dd, 6, 135)));
        assert!(!passes(discovery, &frame(0x0800, 58, 135)));
        assert!(!passes(discovery, &frame(0x86dd, 58, 135)[..40]));
    }

    #[test]
    fn what_is_for_another_host_does_not_pass() {
        for traffic in [Traffic::Arp, Traffic::NeighborDiscovery] {
            let frame = frame(traffic.ethertype(), 58, 136);
            // Host, broadcast and multicast.
            for kind in 0..3 {
                assert!(passes_as(OURS, kind, traffic, &frame));
            }
            assert!(!passes_as(OURS, OTHER_HOST, traffic, &frame));
        }
    }

    #[test]
    fn what_belongs_to_another_interface_does_not_pass() {
        assert!(!passes_on(OURS + 1, Traffic::Arp, &frame(0x0806, 0, 0)));
        let solicitation = frame(0x86dd, 58, 135);
        assert!(!passes_on(
            OURS + 1,
            Traffic::NeighborDiscovery,
            &solicitation
        ));
    }
}
