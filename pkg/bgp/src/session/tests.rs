//! The state machine, with a peer whose every message the test writes.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::capability::{Capability, GracefulRestart, Preserved};
use crate::config::LEAST_SEND_HOLD;
use crate::config::PeerAs;
use crate::family::{Families, Family};
use crate::message::MAX_EXTENDED_MESSAGE;
use crate::open::Open;
use crate::session::opening::{CONCURRENT, OPEN_WAIT};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SECOND: Duration = Duration::from_secs(1);

fn config() -> PeerConfig {
    PeerConfig::new(64512, PeerAs::Exactly(64513), [10, 0, 0, 5].into())
}

/// A session and what it put out.
struct Bench {
    session: Session,
    now: Instant,
    outputs: Vec<Output>,
}

impl Bench {
    fn new(config: PeerConfig) -> Self {
        let mut bench = Self {
            session: Session::new(config, 1),
            now: Instant::now(),
            outputs: Vec::new(),
        };
        bench.handle(Input::Start);
        bench.tick(Duration::ZERO);
        bench
    }

    fn collect(&mut self) {
        while let Some(output) = self.session.poll_output() {
            self.outputs.push(output);
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.session.handle(input, self.now);
        self.collect();
    }

    /// Time passes, timer by timer.
    fn tick(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.session.poll_timeout()
            && at <= until
        {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            self.collect();
        }
        self.now = until;
    }

    /// The connection that was last asked for.
    fn dialled(&self) -> Option<ConnectionId> {
        self.outputs.iter().rev().find_map(|output| match output {
            Output::Connect(id) => Some(*id),
            _ => None,
        })
    }

    fn dials(&self) -> usize {
        let dials = self
            .outputs
            .iter()
            .filter(|o| matches!(o, Output::Connect(_)));
        dials.count()
    }

    fn connect(&mut self) -> ConnectionId {
        let connection = self.dialled().expect("it dials");
        self.handle(Input::Connected {
            connection,
            local: LOCAL,
        });
        connection
    }

    fn accept(&mut self) -> ConnectionId {
        let id = self.session.accept(LOCAL, self.now);
        self.collect();
        id
    }

    fn receive(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.handle(Input::Received { connection, bytes });
    }

    /// What was sent, message by message.
    fn sent(&mut self, id: ConnectionId) -> Vec<(MessageType, Vec<u8>)> {
        let bytes = self.session.pending(id).to_vec();
        self.session.transmitted(id, bytes.len(), self.now);
        assert!(self.session.pending(id).is_empty());
        messages(&bytes)
    }

    /// What was sent last on a connection, if it was closed, and if there was
    /// something.
    #[allow(clippy::option_option, reason = "both are asked for")]
    fn closed(&self, id: ConnectionId) -> Option<Option<Notification>> {
        self.outputs.iter().find_map(|output| match output {
            Output::Close { connection, last } if *connection == id => {
                let last = messages(last).pop();
                Some(last.and_then(|(_, body)| Notification::parse(&body)))
            }
            _ => None,
        })
    }

    fn code(&self, id: ConnectionId) -> Option<Code> {
        self.closed(id)
            .flatten()
            .map(|notification| notification.code)
    }

    fn ups(&self) -> usize {
        self.outputs
            .iter()
            .filter(|o| matches!(o, Output::Up(_)))
            .count()
    }

    fn downs(&self) -> Vec<&Down> {
        let downs = self.outputs.iter().filter_map(|output| match output {
            Output::Down(down) => Some(down),
            _ => None,
        });
        downs.collect()
    }

    fn establish(&mut self, id: ConnectionId, open: &Open) {
        self.receive(id, &bytes_of(open));
        self.receive(id, &keepalive());
        assert_eq!(self.session.state(), State::Established);
    }
}

fn messages(bytes: &[u8]) -> Vec<(MessageType, Vec<u8>)> {
    let mut rest = bytes;
    let mut messages = Vec::new();
    while let Some(frame) = Frame::parse(rest, MAX_EXTENDED_MESSAGE).unwrap() {
        rest = &rest[frame.length()..];
        messages.push((frame.kind, frame.body.to_vec()));
    }
    assert!(rest.is_empty());
    messages
}

fn keepalive() -> Vec<u8> {
    let mut out = Vec::new();
    crate::message::encode_keepalive(&mut out);
    out
}

fn bytes_of(open: &Open) -> Vec<u8> {
    let mut out = Vec::new();
    open.encode(&mut out);
    out
}

fn notification(code: Code) -> Vec<u8> {
    let mut out = Vec::new();
    Notification::from(code).encode(&mut out);
    out
}

fn graceful(notifications: bool) -> Capability {
    Capability::GracefulRestart(GracefulRestart {
        notifications,
        time: 120,
        families: vec![Preserved::kept(Family::Ipv4)],
        ..GracefulRestart::default()
    })
}

/// A peer with an identifier above ours, or below.
fn theirs(above: bool) -> Open {
    Open {
        my_as: 64513,
        hold_time: 30,
        identifier: [10, 0, 0, if above { 9 } else { 1 }].into(),
        capabilities: vec![
            Capability::multiprotocol(Family::Ipv4),
            Capability::FourOctetAs(64513),
            Capability::RouteRefresh,
        ],
    }
}

/// RFC 4271 §8.2.2, from Idle to Established.
#[test]
fn a_session_comes_up_by_our_dialling() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.session.state(), State::Connect);
    let id = bench.connect();
    assert_eq!(bench.session.state(), State::OpenSent);
    assert_eq!(bench.outputs.last(), Some(&Output::Transmit(id)));
    let sent = bench.sent(id);
    assert_eq!((sent.len(), sent[0].0), (1, MessageType::Open));
    let bytes = bytes_of(&theirs(true));
    // Bytes come cut anywhere.
    for byte in &bytes {
        bench.receive(id, &[*byte]);
    }
    assert_eq!(bench.session.state(), State::OpenConfirm);
    assert_eq!(bench.sent(id)[0].0, MessageType::Keepalive);
    bench.receive(id, &keepalive());
    assert_eq!(
        (bench.session.state(), bench.ups()),
        (State::Established, 1)
    );
    let (terms, _) = bench.session.established().unwrap();
    assert_eq!((terms.hold_time, terms.internal), (30 * SECOND, false));
    assert_eq!(terms.families, Families::from(Family::Ipv4));
}

#[test]
fn a_session_comes_up_by_the_peers_dialling() {
    let mut config = config();
    config.passive = true;
    let mut bench = Bench::new(config);
    assert_eq!((bench.session.state(), bench.dials()), (State::Active, 0));
    bench.tick(1000 * SECOND);
    assert_eq!(bench.dials(), 0);
    let id = bench.accept();
    assert_eq!(bench.sent(id)[0].0, MessageType::Open);
    bench.establish(id, &theirs(true));
}

/// RFC 4271 §8.2.1.1: first 1 s, then twice as long each time, with jitter.
#[test]
fn attempts_become_rarer() {
    let mut bench = Bench::new(config());
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let connection = bench.dialled().unwrap();
        bench.handle(Input::ConnectFailed {
            connection,
            why: "connection refused",
        });
        let before = (bench.now, bench.dials());
        assert_eq!(bench.session.state(), State::Active);
        while bench.dials() == before.1 {
            bench.tick(Duration::from_millis(10));
        }
        pauses.push(bench.now.duration_since(before.0).as_secs_f32());
    }
    for (pause, most) in pauses
        .iter()
        .zip([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])
    {
        assert!((0.74 * most..=most + 0.01).contains(pause), "{pauses:?}");
    }
    let told = bench.session.last_error().unwrap().to_string();
    assert_eq!(told, "no connection to the peer: connection refused");
    // A peer that comes back while we wait is not refused.
    let id = bench.accept();
    bench.establish(id, &theirs(true));
}

#[test]
fn dialling_is_given_up_after_a_while() {
    let mut bench = Bench::new(config());
    let id = bench.dialled().unwrap();
    bench.tick(DIAL_WAIT);
    assert_eq!(bench.closed(id), Some(None));
    // What comes late is not taken.
    bench.handle(Input::Connected {
        connection: id,
        local: LOCAL,
    });
    assert_eq!(bench.session.state(), State::Active);
}

/// RFC 4271 §6.5, §10, §4.4.
#[test]
fn keepalives_go_out_and_their_lack_ends_the_session() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    bench.sent(id);
    let began = bench.now;
    let mut gaps = Vec::new();
    let mut last = began;
    while bench.session.state() == State::Established {
        bench.tick(Duration::from_millis(100));
        if !bench.session.pending(id).is_empty() {
            assert_eq!(bench.sent(id), [(MessageType::Keepalive, vec![])]);
            gaps.push(bench.now.duration_since(last).as_secs_f32());
            last = bench.now;
        }
    }
    assert!(
        gaps.len() >= 3 && gaps.iter().all(|gap| (7.4..=10.2).contains(gap)),
        "{gaps:?}"
    );
    assert_eq!(bench.now.duration_since(began), 30 * SECOND);
    assert_eq!(bench.code(id), Some(Code::HOLD_TIMER));
    let down = bench.downs()[0].to_string();
    assert!(down.contains("nothing came"), "{down}");
    // RFC 4271 §8.2.2: and it is tried again.
    bench.tick(SECOND);
    assert_eq!(bench.dials(), 2);
}

#[test]
fn what_comes_in_time_keeps_the_session() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    for _ in 0..10 {
        bench.tick(29 * SECOND);
        bench.receive(id, &keepalive());
    }
    assert_eq!(bench.session.state(), State::Established);
    assert_eq!(bench.downs(), [] as [&Down; 0]);
}

/// RFC 4271 §4.2: a hold time of 0 has neither timer, and RFC 9687 §3.2 no
/// send hold timer.
#[test]
fn without_a_hold_time_there_are_no_timers() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    let mut open = theirs(true);
    open.hold_time = 0;
    bench.establish(id, &open);
    assert_eq!(bench.session.poll_timeout(), None);
}

/// RFC 9687.
#[test]
fn a_peer_that_does_not_read_is_left() {
    let mut config = config();
    config.send_hold_time = Some(100 * SECOND);
    let mut bench = Bench::new(config);
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    let began = bench.now;
    // It still says that it is there.
    while bench.session.state() == State::Established {
        bench.tick(SECOND);
        bench.receive(id, &keepalive());
    }
    assert_eq!(bench.now.duration_since(began), 100 * SECOND);
    assert_eq!(bench.code(id), Some(Code::SEND_HOLD_TIMER));
    let mut usual = Bench::new(self::config());
    let id = usual.connect();
    usual.establish(id, &theirs(true));
    assert_eq!(usual.session.send_hold_time(0), Some(LEAST_SEND_HOLD));
}

/// RFC 4271 §8.2.2.
#[test]
fn a_peer_without_an_open_is_left() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.tick(OPEN_WAIT);
    assert_eq!(bench.code(id), Some(Code::HOLD_TIMER));
}

/// RFC 6608 §3.
#[test]
fn what_comes_out_of_turn_ends_the_connection() {
    let update = {
        let mut out = Vec::new();
        crate::export::encode_end_of_rib(Family::Ipv4, &mut out);
        out
    };
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.receive(id, &update);
    assert_eq!(bench.code(id), Some(Code::UNEXPECTED_IN_OPEN_SENT));
    assert_eq!(bench.closed(id).unwrap().unwrap().data, [2]);
    let id = bench.accept();
    bench.receive(id, &bytes_of(&theirs(true)));
    bench.receive(id, &bytes_of(&theirs(true)));
    assert_eq!(bench.code(id), Some(Code::UNEXPECTED_IN_OPEN_CONFIRM));
    let id = bench.accept();
    bench.establish(id, &theirs(true));
    bench.receive(id, &bytes_of(&theirs(true)));
    assert_eq!(bench.code(id), Some(Code::UNEXPECTED_IN_ESTABLISHED));
}

#[test]
fn what_is_not_bgp_ends_the_connection() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.receive(id, b"SSH-2.0-OpenSSH");
    assert_eq!(bench.code(id), Some(Code::MARKER));
}

/// RFC 4271 §6.2, in words too.
#[test]
fn a_peer_in_another_as_is_refused_in_words() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    let mut open = theirs(true);
    open.capabilities[1] = Capability::FourOctetAs(65000);
    bench.receive(id, &bytes_of(&open));
    assert_eq!(bench.code(id), Some(Code::BAD_PEER_AS));
    assert_eq!(
        bench.session.last_error().unwrap().to_string(),
        "the peer is in AS 65000; AS 64513 is configured (sent: bad peer AS (2/2))"
    );
}

/// RFC 4271 §6.8: of two connections the one stays that the higher identifier
/// dialled, whichever OPEN comes first.
#[test]
fn a_collision_leaves_one_connection() {
    for above in [false, true] {
        for ours_first in [false, true] {
            let mut bench = Bench::new(config());
            let outgoing = bench.connect();
            let incoming = bench.accept();
            let order = if ours_first {
                [outgoing, incoming]
            } else {
                [incoming, outgoing]
            };
            for id in order {
                bench.receive(id, &bytes_of(&theirs(above)));
            }
            let (stays, goes) = if above {
                (incoming, outgoing)
            } else {
                (outgoing, incoming)
            };
            assert_eq!(bench.code(goes), Some(Code::COLLISION));
            assert_eq!(bench.closed(stays), None);
            bench.receive(stays, &keepalive());
            assert_eq!(bench.ups(), 1);
            let failed = bench.outputs.iter().any(|o| matches!(o, Output::Failed(_)));
            assert!(!failed, "a collision is no failure");
        }
    }
}

/// RFC 6286 §2.3.
#[test]
fn equal_identifiers_are_told_apart_by_the_as() {
    for (number, outgoing_stays) in [(64500, true), (64513, false)] {
        let mut config = config();
        config.peer_as = PeerAs::External;
        let mut bench = Bench::new(config);
        let outgoing = bench.connect();
        let incoming = bench.accept();
        bench.tick(CONCURRENT);
        let mut open = theirs(true);
        open.identifier = [10, 0, 0, 5].into();
        open.capabilities[1] = Capability::FourOctetAs(number);
        bench.receive(outgoing, &bytes_of(&open));
        bench.receive(incoming, &bytes_of(&open));
        let goes = if outgoing_stays { incoming } else { outgoing };
        assert_eq!(bench.code(goes), Some(Code::COLLISION));
    }
}

/// RFC 4271 §6.8: the session that is up stays.
#[test]
fn a_connection_beside_a_session_is_refused() {
    let mut bench = Bench::new(config());
    let first = bench.connect();
    bench.establish(first, &theirs(true));
    let second = bench.accept();
    bench.receive(second, &bytes_of(&theirs(true)));
    assert_eq!(bench.code(second), Some(Code::COLLISION));
    assert_eq!(
        (bench.session.state(), bench.closed(first)),
        (State::Established, None)
    );
}

/// RFC 4724 §4.2: but not when the peer has restarted.
#[test]
fn a_peer_that_restarted_replaces_its_session() {
    let mut bench = Bench::new(config());
    let first = bench.connect();
    let mut open = theirs(true);
    open.capabilities.push(graceful(false));
    let early = bench.accept();
    bench.tick(CONCURRENT);
    bench.establish(first, &open);
    bench.receive(early, &bytes_of(&open));
    assert_eq!(bench.code(early), Some(Code::COLLISION), "of no restart");
    bench.tick(SECOND);
    let second = bench.accept();
    bench.receive(second, &bytes_of(&open));
    assert_eq!(bench.closed(first), Some(None), "without a NOTIFICATION");
    assert_eq!(bench.downs(), [&Down::Replaced]);
    bench.receive(second, &keepalive());
    assert_eq!(bench.ups(), 2);
}

#[test]
fn a_peer_that_dials_again_has_left_its_first_connection() {
    let mut bench = Bench::new(config());
    let first = bench.accept();
    let second = bench.accept();
    assert_eq!(bench.code(first), Some(Code::COLLISION));
    bench.establish(second, &theirs(true));
}

/// RFC 5492 §3 and §5.
#[test]
fn a_peer_that_can_do_less_is_told_less() {
    let count = |bench: &mut Bench, id| {
        let (_, body) = bench.sent(id).remove(0);
        Open::parse(&body).unwrap().capabilities.len()
    };
    let mut bench = Bench::new(config());
    let id = bench.connect();
    assert!(count(&mut bench, id) > 5);
    bench.receive(id, &notification(Code::UNSUPPORTED_CAPABILITY));
    bench.tick(Duration::ZERO);
    let id = bench.connect();
    assert_eq!(count(&mut bench, id), 3);
    bench.receive(id, &notification(Code::UNSUPPORTED_PARAMETER));
    bench.tick(Duration::ZERO);
    let id = bench.connect();
    assert_eq!(count(&mut bench, id), 0);
    let mut open = theirs(true);
    open.capabilities.clear();
    bench.establish(id, &open);
    // The next session is tried with all again.
    bench.handle(Input::Closed { connection: id });
    bench.tick(SECOND);
    let id = bench.connect();
    assert!(count(&mut bench, id) > 5);
}

/// RFC 4271 §8.1.1: two that can't agree do not do so all the time.
#[test]
fn who_fails_again_and_again_has_to_wait() {
    let mut config = config();
    config.passive = true;
    let mut bench = Bench::new(config);
    let mut open = theirs(true);
    open.capabilities[1] = Capability::FourOctetAs(1);
    for _ in 0..DAMPED {
        let id = bench.accept();
        bench.receive(id, &bytes_of(&open));
        assert_eq!(bench.code(id), Some(Code::BAD_PEER_AS));
    }
    assert_eq!(bench.session.state(), State::Idle);
    let id = bench.accept();
    assert_eq!(bench.code(id), Some(Code::CONNECTION_REJECTED));
    bench.tick(30 * SECOND);
    assert_eq!(bench.session.state(), State::Active);
    let id = bench.accept();
    bench.establish(id, &theirs(true));
}

fn stopped(stop: &Stop, notifications: bool) -> (Option<Notification>, Vec<Down>) {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    let mut open = theirs(true);
    open.capabilities.push(graceful(notifications));
    bench.establish(id, &open);
    bench.handle(Input::Stop(stop));
    assert_eq!(bench.session.state(), State::Idle);
    assert_eq!(bench.outputs.last(), Some(&Output::Stopped));
    bench.tick(1000 * SECOND);
    assert_eq!(bench.dials(), 1, "it stays stopped");
    let downs = bench.downs().into_iter().cloned().collect();
    (bench.closed(id).unwrap(), downs)
}

/// RFC 4486, RFC 9003, RFC 8538 §3.1, RFC 4724 §4.
#[test]
fn a_session_is_ended_in_the_way_that_is_meant() {
    let shutdown = Stop::Shutdown("node drain: worker-1".into());
    let (sent, _) = stopped(&shutdown, false);
    let sent = sent.unwrap();
    assert_eq!(sent.code, Code::ADMINISTRATIVE_SHUTDOWN);
    assert_eq!(sent.communication().unwrap(), "node drain: worker-1");
    let (hard, _) = stopped(&shutdown, true);
    assert_eq!(hard.unwrap().inner(), Some(sent));
    let (gone, _) = stopped(&Stop::Deconfigured, false);
    assert_eq!(gone.unwrap().code, Code::PEER_DECONFIGURED);
    let (silent, downs) = stopped(&Stop::Restart, true);
    assert_eq!((silent, downs), (None, vec![Down::Restart]));
}

/// RFC 9384.
#[test]
fn bfd_ends_a_session_that_is_up_and_no_other() {
    for (notifications, expected) in [(false, Code::BFD_DOWN), (true, Code::HARD_RESET)] {
        let mut bench = Bench::new(config());
        let id = bench.connect();
        bench.handle(Input::BfdDown);
        assert_eq!(bench.session.state(), State::OpenSent);
        let mut open = theirs(true);
        open.capabilities.push(graceful(notifications));
        bench.establish(id, &open);
        bench.handle(Input::BfdDown);
        assert_eq!(bench.code(id), Some(expected));
        assert!(bench.downs()[0].to_string().contains("BFD"));
        bench.tick(SECOND);
        assert_eq!(bench.dials(), 2);
    }
}

/// A link that comes and goes does not keep the peer out when it is back.
#[test]
fn a_path_that_fails_again_and_again_is_used_when_it_is_back() {
    for notifications in [false, true] {
        let mut bench = Bench::new(config());
        let mut open = theirs(true);
        open.capabilities.push(graceful(notifications));
        for _ in 0..2 * DAMPED {
            let id = bench.accept();
            bench.establish(id, &open);
            bench.handle(Input::BfdDown);
            assert_ne!(bench.session.state(), State::Idle);
        }
    }
}

/// RFC 8538 §3: over a reset the peer may keep our routes.
#[test]
fn a_reset_is_not_hard_and_begins_anew_at_once() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    let mut open = theirs(true);
    open.capabilities.push(graceful(true));
    bench.establish(id, &open);
    bench.handle(Input::Reset(Code::ADMINISTRATIVE_RESET));
    assert_eq!(bench.code(id), Some(Code::ADMINISTRATIVE_RESET));
    bench.tick(Duration::ZERO);
    assert_eq!(bench.dials(), 2);
}

/// RFC 4724 §3, §4.1: R until the first session, F always.
#[test]
fn a_restart_is_told_until_there_is_a_session() {
    let restart = |bench: &mut Bench, id| {
        let (_, body) = bench.sent(id).remove(0);
        let open = Open::parse(&body).unwrap();
        open.capabilities.into_iter().find_map(|c| match c {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
    };
    let mut bench = Bench::new(config());
    for _ in 0..2 {
        let id = bench.connect();
        let told = restart(&mut bench, id).unwrap();
        assert!(told.restarted && told.notifications);
        assert!(told.families.iter().all(|family| family.forwarding));
        assert_eq!((told.time, told.families.len()), (60, 2));
        bench.handle(Input::Closed { connection: id });
        bench.tick(3 * SECOND);
    }
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    bench.handle(Input::Closed { connection: id });
    bench.tick(10 * SECOND);
    let id = bench.connect();
    assert!(!restart(&mut bench, id).unwrap().restarted);
}

/// RFC 2918 §4, RFC 7313 §4: a request is answered, for a family that was
/// agreed on; marks of the peer mean nothing to who has no routes of its.
#[test]
fn a_refresh_is_passed_on() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    for (family, kind, expected) in [
        (Family::Ipv4, RefreshKind::Request, 1),
        (Family::Ipv4, RefreshKind::Begin, 1),
        (Family::Ipv4, RefreshKind::End, 1),
        (Family::Ipv6, RefreshKind::Request, 1),
    ] {
        let mut bytes = Vec::new();
        RouteRefresh { family, kind }.encode(&mut bytes);
        bench.receive(id, &bytes);
        let refreshes = bench
            .outputs
            .iter()
            .filter(|o| matches!(o, Output::Refresh(_)));
        assert_eq!(refreshes.count(), expected);
    }
    assert_eq!(bench.session.state(), State::Established);
    bench.receive(id, &[&[0xff; 16][..], &[0, 24, 5, 0, 1, 1, 1, 0]].concat());
    assert_eq!(bench.code(id), Some(Code::REFRESH_LENGTH));
}

/// RFC 7606 §2: what is wrong with routes is noted, what hides them ends the
/// session.
#[test]
fn a_malformed_update_ends_the_session_only_if_it_must() {
    let update = |body: &[u8]| {
        let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
        [&[0xff; 16][..], &length, &[2], body].concat()
    };
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    bench.receive(id, &update(&[0, 0, 0, 0, 24, 203, 0, 113]));
    assert_eq!(bench.session.state(), State::Established);
    assert_eq!(bench.session.counters().malformed_updates, 1);
    assert!(bench.session.last_malformed().unwrap().contains("missing"));
    bench.receive(id, &update(&[0, 0, 0, 0, 33, 0, 0, 0]));
    assert_eq!(bench.code(id), Some(Code::BAD_NETWORK));
}

#[test]
fn the_peers_words_are_passed_on() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    let mut out = Vec::new();
    Notification::with_communication(Code::ADMINISTRATIVE_SHUTDOWN, "rack move").encode(&mut out);
    bench.receive(id, &out);
    assert_eq!(bench.closed(id), Some(None), "RFC 4271 §6: no answer to it");
    assert_eq!(
        bench.downs()[0].to_string(),
        "the peer ended it: administrative shutdown (6/2): \"rack move\""
    );
}

/// RFC 4271 §4.1: a NOTIFICATION does not go into the middle of a message.
#[test]
fn what_is_half_out_is_ended_before_the_last_word() {
    let mut bench = Bench::new(config());
    let id = bench.connect();
    bench.establish(id, &theirs(true));
    bench.sent(id);
    let mut routes = Vec::new();
    crate::export::encode_end_of_rib(Family::Ipv4, &mut routes);
    crate::export::encode_end_of_rib(Family::Ipv6, &mut routes);
    bench
        .session
        .send(id, vec![Arc::new(routes.clone())], bench.now);
    bench.session.transmitted(id, 5, bench.now);
    bench.handle(Input::Stop(&Stop::Deconfigured));
    let last = bench.outputs.iter().find_map(|output| match output {
        Output::Close { last, .. } => Some(last.clone()),
        _ => None,
    });
    let last = last.unwrap();
    assert_eq!(last[..18], routes[5..23]);
    assert_eq!(messages(&last[18..])[0].0, MessageType::Notification);
}

#[derive(Clone, Debug)]
enum Step {
    Tick(u16),
    Connected,
    ConnectFailed,
    Accept,
    Open(usize, bool),
    Keepalive(usize),
    Bytes(usize, Vec<u8>),
    Notification(usize, u8, u8),
    Closed(usize),
    Write(usize, usize),
    Bfd,
    Reset,
    Stop(bool),
    Start,
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = || 0..3_usize;
    prop_oneof![
        4 => (0..2000_u16).prop_map(Step::Tick),
        4 => Just(Step::Connected),
        1 => Just(Step::ConnectFailed),
        3 => Just(Step::Accept),
        6 => (which(), any::<bool>()).prop_map(|(i, above)| Step::Open(i, above)),
        6 => which().prop_map(Step::Keepalive),
        1 => (which(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(i, bytes)| Step::Bytes(i, bytes)),
        2 => (which(), 1..9_u8, 0..12_u8).prop_map(|(i, c, s)| Step::Notification(i, c, s)),
        2 => which().prop_map(Step::Closed),
        3 => (which(), 0..200_usize).prop_map(|(i, n)| Step::Write(i, n)),
        1 => Just(Step::Bfd),
        1 => Just(Step::Reset),
        1 => any::<bool>().prop_map(Step::Stop),
        2 => Just(Step::Start),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens in whatever order: ups and downs alternate, at most
    /// one session is up, nothing is told of connections that are closed, and
    /// a session that runs goes on.
    #[test]
    fn any_order_of_events_is_borne(
        steps in proptest::collection::vec(any_step(), 0..120),
        passive in any::<bool>(),
    ) {
        let mut config = config();
        config.passive = passive;
        let mut bench = Bench::new(config);
        let mut running = true;
        for step in steps {
            let ids = bench.session.ids();
            let pick = |i: usize| ids.get(i % ids.len().max(1)).copied();
            match step {
                Step::Tick(millis) => bench.tick(Duration::from_millis(u64::from(millis) * 20)),
                Step::Connected => if bench.dialled().is_some() {
                    bench.connect();
                },
                Step::ConnectFailed => if let Some(connection) = bench.dialled() {
                    bench.handle(Input::ConnectFailed { connection, why: "refused" });
                },
                Step::Accept => {
                    bench.accept();
                }
                Step::Open(i, above) => if let Some(id) = pick(i) {
                    let mut open = theirs(above);
                    open.capabilities.push(graceful(above));
                    bench.receive(id, &bytes_of(&open));
                },
                Step::Keepalive(i) => if let Some(id) = pick(i) {
                    bench.receive(id, &keepalive());
                },
                Step::Bytes(i, bytes) => if let Some(id) = pick(i) {
                    bench.receive(id, &bytes);
                },
                Step::Notification(i, code, subcode) => if let Some(id) = pick(i) {
                    bench.receive(id, &notification(Code { code, subcode }));
                },
                Step::Closed(i) => if let Some(connection) = pick(i) {
                    bench.handle(Input::Closed { connection });
                },
                Step::Write(i, count) => if let Some(id) = pick(i) {
                    let count = count.min(bench.session.pending(id).len());
                    bench.session.transmitted(id, count, bench.now);
                },
                Step::Bfd => bench.handle(Input::BfdDown),
                Step::Reset => bench.handle(Input::Reset(Code::ADMINISTRATIVE_RESET)),
                Step::Stop(silent) => {
                    let stop = if silent { Stop::Restart } else { Stop::Deconfigured };
                    bench.handle(Input::Stop(&stop));
                    running = false;
                }
                Step::Start => {
                    bench.handle(Input::Start);
                    running = true;
                }
            }
            let up = bench.session.connections.iter().filter(|c| c.is_established()).count();
            prop_assert!(up <= 1);
            prop_assert!(bench.session.connections.len() <= 3);
            prop_assert_eq!(bench.ups(), bench.downs().len() + up);
            let idle = bench.session.state() == State::Idle;
            prop_assert!(running || idle);
            prop_assert!(!idle || !running || bench.session.errors >= DAMPED);
            // Whoever runs and has no connection will try, or is waited for.
            if running && !passive && bench.session.connections.is_empty() {
                prop_assert!(bench.session.poll_timeout().is_some());
            }
        }
    }
}
