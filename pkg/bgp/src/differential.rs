//! Against a decoder and an encoder that we did not write, netgauze-bgp-pkt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::capabilities::BgpCapability;
use netgauze_bgp_pkt::community::{Community as TheirCommunity, LargeCommunity as TheirLarge};
use netgauze_bgp_pkt::nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::path_attribute::{
    As2PathSegment, As4PathSegment, AsPath as TheirPath, AsPathSegmentType, Communities,
    LargeCommunities, LocalPreference, MpReach, MpUnreach, MultiExitDiscriminator,
    NextHop as TheirNextHop, Origin, PathAttribute, PathAttributeValue,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::attribute::{Attribute, Context};
use crate::capability::Capability;
use crate::community::Community;
use crate::config::{PeerAs, PeerConfig};
use crate::export::{Export, NextHop, encode_end_of_rib};
use crate::family::Family;
use crate::message::{Frame, MAX_MESSAGE, MessageType, RefreshKind, RouteRefresh};
use crate::negotiate::{Told, our_open};
use crate::nlri::{Bits, Prefixes};
use crate::notification::{Code, Notification};
use crate::open::Open;
use crate::path::PathAttributes;
use crate::update::Update;

fn strictest(four_octet_as: bool) -> BgpParsingContext {
    let mut context = BgpParsingContext::asn2_default();
    context.set_asn4(four_octet_as);
    context
}

/// All messages in `bytes`, as the other decoder, at its strictest, has them.
fn decode(bytes: &[u8], four_octet_as: bool) -> Vec<BgpMessage> {
    let mut reader = SliceReader::new(bytes);
    let mut context = strictest(four_octet_as);
    let mut messages = Vec::new();
    while reader.remaining() > 0 {
        let message = BgpMessage::parse(&mut reader, &mut context);
        messages.push(message.expect("what we write is well formed"));
    }
    messages
}

fn encode(message: &BgpMessage) -> Vec<u8> {
    let mut out = Vec::new();
    message.write(&mut out).expect("a Vec takes it");
    out
}

fn v4(prefixes: &[Ipv4UnicastAddress]) -> impl Iterator<Item = IpNet> {
    prefixes.iter().map(|p| p.network().address().into())
}

fn v6(prefixes: &[Ipv6UnicastAddress]) -> impl Iterator<Item = IpNet> {
    prefixes.iter().map(|p| p.network().address().into())
}

/// Unicast prefixes; not short ones, for which the other decoder goes through
/// every host.
fn any_v4() -> impl Strategy<Value = Ipv4Net> {
    (0x0100_0000..0xdf00_0000_u32, 22..=32_u8)
        .prop_map(|(address, length)| Ipv4Net::new(address.into(), length).unwrap().trunc())
}

fn any_v6() -> impl Strategy<Value = Ipv6Net> {
    (any::<u64>(), any::<u64>(), 116..=128_u8).prop_map(|(high, low, length)| {
        let address = u128::from(high >> 3 | 0x2000_0000_0000_0000) << 64 | u128::from(low);
        Ipv6Net::new(Ipv6Addr::from(address), length)
            .unwrap()
            .trunc()
    })
}

fn any_next_hop() -> impl Strategy<Value = NextHop> {
    let local: Ipv6Addr = "fe80::1".parse().unwrap();
    let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
    prop_oneof![
        Just(NextHop::V4([192, 0, 2, 1].into())),
        Just(NextHop::V6(global)),
        Just(NextHop::V6WithLinkLocal(global, local)),
    ]
}

fn any_export() -> impl Strategy<Value = Export> {
    let as_number = prop_oneof![1..65_000_u32, 70_000..4_000_000_000_u32];
    (as_number, any::<[bool; 3]>(), any_next_hop()).prop_map(
        |(local_as, [internal, four_octet_as, going], next_hop)| Export {
            local_as,
            internal,
            four_octet_as,
            max_message: MAX_MESSAGE,
            link_local_alone: false,
            next_hops: [
                Some(next_hop),
                Some(NextHop::V6("2001:db8::2".parse().unwrap())),
            ],
            policy: Arc::default(),
            graceful_shutdown: going,
            withdrawn: false,
        },
    )
}

/// What the other decoder finds in an UPDATE, in our words.
#[derive(Debug, Default)]
struct Found {
    set: PathAttributes,
    path: Vec<u32>,
    long_path: Vec<u32>,
    next_hop: Option<(IpAddr, Option<Ipv6Addr>)>,
    announced: Vec<IpNet>,
    withdrawn: Vec<IpNet>,
}

impl Found {
    fn read(&mut self, update: &BgpUpdateMessage) {
        self.announced.extend(v4(update.nlri()));
        self.withdrawn.extend(v4(update.withdraw_routes()));
        for attribute in update.path_attributes() {
            self.attribute(attribute.value());
        }
    }

    fn attribute(&mut self, value: &PathAttributeValue) {
        match value {
            PathAttributeValue::Origin(origin) => assert_eq!(*origin, Origin::IGP),
            PathAttributeValue::AsPath(TheirPath::As4PathSegments(segments)) => {
                self.path = segments
                    .iter()
                    .flat_map(|s| s.as_numbers().to_vec())
                    .collect();
            }
            PathAttributeValue::AsPath(TheirPath::As2PathSegments(segments)) => {
                let numbers = segments.iter().flat_map(As2PathSegment::as_numbers);
                self.path = numbers.map(|number| u32::from(*number)).collect();
            }
            PathAttributeValue::As4Path(path) => {
                let segments = path.segments().iter();
                self.long_path = segments.flat_map(|s| s.as_numbers().to_vec()).collect();
            }
            PathAttributeValue::NextHop(hop) => self.next_hop = Some((hop.next_hop().into(), None)),
            PathAttributeValue::MultiExitDiscriminator(med) => self.set.med = Some(med.metric()),
            PathAttributeValue::LocalPreference(p) => self.set.local_pref = Some(p.metric()),
            PathAttributeValue::Communities(list) => {
                let list = list.communities().iter();
                self.set.communities = list.map(|c| Community(c.value())).collect();
            }
            PathAttributeValue::LargeCommunities(list) => {
                let list = list.communities().iter();
                self.set.large_communities = list
                    .map(|c| crate::community::LargeCommunity {
                        global: c.global_admin(),
                        local1: c.local_data1(),
                        local2: c.local_data2(),
                    })
                    .collect();
            }
            PathAttributeValue::MpReach(MpReach::Ipv4Unicast {
                next_hop,
                next_hop_local,
                nlri,
            }) => {
                self.next_hop = Some((*next_hop, *next_hop_local));
                self.announced.extend(v4(nlri));
            }
            PathAttributeValue::MpReach(MpReach::Ipv6Unicast {
                next_hop_global,
                next_hop_local,
                nlri,
            }) => {
                self.next_hop = Some(((*next_hop_global).into(), *next_hop_local));
                self.announced.extend(v6(nlri));
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv4Unicast { nlri }) => {
                self.withdrawn.extend(v4(nlri));
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
                self.withdrawn.extend(v6(nlri));
            }
            other => panic!("we do not write {other:?}"),
        }
    }
}

fn found(bytes: &[u8], four_octet_as: bool) -> Found {
    let mut found = Found::default();
    for message in decode(bytes, four_octet_as) {
        let BgpMessage::Update(update) = message else {
            panic!("not an UPDATE: {message:?}");
        };
        found.read(&update);
    }
    found
}

fn attribute(optional: bool, value: PathAttributeValue) -> PathAttribute {
    let transitive = !matches!(
        value,
        PathAttributeValue::MultiExitDiscriminator(_)
            | PathAttributeValue::MpReach(_)
            | PathAttributeValue::MpUnreach(_)
    );
    PathAttribute::from(optional, transitive, false, true, value).expect("the flags are right")
}

#[test]
fn every_open_of_ours_is_read() {
    let mut config = PeerConfig::new(4_200_000_000, PeerAs::Any, [192, 0, 2, 1].into());
    config.hostname = Some("worker-1".into());
    config.long_lived_stale = Some(std::time::Duration::from_secs(0x0001_0203));
    for local in ["192.0.2.1", "fe80::1"] {
        for told in [Told::All, Told::Needed, Told::Nothing] {
            let ours = our_open(&config, local.parse().unwrap(), told, true);
            let mut bytes = Vec::new();
            ours.encode(&mut bytes);
            let messages = decode(&bytes, true);
            assert_eq!(encode(&messages[0]), bytes);
            let BgpMessage::Open(theirs) = &messages[0] else {
                panic!("not an OPEN: {messages:?}");
            };
            assert_eq!(theirs.bgp_id(), Ipv4Addr::new(192, 0, 2, 1));
            assert_eq!(theirs.my_as(), 23456);
            assert_eq!(theirs.capabilities().len(), ours.capabilities.len());
            if told != Told::Nothing {
                assert_eq!(theirs.my_asn4(), 4_200_000_000);
            }
            if told == Told::All {
                let restart = theirs.capabilities().into_iter().find_map(|c| match c {
                    BgpCapability::GracefulRestartCapability(restart) => Some(restart.clone()),
                    _ => None,
                });
                let restart = restart.unwrap();
                assert!(restart.restart() && restart.graceful_notification());
                assert_eq!((restart.time(), restart.address_families().len()), (60, 2));
                let long_lived = theirs.capabilities().into_iter().find_map(|c| match c {
                    BgpCapability::LongLivedGracefulRestart(families) => Some(families.clone()),
                    _ => None,
                });
                let long_lived = long_lived.unwrap();
                let families = long_lived.address_families();
                assert_eq!(families.len(), 2);
                for family in families {
                    assert!(family.forwarding_state() && family.stale_time() == 0x0001_0203);
                }
                assert!(
                    theirs
                        .capabilities()
                        .contains(&&BgpCapability::ExtendedMessage)
                );
            }
            let frame = Frame::parse(&bytes, MAX_MESSAGE).unwrap().unwrap();
            assert_eq!(Open::parse(frame.body), Ok(ours));
        }
    }
}

#[test]
fn every_notification_of_ours_is_read() {
    for code in Code::NAMED {
        // It does not know these.
        let unknown = [
            Code::CEASE,
            Code::BFD_DOWN,
            Code::SEND_HOLD_TIMER,
            Code::AUTHENTICATION,
            Code::ROUTING_LOOP,
        ];
        if unknown.contains(code) {
            continue;
        }
        let mut bytes = Vec::new();
        Notification::with_communication(*code, "bye").encode(&mut bytes);
        let messages = decode(&bytes, true);
        assert!(matches!(messages[..], [BgpMessage::Notification(_)]));
        assert_eq!(encode(&messages[0]), bytes, "{code}");
    }
}

#[test]
fn everything_small_is_read() {
    let mut bytes = Vec::new();
    crate::message::encode_keepalive(&mut bytes);
    for family in Family::ALL {
        encode_end_of_rib(family, &mut bytes);
        for kind in [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End] {
            RouteRefresh { family, kind }.encode(&mut bytes);
        }
    }
    let messages = decode(&bytes, true);
    let again: Vec<u8> = messages.iter().flat_map(encode).collect();
    assert_eq!(again, bytes);
    let ends = messages.iter().filter(|message| match message {
        BgpMessage::Update(update) => update.end_of_rib().is_some(),
        _ => false,
    });
    assert_eq!(ends.count(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_announcement_of_ours_is_read(
        export in any_export(),
        mut set in crate::export::tests::any_attributes(),
        nets in vec(any_v4(), 1..1500),
        nets_v6 in vec(any_v6(), 1..500),
    ) {
        // Of extended communities it reads only those types that it knows.
        set.extended_communities.clear();
        let mut bytes = Vec::new();
        export.announce(&set, nets.iter().map(|net| Bits::<4>::from(*net)), &mut bytes);
        let found = found(&bytes, export.four_octet_as);
        let sent: Vec<IpNet> = nets.iter().map(|net| (*net).into()).collect();
        prop_assert_eq!(&found.announced, &sent);
        let expected = match export.next_hops[0].unwrap() {
            NextHop::V4(a) => (a.into(), None),
            NextHop::V6(a) => (a.into(), None),
            NextHop::V6WithLinkLocal(a, local) => (a.into(), Some(local)),
            NextHop::LinkLocal(a) => (a.into(), Some(a)),
        };
        prop_assert_eq!(found.next_hop, Some(expected));
        let mut expected = set.clone();
        expected.prepend = 0;
        if export.graceful_shutdown {
            expected.communities.push(Community::GRACEFUL_SHUTDOWN);
            expected = expected.normalized();
        }
        expected.local_pref = export.internal.then(|| {
            if export.graceful_shutdown { 0 } else { set.local_pref.unwrap_or(100) }
        });
        prop_assert_eq!(&found.set, &expected);
        let long = vec![export.local_as; usize::from(set.prepend) + 1];
        if export.internal {
            prop_assert_eq!(found.path.len(), 0);
        } else if export.four_octet_as || export.local_as < 65_536 {
            prop_assert_eq!(&found.path, &long);
        } else {
            prop_assert_eq!(&found.path, &vec![23456; long.len()]);
            prop_assert_eq!(&found.long_path, &long);
        }
        let mut bytes = Vec::new();
        export.announce(&set, nets_v6.iter().map(|net| Bits::<16>::from(*net)), &mut bytes);
        let found = self::found(&bytes, export.four_octet_as);
        let sent: Vec<IpNet> = nets_v6.iter().map(|net| (*net).into()).collect();
        prop_assert_eq!(&found.announced, &sent);
        prop_assert_eq!(&found.set, &expected);
    }

    #[test]
    fn every_withdrawal_of_ours_is_read(
        export in any_export(),
        nets in vec(any_v4(), 1..2000),
        nets_v6 in vec(any_v6(), 1..500),
    ) {
        let mut bytes = Vec::new();
        export.withdraw(nets.iter().map(|net| Bits::<4>::from(*net)), &mut bytes);
        export.withdraw(nets_v6.iter().map(|net| Bits::<16>::from(*net)), &mut bytes);
        let v4 = nets.iter().map(|net| IpNet::from(*net));
        let sent: Vec<IpNet> = v4.chain(nets_v6.iter().map(|net| (*net).into())).collect();
        prop_assert_eq!(&found(&bytes, true).withdrawn, &sent);
    }

    /// The other way: what it writes, we read.
    #[test]
    fn every_update_of_theirs_is_read(
        path in vec(1..u32::MAX, 0..20),
        communities in vec(any::<u32>(), 1..30),
        large in vec(any::<[u32; 3]>(), 1..10),
        metrics in any::<[u32; 2]>(),
        nets in vec(any_v4(), 1..100),
        gone in vec(any_v4(), 0..100),
        nets_v6 in vec(any_v6(), 0..50),
        four_octet_as in any::<bool>(),
    ) {
        let v4 = |net: &Ipv4Net| Ipv4UnicastAddress::new_no_path_id(Ipv4Unicast::from_net(*net).unwrap());
        let v6 = |net: &Ipv6Net| Ipv6UnicastAddress::new(None, Ipv6Unicast::from_net(*net).unwrap());
        let hop: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let short = |number: &u32| u16::try_from(number % 65_536).unwrap();
        let kind = AsPathSegmentType::AsSequence;
        let as_path = match (path.is_empty(), four_octet_as) {
            (true, true) => TheirPath::As4PathSegments(Box::new([])),
            (true, false) => TheirPath::As2PathSegments(Box::new([])),
            (false, true) => {
                TheirPath::As4PathSegments(Box::new([As4PathSegment::new(kind, path.clone())]))
            }
            (false, false) => {
                let path: Vec<u16> = path.iter().map(short).collect();
                TheirPath::As2PathSegments(Box::new([As2PathSegment::new(kind, path)]))
            }
        };
        let their_communities: Vec<_> = communities.iter().map(|c| TheirCommunity::new(*c)).collect();
        let their_large: Vec<_> = large.iter().map(|[a, b, c]| TheirLarge::new(*a, *b, *c)).collect();
        let attributes = vec![
            attribute(true, PathAttributeValue::MpReach(MpReach::Ipv6Unicast {
                next_hop_global: hop,
                next_hop_local: None,
                nlri: nets_v6.iter().map(v6).collect(),
            })),
            attribute(false, PathAttributeValue::Origin(Origin::EGP)),
            attribute(false, PathAttributeValue::AsPath(as_path)),
            attribute(false, PathAttributeValue::NextHop(TheirNextHop::new([192, 0, 2, 1].into()))),
            attribute(true, PathAttributeValue::MultiExitDiscriminator(MultiExitDiscriminator::new(metrics[0]))),
            attribute(false, PathAttributeValue::LocalPreference(LocalPreference::new(metrics[1]))),
            attribute(true, PathAttributeValue::Communities(Communities::new(their_communities))),
            attribute(true, PathAttributeValue::LargeCommunities(LargeCommunities::new(their_large))),
        ];
        let message = BgpUpdateMessage::new(
            gone.iter().map(v4).collect::<Vec<_>>(),
            attributes,
            nets.iter().map(v4).collect::<Vec<_>>(),
        );
        let bytes = encode(&BgpMessage::Update(message));
        let frame = Frame::parse(&bytes, MAX_MESSAGE).unwrap().unwrap();
        prop_assert_eq!(frame.kind, MessageType::Update);
        let update = Update::parse(frame.body).unwrap();
        let context = Context { four_octet_as, internal: true };
        let received = update.check(context).unwrap();
        prop_assert_eq!(received.error, None);
        prop_assert_eq!(received.announced, nets.len() + nets_v6.len());
        prop_assert_eq!(received.withdrawn, gone.len());
        let read: Vec<_> = Prefixes::new(Family::Ipv4, update.nlri).map(Result::unwrap).collect();
        let sent: Vec<IpNet> = nets.iter().map(|net| (*net).into()).collect();
        prop_assert_eq!(read, sent);
        for raw in update.attributes() {
            match Attribute::parse(raw.unwrap(), context).unwrap() {
                Attribute::Origin(origin) => prop_assert_eq!(origin, 1),
                Attribute::AsPath(read) => {
                    let numbers: Vec<u32> =
                        read.segments().unwrap().into_iter().flat_map(|(_, numbers)| numbers).collect();
                    let sent: Vec<u32> = if four_octet_as {
                        path.clone()
                    } else {
                        path.iter().map(|number| u32::from(short(number))).collect()
                    };
                    prop_assert_eq!(numbers, sent);
                }
                Attribute::NextHop(address) => prop_assert_eq!(address, Ipv4Addr::new(192, 0, 2, 1)),
                Attribute::Med(med) => prop_assert_eq!(med, metrics[0]),
                Attribute::LocalPref(preference) => prop_assert_eq!(preference, metrics[1]),
                Attribute::Communities(list) => {
                    let sent: Vec<u8> = communities.iter().flat_map(|c| c.to_be_bytes()).collect();
                    prop_assert_eq!(list, sent);
                }
                Attribute::LargeCommunities(list) => {
                    let sent: Vec<u8> = large.iter().flatten().flat_map(|c| c.to_be_bytes()).collect();
                    prop_assert_eq!(list, sent);
                }
                Attribute::MpReach { family, next_hop, nlri } => {
                    prop_assert_eq!(family, Some(Family::Ipv6));
                    prop_assert_eq!(next_hop, hop.octets());
                    let read: Vec<_> = Prefixes::new(Family::Ipv6, nlri).map(Result::unwrap).collect();
                    let sent: Vec<IpNet> = nets_v6.iter().map(|net| (*net).into()).collect();
                    prop_assert_eq!(read, sent);
                }
                other => prop_assert!(false, "{:?} was not sent", other),
            }
        }
    }

    /// What it finds flawless, at its strictest, does not end a session of
    /// ours.
    #[test]
    fn what_they_take_does_not_end_a_session(
        nets in vec(any_v4(), 1..5),
        export in any_export(),
        set in crate::export::tests::any_attributes(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = Vec::new();
        export.announce(&set, nets.iter().map(|net| Bits::<4>::from(*net)), &mut bytes);
        for (at, value) in changes {
            // Not in the prefixes: there its reading of short ones takes long.
            let end = bytes.len() - nets.len() * 5;
            let at = 23 + at.index(end - 23);
            bytes[at] = value;
        }
        let mut reader = SliceReader::new(&bytes);
        let mut context = strictest(export.four_octet_as);
        if let Ok(BgpMessage::Update(_)) = BgpMessage::parse(&mut reader, &mut context) {
            let frame = Frame::parse(&bytes, MAX_MESSAGE).unwrap().unwrap();
            let context = Context { four_octet_as: export.four_octet_as, internal: export.internal };
            let received = Update::parse(frame.body).and_then(|update| update.check(context));
            // It takes attributes that say that they are well known and are
            // not; RFC 4271 §6.3 does not.
            let code = received.err().map(|fault| fault.notification.code);
            prop_assert!(matches!(code, None | Some(Code::UNRECOGNIZED_ATTRIBUTE)), "{:?}", code);
        }
    }

    /// OPENs with anything in them: where it can read one, it writes what we
    /// write.
    #[test]
    fn every_open_is_read_alike(open in crate::open::tests::any_open()) {
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        let mut reader = SliceReader::new(&bytes);
        let mut context = strictest(true);
        if let Ok(BgpMessage::Open(theirs)) = BgpMessage::parse(&mut reader, &mut context) {
            prop_assert_eq!(theirs.my_asn4(), open.autonomous_system());
            prop_assert_eq!(theirs.hold_time(), open.hold_time);
            let four_octets = open.capabilities.iter().filter(|c| matches!(c, Capability::FourOctetAs(_)));
            let theirs = theirs.capabilities().into_iter().filter(|c| matches!(c, BgpCapability::FourOctetAs(_)));
            prop_assert_eq!(theirs.count(), four_octets.count());
        }
    }
}
