//! Two state machines with a wire between them, on virtual time.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn config(interval: u32) -> SessionConfig {
    SessionConfig {
        desired_min_tx: MS * interval,
        required_min_rx: MS * interval,
        ..SessionConfig::default()
    }
}

/// What happened to one end.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Happened {
    at: Duration,
    end: usize,
    event: Event,
}

/// Two sessions, `ends[0]` and `ends[1]`, and the packets under way.
struct Wire {
    start: Instant,
    now: Instant,
    ends: [Session; 2],
    delay: Duration,
    /// Whether packets from this end are lost.
    cut: [bool; 2],
    under_way: VecDeque<(Instant, usize, ControlPacket)>,
    /// Every packet sent: when, by whom, what.
    sent: Vec<(Instant, usize, ControlPacket)>,
    happened: Vec<Happened>,
}

impl Wire {
    fn new(one: SessionConfig, two: SessionConfig) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            ends: [
                Session::new(11, one, 1, start),
                Session::new(22, two, 2, start),
            ],
            delay: MS,
            cut: [false; 2],
            under_way: VecDeque::new(),
            sent: Vec::new(),
            happened: Vec::new(),
        }
    }

    /// Both up, with all Poll Sequences over.
    fn up(interval: u32) -> Self {
        let mut wire = Self::new(config(interval), config(interval));
        wire.run(MS * 10_000);
        assert!(wire.ends.iter().all(|end| end.state() == State::Up));
        wire.happened.clear();
        wire.sent.clear();
        wire
    }

    fn run(&mut self, length: Duration) {
        let until = self.now + length;
        loop {
            self.flush();
            let next = self
                .ends
                .iter()
                .flat_map(|end| [end.transmit_at(), end.detect_at()])
                .chain([self.under_way.front().map(|(at, ..)| *at)])
                .flatten()
                .min()
                .filter(|next| *next <= until);
            let Some(next) = next else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            while let Some((_, to, packet)) =
                self.under_way.pop_front_if(|(at, ..)| *at <= self.now)
            {
                assert_eq!(packet.validate(), Ok(()));
                self.ends[to].handle_packet(&packet, self.now);
            }
            for end in &mut self.ends {
                end.handle_expiry(self.now, None);
            }
        }
    }

    fn flush(&mut self) {
        for (from, end) in self.ends.iter_mut().enumerate() {
            while let Some(packet) = end.poll_transmit(self.now) {
                self.sent.push((self.now, from, packet));
                if !self.cut[from] {
                    self.under_way
                        .push_back((self.now + self.delay, 1 - from, packet));
                }
            }
            while let Some(event) = end.poll_event() {
                self.happened.push(Happened {
                    at: self.now - self.start,
                    end: from,
                    event,
                });
            }
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    /// The gaps between the packets of one end that were not answers to P.
    fn gaps(&self, end: usize) -> Vec<Duration> {
        let times: Vec<Instant> = self
            .sent
            .iter()
            .filter(|(_, from, packet)| *from == end && !packet.r#final)
            .map(|(at, ..)| *at)
            .collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn failures(&self) -> usize {
        self.happened
            .iter()
            .filter(|happened| happened.event.is_failure())
            .count()
    }
}

#[test]
fn two_active_ends_go_up_and_then_to_their_intervals() {
    let mut wire = Wire::new(config(50), config(20));
    wire.run(MS * 3000);
    assert_eq!(wire.states(), [State::Up, State::Up]);
    // §6.8.3: not up, no packet announces or keeps less than a second.
    for (_, _, packet) in &wire.sent {
        if packet.state != State::Up {
            assert_eq!(packet.desired_min_tx, 1_000_000);
        }
    }
    // Both take the slower of what one wants to send and the other to hear.
    for end in &wire.ends {
        assert_eq!(end.transmit_interval(), MS * 50);
        assert_eq!(end.detection_time(), MS * 150);
        assert_eq!(end.poll, Poll::Idle);
    }
    assert_eq!(wire.failures(), 0);
    let path: Vec<State> = wire
        .happened
        .iter()
        .filter(|happened| happened.end == 0)
        .map(|happened| happened.event.to)
        .collect();
    assert_eq!(path, [State::Init, State::Up]);
}

#[test]
fn two_passive_ends_say_nothing_and_one_is_woken() {
    let passive = SessionConfig {
        passive: true,
        ..config(50)
    };
    let mut wire = Wire::new(passive, passive);
    wire.run(MS * 5000);
    assert!(wire.sent.is_empty());
    let mut wire = Wire::new(passive, config(50));
    wire.run(MS * 3000);
    assert_eq!(wire.states(), [State::Up, State::Up]);
}

#[test]
fn every_interval_is_jittered_within_its_bounds() {
    for (mult, most) in [(3, 50_000), (1, 45_000)] {
        let mut wire = Wire::up(50);
        let config = SessionConfig {
            detect_mult: mult,
            ..config(50)
        };
        wire.ends[0].set_config(config, wire.now);
        wire.run(MS * 20);
        wire.sent.clear();
        wire.run(MS * 20_000);
        let gaps = wire.gaps(0);
        assert!(gaps.len() > 400);
        let bounds = Duration::from_micros(37_499)..=Duration::from_micros(most + 1);
        assert!(gaps.iter().all(|gap| bounds.contains(gap)));
        let distinct: std::collections::BTreeSet<_> = gaps.iter().collect();
        assert!(distinct.len() > 200, "the jitter is not random");
    }
}

#[test]
fn silence_is_detected_at_the_detection_time_exactly() {
    for interval in [10, 50, 300] {
        let mut wire = Wire::up(interval);
        wire.cut = [true, true];
        // What is under way still comes.
        wire.run(MS * 2);
        let heard = wire.ends[0].heard;
        wire.run(MS * 5000);
        let down = wire.happened.iter().find(|h| h.end == 0).unwrap();
        assert_eq!(wire.start + down.at, heard + MS * interval * 3);
        assert!(down.event.is_failure());
        assert_eq!(down.event.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
        // What was known of the peer is forgotten, and the pace is slow again.
        assert_eq!(wire.ends[0].remote.discriminator, 0);
        wire.sent.clear();
        wire.run(MS * 10_000);
        assert!(wire.gaps(0).iter().all(|gap| *gap >= MS * 750));
    }
}

#[test]
fn loss_one_way_takes_both_ends_down_and_they_come_back() {
    let mut wire = Wire::up(50);
    wire.cut = [false, true];
    wire.run(MS * 155);
    // 0 hears nothing, says so at once, and 1 believes it.
    assert_eq!(wire.states(), [State::Down, State::Down]);
    assert_eq!(
        wire.ends[1].diagnostic(),
        Diagnostic::NEIGHBOR_SIGNALED_DOWN
    );
    assert_eq!(wire.failures(), 2);
    let theirs = wire.happened.iter().find(|h| h.end == 1).unwrap();
    assert_eq!(
        theirs.event.remote_diagnostic,
        Diagnostic::DETECTION_TIME_EXPIRED
    );
    // While it stays so, neither goes up.
    wire.happened.clear();
    wire.run(MS * 20_000);
    assert!(wire.happened.iter().all(|h| h.event.to != State::Up));
    wire.cut = [false; 2];
    wire.run(MS * 2500);
    assert_eq!(wire.states(), [State::Up, State::Up]);
    assert_eq!(wire.ends[0].detection_time(), MS * 150);
}

#[test]
fn less_than_the_multiplier_lost_in_a_row_changes_nothing() {
    let mut wire = Wire::up(50);
    for _ in 0..50 {
        // Two packets at the most are sent in the shortest two intervals.
        wire.cut = [true, true];
        wire.run(MS * 74);
        wire.cut = [false, false];
        wire.run(MS * 51);
    }
    assert_eq!(wire.happened, []);
}

#[test]
fn timers_change_by_poll_without_a_flap() {
    for (before, after) in [(50, 300), (300, 50), (10, 1000), (1000, 10)] {
        for end in [0, 1] {
            let mut wire = Wire::up(before);
            wire.ends[end].set_config(config(after), wire.now);
            wire.run(MS * 5000);
            wire.ends[1 - end].set_config(config(after), wire.now);
            wire.run(MS * 5000);
            assert_eq!(wire.happened, [], "{before} to {after}");
            for session in &wire.ends {
                assert_eq!(session.detection_time(), MS * 3 * after);
                assert_eq!(session.poll, Poll::Idle);
            }
        }
    }
}

#[test]
fn an_end_slows_down_only_when_the_other_knows() {
    let mut wire = Wire::up(50);
    wire.cut = [false, true];
    wire.ends[0].set_config(config(90), wire.now);
    wire.run(MS * 60);
    // No answer has come: our pace stays.
    assert_eq!(wire.ends[0].transmit_interval(), MS * 50);
    assert!(
        wire.sent
            .iter()
            .any(|(_, from, packet)| *from == 0 && packet.poll && packet.desired_min_tx == 90_000)
    );
    // Nothing but an answer to a question ends it.
    wire.cut = [false; 2];
    wire.run(MS * 60);
    assert_eq!(wire.ends[0].transmit_interval(), MS * 90);
    assert_eq!(wire.happened, []);
}

#[test]
fn an_end_expects_more_only_when_the_other_knows() {
    let mut wire = Wire::up(300);
    let faster = SessionConfig {
        required_min_rx: MS * 50,
        ..config(300)
    };
    wire.ends[1].set_config(config(50), wire.now);
    wire.run(MS * 1000);
    wire.cut = [true, false];
    wire.ends[0].set_config(faster, wire.now);
    assert_eq!(wire.ends[0].detection_time(), MS * 900);
    wire.run(MS * 200);
    assert_eq!(wire.ends[0].detection_time(), MS * 900);
    wire.cut = [false; 2];
    wire.run(MS * 1000);
    assert_eq!(wire.ends[0].detection_time(), MS * 150);
    assert_eq!(wire.happened, []);
}

#[test]
fn a_change_during_a_poll_has_a_poll_of_its_own() {
    let mut wire = Wire::up(50);
    wire.delay = MS * 20;
    wire.run(MS * 200);
    wire.ends[0].set_config(config(60), wire.now);
    wire.run(MS * 5);
    wire.ends[0].set_config(config(500), wire.now);
    // The answer to the first question was given before the second change.
    wire.run(MS * 38);
    assert!(wire.ends[0].transmit_interval() < MS * 500);
    wire.run(MS * 500);
    assert_eq!(wire.ends[0].transmit_interval(), MS * 500);
    assert_eq!(wire.happened, []);
}

#[test]
fn a_final_that_nobody_asked_for_ends_nothing() {
    let mut wire = Wire::up(50);
    let stray = ControlPacket {
        r#final: true,
        ..wire.ends[1].contents()
    };
    wire.ends[0].set_config(config(500), wire.now);
    wire.ends[0].handle_packet(&stray, wire.now);
    assert_eq!(wire.ends[0].transmit_interval(), MS * 50);
}

#[test]
fn a_poll_is_answered_at_once_and_beside_the_schedule() {
    let mut wire = Wire::up(300);
    wire.run(MS * 1000);
    let due = wire.ends[1].transmit_at();
    let poll = ControlPacket {
        poll: true,
        ..wire.ends[0].contents()
    };
    wire.ends[1].handle_packet(&poll, wire.now);
    let answer = wire.ends[1].poll_transmit(wire.now).unwrap();
    assert!(answer.r#final && !answer.poll);
    assert_eq!(wire.ends[1].poll_transmit(wire.now), None);
    assert_eq!(wire.ends[1].transmit_at(), due);
}

#[test]
fn admin_down_is_told_and_is_no_failure() {
    let mut wire = Wire::up(50);
    wire.ends[0].set_admin_down(true, wire.now);
    wire.run(MS * 5);
    assert_eq!(wire.states(), [State::AdminDown, State::Down]);
    assert_eq!(wire.failures(), 0);
    let theirs = wire.happened.iter().find(|h| h.end == 1).unwrap();
    assert_eq!(
        theirs.event.remote_diagnostic,
        Diagnostic::ADMINISTRATIVELY_DOWN
    );
    // It stays so, however long, and says so.
    wire.sent.clear();
    wire.run(MS * 10_000);
    assert_eq!(wire.states(), [State::AdminDown, State::Down]);
    assert!(wire.gaps(0).len() >= 9);
    wire.ends[0].set_admin_down(false, wire.now);
    wire.run(MS * 3000);
    assert_eq!(wire.states(), [State::Up, State::Up]);
}

#[test]
fn a_restart_of_the_peer_takes_the_session_down_and_up_again() {
    let mut wire = Wire::up(50);
    wire.ends[1] = Session::new(33, config(50), 3, wire.now);
    wire.run(MS * 10);
    assert_eq!(wire.failures(), 1);
    wire.run(MS * 3000);
    assert_eq!(wire.states(), [State::Up, State::Up]);
    assert_eq!(wire.ends[0].remote.discriminator, 33);
}

#[test]
fn demand_mode_of_the_peer_is_obeyed() {
    let mut wire = Wire::up(50);
    let demand = ControlPacket {
        demand: true,
        ..wire.ends[1].contents()
    };
    wire.ends[0].handle_packet(&demand, wire.now);
    assert_eq!(wire.ends[0].transmit_at(), None);
    // But a change is told, and asked about until it is answered.
    wire.ends[0].set_config(config(60), wire.now);
    assert!(wire.ends[0].poll_transmit(wire.now).unwrap().poll);
    assert!(wire.ends[0].transmit_at().is_some());
    let answer = ControlPacket {
        r#final: true,
        ..demand
    };
    wire.ends[0].handle_packet(&answer, wire.now);
    assert_eq!(wire.ends[0].transmit_at(), None);
}

#[test]
fn a_peer_that_wants_nothing_gets_nothing_periodic() {
    let mut wire = Wire::up(50);
    let closed = ControlPacket {
        required_min_rx: 0,
        ..wire.ends[1].contents()
    };
    wire.ends[0].handle_packet(&closed, wire.now);
    assert_eq!(wire.ends[0].transmit_at(), None);
    let poll = ControlPacket {
        poll: true,
        ..closed
    };
    wire.ends[0].handle_packet(&poll, wire.now);
    assert!(wire.ends[0].poll_transmit(wire.now).unwrap().r#final);
}

#[test]
fn a_shorter_interval_of_the_peer_holds_at_once() {
    let mut wire = Wire::new(config(50), config(1000));
    wire.run(MS * 10_000);
    let (at, _) = wire.ends[0].sent.unwrap();
    let faster = ControlPacket {
        required_min_rx: 50_000,
        ..wire.ends[1].contents()
    };
    wire.ends[0].handle_packet(&faster, wire.now);
    assert!(wire.ends[0].transmit_at().unwrap() <= at + MS * 50);
}

#[test]
fn echo_and_demand_are_never_offered() {
    let wire = Wire::up(50);
    let said = wire.ends[0].contents();
    assert_eq!(said.required_min_echo_rx, 0);
    assert!(!said.demand && !said.control_plane_independent);
}

#[test]
fn a_stall_of_our_own_is_forgiven_once() {
    let mut wire = Wire::up(50);
    wire.run(MS * 60);
    let end = &mut wire.ends[0];
    let due = end.detect_at().unwrap();
    let late = due + MS * 40;
    let stall = Some(Stall {
        end: late,
        length: MS * 40,
    });
    end.handle_expiry(late, stall);
    assert_eq!(end.state(), State::Up);
    assert_eq!(end.detect_at(), Some(late + MS * 50));
    end.handle_expiry(late + MS * 50, stall);
    assert_eq!(end.state(), State::Down);
}

#[test]
fn a_stall_that_was_short_or_before_the_last_packet_is_no_excuse() {
    let mut wire = Wire::up(50);
    wire.run(MS * 60);
    let (heard, due) = (wire.ends[0].heard, wire.ends[0].detect_at().unwrap());
    let short = Stall {
        end: due,
        length: MS * 25,
    };
    let old = Stall {
        end: heard,
        length: MS * 1000,
    };
    for stall in [short, old] {
        let mut wire = Wire::up(50);
        wire.ends[0].heard = heard;
        wire.ends[0].handle_expiry(due, Some(stall));
        assert_eq!(wire.ends[0].state(), State::Down);
    }
}

/// What may happen to two ends.
#[derive(Clone, Copy, Debug)]
enum Step {
    Run(u16),
    Cut(usize, bool),
    Config(usize, u16, u8),
    AdminDown(usize, bool),
    Restart(usize, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..3000u16).prop_map(Step::Run),
        2 => (0..2usize, any::<bool>()).prop_map(|(end, cut)| Step::Cut(end, cut)),
        2 => (0..2usize, 5..2000u16, 1..10u8)
            .prop_map(|(end, interval, mult)| Step::Config(end, interval, mult)),
        1 => (0..2usize, any::<bool>()).prop_map(|(end, down)| Step::AdminDown(end, down)),
        1 => (0..2usize, 1..u32::MAX).prop_map(|(end, id)| Step::Restart(end, id)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever was, two ends that are free and hear each other are up in a
    /// while, agree on their timers, and stay so.
    #[test]
    fn whatever_happened_it_heals(steps in proptest::collection::vec(step(), 0..20)) {
        let mut wire = Wire::new(config(50), config(50));
        for step in steps {
            let now = wire.now;
            match step {
                Step::Run(millis) => wire.run(MS * millis.into()),
                Step::Cut(end, cut) => wire.cut[end] = cut,
                Step::Config(end, interval, detect_mult) => {
                    let config = SessionConfig { detect_mult, ..config(interval.into()) };
                    wire.ends[end].set_config(config, now);
                }
                Step::AdminDown(end, down) => wire.ends[end].set_admin_down(down, now),
                Step::Restart(end, id) => wire.ends[end] = Session::new(id, config(50), 5, now),
            }
        }
        wire.cut = [false; 2];
        for end in &mut wire.ends {
            end.set_admin_down(false, wire.now);
            end.set_config(config(50), wire.now);
        }
        wire.run(MS * 60_000);
        prop_assert_eq!(wire.states(), [State::Up, State::Up]);
        wire.happened.clear();
        wire.run(MS * 20_000);
        prop_assert_eq!(&wire.happened, &[]);
        for end in &wire.ends {
            prop_assert_eq!(end.detection_time(), MS * 150);
            prop_assert_eq!(end.transmit_interval(), MS * 50);
        }
    }

    /// A peer may say anything that is valid, at any time: no panic, one answer
    /// at the most for each packet beside what the clock makes due, and the
    /// slow pace while not up.
    #[test]
    fn a_hostile_peer_gets_no_more_than_an_answer_each(
        packets in proptest::collection::vec((any::<[u8; 24]>(), 0..500u32), 0..60),
    ) {
        let mut now = Instant::now();
        let mut end = Session::new(11, config(50), 1, now);
        for (mut bytes, pause) in packets {
            bytes[0] = bytes[0] & 0x1f | 0x20;
            bytes[1] &= !0x04;
            bytes[3] = 24;
            now += MS * pause;
            end.handle_expiry(now, None);
            while end.poll_transmit(now).is_some() {}
            let packet = ControlPacket::parse(&bytes).unwrap();
            if packet.validate().is_err() {
                continue;
            }
            end.handle_packet(&packet, now);
            let mut sent = 0;
            while let Some(packet) = end.poll_transmit(now) {
                sent += 1;
                if end.state() != State::Up {
                    prop_assert!(packet.desired_min_tx >= 1_000_000);
                }
                prop_assert!(packet.validate().is_ok() || packet.your_discriminator == 0);
            }
            // One that answers or tells, and one that the clock made due.
            prop_assert!(sent <= 2, "{sent} packets");
        }
    }
}
