//! A `BGPPeer` on this node, in the words of the protocol's rooms.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use herald_api::{AddressFamily, BFDProfileSpec, BGPPeerSpec, DynamicAsn};
use herald_bfd::SessionConfig;
use herald_bgp::{Families, Family, NextHop, PathAttributes, PeerAs, PeerConfig};
use herald_l2::Neighbor;
use herald_net::{Distance, Interface};
use jiff::SignedDuration;

use super::bfd::Way;
use super::neighbors::Neighbors;

/// What is known of the node.
pub(super) struct Facts<'a> {
    pub(super) node: &'a str,
    pub(super) router_id: Ipv4Addr,
    pub(super) addresses: &'a [IpAddr],
    pub(super) interfaces: &'a BTreeMap<u32, Interface>,
    /// What is at the other end of those that unnumbered peers are on.
    pub(super) neighbors: &'a Neighbors,
    pub(super) aliases: &'a BTreeMap<String, String>,
    pub(super) profiles: &'a BTreeMap<String, BFDProfileSpec>,
}

/// Why there is no session with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) problem: String,
    /// Whether it is so for a moment only, and nobody need know.
    pub(super) passing: bool,
}

impl From<String> for Refused {
    fn from(problem: String) -> Self {
        Self {
            problem,
            passing: false,
        }
    }
}

/// How the path to a peer is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bfd {
    pub(super) way: Way,
    pub(super) config: SessionConfig,
}

/// How a peer is spoken with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) config: PeerConfig,
    pub(super) peer: SocketAddr,
    pub(super) source: Option<IpAddr>,
    /// The interface that an unnumbered peer is found on.
    pub(super) interface: Option<String>,
    pub(super) device: Option<String>,
    pub(super) distance: Distance,
    pub(super) bfd: Option<Bfd>,
    /// What is left out, in words.
    pub(super) problem: Option<String>,
}

impl Settings {
    /// Whether a session goes on with other settings: it is between the same two ends.
    pub(super) fn same_end(&self, other: &Self) -> bool {
        self.peer == other.peer
            && self.source == other.source
            && self.device == other.device
            && self.distance == other.distance
    }
}

/// The settings of a peer, or why there can be none.
pub(super) fn settings(spec: &BGPPeerSpec, facts: &Facts) -> Result<Settings, Refused> {
    if let Some(name) = &spec.interface {
        return unnumbered(spec, name, facts);
    }
    let address = ip(spec.peer_address.as_deref().unwrap_or_default())?;
    let peer = socket_address(spec, address, facts)?;
    Ok(settings_at(spec, facts, peer)?)
}

/// The settings of the peer at the other end of an interface.
fn unnumbered(spec: &BGPPeerSpec, name: &str, facts: &Facts) -> Result<Settings, Refused> {
    let (index, interface) = interface(name, facts)?;
    let own = interface.addresses.iter();
    let link_local = |own: &IpAddr| matches!(own, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !own.clone().any(|(own, _)| link_local(own)) {
        return Err(format!(
            "interface {name} has no link-local IPv6 address, which an unnumbered peer is spoken \
             with by: set it up, and have IPv6 on there (net.ipv6.conf.{name}.disable_ipv6=0)"
        )
        .into());
    }
    let unheard = Neighbor {
        waiting: true,
        ..Neighbor::default()
    };
    let neighbor = match facts.neighbors.get(&index) {
        Some(Ok(neighbor)) => neighbor,
        Some(Err(problem)) => return Err(problem.clone().into()),
        None => &unheard,
    };
    let Some(router) = neighbor.router else {
        return Err(Refused {
            problem: format!(
                "no router advertises itself on interface {name}: have the router send router \
                 advertisements there (FRR does with `neighbor … interface`), and look at the link"
            ),
            passing: neighbor.waiting,
        });
    };
    let peer = SocketAddrV6::new(router, spec.peer_port, 0, index);
    let mut settings = settings_at(spec, facts, peer.into())?;
    settings.interface = Some(name.to_owned());
    let mut problems: Vec<String> = settings.problem.take().into_iter().collect();
    if neighbor.silent {
        problems.push(format!(
            "{router} has not advertised itself on interface {name} for longer than it said it would"
        ));
    }
    if !neighbor.others.is_empty() {
        let others: Vec<String> = neighbor.others.iter().map(ToString::to_string).collect();
        problems.push(format!(
            "{} advertise themselves on interface {name} too: an unnumbered peer must be the only \
             router on its link; the peer is {router}",
            others.join(", ")
        ));
    }
    settings.problem = in_words(&problems);
    Ok(settings)
}

/// The node's interface of that name, with its index.
fn interface<'a>(name: &str, facts: &Facts<'a>) -> Result<(u32, &'a Interface), String> {
    let found = facts.interfaces.iter().find(|(_, i)| i.name == name);
    let (index, interface) = found.ok_or_else(|| format!("this node has no interface {name}"))?;
    Ok((*index, interface))
}

fn in_words(problems: &[String]) -> Option<String> {
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// The settings of a peer that is there.
pub(super) fn settings_at(
    spec: &BGPPeerSpec,
    facts: &Facts,
    peer: SocketAddr,
) -> Result<Settings, String> {
    let address = peer.ip();
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
    let distance = match spec.ttl_security_hops {
        Some(hops) => Distance::Secured(hops),
        // RFC 4271 says nothing of it, and all routers do so: a neighbour of another
        // AS is on the link.
        None if is_external(spec) && !spec.ebgp_multi_hop => Distance::Hops(1),
        None => Distance::Hops(255),
    };
    let mut config = config(spec, facts, address)?;
    let mut problems = communities(&spec.communities, facts.aliases, &mut config.policy);
    let bfd = match spec
        .bfd_profile
        .as_ref()
        .map(|name| (name, facts.profiles.get(name)))
    {
        Some((_, Some(profile))) => Some(bfd(spec, profile, peer, source, facts)),
        Some((name, None)) => {
            problems.push(format!(
                "there is no BFDProfile {name}: this session goes without BFD; make it"
            ));
            None
        }
        None => None,
    };
    if let Some(secret) = &spec.password_secret
        && let Some(namespace) = &secret.namespace
    {
        tracing::debug!(namespace, "Secrets are read in Herald's namespace only");
    }
    config.validate().map_err(|error| error.to_string())?;
    Ok(Settings {
        config,
        peer,
        source,
        interface: None,
        device: spec.vrf.clone(),
        distance,
        bfd,
        problem: in_words(&problems),
    })
}

/// A peer that is on none of the node's links is behind routers (RFC 5883).
fn bfd(
    spec: &BGPPeerSpec,
    profile: &BFDProfileSpec,
    peer: SocketAddr,
    source: Option<IpAddr>,
    facts: &Facts,
) -> Bfd {
    let address = peer.ip();
    let interface = match peer {
        SocketAddr::V6(peer) if peer.scope_id() != 0 => Some(peer.scope_id()),
        _ => None,
    };
    let on_link = || {
        interface.is_some()
            || facts.interfaces.is_empty()
            || facts.interfaces.values().any(|i| i.reaches(&address))
    };
    let multihop = spec
        .bfd_multi_hop
        .unwrap_or_else(|| spec.ebgp_multi_hop || !on_link());
    Bfd {
        way: Way {
            peer: address,
            local: source,
            interface,
            device: spec.vrf.clone(),
            minimum_ttl: multihop.then_some(profile.minimum_ttl),
        },
        config: SessionConfig {
            desired_min_tx: Duration::from_millis(profile.transmit_interval.into()),
            required_min_rx: Duration::from_millis(profile.receive_interval.into()),
            detect_mult: profile.detect_multiplier,
            passive: profile.passive_mode,
            control_plane_independent: false,
        },
    }
}

/// The AS that the peer sees the node in.
pub(super) fn local_as(spec: &BGPPeerSpec) -> u32 {
    spec.local_asn.unwrap_or(spec.my_asn)
}

/// Whether the peer is in another AS.
pub(super) fn is_external(spec: &BGPPeerSpec) -> bool {
    match (spec.peer_asn, spec.dynamic_asn) {
        (Some(peer), _) => peer != local_as(spec),
        (None, dynamic) => dynamic == Some(DynamicAsn::External),
    }
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
    let (index, _) = interface(name, facts)?;
    Ok(SocketAddrV6::new(v6, spec.peer_port, 0, index).into())
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
    // Those that dial us from a range have no other way.
    config.passive = spec.passive || !spec.listen_ranges.is_empty();
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
    } else if let Some(settings) = &spec.graceful_restart {
        if let Some(time) = span("restartTime", settings.restart_time.as_deref())? {
            config.graceful_restart = Some(time);
        }
        let stale = settings.long_lived_stale_time.as_deref();
        config.long_lived_stale = span("longLivedStaleTime", stale)?;
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
    let unnumbered = spec.interface.is_some() && spec.address_families.is_empty();
    if spec.dual_stack_address_family || unnumbered {
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
        if attributes.add_community(value).is_err() {
            problems.insert(format!(
                "{value:?} is neither a community nor a name that a Community gives one"
            ));
        }
    }
    problems.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a peer's settings are on a node with an address on 10.0.0.0/24.
    fn settled(spec: &BGPPeerSpec) -> Result<Settings, Refused> {
        settled_among(spec, &Neighbors::new())
    }

    fn settled_among(spec: &BGPPeerSpec, neighbors: &Neighbors) -> Result<Settings, Refused> {
        let lan = Interface {
            index: 2,
            name: "lan0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running: true,
            no_arp: false,
            loopback: false,
            enslaved: false,
            carrier_changes: 1,
            addresses: vec![("10.0.0.11".parse().unwrap(), 24)],
        };
        let cable = Interface {
            index: 3,
            name: "up0".into(),
            addresses: vec![("fe80::b".parse().unwrap(), 64)],
            ..lan.clone()
        };
        let slow = BFDProfileSpec {
            transmit_interval: 200,
            minimum_ttl: 250,
            ..BFDProfileSpec::default()
        };
        let facts = Facts {
            node: "n1",
            router_id: Ipv4Addr::new(10, 0, 0, 11),
            addresses: &[],
            interfaces: &[(2, lan), (3, cable)].into(),
            neighbors,
            aliases: &BTreeMap::new(),
            profiles: &[("slow".to_owned(), slow)].into(),
        };
        settings(spec, &facts)
    }

    fn peer(address: &str, profile: &str) -> BGPPeerSpec {
        BGPPeerSpec {
            my_asn: 64512,
            peer_asn: Some(64513),
            peer_address: Some(address.into()),
            peer_port: 179,
            bfd_profile: Some(profile.into()),
            ..BGPPeerSpec::default()
        }
    }

    #[test]
    fn bfd_is_multihop_where_the_peer_is_on_no_link() {
        let ttl = |spec: BGPPeerSpec| settled(&spec).unwrap().bfd.unwrap().way.minimum_ttl;
        assert_eq!(ttl(peer("10.0.0.1", "slow")), None);
        assert_eq!(ttl(peer("10.0.1.1", "slow")), Some(250));
        let told = |multihop, address: &str| BGPPeerSpec {
            bfd_multi_hop: Some(multihop),
            ..peer(address, "slow")
        };
        assert_eq!(ttl(told(true, "10.0.0.1")), Some(250));
        assert_eq!(ttl(told(false, "10.0.1.1")), None);
        let bfd = settled(&peer("10.0.0.1", "slow")).unwrap().bfd.unwrap();
        assert_eq!(bfd.config.desired_min_tx, Duration::from_millis(200));
        assert!(!bfd.config.control_plane_independent);
    }

    #[test]
    fn a_profile_that_is_not_there_keeps_no_session_from_being() {
        let settings = settled(&peer("10.0.0.1", "fast")).unwrap();
        assert_eq!(settings.bfd, None);
        assert!(settings.problem.unwrap().contains("BFDProfile fast"));
    }

    #[test]
    fn a_peer_of_another_as_is_on_the_link() {
        let distance = |change: fn(&mut BGPPeerSpec)| {
            let mut spec = peer("10.0.0.1", "slow");
            change(&mut spec);
            settled(&spec).unwrap().distance
        };
        assert_eq!(distance(|_| {}), Distance::Hops(1));
        assert_eq!(distance(|p| p.ebgp_multi_hop = true), Distance::Hops(255));
        assert_eq!(distance(|p| p.peer_asn = Some(64512)), Distance::Hops(255));
        let secured = distance(|p| p.ttl_security_hops = Some(2));
        assert_eq!(secured, Distance::Secured(2));
    }

    #[test]
    fn an_unnumbered_peer_is_the_router_that_advertises_itself() {
        let spec = |interface: &str| BGPPeerSpec {
            interface: Some(interface.into()),
            peer_address: None,
            ..peer("", "slow")
        };
        let neighbor = Neighbor {
            router: Some("fe80::1".parse().unwrap()),
            ..Neighbor::default()
        };
        let with = |neighbor: Neighbor| settled_among(&spec("up0"), &[(3, Ok(neighbor))].into());
        let settings = with(neighbor.clone()).unwrap();
        assert_eq!(settings.peer.to_string(), "[fe80::1%3]:179");
        assert_eq!(settings.interface.as_deref(), Some("up0"));
        assert_eq!(settings.config.families, Families::BOTH);
        assert_eq!(settings.config.next_hop_v6, None, "our end of the link");
        let way = settings.bfd.unwrap().way;
        assert_eq!((way.interface, way.minimum_ttl), (Some(3), None));
        assert_eq!(settings.problem, None);

        let two = Neighbor {
            others: vec!["fe80::2".parse().unwrap()],
            silent: true,
            ..neighbor
        };
        let problem = with(two).unwrap().problem.unwrap();
        assert!(problem.contains("fe80::2") && problem.contains("has not advertised"));

        let unheard = |waiting| {
            with(Neighbor {
                waiting,
                ..Neighbor::default()
            })
            .unwrap_err()
        };
        assert!(unheard(true).passing && !unheard(false).passing);
        assert!(
            unheard(false)
                .problem
                .contains("no router advertises itself on interface up0")
        );
        assert!(settled(&spec("up0")).unwrap_err().passing);
        let words = |interface: &str| settled(&spec(interface)).unwrap_err().problem;
        assert!(words("up1").contains("no interface up1"));
        assert!(words("lan0").contains("link-local"));
    }
}
