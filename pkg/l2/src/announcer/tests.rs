use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::pace::BURST;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 20, 100, 0);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 1, 0);
const GRACE: Duration = Duration::from_secs(2);

/// Holds `VIP`, its first announcement is out.
fn holder() -> (Announcer, Instant) {
    // Later than the clock's beginning, so that a burst fits before it.
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, now);
    announcer.announce(VIP.into(), now);
    assert_eq!(drain(&mut announcer), [ArpPacket::announcement(OURS, VIP)]);
    (announcer, now)
}

fn drain(announcer: &mut Announcer) -> Vec<ArpPacket> {
    std::iter::from_fn(|| announcer.poll_transmit())
        .map(|frame| ArpPacket::parse(&frame).unwrap())
        .collect()
}

fn request(target: Ipv4Addr) -> ArpPacket {
    ArpPacket {
        destination: Mac::BROADCAST,
        source: THEIRS,
        operation: ArpOperation::Request,
        sender_mac: THEIRS,
        sender_ip: Ipv4Addr::new(10, 20, 1, 1),
        target_mac: Mac::ZERO,
        target_ip: target,
    }
}

fn answers(announcer: &mut Announcer, request: &ArpPacket, now: Instant) -> Vec<ArpPacket> {
    announcer.handle_frame(&request.to_frame(), now);
    drain(announcer)
}

/// Another host's announcement of `VIP`.
fn claim(announcer: &mut Announcer, now: Instant) {
    announcer.handle_frame(&ArpPacket::announcement(THEIRS, VIP).to_frame(), now);
}

#[test]
fn a_take_over_is_announced_at_once_and_again() {
    let (mut announcer, begin) = holder();
    let mut times = Vec::new();
    while times.len() < 6 {
        let now = announcer.poll_timeout().unwrap();
        announcer.handle_timeout(now);
        assert_eq!(drain(&mut announcer).len(), 1);
        times.push((now - begin).as_millis());
    }
    assert_eq!(times, [20, 100, 300, 1100, 2200, 5000]);
    let refresh = announcer.poll_timeout().unwrap() - (begin + Duration::from_secs(5));
    assert!((60..=120).contains(&refresh.as_secs()), "{refresh:?}");
}

#[test]
fn only_our_addresses_are_answered() {
    let (mut announcer, now) = holder();
    assert_eq!(
        answers(&mut announcer, &request(VIP), now),
        [request(VIP).reply(OURS)]
    );
    assert!(answers(&mut announcer, &request(Ipv4Addr::new(10, 20, 100, 1)), now).is_empty());
    announcer.withdraw(&VIP.into());
    assert!(answers(&mut announcer, &request(VIP), now).is_empty());
    assert_eq!(announcer.poll_timeout(), None);
}

#[test]
fn a_probe_is_answered_which_defends_the_address() {
    let (mut announcer, now) = holder();
    let probe = ArpPacket {
        sender_ip: Ipv4Addr::UNSPECIFIED,
        ..request(VIP)
    };
    assert_eq!(answers(&mut announcer, &probe, now).len(), 1);
}

#[test]
fn a_request_to_us_alone_is_answered_and_one_to_another_host_is_not() {
    let (mut announcer, now) = holder();
    let to_us = ArpPacket {
        destination: OURS,
        ..request(VIP)
    };
    assert_eq!(answers(&mut announcer, &to_us, now).len(), 1);
    let to_another = ArpPacket {
        destination: Mac([2, 0, 0, 0, 0, 9]),
        ..request(VIP)
    };
    assert!(answers(&mut announcer, &to_another, now).is_empty());
}

#[test]
fn an_address_handed_over_is_answered_until_the_successor_is_heard() {
    let (mut announcer, now) = holder();
    announcer.hand_over(VIP.into(), GRACE, now);
    assert_eq!(answers(&mut announcer, &request(VIP), now).len(), 1);
    assert_eq!(
        announcer.poll_timeout(),
        Some(now + GRACE),
        "it is announced no more"
    );
    claim(&mut announcer, now + Duration::from_millis(30));
    assert_eq!(
        announcer.poll_event(),
        Some(Event::Succeeded {
            address: VIP.into(),
            mac: THEIRS
        })
    );
    assert!(answers(&mut announcer, &request(VIP), now).is_empty());
    assert_eq!(announcer.poll_timeout(), None);
}

#[test]
fn an_ipv6_successor_is_heard_too() {
    let (mut announcer, now) = holder();
    announcer.announce(VIP6.into(), now);
    announcer.hand_over(VIP6.into(), GRACE, now);
    announcer.handle_frame(
        &NeighborAdvertisement::announcement(THEIRS, VIP6).to_frame(),
        now,
    );
    assert_eq!(
        announcer.poll_event(),
        Some(Event::Succeeded {
            address: VIP6.into(),
            mac: THEIRS
        })
    );
}

#[test]
fn a_successor_that_is_not_heard_is_not_waited_for_longer_than_the_grace() {
    let (mut announcer, now) = holder();
    announcer.hand_over(VIP.into(), GRACE, now);
    // Said again while it goes on, the time does not begin anew.
    announcer.hand_over(VIP.into(), GRACE, now + Duration::from_secs(1));
    announcer.handle_timeout(now + GRACE);
    assert_eq!(
        announcer.poll_event(),
        Some(Event::Unclaimed {
            address: VIP.into()
        })
    );
    assert!(!announcer.answers(&VIP.into()));
}

#[test]
fn a_successor_that_spoke_first_is_believed() {
    let (mut announcer, now) = holder();
    claim(&mut announcer, now);
    announcer.hand_over(VIP.into(), GRACE, now + Duration::from_millis(200));
    assert!(matches!(
        announcer.poll_event(),
        Some(Event::Succeeded { .. })
    ));
}

#[test]
fn an_ordinary_request_from_the_address_is_no_successor() {
    let (mut announcer, now) = holder();
    announcer.hand_over(VIP.into(), GRACE, now);
    let kernel = ArpPacket {
        sender_ip: VIP,
        ..request(Ipv4Addr::new(10, 20, 1, 9))
    };
    announcer.handle_frame(&kernel.to_frame(), now);
    assert!(announcer.answers(&VIP.into()));
}

#[test]
fn an_address_that_comes_back_is_announced_anew() {
    let (mut announcer, now) = holder();
    announcer.hand_over(VIP.into(), GRACE, now);
    announcer.announce(VIP.into(), now);
    assert_eq!(drain(&mut announcer), [ArpPacket::announcement(OURS, VIP)]);
    announcer.handle_timeout(now + GRACE);
    assert!(announcer.answers(&VIP.into()));
    assert_eq!(announcer.poll_event(), None);
}

#[test]
fn a_claim_that_goes_on_is_a_conflict_told_once_and_defended() {
    let (mut announcer, now) = holder();
    // The burst is over.
    for _ in 0..6 {
        let next = announcer.poll_timeout().unwrap();
        announcer.handle_timeout(next);
    }
    drain(&mut announcer);
    claim(&mut announcer, now);
    assert_eq!(
        announcer.poll_event(),
        None,
        "it may be a successor ahead of our view"
    );
    let later = now + CONFLICT_AFTER;
    claim(&mut announcer, later);
    assert_eq!(
        announcer.poll_event(),
        Some(Event::Conflict {
            address: VIP.into(),
            mac: THEIRS
        })
    );
    assert_eq!(drain(&mut announcer), [ArpPacket::announcement(OURS, VIP)]);
    claim(&mut announcer, later + Duration::from_secs(1));
    assert_eq!(announcer.poll_event(), None);
    assert!(
        drain(&mut announcer).is_empty(),
        "not more than once in 10 s"
    );
    claim(&mut announcer, later + DEFEND_INTERVAL);
    assert_eq!(drain(&mut announcer).len(), 1);
    assert_eq!(announcer.counters().claims_heard, 4);
}

#[test]
fn our_own_announcements_are_no_claims() {
    let (mut announcer, now) = holder();
    announcer.handle_frame(&ArpPacket::announcement(OURS, VIP).to_frame(), now);
    assert_eq!(announcer.counters().claims_heard, 0);
}

#[test]
fn another_hardware_address_is_announced_at_once() {
    let (mut announcer, now) = holder();
    announcer.reannounce(THEIRS, now + Duration::from_secs(10));
    assert_eq!(
        drain(&mut announcer),
        [ArpPacket::announcement(THEIRS, VIP)]
    );
    assert_eq!(
        answers(&mut announcer, &request(VIP), now),
        [request(VIP).reply(THEIRS)]
    );
}

#[test]
fn every_address_is_announced_once_before_any_is_twice() {
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, now);
    let count = 2 * BURST;
    for i in 0..count {
        let [.., a, b] = i.to_be_bytes();
        announcer.announce(Ipv4Addr::new(10, 20, a, b).into(), now);
    }
    let mut seen = HashMap::new();
    loop {
        for packet in drain(&mut announcer) {
            *seen.entry(packet.sender_ip).or_insert(0) += 1;
        }
        if seen.len() == usize::try_from(count).unwrap() {
            break;
        }
        assert!(
            seen.values().all(|times| *times == 1),
            "one was announced twice first"
        );
        let at = announcer.poll_timeout().unwrap();
        announcer.handle_timeout(at);
        assert!(
            at - now < Duration::from_secs(10),
            "the pace starves some address"
        );
    }
}

proptest! {
    #[test]
    fn hostile_frames_change_nothing_but_counters(
        frames in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..100)), 0..40,
        ),
    ) {
        let (mut announcer, now) = holder();
        for (arp, mut frame) in frames {
            if frame.len() > 14 {
                frame[12..14].copy_from_slice(if arp { &[8, 6] } else { &[0x86, 0xdd] });
            }
            announcer.handle_frame(&frame, now);
        }
        prop_assert!(announcer.answers(&VIP.into()));
        prop_assert_eq!(announcer.poll_event(), None);
    }

    /// Whatever is asked of it in whatever order, timers and entries agree: at
    /// the end nothing is left of what was withdrawn or handed over.
    #[test]
    fn no_timer_outlives_its_address(steps in proptest::collection::vec((0u8..5, 0u8..4), 0..60)) {
        let (mut announcer, mut now) = holder();
        for (action, which) in steps {
            let address: IpAddr = Ipv4Addr::new(10, 20, 100, which).into();
            match action {
                0 => announcer.announce(address, now),
                1 => announcer.hand_over(address, GRACE, now),
                2 => announcer.withdraw(&address),
                3 => announcer.reannounce(OURS, now),
                _ => {
                    if let Some(next) = announcer.poll_timeout() {
                        now = now.max(next);
                        announcer.handle_timeout(now);
                    }
                }
            }
            while announcer.poll_transmit().is_some() {}
        }
        for address in announcer.addresses().collect::<Vec<_>>() {
            announcer.hand_over(address, GRACE, now);
        }
        announcer.handle_timeout(now + GRACE);
        prop_assert_eq!(announcer.addresses().count(), 0);
        prop_assert_eq!(announcer.poll_timeout(), None);
    }
}
