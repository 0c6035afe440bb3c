//! What is wrong with the objects that BGP is set up by, as far as they alone tell:
//! what depends on a node or on a router is in each node's `BGPStatus`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use herald_api::{
    BFDProfile, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec, Community,
    IPAddressPool, LabelSelector, any_or_empty, convert,
};
use herald_bgp::AnyCommunity;
use herald_core::AddressRange;
use ipnet::IpNet;
use kube::ResourceExt as _;

use crate::pool_status::Problem;

/// The objects as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) peers: Vec<Arc<BGPPeer>>,
    pub(crate) advertisements: Vec<Arc<BGPAdvertisement>>,
    pub(crate) profiles: Vec<Arc<BFDProfile>>,
    pub(crate) communities: Vec<Arc<Community>>,
    pub(crate) pools: Vec<Arc<IPAddressPool>>,
}

/// What is wrong with objects of a kind, by name: the first thing names the reason.
pub(crate) type Problems = BTreeMap<String, Problem>;

/// What is wrong with all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) peers: Problems,
    pub(crate) advertisements: Problems,
    pub(crate) profiles: Problems,
    pub(crate) communities: Problems,
}

/// Collects what is wrong with one object.
#[derive(Default)]
struct Findings(Vec<Problem>);

impl Findings {
    fn add(&mut self, reason: &'static str, message: String) {
        self.0.push(Problem { reason, message });
    }

    fn selectors(&mut self, field: &str, selectors: &[LabelSelector]) {
        for error in selectors.iter().filter_map(|s| s.validate().err()) {
            self.add(
                "InvalidSelector",
                format!("spec.{field}: {error}; it matches nothing"),
            );
        }
    }

    fn communities(&mut self, texts: &[String], aliases: &BTreeSet<&str>) {
        for text in texts {
            if !aliases.contains(text.as_str()) && text.parse::<AnyCommunity>().is_err() {
                self.add(
                    "UnknownCommunity",
                    format!(
                        "{text:?} is neither a community nor a name that a Community gives one, and \
                         is left out: make the Community, or write 64512:100, large:64512:1:2, \
                         rt:64512:1 or no-export"
                    ),
                );
            }
        }
    }

    fn problem(self) -> Option<Problem> {
        let reason = self.0.first()?.reason;
        let messages: Vec<String> = self.0.into_iter().map(|found| found.message).collect();
        Some(Problem {
            reason,
            message: messages.join("; "),
        })
    }
}

/// Judges all objects of Herald's `namespace`.
pub(crate) fn judge(objects: &Objects, namespace: &str) -> Judgement {
    let aliases = objects.communities.iter();
    let aliases = aliases.flat_map(|object| &object.spec.communities);
    let aliases: BTreeSet<&str> = aliases.map(|alias| alias.name.as_str()).collect();
    let mut judgement = Judgement::default();
    for object in &objects.peers {
        let found = peer(object, objects, &aliases, namespace);
        put(&mut judgement.peers, object.name_any(), found);
    }
    for object in &objects.advertisements {
        let found = advertisement(&object.spec, objects, &aliases);
        put(&mut judgement.advertisements, object.name_any(), found);
    }
    for object in &objects.profiles {
        let mut found = Findings::default();
        if object.spec.echo_mode {
            found.add(
                "EchoNotSupported",
                "echoMode has no effect, as no echo packets are sent or asked for: take it out"
                    .into(),
            );
        }
        put(&mut judgement.profiles, object.name_any(), found);
    }
    for object in &objects.communities {
        let found = community(object, &objects.communities);
        put(&mut judgement.communities, object.name_any(), found);
    }
    judgement
}

fn put(problems: &mut Problems, name: String, found: Findings) {
    if let Some(problem) = found.problem() {
        problems.insert(name, problem);
    }
}

fn peer(
    object: &BGPPeer,
    objects: &Objects,
    aliases: &BTreeSet<&str>,
    namespace: &str,
) -> Findings {
    let mut found = Findings::default();
    let spec = &object.spec;
    found.selectors("nodeSelectors", &spec.node_selectors);
    if let Some(name) = &spec.bfd_profile
        && !objects.profiles.iter().any(|it| it.name_any() == *name)
    {
        found.add(
            "UnknownBFDProfile",
            format!("there is no BFDProfile {name}: the sessions go without BFD; make it"),
        );
    }
    found.communities(&spec.communities, aliases);
    if let Some(other) = spec
        .password_secret
        .as_ref()
        .and_then(|s| s.namespace.as_ref())
        && other != namespace
    {
        found.add(
            "SecretNamespace",
            format!(
                "passwordSecret is looked for in namespace {namespace}, not in {other}: have the \
                 Secret there, and take the namespace out"
            ),
        );
    }
    // Speakers take the first by name.
    let name = object.name_any();
    for other in objects.peers.iter().filter(|it| it.name_any() < name) {
        if !share_nodes(spec, &other.spec) {
            continue;
        }
        if let Some(place) = same_place(spec, &other.spec) {
            found.add(
                "DuplicatePeer",
                format!(
                    "BGPPeer {} has {place} already, on the same nodes: take one of the two away, or \
                     give each nodeSelectors of its own",
                    other.name_any()
                ),
            );
        }
    }
    found
}

/// Whether two peers are on the same nodes for certain: nothing is said of selectors
/// that may, or may not, pick nodes in common.
fn share_nodes(one: &BGPPeerSpec, other: &BGPPeerSpec) -> bool {
    let everywhere = |spec: &BGPPeerSpec| spec.node_selectors.is_empty();
    everywhere(one) || everywhere(other) || one.node_selectors == other.node_selectors
}

/// What both peers stand for, in words.
fn same_place(one: &BGPPeerSpec, other: &BGPPeerSpec) -> Option<String> {
    if one.peer_port != other.peer_port || one.vrf != other.vrf {
        return None;
    }
    let address = |spec: &BGPPeerSpec| {
        let address = spec.peer_address.as_deref()?;
        address.parse::<std::net::IpAddr>().ok()
    };
    if address(one).is_some()
        && address(one) == address(other)
        && one.source_interface == other.source_interface
    {
        let port = one.peer_port;
        return address(one).map(|address| format!("the address {address} and port {port}"));
    }
    if let Some(interface) = &one.interface
        && other.interface.as_ref() == Some(interface)
    {
        return Some(format!("the interface {interface}"));
    }
    // Of ranges that overlap the longest counts.
    let range = one.listen_ranges.iter();
    let mut both = range.filter(|range| other.listen_ranges.contains(range));
    both.next().map(|range| format!("the listen range {range}"))
}

fn advertisement(
    spec: &BGPAdvertisementSpec,
    objects: &Objects,
    aliases: &BTreeSet<&str>,
) -> Findings {
    let mut found = Findings::default();
    found.selectors("ipAddressPoolSelectors", &spec.ip_address_pool_selectors);
    found.selectors("nodeSelectors", &spec.node_selectors);
    found.selectors("serviceSelectors", &spec.service_selectors);
    for name in &spec.ip_address_pools {
        if !objects.pools.iter().any(|it| it.name_any() == *name) {
            found.add(
                "UnknownPool",
                format!("there is no IPAddressPool {name}: make it, or take the name out"),
            );
        }
    }
    for name in &spec.peers {
        if !objects.peers.iter().any(|it| it.name_any() == *name) {
            found.add(
                "UnknownPeer",
                format!("there is no BGPPeer {name}: make it, or take the name out"),
            );
        }
    }
    found.communities(&spec.communities, aliases);
    let pools = objects.pools.iter().filter(|pool| selects(spec, pool));
    let pools: Vec<&Arc<IPAddressPool>> = pools.collect();
    if pools.is_empty() {
        found.add(
            "NoPool",
            "it is of no pool, so that nothing is told: see ipAddressPools and \
             ipAddressPoolSelectors"
                .into(),
        );
    }
    if objects.peers.is_empty() {
        found.add(
            "NoPeer",
            "there is no BGPPeer, so that nobody is told: make one".into(),
        );
    }
    for pool in pools {
        if let Some(range) = left_by_aggregates(spec, pool) {
            found.add(
                "AggregateLeavesPool",
                format!(
                    "{range} of IPAddressPool {} has addresses whose aggregate would have others \
                     than the pool's, and which are not told: make the aggregation longer, or the \
                     pool of whole aggregates",
                    pool.name_any()
                ),
            );
        }
    }
    found
}

fn selects(spec: &BGPAdvertisementSpec, pool: &IPAddressPool) -> bool {
    let (names, selectors) = (&spec.ip_address_pools, &spec.ip_address_pool_selectors);
    if names.is_empty() && selectors.is_empty() {
        return true;
    }
    names.contains(&pool.name_any())
        || (!selectors.is_empty() && any_or_empty(selectors, &convert::labels(pool)))
}

/// A range of the pool that has addresses whose aggregate is not wholly in the pool.
fn left_by_aggregates(spec: &BGPAdvertisementSpec, pool: &IPAddressPool) -> Option<String> {
    let range = |text: &String| match text.trim().parse::<std::net::IpAddr>() {
        Ok(address) => AddressRange::new(address, address),
        // One that can't be read is told on the pool.
        Err(_) => text.parse().ok(),
    };
    let ranges: Vec<AddressRange> = pool.spec.addresses.iter().filter_map(range).collect();
    let told = |address: std::net::IpAddr| {
        let length = match address {
            std::net::IpAddr::V4(_) => spec.aggregation_length,
            std::net::IpAddr::V6(_) => spec.aggregation_length_v6,
        };
        let Ok(prefix) = IpNet::new(address, length).map(|prefix| prefix.trunc()) else {
            return true;
        };
        let within = |range: &AddressRange| {
            range.contains(&prefix.network()) && range.contains(&prefix.broadcast())
        };
        ranges.iter().any(within)
    };
    // Those of the addresses between are within if those of the ends are.
    let left = ranges
        .iter()
        .find(|range| !told(range.first()) || !told(range.last()));
    left.map(ToString::to_string)
}

fn community(object: &Community, all: &[Arc<Community>]) -> Findings {
    let mut found = Findings::default();
    let mut names = BTreeSet::new();
    for alias in &object.spec.communities {
        if alias.value.parse::<AnyCommunity>().is_err() {
            found.add(
                "InvalidCommunity",
                format!(
                    "{:?}, which {} stands for, is no community",
                    alias.value, alias.name
                ),
            );
        }
        let elsewhere = all.iter().find(|other| {
            let mut theirs = other.spec.communities.iter();
            other.name_any() < object.name_any() && theirs.any(|it| it.name == alias.name)
        });
        let twice = !names.insert(&alias.name);
        let where_else = elsewhere.map(|other| format!("Community {}", other.name_any()));
        if let Some(place) = where_else.or_else(|| twice.then(|| "this object".to_owned())) {
            found.add(
                "DuplicateName",
                format!(
                    "{} has a value in {place} already: name one of the two otherwise",
                    alias.name
                ),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use herald_api::{
        BFDProfileSpec, CommunityAlias, CommunitySpec, IPAddressPoolSpec, SecretReference,
    };

    use super::*;

    fn peer(name: &str, change: impl FnOnce(&mut BGPPeerSpec)) -> Arc<BGPPeer> {
        let mut spec = BGPPeerSpec {
            my_asn: 64512,
            peer_asn: Some(64513),
            peer_port: 179,
            ..BGPPeerSpec::default()
        };
        change(&mut spec);
        Arc::new(BGPPeer::new(name, spec))
    }

    fn at(address: &str) -> impl FnOnce(&mut BGPPeerSpec) {
        move |spec| spec.peer_address = Some(address.into())
    }

    fn pool(name: &str, addresses: &[&str]) -> Arc<IPAddressPool> {
        let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
        let spec = IPAddressPoolSpec {
            addresses,
            ..IPAddressPoolSpec::default()
        };
        Arc::new(IPAddressPool::new(name, spec))
    }

    fn community(name: &str, aliases: &[(&str, &str)]) -> Arc<Community> {
        let alias = |(name, value): &(&str, &str)| CommunityAlias {
            name: (*name).into(),
            value: (*value).into(),
        };
        let communities = aliases.iter().map(alias).collect();
        Arc::new(Community::new(name, CommunitySpec { communities }))
    }

    fn sound() -> Objects {
        Objects {
            peers: vec![peer("tor", at("10.0.0.1"))],
            pools: vec![pool("lan", &["192.0.2.0/24", "fd00::10-fd00::20"])],
            ..Objects::default()
        }
    }

    fn advertised(change: impl FnOnce(&mut BGPAdvertisementSpec)) -> Option<Problem> {
        let mut spec = BGPAdvertisementSpec::default();
        change(&mut spec);
        let mut objects = sound();
        objects.communities = vec![community("names", &[("blue", "64512:7")])];
        objects.advertisements = vec![Arc::new(BGPAdvertisement::new("all", spec))];
        judge(&objects, "herald-system")
            .advertisements
            .remove("all")
    }

    fn reason(problem: Option<Problem>) -> Option<&'static str> {
        problem.map(|problem| problem.reason)
    }

    fn unreadable() -> LabelSelector {
        serde_json::from_str(r#"{"matchExpressions": [{"key": "a", "operator": "Near"}]}"#).unwrap()
    }

    #[test]
    fn what_is_sound_has_nothing_said_of_it() {
        let mut objects = sound();
        let advertisement = BGPAdvertisement::new("all", BGPAdvertisementSpec::default());
        objects.advertisements = vec![Arc::new(advertisement)];
        objects.profiles = vec![Arc::new(BFDProfile::new("p", BFDProfileSpec::default()))];
        objects.communities = vec![community("names", &[("blue", "64512:7")])];
        assert_eq!(judge(&objects, "herald-system"), Judgement::default());
    }

    #[test]
    fn an_advertisement_needs_what_it_names() {
        assert_eq!(reason(advertised(|_| ())), None);
        let blue = advertised(|s| s.communities = vec!["blue".into(), "no-export".into()]);
        assert_eq!(reason(blue), None);
        let green = advertised(|s| s.communities = vec!["green".into()]);
        assert!(green.as_ref().unwrap().message.contains("green"));
        assert_eq!(reason(green), Some("UnknownCommunity"));
        let pool = advertised(|s| s.ip_address_pools = vec!["lan".into(), "wan".into()]);
        assert_eq!(reason(pool), Some("UnknownPool"));
        let peer = advertised(|s| s.peers = vec!["spine".into()]);
        assert_eq!(reason(peer), Some("UnknownPeer"));
        let labels = LabelSelector {
            match_labels: [("a".to_owned(), "b".to_owned())].into(),
            ..LabelSelector::default()
        };
        let none = advertised(|s| s.ip_address_pool_selectors = vec![labels]);
        assert_eq!(reason(none), Some("NoPool"));
        let selector = advertised(|s| s.service_selectors = vec![unreadable()]);
        assert_eq!(reason(selector), Some("InvalidSelector"));
        let mut objects = sound();
        objects.peers.clear();
        let all = BGPAdvertisement::new("all", BGPAdvertisementSpec::default());
        objects.advertisements = vec![Arc::new(all)];
        let problem = judge(&objects, "herald-system")
            .advertisements
            .remove("all");
        assert_eq!(reason(problem), Some("NoPeer"));
    }

    #[test]
    fn aggregates_stay_within_the_pool() {
        for (v4, v6, problem) in [
            (24, 128, None),
            (23, 128, Some("192.0.2.0-192.0.2.255")),
            (32, 124, Some("fd00::10-fd00::20")),
        ] {
            let told = advertised(|spec| {
                spec.aggregation_length = v4;
                spec.aggregation_length_v6 = v6;
            });
            assert_eq!(told.is_some(), problem.is_some(), "/{v4} and /{v6}");
            if let Some((told, range)) = told.zip(problem) {
                assert_eq!(told.reason, "AggregateLeavesPool");
                assert!(
                    told.message.contains("IPAddressPool lan"),
                    "{range}: {told:?}"
                );
            }
        }
    }

    #[test]
    fn a_peer_needs_what_it_names_and_a_place_of_its_own() {
        let with = |change: fn(&mut BGPPeerSpec)| {
            let mut objects = sound();
            objects.peers.push(peer("us", |spec| {
                at("10.0.0.2")(spec);
                change(spec);
            }));
            let mut judged = judge(&objects, "herald-system");
            assert!(!judged.peers.contains_key("tor"), "the first is in force");
            judged.peers.remove("us")
        };
        assert_eq!(reason(with(|_| ())), None);
        let profile = with(|s| s.bfd_profile = Some("fast".into()));
        assert_eq!(reason(profile), Some("UnknownBFDProfile"));
        let elsewhere = with(|s| {
            s.password_secret = Some(SecretReference {
                name: "a".into(),
                namespace: Some("metallb-system".into()),
            });
        });
        assert_eq!(reason(elsewhere), Some("SecretNamespace"));
        assert_eq!(
            reason(with(|s| s.communities = vec!["blue".into()])),
            Some("UnknownCommunity")
        );
        let selectors = with(|s| s.node_selectors = vec![unreadable()]);
        assert_eq!(reason(selectors), Some("InvalidSelector"));
        let same = with(|s| s.peer_address = Some("10.0.0.1".into()));
        assert!(same.as_ref().unwrap().message.contains("BGPPeer tor"));
        assert_eq!(reason(same), Some("DuplicatePeer"));
        let port = with(|s| {
            s.peer_address = Some("10.0.0.1".into());
            s.peer_port = 1179;
        });
        assert_eq!(reason(port), None);
    }

    #[test]
    fn ranges_and_interfaces_are_one_peers_each() {
        let ranged = |range: &str, racks: &[&str]| {
            let range = range.to_owned();
            let racks: Vec<String> = racks.iter().map(|rack| (*rack).to_owned()).collect();
            move |spec: &mut BGPPeerSpec| {
                spec.listen_ranges = vec![range];
                spec.node_selectors = racks
                    .iter()
                    .map(|rack| LabelSelector {
                        match_labels: [("rack".to_owned(), rack.clone())].into(),
                        ..LabelSelector::default()
                    })
                    .collect();
            }
        };
        for (range, racks, problem) in [
            ("10.0.0.0/24", &["a"][..], Some("DuplicatePeer")),
            ("10.0.0.0/24", &[], Some("DuplicatePeer")),
            ("10.0.0.0/24", &["b"], None),
            ("10.0.0.0/16", &["a"], None),
        ] {
            let objects = Objects {
                peers: vec![
                    peer("a", ranged("10.0.0.0/24", &["a"])),
                    peer("b", ranged(range, racks)),
                ],
                ..Objects::default()
            };
            let mut judged = judge(&objects, "herald-system");
            assert_eq!(
                reason(judged.peers.remove("b")),
                problem,
                "{range} {racks:?}"
            );
        }
        let on = |name: &str| peer(name, |spec| spec.interface = Some("eth1".into()));
        let objects = Objects {
            peers: vec![on("a"), on("b")],
            ..Objects::default()
        };
        let judged = judge(&objects, "herald-system");
        assert!(judged.peers["b"].message.contains("interface eth1"));
    }

    #[test]
    fn a_name_has_one_value() {
        let mut objects = Objects {
            communities: vec![
                community("a", &[("blue", "64512:7")]),
                community("b", &[("blue", "64512:8"), ("red", "red-ish")]),
                community("c", &[("pink", "64512:1"), ("pink", "64512:2")]),
            ],
            ..Objects::default()
        };
        let mut echo = BFDProfile::new("p", BFDProfileSpec::default());
        echo.spec.echo_mode = true;
        objects.profiles = vec![Arc::new(echo)];
        let judged = judge(&objects, "herald-system");
        assert!(!judged.communities.contains_key("a"));
        let second = &judged.communities["b"];
        assert_eq!(second.reason, "DuplicateName");
        assert!(second.message.contains("Community a") && second.message.contains("red-ish"));
        assert!(judged.communities["c"].message.contains("this object"));
        assert_eq!(judged.profiles["p"].reason, "EchoNotSupported");
    }
}
