//! What is written, byte by byte, and read back.

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::attribute::{Attribute, Context, RawAttribute};
use crate::community::{ExtendedCommunity, LargeCommunity};
use crate::message::{Frame, MAX_EXTENDED_MESSAGE, MAX_MESSAGE};
use crate::nlri::{Bits, Prefixes};
use crate::update::Update;

fn export(next_hop: NextHop) -> Export {
    Export {
        local_as: 64512,
        internal: false,
        four_octet_as: true,
        max_message: MAX_MESSAGE,
        link_local_alone: false,
        next_hops: [Some(next_hop), Some(NextHop::V6(V6))],
        policy: Arc::default(),
        graceful_shutdown: false,
        withdrawn: false,
    }
}

const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn v4() -> Export {
    export(NextHop::V4([192, 0, 2, 1].into()))
}

fn hosts(count: u32) -> impl Iterator<Item = Bits<4>> {
    (0..count).map(|i| {
        Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + i), 32)
            .unwrap()
            .into()
    })
}

fn hosts_v6(count: u32) -> impl Iterator<Item = Bits<16>> {
    (0..count).map(|i| {
        let address = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(i));
        Ipv6Net::new(address, 128).unwrap().into()
    })
}

/// Every message in `bytes`: its attributes, and how many prefixes it
/// announces and withdraws. Each must be one that we ourselves find flawless.
fn read(bytes: &[u8], max: usize, export: &Export) -> Vec<(Vec<Vec<u8>>, usize, usize)> {
    let context = Context {
        four_octet_as: export.four_octet_as,
        internal: export.internal,
    };
    let mut rest = bytes;
    let mut messages = Vec::new();
    while let Some(frame) = Frame::parse(rest, max).unwrap() {
        rest = &rest[frame.length()..];
        let update = Update::parse(frame.body).unwrap();
        let received = update.check(context).unwrap();
        assert_eq!(received.error, None);
        let attributes = update
            .attributes()
            .map(|raw| {
                let RawAttribute { flags, kind, value } = raw.unwrap();
                [&[flags, kind], value].concat()
            })
            .collect();
        messages.push((attributes, received.announced, received.withdrawn));
    }
    assert!(rest.is_empty());
    messages
}

fn announced(export: &Export, set: &PathAttributes) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    export.announce(set, hosts(1), &mut out);
    let mut messages = read(&out, export.max_message, export);
    assert_eq!(messages.len(), 1);
    messages.remove(0).0
}

#[test]
fn an_announcement_is_written_as_the_rfc_draws_it() {
    let mut out = Vec::new();
    v4().announce(&PathAttributes::default(), hosts(2), &mut out);
    #[rustfmt::skip]
    let expected = [
        0, 53, 2, // length, type
        0, 0, 0, 20, // no withdrawn routes; attributes
        0x40, 1, 1, 0,
        0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0,
        0x40, 3, 4, 192, 0, 2, 1,
        32, 10, 0, 0, 0,
        32, 10, 0, 0, 1,
    ];
    assert_eq!(out[16..], expected);
}

/// RFC 4271 §4.3, RFC 8654: as many prefixes as fit, and never more.
#[test]
fn messages_are_filled_to_the_brim() {
    let set = PathAttributes::default();
    let one = PathAttributes {
        communities: vec![Community(1)],
        ..PathAttributes::default()
    };
    let long = Export {
        max_message: MAX_EXTENDED_MESSAGE,
        ..v4()
    };
    for (export, set, first, messages) in [
        (v4(), &set, 810, 124),
        (v4(), &one, 809, 124),
        (long, &set, 13_098, 8),
    ] {
        let mut out = Vec::new();
        export.announce(set, hosts(100_000), &mut out);
        let read = read(&out, export.max_message, &export);
        assert_eq!((read[0].1, read.len()), (first, messages));
        assert_eq!(read.iter().map(|m| m.1).sum::<usize>(), 100_000);
    }
    let mut out = Vec::new();
    v4().withdraw(hosts(100_000), &mut out);
    let read_back = read(&out, MAX_MESSAGE, &v4());
    assert_eq!((read_back[0].2, read_back.len()), (814, 123));
    let mut out = Vec::new();
    v4().announce(&set, hosts_v6(100_000), &mut out);
    let read_back = read(&out, MAX_MESSAGE, &v4());
    assert_eq!((read_back[0].1, read_back.len()), (237, 422));
    let mut out = Vec::new();
    v4().withdraw(hosts_v6(1000), &mut out);
    let read_back = read(&out, MAX_MESSAGE, &v4());
    assert_eq!((read_back[0].2, read_back.len()), (239, 5));
}

/// RFC 4271 §5.1.2, §5.1.5, RFC 8326 §4.
#[test]
fn peers_in_our_as_get_a_preference_and_no_path() {
    let inside = Export {
        internal: true,
        ..v4()
    };
    let set = PathAttributes {
        prepend: 3,
        med: Some(7),
        ..PathAttributes::default()
    };
    let attributes = announced(&inside, &set);
    assert_eq!(attributes[1], [0x40, 2]);
    assert_eq!(attributes[3], [0x80, 4, 0, 0, 0, 7]);
    assert_eq!(attributes[4], [0x40, 5, 0, 0, 0, 100]);
    let going = Export {
        graceful_shutdown: true,
        ..inside
    };
    let attributes = announced(&going, &set);
    assert_eq!(attributes[4], [0x40, 5, 0, 0, 0, 0]);
    assert_eq!(attributes[5], [0xc0, 8, 0xff, 0xff, 0, 0]);
    let outside = announced(&v4(), &set);
    assert!(outside.iter().all(|attribute| attribute[1] != 5));
    assert_eq!(outside[1][2..4], [2, 4]);
}

/// RFC 6793 §4.2.2.
#[test]
fn a_peer_with_short_as_numbers_gets_both_paths() {
    let short = Export {
        four_octet_as: false,
        ..v4()
    };
    let set = PathAttributes {
        prepend: 1,
        ..PathAttributes::default()
    };
    let attributes = announced(&short, &set);
    assert_eq!(attributes[1], [0x40, 2, 2, 2, 0xfc, 0, 0xfc, 0]);
    assert!(attributes.iter().all(|attribute| attribute[1] != 17));
    let long = Export {
        local_as: 0x0001_0002,
        ..short
    };
    let attributes = announced(&long, &set);
    assert_eq!(attributes[1], [0x40, 2, 2, 2, 0x5b, 0xa0, 0x5b, 0xa0]);
    assert_eq!(attributes[3], [0xc0, 17, 2, 2, 0, 1, 0, 2, 0, 1, 0, 2]);
}

/// RFC 2545 §3, RFC 8950 §3.
#[test]
fn next_hops_have_the_form_of_their_family() {
    let next_hop = |export: &Export| {
        let attributes = announced(export, &PathAttributes::default());
        let [flags, kind, value @ ..] = attributes[0].as_slice() else {
            panic!("the first attribute is empty");
        };
        assert_eq!(
            (flags & OPTIONAL, *kind, &value[..3]),
            (OPTIONAL, 14, &[0, 1, 1][..])
        );
        value[4..4 + usize::from(value[3])].to_vec()
    };
    assert_eq!(next_hop(&export(NextHop::V6(V6))), V6.octets());
    let both = [V6.octets(), LOCAL.octets()].concat();
    assert_eq!(next_hop(&export(NextHop::V6WithLinkLocal(V6, LOCAL))), both);
    let twice = [LOCAL.octets(); 2].concat();
    let local = export(NextHop::LinkLocal(LOCAL));
    assert_eq!(next_hop(&local), twice);
    let alone = Export {
        link_local_alone: true,
        ..local
    };
    assert_eq!(next_hop(&alone), LOCAL.octets());
    // What came in an attribute goes in one.
    let mut out = Vec::new();
    alone.withdraw(hosts(1), &mut out);
    assert_eq!(out[19..30], [0, 0, 0, 12, 0x90, 15, 0, 8, 0, 1, 1]);
}

#[test]
fn without_a_next_hop_nothing_is_announced() {
    let none = Export {
        next_hops: [None, None],
        ..v4()
    };
    let mut out = Vec::new();
    none.announce(&PathAttributes::default(), hosts(1), &mut out);
    let withdrawn = Export {
        withdrawn: true,
        ..v4()
    };
    withdrawn.announce(&PathAttributes::default(), hosts(1), &mut out);
    assert!(out.is_empty());
}

/// RFC 4724 §2.
#[test]
fn the_end_of_the_table_has_two_forms() {
    let mut out = Vec::new();
    encode_end_of_rib(Family::Ipv4, &mut out);
    assert_eq!(out[16..], [0, 23, 2, 0, 0, 0, 0]);
    let mut out = Vec::new();
    encode_end_of_rib(Family::Ipv6, &mut out);
    assert_eq!(out[16..], [0, 29, 2, 0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]);
}

pub fn any_attributes() -> impl Strategy<Value = PathAttributes> {
    let large = any::<[u32; 3]>().prop_map(|[global, local1, local2]| LargeCommunity {
        global,
        local1,
        local2,
    });
    (
        vec(any::<u32>().prop_map(Community), 0..100),
        vec(large, 0..30),
        vec(any::<[u8; 8]>().prop_map(ExtendedCommunity), 0..30),
        any::<[Option<u32>; 2]>(),
        0..=64_u8,
    )
        .prop_map(
            |(communities, large, extended, [med, local_pref], prepend)| {
                PathAttributes {
                    communities,
                    large_communities: large,
                    extended_communities: extended,
                    med,
                    local_pref,
                    prepend,
                }
                .normalized()
            },
        )
}

pub fn any_export() -> impl Strategy<Value = Export> {
    let next_hop = prop_oneof![
        any::<[u8; 4]>().prop_map(|a| NextHop::V4(a.into())),
        any::<[u8; 16]>().prop_map(|a| NextHop::V6(a.into())),
        Just(NextHop::V6WithLinkLocal(V6, LOCAL)),
        Just(NextHop::LinkLocal(LOCAL)),
    ];
    (1..u32::MAX, any::<[bool; 5]>(), next_hop).prop_map(
        |(local_as, [internal, four_octet_as, long, alone, going], next_hop)| Export {
            local_as,
            internal,
            four_octet_as,
            max_message: if long {
                MAX_EXTENDED_MESSAGE
            } else {
                MAX_MESSAGE
            },
            link_local_alone: alone,
            graceful_shutdown: going,
            ..export(next_hop)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any routes with any attributes come back as they were, and no message
    /// is too long or carries fewer prefixes than it could.
    #[test]
    fn what_is_written_is_read_back(
        export in any_export(),
        set in any_attributes(),
        nets in vec(any::<(u32, u8)>(), 1..3000),
    ) {
        let nets: Vec<Bits<4>> = nets
            .iter()
            .map(|(address, length)| Ipv4Net::new((*address).into(), length % 33).unwrap().into())
            .collect();
        let mut out = Vec::new();
        export.announce(&set, nets.iter().copied(), &mut out);
        let context = Context { four_octet_as: export.four_octet_as, internal: export.internal };
        let mut rest = &out[..];
        let mut found = Vec::new();
        let mut lengths = Vec::new();
        while let Some(frame) = Frame::parse(rest, export.max_message).unwrap() {
            rest = &rest[frame.length()..];
            lengths.push(frame.length());
            let update = Update::parse(frame.body).unwrap();
            prop_assert_eq!(update.check(context).unwrap().error, None);
            found.extend(Prefixes::new(Family::Ipv4, update.nlri).map(Result::unwrap));
            for raw in update.attributes() {
                match Attribute::parse(raw.unwrap(), context).unwrap() {
                    Attribute::MpReach { nlri, .. } => {
                        found.extend(Prefixes::new(Family::Ipv4, nlri).map(Result::unwrap));
                    }
                    Attribute::Med(med) => prop_assert_eq!(Some(med), set.med),
                    Attribute::Communities(list) if !export.graceful_shutdown => {
                        let sent: Vec<u8> = set.communities.iter().flat_map(|c| c.0.to_be_bytes()).collect();
                        prop_assert_eq!(list, sent);
                    }
                    Attribute::LargeCommunities(list) => {
                        prop_assert_eq!(list.len(), set.large_communities.len() * 12);
                    }
                    Attribute::ExtendedCommunities(list) => {
                        prop_assert_eq!(list.len(), set.extended_communities.len() * 8);
                    }
                    Attribute::AsPath(path) if !export.internal => {
                        let segments = path.segments().unwrap();
                        let expected = if export.four_octet_as {
                            export.local_as
                        } else {
                            u16::try_from(export.local_as).unwrap_or(AS_TRANS).into()
                        };
                        let numbers = vec![expected; usize::from(set.prepend) + 1];
                        prop_assert_eq!(segments, [(false, numbers)]);
                    }
                    _ => {}
                }
            }
        }
        prop_assert!(rest.is_empty());
        let sent: Vec<_> = nets.iter().map(|net| net.to_net()).collect();
        prop_assert_eq!(found, sent);
        lengths.pop();
        prop_assert!(lengths.iter().all(|length| *length > export.max_message - 5));
    }
}
