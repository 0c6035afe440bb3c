//! Any sequence of datagrams, cut from the input, half of them with the right
//! discriminator: no panic, no endless answering, and a packet that was not
//! valid is not taken.
#![no_main]

use std::time::{Duration, Instant};

use herald_bfd::{Arrival, ControlPacket, Hops, Path, SessionConfig, Sessions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut sessions = Sessions::new(1);
    let path = Path {
        peer: [192, 0, 2, 2].into(),
        local: None,
        interface: None,
        hops: Hops::Single,
    };
    let id = sessions
        .add(path, SessionConfig::default(), now)
        .expect("the path is good");
    let mut rest = input;
    while let [length, pause, more @ ..] = rest {
        let (datagram, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        let mut datagram = datagram.to_vec();
        if pause & 1 == 1 && datagram.len() >= 12 {
            datagram[8..12].copy_from_slice(&id.discriminator().to_be_bytes());
        }
        now += Duration::from_millis(u64::from(*pause));
        let arrival = Arrival {
            multihop: false,
            source: path.peer,
            destination: [192, 0, 2, 1].into(),
            interface: 1,
            ttl: 255,
            at: now,
        };
        sessions.start_turn(now);
        let taken = sessions.handle_datagram(&datagram, &arrival).is_ok();
        let valid = ControlPacket::parse(&datagram).is_ok_and(|packet| packet.validate().is_ok());
        assert!(valid || !taken);
        sessions.handle_expiries(now);
        let mut sent = 0;
        while sessions.poll_transmit(now).is_some() {
            sent += 1;
        }
        assert!(sent <= 2);
        while sessions.poll_event().is_some() {}
    }
});
