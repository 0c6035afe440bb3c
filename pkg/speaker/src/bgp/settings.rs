//! A `BGPPeer` on this node, in the words of the protocol's rooms.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use herald_api::{AddressFamily, BGPPeerSpec, DynamicAsn};
use herald_bgp::{
    Community, ExtendedCommunity, Families, Family, LargeCommunity, NextHop, PathAttributes,
    PeerAs, PeerConfig,
};
use herald_net::{Distance, Interface};
use jiff::SignedDuration;

/// What is known of the node.
pub(super) struct Facts<'a> {
    pub(super) node: &'a str,
    pub(super) router_id: Ipv4Addr,
    pub(super) addresses: &'a [IpAddr],
    pub(super) interfaces: &'a BTreeMap<u32, Interface>,
    pub(super) aliases: &'a BTreeMap<String, String>,
}

/// How a peer is spoken with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) config: PeerConfig,
    pub(super) peer: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) device: Option<String>,
    pub(super) distance: Distance,
    /// Name of the Secret with the password.
    pub(super) secret: Option<String>,
    /// What is left out, in words.
    pub(super) problem: Option<String>,
}

/// The settings of a peer, or why there can be none.
pub(super) fn settings(spec: &BGPPeerSpec, facts: &Facts) -> Result<Settings, String> {
    if spec.interface.is_some() || !spec.listen_ranges.is_empty() {
        return Err("this version speaks only with peers that have a peerAddress".into());
    }
    let text = spec.peer_address.as_deref().unwrap_or_default();
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("peerAddress {text:?} is no IP address"))?;
    let source = spec.source_address.as_deref().map(ip).transpose()?;
    if let Some(source) = source
        && !facts.interfaces.is_empty()
        && !facts
            .interfaces
            .values()
            .any(|interface| interface.addresses.iter().any(|(own, _)| *own == source))
    {
        return Err(format!(
            "no interface of this node has sourceAddress {source}"
        ));
    }
    let external = match (spec.peer_asn, spec.dynamic_asn) {
        (Some(peer), _) => peer != local_as(spec),
        (None, dynamic) => dynamic == Some(DynamicAsn::External),
    };
    let distance = match spec.ttl_security_hops {
        Some(hops) => Distance::Secured(hops),
        // RFC 4271 says nothing of it, and all routers do so: a neighbour of another
        // AS is on the link.
        None if external && !spec.ebgp_multi_hop => Distance::Hops(1),
        None => Distance::Hops(255),
    };
    let mut config = config(spec, facts, address)?;
    let mut problems = communities(&spec.communities, facts.aliases, &mut config.policy);
    if spec.bfd_profile.is_some() {
        problems.push("this version speaks no BFD: bfdProfile has no effect".into());
    }
    if let Some(secret) = &spec.password_secret
        && let Some(namespace) = &secret.namespace
    {
        tracing::debug!(namespace, "Secrets are read in Herald's namespace only");
    }
    config.validate().map_err(|error| error.to_string())?;
    Ok(Settings {
        config,
        peer: socket_address(spec, address, facts)?,
        source,
        device: spec.vrf.clone(),
        distance,
        secret: spec.password_secret.as_ref().map(|s| s.name.clone()),
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
    })
}

fn local_as(spec: &BGPPeerSpec) -> u32 {
    spec.local_asn.unwrap_or(spec.my_asn)
}

fn socket_address(
    spec: &BGPPeerSpec,
    address: IpAddr,
    facts: &Facts,
) -> Result<SocketAddr, String> {
    let IpAddr::V6(v6) = address else {
        return Ok(SocketAddr::new(address, spec.peer_port));
    };
    if !v6.is_unicast_link_local() {
        return Ok(SocketAddr::new(address, spec.peer_port));
    }
    let name = spec
        .source_interface
        .as_ref()
        .ok_or("a link-local peerAddress needs sourceInterface")?;
    let found = facts.interfaces.iter().find(|(_, i)| i.name == *name);
    let (index, _) = found.ok_or_else(|| format!("this node has no interface {name}"))?;
    Ok(SocketAddrV6::new(v6, spec.peer_port, 0, *index).into())
}

fn config(spec: &BGPPeerSpec, facts: &Facts, address: IpAddr) -> Result<PeerConfig, String> {
    let peer_as = match (spec.peer_asn, spec.dynamic_asn) {
        (Some(number), _) => PeerAs::Exactly(number),
        (None, Some(DynamicAsn::Internal)) => PeerAs::Internal,
        (None, _) => PeerAs::External,
    };
    let router_id = match &spec.router_id {
        Some(text) => text
            .parse()
            .map_err(|_| format!("routerID {text:?} is no IPv4 address"))?,
        None => facts.router_id,
    };
    let mut config = PeerConfig::new(local_as(spec), peer_as, router_id);
    config.passive = spec.passive;
    if let Some(time) = span("holdTime", spec.hold_time.as_deref())? {
        config.hold_time = time;
    }
    config.keepalive_time = span("keepaliveTime", spec.keepalive_time.as_deref())?;
    if let Some(time) = span("connectTime", spec.connect_time.as_deref())? {
        config.connect_retry = time;
    }
    config.send_hold_time = span("sendHoldTime", spec.send_hold_time.as_deref())?;
    config.families = families(spec, address);
    config.next_hop_v4 = match spec.next_hop_ipv4.as_deref().map(ip).transpose()? {
        Some(IpAddr::V4(address)) => Some(NextHop::V4(address)),
        Some(IpAddr::V6(address)) => Some(NextHop::V6(address)),
        None => None,
    };
    config.next_hop_v6 = match spec.next_hop_ipv6.as_deref().map(ip).transpose()? {
        Some(IpAddr::V6(address)) => Some(NextHop::V6(address)),
        Some(IpAddr::V4(address)) => return Err(format!("nextHopIPv6 {address} is IPv4")),
        None if address.is_ipv4() => own_ipv6(facts, address).map(NextHop::V6),
        None => None,
    };
    if spec.enable_graceful_restart == Some(false) {
        config.graceful_restart = None;
    } else if let Some(settings) = &spec.graceful_restart
        && let Some(time) = span("restartTime", settings.restart_time.as_deref())?
    {
        config.graceful_restart = Some(time);
    }
    config.extended_messages = spec.extended_messages;
    config.hostname = Some(facts.node.chars().take(63).collect());
    config.software = Some(concat!("herald/", env!("CARGO_PKG_VERSION")).into());
    config.policy = PathAttributes {
        med: spec.med,
        local_pref: spec.local_pref,
        prepend: spec.as_path_prepend,
        ..PathAttributes::default()
    };
    Ok(config)
}

fn families(spec: &BGPPeerSpec, address: IpAddr) -> Families {
    if spec.dual_stack_address_family {
        return Families::BOTH;
    }
    if spec.address_families.is_empty() {
        return Family::of(address).into();
    }
    let family = |family: &AddressFamily| match family {
        AddressFamily::Ipv4 => Family::Ipv4,
        AddressFamily::Ipv6 => Family::Ipv6,
    };
    spec.address_families.iter().map(family).collect()
}

/// Where an IPv4 peer sends IPv6 traffic: to our address on the same interface, else
/// to the node's.
fn own_ipv6(facts: &Facts, peer: IpAddr) -> Option<std::net::Ipv6Addr> {
    let global = |address: &IpAddr| match address {
        IpAddr::V6(v6) if !v6.is_unicast_link_local() && !v6.is_loopback() => Some(*v6),
        _ => None,
    };
    let near = facts.interfaces.values().filter(|i| i.reaches(&peer));
    near.flat_map(|i| &i.addresses)
        .find_map(|(address, _)| global(address))
        .or_else(|| facts.addresses.iter().find_map(global))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no IP address"))
}

/// A duration as Go writes it.
fn span(name: &str, text: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let duration: Result<SignedDuration, _> = text.parse();
    let unsigned = duration.ok().and_then(|d| Duration::try_from(d).ok());
    match unsigned {
        Some(duration) => Ok(Some(duration)),
        None => Err(format!(
            "{name} {text:?} is no duration such as 90s or 1m30s"
        )),
    }
}

/// Adds communities; gives what is wrong with some of them, in words.
pub(super) fn communities(
    texts: &[String],
    aliases: &BTreeMap<String, String>,
    attributes: &mut PathAttributes,
) -> Vec<String> {
    let mut problems = BTreeSet::new();
    for text in texts {
        let value = aliases.get(text).unwrap_or(text);
        if !add_community(value, attributes) {
            problems.insert(format!(
                "{value:?} is neither a community nor a name that a Community gives one"
            ));
        }
    }
    problems.into_iter().collect()
}

fn add_community(text: &str, attributes: &mut PathAttributes) -> bool {
    let known = match text {
        "no-export" => Some(Community::NO_EXPORT),
        "no-advertise" => Some(Community::NO_ADVERTISE),
        "no-export-subconfed" => Some(Community::NO_EXPORT_SUBCONFED),
        "no-peer" => Some(Community::NO_PEER),
        "graceful-shutdown" => Some(Community::GRACEFUL_SHUTDOWN),
        "blackhole" => Some(Community::BLACKHOLE),
        _ => text.parse().ok(),
    };
    if let Some(community) = known {
        attributes.communities.push(community);
        true
    } else if text.starts_with("large:")
        && let Ok(large) = text.parse::<LargeCommunity>()
    {
        attributes.large_communities.push(large);
        true
    } else if let Some(extended) = extended(text) {
        attributes.extended_communities.push(extended);
        true
    } else {
        false
    }
}

/// `rt:64512:1` and `soo:64512:1` (RFC 4360 §4, §5; RFC 5668 where the AS has four
/// octets), `ext:0x…`.
fn extended(text: &str) -> Option<ExtendedCommunity> {
    if let Some(digits) = text.strip_prefix("ext:0x") {
        let value = u64::from_str_radix(digits, 16).ok()?;
        return (digits.len() == 16).then(|| ExtendedCommunity(value.to_be_bytes()));
    }
    let (kind, rest) = text.split_once(':')?;
    let subtype = match kind {
        "rt" => 2,
        "soo" => 3,
        _ => return None,
    };
    let (number, value) = rest.split_once(':')?;
    let (number, value): (u32, u32) = (number.parse().ok()?, value.parse().ok()?);
    let mut octets = [0, subtype, 0, 0, 0, 0, 0, 0];
    if let Ok(short) = u16::try_from(number) {
        octets[2..4].copy_from_slice(&short.to_be_bytes());
        octets[4..].copy_from_slice(&value.to_be_bytes());
    } else {
        octets[0] = 2;
        octets[2..6].copy_from_slice(&number.to_be_bytes());
        octets[6..].copy_from_slice(&u16::try_from(value).ok()?.to_be_bytes());
    }
    Some(ExtendedCommunity(octets))
}
