use proptest::prelude::*;

use super::*;

prop_compose! {
    fn claim()(
        group: u64,
        epoch: u32,
        priority: u8,
        standing in prop_oneof![
            Just(Standing::Released), Just(Standing::Acquiring), Just(Standing::Holding)
        ],
        profile in proptest::sample::select(Profile::ALL.to_vec()),
        strict: bool,
        damped: bool,
        unanswered: bool,
    ) -> Claim {
        let group = GroupId(group);
        Claim { group, epoch, priority, standing, profile, strict, damped, unanswered }
    }
}

prop_compose! {
    fn page()(
        from in 0..u64::MAX / 2,
        more in 1..u64::MAX / 2,
        claims in proptest::collection::vec(claim(), 0..30),
    ) -> Page {
        Page { from, to: from + more, claims }
    }
}

prop_compose! {
    fn heard()(session: u64, sequence: u32, have: u32, age in proptest::option::of(0_u64..65535)) -> Heard {
        Heard { session, sequence, have, age: age.map(Duration::from_millis) }
    }
}

prop_compose! {
    fn opinion()(
        heard in proptest::collection::vec(heard(), 0..MAX_HEARD),
        objections in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..MAX_OBJECTIONS),
        objects_to_all: bool,
        unanswered in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..=MAX_UNANSWERED),
    ) -> Opinion {
        let objections = objections.into_iter().map(|(g, n)| (GroupId(g), NodeId(n))).collect();
        let unanswered = unanswered.into_iter().map(|(owner, group)| Unanswered {
            owner: NodeId(owner),
            group: Some(GroupId(group)).filter(|group| group.0 != 0),
        });
        Opinion { heard, objections, objects_to_all, unanswered: unanswered.collect() }
    }
}

prop_compose! {
    fn heartbeat()(
        numbers: [u64; 6],
        interval: u16,
        flags: [bool; 4],
        opinion in proptest::option::of(opinion()),
        page in proptest::option::of(page()),
        hardware: Option<[u8; HARDWARE_LENGTH]>,
    ) -> Heartbeat {
        let [sender, session, sequence, view, claims, floor] = numbers;
        let [ready, draining, leaving, votes] = flags;
        Heartbeat {
            sender: NodeId(sender),
            session,
            sequence,
            interval: Duration::from_millis(interval.into()),
            ready,
            votes,
            draining,
            leaving,
            view,
            claims,
            floor,
            opinion,
            page,
            hardware,
        }
    }
}

/// Where the sections begin.
fn sections(message: &[u8]) -> Vec<usize> {
    let mut at = usize::from(HEADER);
    let mut begins = Vec::new();
    while at < message.len() {
        begins.push(at);
        at += SECTION + usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
    }
    begins
}

proptest! {
    #[test]
    fn what_is_written_is_read(heartbeat in heartbeat()) {
        prop_assert_eq!(Heartbeat::parse(&heartbeat.to_bytes()), Ok(heartbeat));
    }

    #[test]
    fn what_is_newer_is_skipped(
        heartbeat in heartbeat(),
        junk in proptest::collection::vec(any::<u8>(), 0..40),
        kind in 6_u8..,
    ) {
        let plain = heartbeat.to_bytes();
        // A longer header with more flags.
        let mut message = plain.clone();
        message[3] += u8::try_from(junk.len()).unwrap();
        message[4] |= 0xff;
        message.splice(usize::from(HEADER)..usize::from(HEADER), junk.iter().copied());
        prop_assert_eq!(Heartbeat::parse(&message), Ok(heartbeat.clone()));
        // Another section, before and behind those that are known.
        for at in [usize::from(HEADER), plain.len()] {
            let mut message = plain.clone();
            let mut other = Vec::new();
            section(&mut other, kind, 7, |out| out.extend_from_slice(&junk));
            message.splice(at..at, other);
            prop_assert_eq!(Heartbeat::parse(&message), Ok(heartbeat.clone()));
        }
    }

    #[test]
    fn longer_entries_are_read_as_far_as_they_are_known(page in page()) {
        let mut written = Vec::new();
        write_page(&page, &mut written);
        let (fixed, entries) = written[SECTION..].split_at(16);
        let mut body = fixed.to_vec();
        for entry in entries.chunks(CLAIM_ENTRY.into()) {
            body.extend_from_slice(entry);
            body.extend_from_slice(&[0xab; 3]);
        }
        prop_assert_eq!(parse_page(Reader(&body), CLAIM_ENTRY + 3), Ok(page));
    }

    #[test]
    fn what_is_cut_off_is_malformed(heartbeat in heartbeat(), at: proptest::sample::Index) {
        let message = heartbeat.to_bytes();
        let at = at.index(message.len());
        let whole = sections(&message).contains(&at) || at == usize::from(HEADER);
        prop_assert_eq!(Heartbeat::parse(&message[..at]).is_ok(), whole);
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Heartbeat::parse(&bytes);
        let mut message = vec![b'H', b'B', VERSION, 56];
        message.extend(bytes);
        let _ = Heartbeat::parse(&message);
    }

    #[test]
    fn a_changed_octet_does_no_harm(heartbeat in heartbeat(), at: proptest::sample::Index, to: u8) {
        let mut message = heartbeat.to_bytes();
        let at = at.index(message.len());
        message[at] = to;
        if let Ok(read) = Heartbeat::parse(&message) {
            prop_assert_eq!(Heartbeat::parse(&read.to_bytes()), Ok(read));
        }
    }
}

#[test]
fn the_fullest_datagram_fits() {
    let heard = Heard {
        session: 1,
        sequence: 1,
        have: 1,
        age: None,
    };
    for (heard, objections) in [
        (
            vec![heard; MAX_HEARD],
            vec![(GroupId(1), NodeId(1)); MAX_OBJECTIONS],
        ),
        (vec![], vec![]),
    ] {
        let opinion = Opinion {
            unanswered: vec![
                Unanswered {
                    owner: NodeId(1),
                    group: None
                };
                MAX_UNANSWERED
            ],
            heard,
            objections,
            objects_to_all: false,
        };
        let room = room_for_claims(Some(&opinion));
        let claim = Claim {
            group: GroupId(1),
            epoch: 1,
            priority: 1,
            standing: Standing::Holding,
            profile: Profile::Safe,
            strict: true,
            damped: true,
            unanswered: true,
        };
        let page = Page {
            from: 0,
            to: 1,
            claims: vec![claim; room],
        };
        let heartbeat = Heartbeat {
            sender: NodeId(1),
            session: 1,
            sequence: 1,
            interval: Duration::ZERO,
            ready: true,
            votes: true,
            draining: true,
            leaving: true,
            view: 1,
            claims: 1,
            floor: 1,
            opinion: Some(opinion),
            page: Some(page),
            hardware: Some([2; HARDWARE_LENGTH]),
        };
        let length = heartbeat.to_bytes().len() + TRAILER;
        assert!(length <= MAX_DATAGRAM, "{length}");
    }
}

#[test]
fn another_version_is_named() {
    assert_eq!(Heartbeat::parse(b"HB\x02\x38"), Err(WireError::Version(2)));
    assert_eq!(Heartbeat::parse(b"GET / HTTP/1.1"), Err(WireError::Foreign));
}
