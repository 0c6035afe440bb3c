//! Any sequence of frames, cut from the input: neither announcer nor checker
//! panics, what is held stays held, and a frame is answered with one frame at
//! most (or one more that defends an address).
#![no_main]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use herald_l2::{Announcer, ArpPacket, Checker, Mac, NeighborMessage, Profile, Source};
use libfuzzer_sys::fuzz_target;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut announcer = Announcer::new(OURS, Profile::DEFAULT, now);
    let mut checker = Checker::new(OURS, 1000);
    checker.set_source(
        OURS,
        Source {
            v4: [10, 20, 0, 11].into(),
            v6: [0xfe80, 0, 0, 0, 0, 0, 0, 1].into(),
        },
    );
    let held: [IpAddr; 2] = [
        [10, 20, 100, 0].into(),
        [0xfd20, 0, 0, 0, 0, 0, 1, 0].into(),
    ];
    for address in held {
        announcer.announce(address, now);
    }
    announcer.acquire([10, 20, 100, 1].into(), now);
    checker.set_targets(&[([10, 20, 100, 2].into(), 1)].into(), now);
    while announcer.poll_transmit().is_some() {}
    let mut rest = input;
    while let Some((length, more)) = rest.split_first() {
        let (frame, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        if let Ok(packet) = ArpPacket::parse(frame) {
            assert_eq!(ArpPacket::parse(&packet.to_frame()), Ok(packet));
        }
        let _ = NeighborMessage::parse(frame);
        announcer.handle_frame(frame, now);
        let mut sent = 0;
        while announcer.poll_transmit().is_some() {
            sent += 1;
        }
        assert!(sent <= 2);
        checker.handle_frame(frame, now);
        checker.handle_timeout(now);
        now += Duration::from_millis(1);
    }
    assert!(held.iter().all(|address| announcer.answers(address)));
});
