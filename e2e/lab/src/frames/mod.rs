//! Raw frames from a host of the lab: questions as fast as they are answered,
//! and frames that no host should send. Run as children in the host's network
//! namespace.

mod ask;
mod hostile;
mod peers;
mod replay;
mod survey;

pub use ask::{AskArguments, AskReport};
pub use hostile::HostileArguments;
pub use peers::{PeersArguments, Pretending};
pub use replay::{RecordArguments, ReplayArguments};
pub use survey::{Moved, SurveyArguments, Surveying, epoch_ms};

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use herald_net::{Links, PacketSocket, Traffic};

/// An interface to send on.
struct Wire {
    index: u32,
    mac: [u8; 6],
    address: Ipv4Addr,
}

impl Wire {
    /// The interface of that name, with its first IPv4 address.
    async fn named(name: &str) -> Result<Self> {
        let interfaces = Links::subscribe()?.list().await?;
        let interface = interfaces
            .values()
            .find(|interface| interface.name == name)
            .with_context(|| format!("there is no interface {name}"))?;
        let v4 = interface
            .addresses
            .iter()
            .find_map(|(address, _)| match address {
                std::net::IpAddr::V4(address) => Some(*address),
                std::net::IpAddr::V6(_) => None,
            });
        Ok(Self {
            index: interface.index,
            mac: interface
                .mac
                .with_context(|| format!("{name} is no Ethernet"))?,
            address: v4.with_context(|| format!("{name} has no IPv4 address"))?,
        })
    }

    fn open(&self, traffic: Traffic) -> Result<PacketSocket> {
        Ok(PacketSocket::open(self.index, traffic)?)
    }
}

/// An ARP request (RFC 826) to all.
fn arp_request(mac: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    // ARP; Ethernet and IPv4, lengths 6 and 4; a request.
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(source.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}
