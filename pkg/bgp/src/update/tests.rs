//! RFC 7606, attribute by attribute.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const INTERNAL: Context = Context {
    four_octet_as: true,
    internal: true,
};
const EXTERNAL: Context = Context {
    four_octet_as: true,
    internal: false,
};
const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const NLRI: &[u8] = &[24, 203, 0, 113];

fn update(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [
        &length(withdrawn)[..],
        withdrawn,
        &length(&attributes),
        &attributes,
        nlri,
    ]
    .concat()
}

fn check(body: &[u8], context: Context) -> Result<Received, Code> {
    let update = Update::parse(body).map_err(|fault| fault.notification.code)?;
    update
        .check(context)
        .map_err(|fault| fault.notification.code)
}

/// A route, with one attribute more.
fn with(attribute: &[u8], context: Context) -> Result<Option<(Severity, Code)>, Code> {
    let body = update(&[], &[ORIGIN, AS_PATH, NEXT_HOP, attribute], NLRI);
    let error = check(&body, context)?.error;
    Ok(error.map(|error| (error.severity, error.code)))
}

#[test]
fn a_good_route_is_counted() {
    let body = update(&[8, 10, 8, 11], &[ORIGIN, AS_PATH, NEXT_HOP], NLRI);
    let received = check(&body, EXTERNAL).unwrap();
    assert_eq!(
        received,
        Received {
            announced: 1,
            withdrawn: 2,
            ..Received::default()
        }
    );
}

/// RFC 4271 §6.3, RFC 7606 §3 (b), (i), §5.3.
#[test]
fn what_hides_the_routes_ends_the_session() {
    for body in [&[0, 1][..], &[0, 1, 0, 0], &[0, 0, 0, 1], &[0, 2, 8, 1, 0]] {
        assert_eq!(check(body, EXTERNAL), Err(Code::ATTRIBUTE_LIST), "{body:?}");
    }
    let good = [ORIGIN, AS_PATH, NEXT_HOP];
    assert_eq!(
        check(&update(&[], &good, &[33, 1, 2, 3, 4, 5]), EXTERNAL),
        Err(Code::BAD_NETWORK)
    );
    assert_eq!(
        check(&update(&[8], &[], &[]), EXTERNAL),
        Err(Code::BAD_NETWORK)
    );
}

/// RFC 4724 §2.
#[test]
fn the_end_of_the_table_is_seen() {
    let ends = |body: &[u8]| check(body, EXTERNAL).unwrap().end_of_rib;
    assert_eq!(ends(&[0, 0, 0, 0]), Some(Family::Ipv4));
    let v6 = &[0x80, 15, 3, 0, 2, 1][..];
    assert_eq!(ends(&update(&[], &[v6], &[])), Some(Family::Ipv6));
    assert_eq!(ends(&update(&[8, 10], &[v6], &[])), None);
    let some = &[0x80, 15, 5, 0, 2, 1, 8, 0x20][..];
    assert_eq!(ends(&update(&[], &[some], &[])), None);
}

/// RFC 7606 §7.1 to §7.16, RFC 8092 §5, RFC 6793 §6.
#[test]
fn each_attribute_is_answered_as_its_section_says() {
    use Severity::{Discard, Withdraw};
    type Case = (&'static [u8], Context, Option<(Severity, Code)>);
    let length = Code::ATTRIBUTE_LENGTH;
    let list = Code::ATTRIBUTE_LIST;
    let cases: &[Case] = &[
        (&[0x80, 4, 4, 0, 0, 0, 1], EXTERNAL, None),
        (&[0x80, 4, 3, 0, 0, 1], EXTERNAL, Some((Withdraw, length))),
        (&[0x80, 4, 0], EXTERNAL, Some((Withdraw, length))),
        (&[0x40, 5, 4, 0, 0, 0, 1], INTERNAL, None),
        (&[0x40, 5, 1, 0], INTERNAL, Some((Withdraw, length))),
        (&[0x40, 5, 1, 0], EXTERNAL, Some((Discard, list))),
        (&[0x40, 6, 0], EXTERNAL, None),
        (&[0x40, 6, 1, 0], EXTERNAL, Some((Discard, length))),
        (&[0xc0, 7, 8, 0, 0, 0, 1, 1, 1, 1, 1], EXTERNAL, None),
        (
            &[0xc0, 7, 6, 0, 1, 1, 1, 1, 1],
            EXTERNAL,
            Some((Discard, length)),
        ),
        (&[0xc0, 8, 4, 0, 1, 0, 1], EXTERNAL, None),
        (&[0xc0, 8, 0], EXTERNAL, Some((Withdraw, length))),
        (
            &[0xc0, 8, 5, 0, 1, 0, 1, 1],
            EXTERNAL,
            Some((Withdraw, length)),
        ),
        (&[0x80, 9, 4, 1, 1, 1, 1], INTERNAL, None),
        (&[0x80, 9, 3, 1, 1, 1], INTERNAL, Some((Withdraw, length))),
        (&[0x80, 9, 4, 1, 1, 1, 1], EXTERNAL, Some((Discard, list))),
        (&[0x80, 10, 0], INTERNAL, Some((Withdraw, length))),
        (&[0x80, 10, 0], EXTERNAL, Some((Discard, list))),
        (&[0xc0, 16, 8, 0, 2, 0, 1, 0, 0, 0, 1], EXTERNAL, None),
        (
            &[0xc0, 16, 7, 0, 2, 0, 1, 0, 0, 0],
            EXTERNAL,
            Some((Withdraw, length)),
        ),
        (
            &[0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1],
            EXTERNAL,
            None,
        ),
        (&[0xc0, 32, 1, 0], EXTERNAL, Some((Withdraw, length))),
        (
            &[0xc0, 17, 6, 2, 1, 0, 0, 0, 1],
            EXTERNAL,
            Some((Discard, list)),
        ),
        // §3 (c): flags. Partial is not looked at.
        (
            &[0x40, 4, 4, 0, 0, 0, 1],
            EXTERNAL,
            Some((Withdraw, Code::ATTRIBUTE_FLAGS)),
        ),
        (&[0xe0, 8, 4, 0, 1, 0, 1], EXTERNAL, None),
        // §3 (g): the second of a kind.
        (&[0x40, 1, 1, 2], EXTERNAL, Some((Discard, list))),
        // §4: the attribute does not end where it should.
        (&[0x80, 4, 9, 0], EXTERNAL, Some((Withdraw, list))),
        (&[0x80], EXTERNAL, Some((Withdraw, list))),
        // What is not known and optional is nobody's error.
        (&[0xc0, 200, 2, 1, 2], EXTERNAL, None),
    ];
    for (attribute, context, expected) in cases {
        assert_eq!(with(attribute, *context), Ok(*expected), "{attribute:?}");
    }
    assert_eq!(
        with(&[0x40, 200, 0], EXTERNAL),
        Err(Code::UNRECOGNIZED_ATTRIBUTE)
    );
}

/// RFC 6793 §4.1, §6: two octets from a peer that has no more.
#[test]
fn short_paths_have_their_own_form() {
    let short = Context {
        four_octet_as: false,
        internal: false,
    };
    let path = &[0x40, 2, 4, 2, 1, 0x5b, 0xa0][..];
    let long = &[0xc0, 17, 6, 2, 1, 0, 1, 0, 0][..];
    let body = update(&[], &[ORIGIN, path, NEXT_HOP, long], NLRI);
    assert_eq!(check(&body, short).unwrap().error, None);
    let error = check(&body, EXTERNAL).unwrap().error.unwrap();
    assert_eq!(error.severity, Severity::Withdraw);
    let broken = &[0xc0, 17, 3, 2, 1, 0][..];
    let body = update(&[], &[ORIGIN, path, NEXT_HOP, broken], NLRI);
    let error = check(&body, short).unwrap().error.unwrap();
    assert_eq!(error.severity, Severity::Discard);
}

/// RFC 7606 §7.2.
#[test]
fn malformed_paths_withdraw() {
    for path in [
        &[2, 0][..],
        &[5, 1, 0, 0, 0, 1],
        &[3, 1, 0, 0, 0, 1],
        &[2, 2, 0, 0, 0, 1],
        &[2, 1, 0, 0, 0, 1, 2],
    ] {
        let head = [0x40, 2, u8::try_from(path.len()).unwrap()];
        let path = [&head[..], path].concat();
        let body = update(&[], &[ORIGIN, &path, NEXT_HOP], NLRI);
        let error = check(&body, EXTERNAL).unwrap().error.unwrap();
        assert_eq!(
            (error.severity, error.code),
            (Severity::Withdraw, Code::BAD_AS_PATH)
        );
    }
}

/// RFC 7606 §3 (d).
#[test]
fn what_is_missing_withdraws() {
    for attributes in [
        &[AS_PATH, NEXT_HOP][..],
        &[ORIGIN, NEXT_HOP],
        &[ORIGIN, AS_PATH],
        &[],
    ] {
        let received = check(&update(&[], attributes, NLRI), EXTERNAL).unwrap();
        assert_eq!(received.error.unwrap().code, Code::MISSING_ATTRIBUTE);
    }
    let reach = [&[0x80, 14, 21, 0, 2, 1, 16][..], &[0x20; 16], &[0]].concat();
    let whole = update(&[], &[&reach, ORIGIN, AS_PATH], &[]);
    assert_eq!(check(&whole, EXTERNAL).unwrap().error, None);
    let without = update(&[], &[&reach, ORIGIN], &[]);
    assert!(check(&without, EXTERNAL).unwrap().error.is_some());
    // A message that only withdraws needs none.
    assert_eq!(
        check(&update(NLRI, &[], &[]), EXTERNAL).unwrap().error,
        None
    );
}

/// RFC 7606 §5.2.
#[test]
fn an_error_without_routes_ends_the_session() {
    let med = &[0x80, 4, 1, 0][..];
    assert_eq!(
        check(&update(&[], &[med], &[]), EXTERNAL),
        Err(Code::ATTRIBUTE_LENGTH)
    );
    // RFC 4271 §6.3: it tells which.
    let body = update(&[], &[med], &[]);
    let fault = Update::parse(&body).unwrap().check(EXTERNAL).unwrap_err();
    assert_eq!(fault.notification.data, med);
    let discarded = &[0x40, 6, 1, 0][..];
    let received = check(&update(&[], &[discarded], &[]), EXTERNAL).unwrap();
    assert_eq!(received.error.unwrap().severity, Severity::Discard);
}

/// RFC 7606 §3 (g), (i), §7.11.
#[test]
fn broken_multiprotocol_attributes_end_the_session() {
    let reach = |value: &[u8]| {
        let head = [0x80, 14, u8::try_from(value.len()).unwrap()];
        let reach = [&head[..], value].concat();
        check(&update(&[], &[&reach, ORIGIN, AS_PATH], &[]), EXTERNAL)
    };
    let good = [&[0, 2, 1, 16][..], &[0x20; 16], &[0, 8, 0x20]].concat();
    assert_eq!(reach(&good).unwrap().announced, 1);
    // IPv4 over IPv6 (RFC 8950 §3).
    let over = [&[0, 1, 1, 16][..], &[0x20; 16], &[0, 8, 10]].concat();
    assert_eq!(reach(&over).unwrap().announced, 1);
    // Of a family that is not spoken nothing is looked at.
    assert_eq!(reach(&[0, 25, 70, 0, 0, 1, 2, 3]).unwrap().announced, 0);
    let broken = Err(Code::OPTIONAL_ATTRIBUTE);
    assert_eq!(reach(&[0, 2, 1, 17, 0]), broken);
    assert_eq!(reach(&[0, 2]), broken);
    assert_eq!(reach(&[0, 2, 1, 4, 1, 1, 1, 1, 0]), broken);
    assert_eq!(reach(&[&good[..], &[129]].concat()), broken);
    let unreach = &[0x80, 15, 3, 0, 2, 1][..];
    assert_eq!(
        check(&update(&[], &[unreach, unreach], &[]), EXTERNAL),
        Err(Code::ATTRIBUTE_LIST)
    );
    let short = &[0x80, 15, 2, 0, 2][..];
    assert_eq!(check(&update(&[], &[short], &[]), EXTERNAL), broken);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in vec(any::<u8>(), 0..200), flags in any::<[bool; 2]>()) {
        let context = Context { four_octet_as: flags[0], internal: flags[1] };
        let _ = check(&body, context);
    }

    /// Attributes of every type with any value, in a message whose lengths are
    /// right, so that the reading gets to them.
    #[test]
    fn any_attributes_are_read_or_refused(
        attributes in vec((any::<u8>(), 0..40_u8, vec(any::<u8>(), 0..30)), 0..8),
        nlri in vec(any::<u8>(), 0..8),
        four_octet_as in any::<bool>(),
    ) {
        let attributes: Vec<Vec<u8>> = attributes
            .iter()
            .map(|(flags, kind, value)| {
                let mut out = Vec::new();
                crate::attribute::put(flags & !0x10, *kind, value, &mut out);
                out
            })
            .collect();
        let attributes: Vec<&[u8]> = attributes.iter().map(Vec::as_slice).collect();
        let body = update(&[], &attributes, &nlri);
        let parsed = Update::parse(&body).unwrap();
        let mut again = Vec::new();
        for raw in parsed.attributes().flatten() {
            raw.encode(&mut again);
        }
        // The lower flags are not written back.
        prop_assert_eq!(again.len(), parsed.attributes.len());
        let _ = check(&body, Context { four_octet_as, internal: true });
    }
}
