//! Any sequence of frames, cut from the input: the announcer never panics, holds
//! on to what it holds, and answers a frame with one frame at most (or one more
//! that defends an address).
#![no_main]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use herald_l2::{Announcer, ArpPacket, Mac, NeighborMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut announcer = Announcer::new(Mac([2, 0, 0, 0, 0, 1]), now);
    let held: [IpAddr; 2] = [
        [10, 20, 100, 0].into(),
        [0xfd20, 0, 0, 0, 0, 0, 1, 0].into(),
    ];
    for address in held {
        announcer.announce(address, now);
    }
    while announcer.poll_transmit().is_some() {}
    let mut rest = input;
    while let Some((length, more)) = rest.split_first() {
        let (frame, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        let _ = ArpPacket::parse(frame);
        let _ = NeighborMessage::parse(frame);
        announcer.handle_frame(frame, now);
        let mut sent = 0;
        while announcer.poll_transmit().is_some() {
            sent += 1;
        }
        assert!(sent <= 2);
        now += Duration::from_millis(1);
    }
    assert!(held.iter().all(|address| announcer.answers(address)));
});
