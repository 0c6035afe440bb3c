//! Any sequence of datagrams, cut from the input. Sealed ones that are not ours
//! are refused; messages behind a seal, whatever they say, neither panic nor
//! make the election send without end, and what parses is written as it was.
#![no_main]

use std::time::{Duration, Instant};

use herald_election::{
    Candidate, Config, Election, Group, GroupId, Heartbeat, KeyRing, NodeId, Profile, View,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let keys = KeyRing::new([[1; 32]]).unwrap();
    assert!(keys.open(input).is_err());
    let mut now = Instant::now() + Duration::from_secs(3600);
    let config = Config {
        node: NodeId(1),
        session: 1,
        profile: Profile::Default,
    };
    let mut election = Election::new(config, now);
    let candidates = [Candidate::new(NodeId(1)), Candidate::new(NodeId(2))];
    let view = View {
        number: 1,
        groups: vec![Group::new(GroupId(1), candidates.into())],
        voters: [NodeId(1), NodeId(2)].into(),
    };
    election.set_view(view, now);
    let mut rest = input;
    while let Some((length, more)) = rest.split_first() {
        let (message, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        if let Ok(heartbeat) = Heartbeat::parse(message) {
            let again = Heartbeat::parse(&heartbeat.to_bytes());
            assert_eq!(again, Ok(heartbeat.clone()));
            election.handle_heartbeat(&heartbeat, now);
        }
        now += Duration::from_millis(u64::from(*length));
        election.handle_timeout(now);
        let mut sent = 0;
        while election.poll_transmit().is_some() {
            sent += 1;
        }
        assert!(sent <= 64);
        while election.poll_event().is_some() {}
    }
});
