//! Frames that no host should send: noise, halves, lengths that lie, messages
//! that were forwarded. None of them claims an address by the rules.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use clap::Args;
use herald_net::Traffic;

use super::{Wire, arp_request};

/// Frames sent together.
const BATCH: usize = 64;

const SENDER: [u8; 6] = [2, 0x66, 0x66, 0x66, 0x66, 0x66];
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 20, 66, 66);

/// What the frames are about, and how many there are.
#[derive(Clone, Debug, Args)]
pub struct HostileArguments {
    /// An IPv4 address that somebody owns.
    v4: Ipv4Addr,
    /// An IPv6 address that somebody owns.
    v6: Ipv6Addr,
    /// On which interface.
    #[arg(long, default_value = "lan0")]
    interface: String,
    /// The same seed makes the same frames.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many of each kind.
    #[arg(long, default_value_t = 1000)]
    count: usize,
}

impl HostileArguments {
    /// Sends them.
    pub async fn run(self) -> Result<()> {
        let wire = Wire::named(&self.interface).await?;
        let socket = wire.open(Traffic::Arp)?;
        let mut random = fastrand::Rng::with_seed(self.seed);
        let kinds: [fn(&Self, &mut fastrand::Rng) -> Vec<u8>; 4] = [
            |_, random| noise(random),
            Self::arp,
            Self::solicitation,
            Self::advertisement,
        ];
        let mut frames = Vec::new();
        for _ in 0..self.count {
            frames.extend(kinds.map(|make| make(&self, &mut random)));
            if frames.len() >= BATCH {
                socket.send(&frames).await?;
                frames.clear();
            }
        }
        socket.send(&frames).await?;
        println!("{} frames", self.count * kinds.len());
        Ok(())
    }

    /// A question for the address, damaged.
    fn arp(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut frame = arp_request(SENDER, SOURCE, self.v4);
        damage(&mut frame, 14, random);
        // It must not say that the address is its sender's.
        if frame.get(28..32) == Some(&self.v4.octets()) {
            frame.truncate(30);
        }
        cut(frame, random)
    }

    /// A question for the address with options that make no sense.
    fn solicitation(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let length = random.usize(..64);
        let mut options: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(length)
            .collect();
        if let Some(units) = options.get_mut(1) {
            *units = random.choice([0, 1, 2, 31, 255]).unwrap_or(0);
        }
        let frame = neighbor_message(135, 255, self.v6, &options);
        cut(frame, random)
    }

    /// An advertisement of the address that was forwarded, so that its checksum
    /// is right and nobody may believe it.
    fn advertisement(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let option = [&[2, 1][..], &SENDER].concat();
        neighbor_message(136, random.u8(..255), self.v6, &option)
    }
}

/// Anything at all behind the type.
fn noise(random: &mut fastrand::Rng) -> Vec<u8> {
    let kind = if random.bool() { [8, 6] } else { [0x86, 0xdd] };
    let mut frame = vec![0xff; 6];
    frame.extend(SENDER);
    frame.extend(kind);
    let length = random.usize(..400);
    frame.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
    frame
}

/// Changes some bytes from `from` on.
fn damage(frame: &mut [u8], from: usize, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..8) {
        let at = random.usize(from..frame.len());
        frame[at] = random.u8(..);
    }
}

/// Cuts every other frame off somewhere behind its type.
fn cut(mut frame: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    if random.bool() {
        frame.truncate(random.usize(14..=frame.len().max(14)));
    }
    frame
}

/// A Neighbor Solicitation or Advertisement (RFC 4861 sections 4.3 and 4.4) to
/// all nodes, with override and the right checksum.
fn neighbor_message(kind: u8, hops: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x66, 0x66);
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut body = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(target.octets());
    body.extend(options);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut sum = u32::from(length) + 58;
    for word in source.segments().into_iter().chain(all.segments()) {
        sum += u32::from(word);
    }
    for pair in body.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or(0);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(SENDER);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([58, hops]);
    frame.extend(source.octets());
    frame.extend(all.octets());
    frame.extend(body);
    frame
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use jiff::Timestamp;

    use super::*;
    use crate::capture::{Frame, Packet};

    #[test]
    fn no_frame_claims_the_address_by_the_rules() {
        let (v4, v6): (IpAddr, IpAddr) =
            ("10.20.100.0".parse().unwrap(), "fd20::1:0".parse().unwrap());
        let (IpAddr::V4(ours), IpAddr::V6(ours6)) = (v4, v6) else {
            unreachable!()
        };
        let hostile = HostileArguments {
            v4: ours,
            v6: ours6,
            interface: "lan0".into(),
            seed: 1,
            count: 1,
        };
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            for frame in [
                noise(&mut random),
                hostile.arp(&mut random),
                hostile.solicitation(&mut random),
                hostile.advertisement(&mut random),
            ] {
                let Some(frame) = Frame::read(Timestamp::UNIX_EPOCH, &frame) else {
                    continue;
                };
                assert_eq!(frame.claims(v4), None);
                let forwarded = matches!(
                    &frame.packet, Packet::Advertisement(said) if said.hop_limit != 255
                );
                assert!(forwarded || frame.claims(v6).is_none());
            }
        }
    }

    #[test]
    fn a_solicitation_without_options_is_read_by_another_stack() {
        let target = "fd20::1:0".parse().unwrap();
        let frame = neighbor_message(135, 255, target, &[]);
        let frame = Frame::read(Timestamp::UNIX_EPOCH, &frame).unwrap();
        assert!(frame.asks_for(target.into()));
    }
}
