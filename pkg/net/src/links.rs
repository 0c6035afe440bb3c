//! The node's interfaces and their addresses, by netlink subscription.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoPortKind, LinkAttribute, LinkEvent, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use thiserror::Error;

/// News comes in flocks (a link, its addresses, its routes): one look at the
/// whole answers them all.
const SETTLE: Duration = Duration::from_millis(5);

/// Why the kernel's interfaces can't be read.
#[derive(Debug, Error)]
pub enum LinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A request failed.
    #[error("cannot list interfaces and addresses")]
    List(#[source] rtnetlink::Error),
    /// The subscription ended.
    #[error("the netlink subscription ended")]
    Ended,
}

/// An interface as far as announcing cares.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the kernel's"
)]
pub struct Interface {
    /// `ifindex`.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, for Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Administratively up, and with a carrier.
    pub running: bool,
    /// It has no ARP or NDP (`NOARP`).
    pub no_arp: bool,
    /// It is a loopback.
    pub loopback: bool,
    /// It is a port of a bridge or bond, which speaks for it. One that a VRF
    /// has speaks for itself.
    pub enslaved: bool,
    /// How often its carrier came or went; another number means that the link
    /// was away, however shortly.
    pub carrier_changes: u32,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    /// Whether addresses can be announced on it now.
    pub const fn can_announce(&self) -> bool {
        self.running && self.is_suitable()
    }

    /// Whether addresses can be announced on it at all, while its link is up.
    pub const fn is_suitable(&self) -> bool {
        !self.no_arp && !self.loopback && !self.enslaved && self.mac.is_some()
    }

    /// Whether `address` lies in one of its subnets.
    pub fn reaches(&self, address: &IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|(own, length)| same_subnet(own, address, *length))
    }
}

/// Whether two addresses are equal in their first `length` bits.
pub fn same_subnet(a: &IpAddr, b: &IpAddr, length: u8) -> bool {
    let shifted = |bits: u128, width: u32| -> Option<u128> {
        match width.checked_sub(u32::from(length))? {
            0 => Some(bits),
            shift => Some(bits.checked_shr(shift).unwrap_or(0)),
        }
    };
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let (a, b) = (u128::from(a.to_bits()), u128::from(b.to_bits()));
            shifted(a, 32).is_some() && shifted(a, 32) == shifted(b, 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let (a, b) = (a.to_bits(), b.to_bits());
            shifted(a, 128).is_some() && shifted(a, 128) == shifted(b, 128)
        }
        _ => false,
    }
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Interfaces, by index, whose neighbours are to be told anew where
    /// addresses are, though nothing else about them may have changed: a bond
    /// has changed over to another of its ports, or the host of a virtual
    /// machine has moved it.
    pub notify_peers: BTreeSet<u32>,
}

impl News {
    fn add(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = &message.payload
            && link.attributes.iter().any(|attribute| {
                matches!(
                    attribute,
                    LinkAttribute::Event(LinkEvent::NotifyPeers | LinkEvent::BondingFailover)
                )
            })
        {
            self.notify_peers.insert(link.header.index);
        }
    }
}

/// A view of all interfaces that is told when it is out of date.
pub struct Links {
    handle: Handle,
    news: Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send + Unpin>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Links {
    /// Subscribes to changes of links and addresses. Must be called within a
    /// tokio runtime.
    pub fn subscribe() -> Result<Self, LinkError> {
        let (connection, handle, news) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])
        .map_err(LinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            news: Box::new(news),
        })
    }

    /// Returns when something has changed, and what can't be seen in
    /// [`list`](Self::list).
    pub async fn changed(&mut self) -> Result<News, LinkError> {
        let mut news = News::default();
        let (first, _) = self.news.next().await.ok_or(LinkError::Ended)?;
        news.add(&first);
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => return Ok(news),
                more = self.news.next() => news.add(&more.ok_or(LinkError::Ended)?.0),
            }
        }
    }

    /// All interfaces as they are now, by index.
    pub async fn list(&mut self) -> Result<BTreeMap<u32, Interface>, LinkError> {
        let mut interfaces = BTreeMap::new();
        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(link) = links.try_next().await.map_err(LinkError::List)? {
            interfaces.insert(link.header.index, interface(&link));
        }
        let mut addresses = std::pin::pin!(self.handle.address().get().execute());
        while let Some(message) = addresses.try_next().await.map_err(LinkError::List)? {
            if let (Some(interface), Some(address)) =
                (interfaces.get_mut(&message.header.index), address(&message))
            {
                interface
                    .addresses
                    .push((address, message.header.prefix_len));
            }
        }
        Ok(interfaces)
    }
}

fn interface(link: &LinkMessage) -> Interface {
    let flags = link.header.flags;
    let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        mac: None,
        running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        no_arp: flags.contains(LinkFlags::Noarp),
        loopback: flags.contains(LinkFlags::Loopback),
        enslaved: false,
        carrier_changes: 0,
        addresses: Vec::new(),
    };
    let mut in_vrf = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(bytes) if ethernet => {
                interface.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
            }
            LinkAttribute::Controller(index) => interface.enslaved = *index != 0,
            LinkAttribute::CarrierChanges(count) => interface.carrier_changes = *count,
            LinkAttribute::LinkInfo(infos) => {
                in_vrf = infos.contains(&LinkInfo::PortKind(InfoPortKind::Vrf));
            }
            _ => {}
        }
    }
    interface.enslaved &= !in_vrf;
    interface
}

/// The interface's own address; the peer's is another attribute.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |local: bool| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
    };
    find(true).or_else(|| find(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(addresses: &[(&str, u8)]) -> Interface {
        Interface {
            index: 2,
            name: "lan0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running: true,
            no_arp: false,
            loopback: false,
            enslaved: false,
            carrier_changes: 0,
            addresses: addresses
                .iter()
                .map(|(ip, len)| (ip.parse().unwrap(), *len))
                .collect(),
        }
    }

    #[test]
    fn an_address_is_reached_through_its_subnet() {
        let lan = interface(&[("10.20.0.11", 16), ("fd20::b", 64)]);
        assert!(lan.reaches(&"10.20.100.0".parse().unwrap()));
        assert!(!lan.reaches(&"10.21.0.1".parse().unwrap()));
        assert!(lan.reaches(&"fd20::1:0".parse().unwrap()));
        assert!(!lan.reaches(&"fd21::1".parse().unwrap()));
        let all = interface(&[("0.0.0.0", 0)]);
        assert!(all.reaches(&"192.0.2.1".parse().unwrap()));
    }

    /// A link as the kernel tells of it, with these attributes.
    fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        link.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        ];
        link.attributes.extend(attributes);
        link
    }

    fn port_of(kind: InfoPortKind) -> Interface {
        super::interface(&link(vec![
            LinkAttribute::Controller(3),
            LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(kind)]),
        ]))
    }

    #[test]
    fn ports_of_bonds_and_bridges_are_left_out_and_those_of_a_vrf_are_not() {
        assert!(super::interface(&link(vec![])).can_announce());
        for kind in [
            InfoPortKind::Bond,
            InfoPortKind::Bridge,
            InfoPortKind::Team,
            InfoPortKind::Other("openvswitch".into()),
        ] {
            assert!(!port_of(kind.clone()).can_announce(), "{kind}");
        }
        assert!(port_of(InfoPortKind::Vrf).can_announce());
    }

    #[test]
    fn a_fail_over_of_a_bond_is_news_for_its_neighbours() {
        let mut news = News::default();
        let told = |event| {
            let link = link(vec![LinkAttribute::Event(event)]);
            NetlinkMessage::from(RouteNetlinkMessage::NewLink(link))
        };
        news.add(&told(LinkEvent::Features));
        assert_eq!(news, News::default());
        news.add(&told(LinkEvent::NotifyPeers));
        assert_eq!(news.notify_peers, BTreeSet::from([7]));
    }

    #[test]
    fn a_bridge_port_leaves_announcing_to_its_bridge() {
        let mut port = interface(&[]);
        assert!(port.can_announce());
        port.enslaved = true;
        assert!(!port.can_announce());
    }
}
