//! Heartbeats of real speakers, recorded on the segment, and sent again: as they
//! were, and as somebody without the key would forge them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use herald_election::{Heartbeat, KeyRing, TRAILER};
use herald_net::{HEARTBEAT_GROUP_V4, HEARTBEAT_PORT, HeartbeatSocket, ON_LINK, Traffic};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::Wire;

/// Record heartbeats until SIGTERM.
#[derive(Clone, Debug, Args)]
pub struct RecordArguments {
    /// Where they are kept: a JSON object a line.
    file: PathBuf,
    /// On which interface.
    #[arg(long, default_value = "lan0")]
    interface: String,
}

/// Send recorded heartbeats again, each in every way of [`ways`].
#[derive(Clone, Debug, Args)]
pub struct ReplayArguments {
    /// What was recorded.
    file: PathBuf,
    /// On which interface.
    #[arg(long, default_value = "lan0")]
    interface: String,
}

/// A datagram and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Recorded {
    source: IpAddr,
    bytes: Vec<u8>,
}

impl RecordArguments {
    /// Listens, and tells how many there were.
    pub async fn run(self) -> Result<()> {
        let mut terminated = signal(SignalKind::terminate())?;
        let wire = Wire::named(&self.interface).await?;
        let socket = HeartbeatSocket::open(wire.index, false)?;
        let mut lines = String::new();
        let mut count = 0_u32;
        let mut buffer = [0; 2048];
        loop {
            let datagram = tokio::select! {
                datagram = socket.receive(&mut buffer) => datagram?,
                _ = terminated.recv() => break,
            };
            let recorded = Recorded {
                source: datagram.source,
                bytes: buffer[..datagram.length].to_vec(),
            };
            lines += &serde_json::to_string(&recorded)?;
            lines.push('\n');
            count += 1;
        }
        std::fs::write(&self.file, lines)
            .with_context(|| format!("write {}", self.file.display()))?;
        println!("{count} heartbeats");
        Ok(())
    }
}

impl ReplayArguments {
    /// Sends, and tells how many.
    pub async fn run(self) -> Result<()> {
        let text = std::fs::read_to_string(&self.file)
            .with_context(|| format!("read {}", self.file.display()))?;
        let wire = Wire::named(&self.interface).await?;
        let own = HeartbeatSocket::open(wire.index, false)?;
        let raw = wire.open(Traffic::Arp)?;
        let stranger = KeyRing::new([[0x5a; 32]])?;
        let mut count = 0_u32;
        for line in text.lines() {
            let recorded: Recorded = serde_json::from_str(line)?;
            for bytes in ways(&recorded.bytes, &stranger) {
                own.send_to_group(&bytes)?;
                count += 1;
                if let IpAddr::V4(source) = recorded.source {
                    raw.send(&[datagram(wire.mac, source, &bytes)]).await?;
                    count += 1;
                }
            }
        }
        println!("{count} datagrams");
        Ok(())
    }
}

/// Octets that are left of a datagram that is cut: too few for a seal.
const SHORT: usize = TRAILER - 1;

/// As it was; with its content changed under the old seal; what it says, and
/// that its sender leaves, under the seal of another key; and its beginning.
fn ways(bytes: &[u8], stranger: &KeyRing) -> Vec<Vec<u8>> {
    let mut all = vec![bytes.to_vec(), bytes[..bytes.len().min(SHORT)].to_vec()];
    let Some(message) = bytes.len().checked_sub(TRAILER).map(|end| &bytes[..end]) else {
        return all;
    };
    if let Ok(mut heartbeat) = Heartbeat::parse(message) {
        heartbeat.leaving = true;
        heartbeat.sequence += 1_000_000;
        let forged = heartbeat.to_bytes();
        all.push(stranger.seal(forged.clone()));
        all.push([&forged, &bytes[message.len()..]].concat());
    }
    all
}

/// A UDP datagram to the heartbeats' group in the name of another host, as an
/// Ethernet frame (RFC 791, RFC 768).
fn datagram(mac: [u8; 6], source: Ipv4Addr, bytes: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 28;
    let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    let [_, b, c, d] = HEARTBEAT_GROUP_V4.octets();
    // The group's hardware address (RFC 1112 §6.4).
    let mut frame = vec![1, 0, 0x5e, b & 0x7f, c, d];
    frame.extend(mac);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(length(HEADERS + bytes.len()));
    frame.extend([0, 0, 0, 0, ON_LINK, 17, 0, 0]);
    frame.extend(source.octets());
    frame.extend(HEARTBEAT_GROUP_V4.octets());
    let checksum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(HEARTBEAT_PORT.to_be_bytes());
    frame.extend(HEARTBEAT_PORT.to_be_bytes());
    frame.extend(length(8 + bytes.len()));
    // IPv4 lets UDP go without a checksum.
    frame.extend([0, 0]);
    frame.extend(bytes);
    frame
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use herald_election::{AuthError, NodeId};

    use super::*;

    #[test]
    fn only_what_was_not_changed_is_opened_with_the_key() {
        let keys = KeyRing::new([[7; 32]]).unwrap();
        let heartbeat = Heartbeat {
            sender: NodeId::of("n1"),
            session: 1,
            sequence: 2,
            interval: Duration::from_millis(70),
            ready: true,
            votes: true,
            draining: false,
            leaving: false,
            view: 3,
            claims: 4,
            floor: 0,
            opinion: None,
            page: None,
            hardware: None,
        };
        let sealed = keys.seal(heartbeat.to_bytes());
        let ways = ways(&sealed, &KeyRing::new([[8; 32]]).unwrap());
        let opened: Vec<_> = ways.iter().map(|way| keys.open(way).map(drop)).collect();
        assert_eq!(opened[0], Ok(()));
        assert_eq!(opened[1], Err(AuthError::Short));
        assert_eq!(opened[2], Err(AuthError::UnknownKey));
        assert_eq!(opened[3], Err(AuthError::Forged));
    }

    #[test]
    fn a_checksum_over_its_own_header_is_zero() {
        let frame = datagram([2; 6], Ipv4Addr::new(10, 20, 0, 11), b"12345");
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(frame.len(), 14 + 28 + 5);
        assert_eq!(frame[..6], [1, 0, 0x5e, 0, 0, 254]);
    }
}
