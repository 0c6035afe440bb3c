use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

fn single() -> Path {
    Path {
        peer: PEER,
        local: Some(LOCAL),
        interface: Some(7),
        hops: Hops::Single,
    }
}

fn multi(minimum_ttl: u8) -> Path {
    Path {
        interface: None,
        hops: Hops::Multi { minimum_ttl },
        ..single()
    }
}

fn arrival(at: Instant) -> Arrival {
    Arrival {
        multihop: false,
        source: PEER,
        destination: LOCAL,
        interface: 7,
        ttl: 255,
        at,
    }
}

fn fast() -> SessionConfig {
    SessionConfig {
        desired_min_tx: MS * 50,
        required_min_rx: MS * 50,
        ..SessionConfig::default()
    }
}

/// A first packet: it names no session.
fn first() -> ControlPacket {
    ControlPacket {
        state: State::Down,
        detect_mult: 3,
        my_discriminator: 99,
        desired_min_tx: 50_000,
        required_min_rx: 50_000,
        ..ControlPacket::default()
    }
}

fn engine(path: Path) -> (Sessions, SessionId, Instant) {
    let now = Instant::now();
    let mut sessions = Sessions::new(1);
    let id = sessions.add(path, fast(), now).unwrap();
    (sessions, id, now)
}

/// An engine whose only session is up; the peer's packets come at `now`.
fn up() -> (Sessions, SessionId, Instant) {
    let (mut sessions, id, now) = engine(single());
    hear(&mut sessions, id, State::Init, now);
    while sessions.poll_transmit(now).is_some() {}
    assert_eq!(sessions.get(id).unwrap().state(), State::Up);
    assert_eq!(sessions.poll_event().unwrap().1.to, State::Up);
    (sessions, id, now)
}

fn hear(sessions: &mut Sessions, id: SessionId, state: State, at: Instant) {
    let packet = ControlPacket {
        state,
        your_discriminator: id.discriminator(),
        ..first()
    };
    let heard = sessions.handle_datagram(&packet.to_bytes(), &arrival(at));
    assert_eq!(heard, Ok(id));
}

#[test]
fn a_first_packet_finds_its_session_by_address_and_later_ones_by_discriminator() {
    let (mut sessions, id, now) = engine(single());
    let bytes = first().to_bytes();
    assert_eq!(sessions.handle_datagram(&bytes, &arrival(now)), Ok(id));
    let strange = Arrival {
        source: [192, 0, 2, 77].into(),
        ..arrival(now)
    };
    assert_eq!(
        sessions.handle_datagram(&bytes, &strange),
        Err(Dropped::UnknownPeer)
    );
    let elsewhere = Arrival {
        destination: [192, 0, 2, 9].into(),
        ..arrival(now)
    };
    assert_eq!(
        sessions.handle_datagram(&bytes, &elsewhere),
        Err(Dropped::UnknownPeer)
    );
    let known = ControlPacket {
        your_discriminator: id.discriminator(),
        ..first()
    };
    assert_eq!(
        sessions.handle_datagram(&known.to_bytes(), &strange),
        Ok(id)
    );
    let other = id.discriminator() ^ 1;
    let unknown = ControlPacket {
        your_discriminator: other,
        ..first()
    };
    assert_eq!(
        sessions.handle_datagram(&unknown.to_bytes(), &arrival(now)),
        Err(Dropped::UnknownDiscriminator(other))
    );
}

#[test]
fn what_came_from_too_far_or_by_the_wrong_way_is_dropped() {
    let (mut sessions, id, now) = engine(single());
    let named = ControlPacket {
        your_discriminator: id.discriminator(),
        ..first()
    };
    for packet in [first(), named] {
        let bytes = packet.to_bytes();
        for ttl in [0, 1, 64, 254] {
            let far = Arrival {
                ttl,
                ..arrival(now)
            };
            assert_eq!(
                sessions.handle_datagram(&bytes, &far),
                Err(Dropped::Path(ttl))
            );
        }
        let wrong = Arrival {
            interface: 8,
            ..arrival(now)
        };
        assert_eq!(
            sessions.handle_datagram(&bytes, &wrong),
            Err(Dropped::Path(255))
        );
        let port = Arrival {
            multihop: true,
            ..arrival(now)
        };
        assert!(sessions.handle_datagram(&bytes, &port).is_err());
    }
    assert_eq!(sessions.counters(id).unwrap().received, 0);

    let (mut sessions, id, now) = engine(multi(250));
    let bytes = first().to_bytes();
    let by = |ttl| Arrival {
        multihop: true,
        ttl,
        interface: 3,
        ..arrival(now)
    };
    assert_eq!(
        sessions.handle_datagram(&bytes, &by(249)),
        Err(Dropped::Path(249))
    );
    assert_eq!(sessions.handle_datagram(&bytes, &by(250)), Ok(id));
}

#[test]
fn paths_that_cannot_be_told_apart_or_used_are_refused() {
    let (mut sessions, _, now) = engine(single());
    let taken = Err(PathError::Taken(PEER));
    assert_eq!(sessions.add(single(), fast(), now), taken);
    let any = Path {
        local: None,
        interface: None,
        ..single()
    };
    assert_eq!(sessions.add(any, fast(), now), taken);
    let other = Path {
        interface: Some(8),
        ..single()
    };
    assert!(sessions.add(other, fast(), now).is_ok());
    assert!(sessions.add(multi(1), fast(), now).is_ok());

    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into();
    let path = Path {
        peer: link_local,
        local: None,
        interface: None,
        hops: Hops::Single,
    };
    assert_eq!(
        sessions.add(path, fast(), now),
        Err(PathError::Interface(link_local))
    );
    let mixed = Path {
        interface: Some(7),
        local: Some(LOCAL),
        ..path
    };
    assert!(matches!(
        sessions.add(mixed, fast(), now),
        Err(PathError::Family { .. })
    ));
    let zero = SessionConfig {
        detect_mult: 0,
        ..fast()
    };
    let path = Path {
        peer: [192, 0, 2, 3].into(),
        ..single()
    };
    let refused = sessions.add(path, zero, now).unwrap_err().to_string();
    assert!(refused.contains("192.0.2.3") && refused.contains("multiplier"));
}

#[test]
fn discriminators_are_unique_and_not_zero() {
    let now = Instant::now();
    let mut sessions = Sessions::new(3);
    let ids: BTreeSet<SessionId> = (0..1000u32)
        .map(|i| {
            let path = Path {
                interface: Some(i),
                ..single()
            };
            sessions.add(path, fast(), now).unwrap()
        })
        .collect();
    assert_eq!(ids.len(), 1000);
    assert!(ids.iter().all(|id| id.discriminator() != 0));
}

#[test]
fn a_packet_that_came_in_time_and_is_read_late_counts() {
    let (mut sessions, id, start) = up();
    let deadline = sessions.get(id).unwrap().detect_at().unwrap();
    assert_eq!(deadline, start + MS * 150);
    // The process sleeps over the deadline; the kernel has kept a packet.
    let woke = deadline + MS * 10;
    sessions.start_turn(woke);
    assert!(sessions.poll_transmit(woke).is_some());
    let came = start + MS * 149;
    hear(&mut sessions, id, State::Up, came);
    sessions.handle_expiries(woke);
    assert_eq!(sessions.get(id).unwrap().state(), State::Up);
    assert_eq!(sessions.get(id).unwrap().detect_at(), Some(came + MS * 150));
}

#[test]
fn a_stall_is_not_charged_to_the_peer() {
    let (mut sessions, id, start) = up();
    // One second in which this process, or this whole machine, did not run,
    // and nothing was kept.
    let woke = start + MS * 1000;
    sessions.start_turn(woke);
    while sessions.poll_transmit(woke).is_some() {}
    sessions.handle_expiries(woke);
    assert_eq!(sessions.get(id).unwrap().state(), State::Up);
    hear(&mut sessions, id, State::Up, woke + MS * 30);
    // Then silence, and no stall: down at the time, to the millisecond.
    let deadline = woke + MS * 180;
    let mut down = None;
    while down.is_none() {
        let now = sessions.poll_timeout().unwrap();
        sessions.start_turn(now);
        while sessions.poll_transmit(now).is_some() {}
        sessions.handle_expiries(now);
        down = sessions.poll_event().map(|(_, event)| (now, event));
    }
    let (at, event) = down.unwrap();
    assert_eq!(at, deadline);
    assert!(event.is_failure());
    assert_eq!(sessions.counters(id).unwrap().downs, 1);
}

#[test]
fn a_dead_peer_is_found_within_one_more_interval_after_a_stall() {
    let (mut sessions, id, start) = up();
    let woke = start + MS * 1000;
    let mut now = woke;
    while sessions.get(id).unwrap().state() == State::Up {
        sessions.start_turn(now);
        while sessions.poll_transmit(now).is_some() {}
        sessions.handle_expiries(now);
        now = now.max(sessions.poll_timeout().unwrap());
    }
    assert!(sessions.poll_event().unwrap().1.is_failure());
    assert!(now <= woke + MS * 150, "{:?} after the stall", now - woke);
}

#[test]
fn one_that_retires_says_so_and_is_gone_after_the_peers_detection_time() {
    let (mut sessions, id, now) = up();
    sessions.retire(id, now);
    let packet = sessions.poll_transmit(now).unwrap();
    let packet = ControlPacket::parse(&packet.payload).unwrap();
    assert_eq!(packet.state, State::AdminDown);
    sessions.set_admin_down(id, false, now);
    let mut last = now;
    while let Some(due) = sessions.poll_timeout() {
        last = due;
        while let Some(transmit) = sessions.poll_transmit(due) {
            let packet = ControlPacket::parse(&transmit.payload).unwrap();
            assert_eq!(packet.state, State::AdminDown);
        }
        sessions.handle_expiries(due);
    }
    assert_eq!(last, now + MS * 3000);
    assert!(sessions.get(id).is_none());
    assert_eq!(sessions.poll_event(), None);
}

#[test]
fn one_that_retires_makes_way() {
    let (mut sessions, id, now) = up();
    sessions.retire(id, now);
    let next = sessions.add(single(), fast(), now).unwrap();
    assert!(sessions.get(id).is_none());
    let bytes = first().to_bytes();
    assert_eq!(sessions.handle_datagram(&bytes, &arrival(now)), Ok(next));
}

#[test]
fn one_that_is_removed_leaves_nothing() {
    let (mut sessions, id, now) = up();
    sessions.remove(id);
    assert_eq!(sessions.poll_timeout(), None);
    assert_eq!(sessions.poll_transmit(now + MS * 1000), None);
    assert_eq!(sessions.ids().count(), 0);
    assert_eq!(
        sessions.handle_datagram(&first().to_bytes(), &arrival(now)),
        Err(Dropped::UnknownPeer)
    );
}

proptest! {
    #[test]
    fn any_datagram_from_anywhere_is_borne(
        datagrams in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..40), any::<u8>(), any::<bool>(), 0..400u32),
            0..60,
        ),
        name_it in any::<bool>(),
    ) {
        let (mut sessions, id, mut now) = up();
        for (mut bytes, ttl, multihop, pause) in datagrams {
            now += MS * pause;
            if name_it && bytes.len() >= 12 {
                bytes[0] = bytes[0] & 0x1f | 0x20;
                bytes[3] = 24;
                bytes[8..12].copy_from_slice(&id.discriminator().to_be_bytes());
            }
            let arrival = Arrival { multihop, ttl, ..arrival(now) };
            let taken = sessions.handle_datagram(&bytes, &arrival);
            prop_assert!(taken.is_err() || (ttl == 255 && !multihop));
            sessions.start_turn(now);
            let mut sent = 0;
            while sessions.poll_transmit(now).is_some() {
                sent += 1;
            }
            prop_assert!(sent <= 2);
            sessions.handle_expiries(now);
            while sessions.poll_event().is_some() {}
        }
    }
}
