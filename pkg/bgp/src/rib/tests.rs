//! What each peer gets, read back from the bytes by a peer of the test.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::attribute::{Attribute, Context};
use crate::export::NextHop;
use crate::message::{Frame, MAX_MESSAGE, MessageType};
use crate::nlri::Prefixes;
use crate::offers::Peers;
use crate::update::Update;

fn export(local_as: u32) -> Export {
    Export {
        local_as,
        internal: false,
        four_octet_as: true,
        max_message: MAX_MESSAGE,
        link_local_alone: false,
        next_hops: [
            Some(NextHop::V4([192, 0, 2, 1].into())),
            Some(NextHop::V6("2001:db8::1".parse().unwrap())),
        ],
        policy: Arc::default(),
        graceful_shutdown: false,
        withdrawn: false,
    }
}

fn offer(peers: Peers, med: u32) -> Offer {
    Offer {
        peers,
        attributes: PathAttributes {
            med: Some(med),
            ..PathAttributes::default()
        },
    }
}

fn to_all(med: u32) -> Vec<Offer> {
    vec![offer(Peers::All, med)]
}

fn host(number: u32) -> IpNet {
    IpNet::new_assert(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 32)
}

fn host_v6(number: u32) -> IpNet {
    let address = 0x2001_0db8_u128 << 96 | u128::from(number);
    IpNet::new_assert(std::net::Ipv6Addr::from(address).into(), 128)
}

/// What a peer makes of what it is sent.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    routes: BTreeMap<IpNet, u32>,
    messages: usize,
    withdrawals: usize,
    ends: Vec<Family>,
    marks: Vec<RefreshKind>,
}

impl Heard {
    fn hear(&mut self, messages: &[Messages]) {
        let bytes: Vec<u8> = messages.iter().flat_map(|m| m.iter().copied()).collect();
        let mut rest = &bytes[..];
        while let Some(frame) = Frame::parse(rest, MAX_MESSAGE).unwrap() {
            rest = &rest[frame.length()..];
            self.messages += 1;
            match frame.kind {
                MessageType::Update => self.update(frame.body),
                MessageType::RouteRefresh => {
                    let refresh = RouteRefresh::parse(frame.body).unwrap().unwrap();
                    self.marks.push(refresh.kind);
                }
                kind => panic!("{kind:?} among routes"),
            }
        }
        assert!(rest.is_empty());
    }

    fn update(&mut self, body: &[u8]) {
        let context = Context {
            four_octet_as: true,
            internal: false,
        };
        let update = Update::parse(body).unwrap();
        let received = update.check(context).unwrap();
        assert_eq!(received.error, None);
        self.ends.extend(received.end_of_rib);
        let mut gone: Vec<_> = Prefixes::new(Family::Ipv4, update.withdrawn).collect();
        let mut come: Vec<_> = Prefixes::new(Family::Ipv4, update.nlri).collect();
        let mut med = 0;
        for raw in update.attributes() {
            match Attribute::parse(raw.unwrap(), context).unwrap() {
                Attribute::Med(value) => med = value,
                Attribute::MpReach {
                    family: Some(family),
                    nlri,
                    ..
                } => come.extend(Prefixes::new(family, nlri)),
                Attribute::MpUnreach {
                    family: Some(family),
                    withdrawn,
                } => gone.extend(Prefixes::new(family, withdrawn)),
                _ => {}
            }
        }
        self.withdrawals += gone.len();
        for prefix in gone {
            let known = self.routes.remove(&prefix.unwrap());
            assert!(known.is_some(), "only what was announced is withdrawn");
        }
        for prefix in come {
            self.routes.insert(prefix.unwrap(), med);
        }
    }
}

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

/// Each peer of these tests has a group of its own.
const fn own(peer: PeerId) -> GroupId {
    GroupId(peer.0)
}

fn only<'a>(peers: impl IntoIterator<Item = &'a PeerId>) -> Peers {
    Peers::Only(peers.into_iter().map(|peer| own(*peer)).collect())
}

fn with_peers() -> Rib {
    let mut rib = Rib::new();
    for peer in [A, B] {
        rib.add_peer(peer, Some(own(peer)), export(64512), Families::BOTH, true);
    }
    rib.set_complete();
    rib
}

#[test]
fn routes_are_sent_then_the_end_and_then_nothing() {
    let mut rib = with_peers();
    rib.announce(host(1), &to_all(5));
    rib.announce(host_v6(1), &to_all(6));
    rib.publish();
    assert!(rib.has_work(A));
    let mut heard = Heard::default();
    heard.hear(&rib.take(A));
    assert_eq!(heard.routes, [(host(1), 5), (host_v6(1), 6)].into());
    assert_eq!(heard.ends, Family::ALL);
    assert!(!rib.has_work(A));
    assert!(rib.take(A).is_empty());
    assert_eq!((rib.told(A), rib.told(B)), (2, 0));
}

/// RFC 4724 §4.1: a peer that retained our routes drops at the End-of-RIB what
/// it was not told again; so that waits until we know them all.
#[test]
fn the_end_waits_until_all_routes_are_known() {
    let mut rib = Rib::new();
    rib.add_peer(A, Some(own(A)), export(64512), Families::BOTH, true);
    rib.announce(host(1), &to_all(5));
    rib.publish();
    let mut heard = Heard::default();
    heard.hear(&rib.take(A));
    assert_eq!((heard.routes.len(), heard.ends.len()), (1, 0));
    assert!(!rib.has_work(A));
    rib.announce(host(2), &to_all(5));
    rib.set_complete();
    assert!(rib.has_work(A));
    heard.hear(&rib.take(A));
    assert_eq!((heard.routes.len(), heard.ends), (2, Family::ALL.into()));
}

#[test]
fn changes_are_gathered_and_what_did_not_change_is_not_told() {
    let mut rib = with_peers();
    rib.announce(host(1), &to_all(1));
    rib.publish();
    let mut heard = Heard::default();
    heard.hear(&rib.take(A));
    for med in [2, 3, 4] {
        rib.announce(host(1), &to_all(med));
    }
    assert!(!rib.has_work(A), "not before it is published");
    rib.publish();
    let before = heard.messages;
    heard.hear(&rib.take(A));
    assert_eq!((heard.routes[&host(1)], heard.messages - before), (4, 1));
    rib.announce(host(1), &to_all(4));
    assert!(!rib.has_news());
    // Announced and withdrawn in between: the peer never hears of it.
    rib.announce(host(2), &to_all(1));
    rib.withdraw(host(2));
    rib.publish();
    assert!(rib.take(A).is_empty());
}

#[test]
fn a_route_for_some_is_sent_to_those_and_withdrawn_from_those() {
    let mut rib = with_peers();
    rib.announce(host(1), &[offer(only(&[A]), 1), offer(Peers::All, 2)]);
    rib.announce(host(2), &[offer(only(&[A]), 1)]);
    rib.publish();
    let mut heard = [Heard::default(), Heard::default()];
    heard[0].hear(&rib.take(A));
    heard[1].hear(&rib.take(B));
    assert_eq!(heard[0].routes, [(host(1), 1), (host(2), 1)].into());
    assert_eq!(heard[1].routes, [(host(1), 2)].into());
    rib.announce(host(1), &[offer(only(&[A]), 1)]);
    rib.announce(host(2), &[offer(only(&[B]), 1)]);
    rib.publish();
    heard[0].hear(&rib.take(A));
    heard[1].hear(&rib.take(B));
    assert_eq!(heard[0].routes, [(host(1), 1)].into());
    assert_eq!(heard[1].routes, [(host(2), 1)].into());
    // B has never had host 2 withdrawn, nor A host 1.
    assert_eq!((heard[0].withdrawals, heard[1].withdrawals), (1, 1));
}

/// A peer that joins a group later gets what the group is offered, and nobody else is
/// told anything.
#[test]
fn a_peer_that_joins_a_group_changes_nothing_for_others() {
    let mut rib = with_peers();
    rib.announce(host(1), &[offer(only(&[A]), 1)]);
    rib.announce(host(2), &[offer(only(&[B]), 1)]);
    rib.publish();
    rib.take(A);
    rib.take(B);
    let late = PeerId(3);
    rib.add_peer(late, Some(own(A)), export(64512), Families::BOTH, true);
    let mut heard = Heard::default();
    heard.hear(&rib.take(late));
    assert_eq!(heard.routes, [(host(1), 1)].into());
    assert!(!rib.has_work(A) && !rib.has_work(B));
    rib.remove_peer(late);
    rib.publish();
    assert!(!rib.has_work(A) && !rib.has_work(B));
}

#[test]
fn peers_that_get_the_same_share_the_bytes() {
    let mut rib = with_peers();
    let other = PeerId(3);
    rib.add_peer(other, Some(own(other)), export(64513), Families::BOTH, true);
    for number in 0..2000 {
        rib.announce(host(number), &to_all(1));
    }
    rib.publish();
    let (a, b, c) = (rib.take(A), rib.take(B), rib.take(other));
    assert!(Arc::ptr_eq(&a[0], &b[0]));
    assert!(!Arc::ptr_eq(&a[0], &c[0]));
    assert_eq!(rib.encodings(), 2);
    assert!(rib.made.is_empty(), "nobody else can need them");
}

#[test]
fn a_slow_peer_gets_the_newest_and_holds_nobody() {
    let mut rib = with_peers();
    let mut fast = Heard::default();
    for round in 0..50 {
        for number in 0..100 {
            rib.announce(host(number), &to_all(round));
        }
        rib.announce(host(1000 + round), &to_all(round));
        if round > 0 {
            rib.withdraw(host(1000 + round - 1));
        }
        rib.publish();
        fast.hear(&rib.take(A));
        assert_eq!(fast.routes.len(), 101);
    }
    let mut slow = Heard::default();
    slow.hear(&rib.take(B));
    assert_eq!(slow.routes, fast.routes);
    assert_eq!((slow.withdrawals, slow.messages), (0, 3));
}

/// RFC 2918 §4, RFC 7313 §4.
#[test]
fn a_refresh_sends_all_again_between_its_marks() {
    let mut rib = with_peers();
    let simple = PeerId(3);
    rib.add_peer(
        simple,
        Some(own(simple)),
        export(64512),
        Families::BOTH,
        false,
    );
    rib.announce(host(1), &to_all(1));
    rib.announce(host_v6(1), &to_all(1));
    rib.publish();
    for peer in [A, simple] {
        let mut heard = Heard::default();
        heard.hear(&rib.take(peer));
        heard.routes.clear();
        let ends = heard.ends.len();
        rib.refresh(peer, Family::Ipv4);
        rib.refresh(peer, Family::Ipv4);
        heard.hear(&rib.take(peer));
        assert_eq!(heard.routes, [(host(1), 1)].into());
        assert_eq!(heard.ends.len(), ends, "the end is told once");
        let marks = [RefreshKind::Begin, RefreshKind::End];
        let expected = if peer == A { &marks[..] } else { &[] };
        assert_eq!(heard.marks, expected);
    }
    assert!(rib.take(A).is_empty());
}

/// RFC 7313 §4.
#[test]
fn a_refresh_before_the_end_of_the_table_has_no_marks() {
    let mut rib = Rib::new();
    rib.add_peer(A, Some(own(A)), export(64512), Families::BOTH, true);
    rib.announce(host(1), &to_all(1));
    rib.publish();
    let mut heard = Heard::default();
    heard.hear(&rib.take(A));
    heard.routes.clear();
    rib.refresh(A, Family::Ipv4);
    heard.hear(&rib.take(A));
    assert_eq!((heard.routes.len(), heard.marks.len()), (1, 0));
    rib.set_complete();
    rib.refresh(A, Family::Ipv4);
    heard.hear(&rib.take(A));
    assert_eq!((heard.ends.len(), heard.marks.len()), (2, 0));
    rib.refresh(A, Family::Ipv4);
    heard.hear(&rib.take(A));
    assert_eq!(heard.marks.len(), 2);
}

#[test]
fn another_policy_sends_all_again_and_the_same_nothing() {
    let mut rib = with_peers();
    rib.announce(host(1), &to_all(1));
    rib.publish();
    let mut heard = Heard::default();
    heard.hear(&rib.take(A));
    rib.set_export(A, export(64512));
    assert!(!rib.has_work(A));
    let going = Export {
        graceful_shutdown: true,
        ..export(64512)
    };
    rib.set_export(A, going.clone());
    let messages = rib.take(A);
    assert!(
        messages[0]
            .windows(7)
            .any(|w| w == [0xc0, 8, 4, 0xff, 0xff, 0, 0])
    );
    rib.set_export(
        A,
        Export {
            withdrawn: true,
            ..going
        },
    );
    heard.hear(&rib.take(A));
    assert!(heard.routes.is_empty());
    assert_eq!(rib.told(A), 0);
}

#[test]
fn a_family_that_is_not_spoken_is_not_sent() {
    let mut rib = Rib::new();
    rib.set_complete();
    rib.add_peer(A, Some(own(A)), export(64512), Family::Ipv4.into(), true);
    rib.announce(host_v6(1), &to_all(1));
    rib.publish();
    let mut heard = Heard::default();
    heard.hear(&rib.take(A));
    assert_eq!((heard.routes.len(), heard.ends), (0, vec![Family::Ipv4]));
    rib.withdraw(host_v6(1));
    rib.publish();
    rib.announce(host_v6(2), &to_all(1));
    rib.publish();
    assert_eq!(rib.v6.iter().count(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Announce(u32, bool, u32, BTreeSet<PeerId>),
    Withdraw(u32, bool),
    Publish,
    Take(PeerId),
    Refresh(PeerId),
    Flap(PeerId),
    Export(PeerId, bool, u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    let peer = || (1..=3_u32).prop_map(PeerId);
    prop_oneof![
        8 => (0..30_u32, any::<bool>(), 0..4_u32, proptest::collection::btree_set(peer(), 0..3))
            .prop_map(|(n, v6, med, peers)| Step::Announce(n, v6, med, peers)),
        4 => (0..30_u32, any::<bool>()).prop_map(|(n, v6)| Step::Withdraw(n, v6)),
        2 => Just(Step::Publish),
        4 => peer().prop_map(Step::Take),
        1 => peer().prop_map(Step::Refresh),
        1 => peer().prop_map(Step::Flap),
        1 => (peer(), any::<bool>(), 1..3_u32).prop_map(|(p, w, n)| Step::Export(p, w, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens in whatever order, every peer ends with exactly what
    /// is offered to it, and is never told to withdraw what it has not.
    #[test]
    fn every_peer_ends_with_its_routes(steps in vec(any_step(), 0..300)) {
        let mut rib = Rib::new();
        rib.set_complete();
        let mut offered: BTreeMap<IpNet, (u32, BTreeSet<PeerId>)> = BTreeMap::new();
        let mut heard: BTreeMap<PeerId, Heard> = BTreeMap::new();
        let peers = [PeerId(1), PeerId(2), PeerId(3)];
        for peer in peers {
            rib.add_peer(peer, Some(own(peer)), export(1), Families::BOTH, true);
            heard.insert(peer, Heard::default());
        }
        let net = |number, v6| if v6 { host_v6(number) } else { host(number) };
        for step in steps {
            match step {
                Step::Announce(number, v6, med, peers) => {
                    rib.announce(net(number, v6), &[offer(only(&peers), med)]);
                    offered.insert(net(number, v6), (med, peers));
                }
                Step::Withdraw(number, v6) => {
                    rib.withdraw(net(number, v6));
                    offered.remove(&net(number, v6));
                }
                Step::Publish => rib.publish(),
                Step::Take(peer) => heard.get_mut(&peer).unwrap().hear(&rib.take(peer)),
                Step::Refresh(peer) => rib.refresh(peer, Family::Ipv4),
                Step::Flap(peer) => {
                    rib.remove_peer(peer);
                    rib.add_peer(peer, Some(own(peer)), export(1), Families::BOTH, true);
                    heard.insert(peer, Heard::default());
                }
                Step::Export(peer, withdrawn, local_as) => {
                    rib.set_export(peer, Export { withdrawn, ..export(local_as) });
                }
            }
            prop_assert_eq!(rib.len(), offered.len());
        }
        rib.publish();
        for peer in peers {
            let heard = heard.get_mut(&peer).unwrap();
            heard.hear(&rib.take(peer));
            let silent = rib.export(peer).unwrap().withdrawn;
            let expected: BTreeMap<IpNet, u32> = offered
                .iter()
                .filter(|(_, (_, peers))| !silent && peers.contains(&peer))
                .map(|(net, (med, _))| (*net, *med))
                .collect();
            prop_assert_eq!(&heard.routes, &expected);
            prop_assert_eq!(rib.told(peer), expected.len());
            prop_assert!(!rib.has_work(peer));
        }
    }
}
