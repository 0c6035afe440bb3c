//! Classic BPF programs that run in the kernel on every frame of their type,
//! so that what is not for us never wakes us (Linux `socket(7)`,
//! `SO_ATTACH_FILTER`).

/// One instruction: `code`, jumps when true and when false, operand.
pub type Instruction = (u16, u8, u8, u32);

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

/// ARP requests and replies over Ethernet.
pub const ARP: &[Instruction] = &[
    (LDH, 0, 0, 12),
    (JEQ, 0, 1, 0x0806),
    (RET, 0, 0, WHOLE),
    (RET, 0, 0, 0),
];

/// Neighbor Solicitations and Advertisements without extension headers, which
/// RFC 4861 messages do not have.
pub const NEIGHBOR_DISCOVERY: &[Instruction] = &[
    (LDH, 0, 0, 12),
    (JEQ, 0, 6, 0x86dd),
    (LDB, 0, 0, 20),
    (JEQ, 0, 4, 58),
    (LDB, 0, 0, 54),
    (JEQ, 1, 0, 135),
    (JEQ, 0, 1, 136),
    (RET, 0, 0, WHOLE),
    (RET, 0, 0, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would; a load past the end drops the frame.
    fn accepts(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let (code, yes, no, k) = program[at];
            let offset = usize::try_from(k).unwrap();
            at += 1;
            match code {
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

    fn frame(kind: u16, next: u8, icmp: u8) -> Vec<u8> {
        let mut frame = vec![0; 86];
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame[20] = next;
        frame[54] = icmp;
        frame
    }

    #[test]
    fn only_arp_passes_the_arp_filter() {
        assert!(accepts(ARP, &frame(0x0806, 0, 0)));
        assert!(!accepts(ARP, &frame(0x0800, 0, 0)));
        assert!(!accepts(ARP, &[0; 4]));
    }

    #[test]
    fn only_neighbor_messages_pass_the_other() {
        for (icmp, passes) in [
            (133, false),
            (134, false),
            (135, true),
            (136, true),
            (137, false),
        ] {
            assert_eq!(
                accepts(NEIGHBOR_DISCOVERY, &frame(0x86dd, 58, icmp)),
                passes,
                "{icmp}"
            );
        }
        assert!(!accepts(NEIGHBOR_DISCOVERY, &frame(0x86dd, 6, 135)));
        assert!(!accepts(NEIGHBOR_DISCOVERY, &frame(0x0800, 58, 135)));
        assert!(!accepts(NEIGHBOR_DISCOVERY, &frame(0x86dd, 58, 135)[..40]));
    }
}
