//! Any bytes from a peer, cut from the input, half of them after a good OPEN
//! and KEEPALIVE, with time passing and the peer dialling: no panic, one
//! session at the most, ups and downs in turn, and no endless output.
#![no_main]

use std::time::{Duration, Instant};

use herald_bgp::{
    Capability, Family, Input, Open, Output, PeerAs, PeerConfig, Speaker, encode_keepalive,
};
use libfuzzer_sys::fuzz_target;

fn greeting() -> Vec<u8> {
    let open = Open {
        my_as: 64513,
        hold_time: 90,
        identifier: [192, 0, 2, 2].into(),
        capabilities: vec![Capability::multiprotocol(Family::Ipv4), Capability::RouteRefresh],
    };
    let mut bytes = Vec::new();
    open.encode(&mut bytes);
    encode_keepalive(&mut bytes);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let local = [192, 0, 2, 1].into();
    let config = PeerConfig::new(64512, PeerAs::External, [192, 0, 2, 1].into());
    let mut speaker = Speaker::new(1);
    let peer = speaker.add_peer(config, now).expect("it is valid");
    let mut connection = None;
    let mut up = false;
    let mut rest = input;
    while let [length, step, more @ ..] = rest {
        let (bytes, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        now += Duration::from_millis(u64::from(step >> 3) * 500);
        speaker.handle_timeout(now);
        match (step & 7, connection) {
            (0, _) | (_, None) => connection = speaker.accept(peer, local, now),
            (1 | 2, Some(connection)) => {
                let bytes = &greeting();
                speaker.handle(peer, Input::Received { connection, bytes }, now);
            }
            (3, Some(connection)) => speaker.handle(peer, Input::Closed { connection }, now),
            (4, Some(connection)) => {
                let count = speaker.pending(peer, connection, now).len() / 2;
                speaker.transmitted(peer, connection, count, now);
            }
            (5, Some(connection)) => {
                let bytes = &[&[0xff; 16], bytes].concat();
                speaker.handle(peer, Input::Received { connection, bytes }, now);
            }
            (_, Some(connection)) => {
                speaker.handle(peer, Input::Received { connection, bytes }, now);
            }
        }
        let mut outputs = 0;
        while let Some((_, output)) = speaker.poll_output() {
            outputs += 1;
            match output {
                Output::Up(_) => assert!(!std::mem::replace(&mut up, true)),
                Output::Down(_) => assert!(std::mem::replace(&mut up, false)),
                Output::Connect(connection) => {
                    speaker.handle(peer, Input::Connected { connection, local }, now);
                }
                _ => {}
            }
        }
        assert!(outputs < 2000);
    }
});
