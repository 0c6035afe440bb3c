//! Any sequence of router messages, cut from the input: nothing panics, what is read
//! is written as it was read, and what is remembered stays bounded.
#![no_main]

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use herald_l2::{Mac, RouterDiscovery, RouterMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut discovery = RouterDiscovery::new(Mac([2, 0, 0, 0, 0, 1]), now);
    let mut rest = input;
    while let Some(([length, who], more)) = rest.split_first_chunk() {
        let (message, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        match RouterMessage::parse(message) {
            Ok(RouterMessage::Solicitation(read)) => {
                let again = RouterMessage::parse(&read.to_message());
                assert_eq!(again, Ok(RouterMessage::Solicitation(read)));
            }
            Ok(RouterMessage::Advertisement(read)) => {
                let again = RouterMessage::parse(&read.to_message());
                assert_eq!(again, Ok(RouterMessage::Advertisement(read)));
            }
            Err(_) => {}
        }
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(*who));
        discovery.handle(source, 255, message, now);
        assert!(discovery.neighbor().others.len() < 16);
        while discovery.poll_transmit().is_some() {}
        now += Duration::from_millis(u64::from(*who));
        discovery.handle_timeout(now);
    }
});
