use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 20, 100, 0);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 1, 0);
const GRACE: Duration = Duration::from_secs(2);

/// Holds `VIP`, its first announcement is out.
fn holder() -> (Announcer, Instant) {
    // Later than the clock's beginning, so that a burst fits before it.
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
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
fn refreshes_of_some_moments_go_out_together() {
    let now = Instant::now();
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
    for i in 0..1024 {
        let address = Ipv4Addr::from_bits(VIP.to_bits() + i);
        announcer.announce(address.into(), now);
    }
    let quiet = now + Duration::from_secs(30);
    let (mut sent, mut turns) = (0, 0);
    while let Some(at) = announcer.poll_timeout()
        && at < quiet + Profile::DEFAULT.refresh * 2
    {
        announcer.handle_timeout(at);
        let frames = drain(&mut announcer).len();
        if at > quiet {
            sent += frames;
            turns += usize::from(frames > 0);
        }
    }
    // Each once to three times, and seldom one of them alone.
    assert!((1024..=3072).contains(&sent), "{sent}");
    assert!(turns * 4 < sent, "{sent} in {turns} turns");
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
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
    let count = 2 * Profile::DEFAULT.rate.burst;
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

/// Sends what is due until `until`.
fn run(announcer: &mut Announcer, until: Instant) {
    while let Some(at) = announcer.poll_timeout().filter(|at| *at <= until) {
        announcer.handle_timeout(at);
    }
}

#[test]
fn an_address_is_asked_for_before_it_is_used_for_the_first_time() {
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
    announcer.acquire(VIP.into(), now);
    let probe = ArpPacket::question(OURS, Ipv4Addr::UNSPECIFIED, VIP);
    for asked in 0..3 {
        assert_eq!(drain(&mut announcer), [probe], "question {asked}");
        assert!(!announcer.answers(&VIP.into()));
        let at = announcer.poll_timeout().unwrap();
        assert_eq!(at - now, PROBE_GAP * (asked + 1));
        announcer.handle_timeout(at);
    }
    assert_eq!(drain(&mut announcer), [ArpPacket::announcement(OURS, VIP)]);
    assert!(announcer.answers(&VIP.into()));
}

#[test]
fn an_ipv6_address_is_asked_for_too() {
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
    announcer.acquire(VIP6.into(), now);
    let asked = announcer.poll_transmit().unwrap();
    let probe = NeighborSolicitation::question(OURS, Ipv6Addr::UNSPECIFIED, VIP6);
    assert_eq!(&asked[..], &probe.to_frame()[..]);
    let taken = NeighborAdvertisement::announcement(THEIRS, VIP6).to_frame();
    announcer.handle_frame(&taken, now);
    assert!(matches!(
        announcer.poll_event(),
        Some(Event::InUse { mac: THEIRS, .. })
    ));
    assert!(!announcer.answers(&VIP6.into()));
}

#[test]
fn an_address_in_use_is_told_once_and_taken_when_it_is_free() {
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
    announcer.acquire(VIP.into(), now);
    // Its holder answers the question.
    let reply = drain(&mut announcer)[0].reply(THEIRS);
    announcer.handle_frame(&reply.to_frame(), now);
    let (address, mac) = (VIP.into(), THEIRS);
    assert_eq!(announcer.poll_event(), Some(Event::InUse { address, mac }));
    assert_eq!(announcer.conflicts(), 1);
    run(&mut announcer, now + RETRY);
    assert_eq!(drain(&mut announcer).len(), 1, "asked again after a while");
    announcer.handle_frame(&reply.to_frame(), now + RETRY);
    assert_eq!(announcer.poll_event(), None, "told twice");
    assert!(!announcer.answers(&VIP.into()));
    run(&mut announcer, now + 3 * RETRY);
    assert!(announcer.answers(&VIP.into()));
    assert_eq!(
        announcer.poll_event(),
        Some(Event::ConflictEnded { address })
    );
    assert_eq!(announcer.conflicts(), 0);
}

#[test]
fn an_address_that_is_asked_for_is_given_up_at_once() {
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
    announcer.acquire(VIP.into(), now);
    announcer.hand_over(VIP.into(), GRACE, now);
    let address = VIP.into();
    assert_eq!(announcer.poll_event(), Some(Event::Unclaimed { address }));
    assert_eq!(announcer.addresses().count(), 0);
    assert_eq!(announcer.poll_timeout(), None);
}

#[test]
fn another_speakers_claim_is_no_conflict() {
    let (mut announcer, now) = holder();
    announcer.set_peers([THEIRS].into());
    for second in 0..10 {
        claim(&mut announcer, now + Duration::from_secs(second));
    }
    let told: Vec<_> = std::iter::from_fn(|| announcer.poll_event()).collect();
    assert_eq!(told.len(), 5, "no more often than every two seconds");
    assert!(
        told.iter()
            .all(|event| matches!(event, Event::Contested { mac: THEIRS, .. }))
    );
    assert_eq!(announcer.conflicts(), 0);
}

#[test]
fn a_conflict_ends_when_nobody_else_claims_the_address() {
    let (mut announcer, now) = holder();
    claim(&mut announcer, now);
    claim(&mut announcer, now + CONFLICT_AFTER);
    assert!(matches!(
        announcer.poll_event(),
        Some(Event::Conflict { .. })
    ));
    run(&mut announcer, now + CLAIM_ENDS);
    assert_eq!((announcer.poll_event(), announcer.conflicts()), (None, 1));
    run(&mut announcer, now + CONFLICT_AFTER + CLAIM_ENDS);
    let address = VIP.into();
    assert_eq!(
        announcer.poll_event(),
        Some(Event::ConflictEnded { address })
    );
    assert_eq!(announcer.conflicts(), 0);
    // Another one is told anew.
    let later = now + Duration::from_hours(1);
    claim(&mut announcer, later);
    claim(&mut announcer, later + CONFLICT_AFTER);
    assert!(matches!(
        announcer.poll_event(),
        Some(Event::Conflict { .. })
    ));
}

#[test]
fn claims_of_many_hosts_are_one_conflict() {
    let (mut announcer, now) = holder();
    for i in 0..100 {
        let mac = Mac([2, 0, 0, 0, 1, i]);
        let frame = ArpPacket::announcement(mac, VIP).to_frame();
        announcer.handle_frame(&frame, now + Duration::from_millis(100) * u32::from(i));
    }
    assert!(matches!(
        announcer.poll_event(),
        Some(Event::Conflict { .. })
    ));
    assert_eq!(announcer.poll_event(), None);
}

#[test]
fn the_reply_form_is_sent_only_when_asked_for() {
    let now = Instant::now() + Duration::from_hours(1);
    let profile = Profile {
        replies: true,
        ..Profile::DEFAULT
    };
    let mut announcer = Announcer::new(OURS, profile, now);
    announcer.announce(VIP.into(), now);
    announcer.announce(VIP6.into(), now);
    run(&mut announcer, now + Duration::from_secs(6));
    let frames: Vec<_> = std::iter::from_fn(|| announcer.poll_transmit()).collect();
    let replies: Vec<_> = frames
        .iter()
        .filter_map(|frame| ArpPacket::parse(frame).ok())
        .filter(|packet| packet.operation == ArpOperation::Reply)
        .collect();
    assert_eq!(replies, [ArpPacket::reply_announcement(OURS, VIP); 2]);
    assert!(replies[0].is_announcement());
    assert_eq!(frames.len(), 2 * Profile::DEFAULT.burst.len() + 2);
}

#[test]
fn a_polite_interface_keeps_below_what_closes_a_port() {
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, Profile::POLITE, now);
    for i in 0..100 {
        announcer.announce(Ipv4Addr::new(10, 20, 100, i).into(), now);
    }
    let first = drain(&mut announcer).len();
    assert_eq!(first, 10);
    run(&mut announcer, now + Duration::from_secs(9));
    let seen: BTreeSet<_> = drain(&mut announcer).iter().map(|p| p.sender_ip).collect();
    assert_eq!(seen.len(), 90, "each has had its first");
    run(&mut announcer, now + Duration::from_mins(1));
    assert!(drain(&mut announcer).len() <= 51 * 10 + 1);
}

#[test]
fn a_take_over_comes_before_the_repeats_of_others() {
    let now = Instant::now() + Duration::from_hours(1);
    let mut announcer = Announcer::new(OURS, Profile::POLITE, now);
    for i in 0..100 {
        announcer.announce(Ipv4Addr::new(10, 20, 100, i).into(), now);
    }
    run(&mut announcer, now + Duration::from_secs(15));
    drain(&mut announcer);
    let later = now + Duration::from_secs(15);
    let new = Ipv4Addr::new(10, 20, 101, 0);
    announcer.announce(new.into(), later);
    let at = announcer.poll_timeout().unwrap();
    announcer.handle_timeout(at);
    let next: Vec<_> = drain(&mut announcer).iter().map(|p| p.sender_ip).collect();
    assert_eq!(next, [new]);
    assert!(at - later <= Duration::from_millis(100));
}

#[test]
fn one_address_is_announced_again_when_told() {
    let (mut announcer, now) = holder();
    let later = now + Duration::from_secs(20);
    run(&mut announcer, later);
    drain(&mut announcer);
    announcer.announce_again(VIP.into(), later);
    assert_eq!(drain(&mut announcer), [ArpPacket::announcement(OURS, VIP)]);
    assert_eq!(
        announcer.poll_timeout(),
        Some(later + Duration::from_millis(20))
    );
}

#[test]
fn a_solicitation_for_another_host_is_not_answered() {
    let (mut announcer, now) = holder();
    announcer.announce(VIP6.into(), now);
    drain_all(&mut announcer);
    let mut asked = NeighborSolicitation::question(THEIRS, Ipv6Addr::LOCALHOST, VIP6);
    announcer.handle_frame(&asked.to_frame(), now);
    assert_eq!(drain_all(&mut announcer), 1);
    // A kernel that checks whether we are still there asks us alone.
    asked.destination_mac = OURS;
    asked.destination = VIP6;
    announcer.handle_frame(&asked.to_frame(), now);
    assert_eq!(drain_all(&mut announcer), 1);
    asked.destination_mac = Mac([2, 0, 0, 0, 0, 9]);
    announcer.handle_frame(&asked.to_frame(), now);
    assert_eq!(drain_all(&mut announcer), 0);
}

fn drain_all(announcer: &mut Announcer) -> usize {
    std::iter::from_fn(|| announcer.poll_transmit()).count()
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
    fn no_timer_outlives_its_address(steps in proptest::collection::vec((0u8..8, 0u8..4), 0..60)) {
        let (mut announcer, mut now) = holder();
        for (action, which) in steps {
            let address: IpAddr = Ipv4Addr::new(10, 20, 100, which).into();
            match action {
                0 => announcer.announce(address, now),
                1 => announcer.hand_over(address, GRACE, now),
                2 => announcer.withdraw(&address),
                3 => announcer.reannounce(OURS, now),
                4 => announcer.acquire(address, now),
                5 => announcer.announce_again(address, now),
                6 => {
                    let claimed = Ipv4Addr::new(10, 20, 100, which);
                    let frame = ArpPacket::announcement(THEIRS, claimed).to_frame();
                    announcer.handle_frame(&frame, now);
                }
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
