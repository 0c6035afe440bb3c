//! Small segments in which everything takes a millisecond. What may go wrong in
//! every combination is the simulator's.

use std::sync::Arc;

use super::*;
use crate::group::{MOST_MOVES, Policy, Rebalance};
use crate::order::{Candidate, spread};
use crate::wire::MAX_DATAGRAM;
use crate::{KeyRing, TRAILER};

const MS: Duration = Duration::from_millis(1);

fn id(n: usize) -> NodeId {
    NodeId::of(&format!("n{n}"))
}

fn group(i: u64) -> GroupId {
    GroupId(i)
}

/// A view with all nodes but the excluded ones as candidates.
fn view(
    number: u64,
    nodes: usize,
    excluded: &[usize],
    groups: u64,
    change: fn(&mut Group),
) -> View {
    let candidates: Arc<[Candidate]> = (0..nodes)
        .filter(|n| !excluded.contains(n))
        .map(|n| Candidate::new(id(n)))
        .collect();
    let wanted: Vec<_> = (0..groups)
        .map(|i| (group(i), candidates.clone()))
        .collect();
    let groups = wanted
        .iter()
        .zip(spread(&wanted))
        .map(|((id, candidates), first)| {
            let mut group = Group {
                first,
                ..Group::new(*id, candidates.clone())
            };
            change(&mut group);
            group
        });
    View {
        number,
        groups: groups.collect(),
        voters: (0..nodes).map(id).collect(),
    }
}

/// Speakers on a segment without faults but those that a test makes.
struct Segment {
    begin: Instant,
    now: Instant,
    speakers: Vec<Option<Election>>,
    /// Speakers that do not run.
    stopped: BTreeSet<usize>,
    /// Whether nobody hears anybody.
    cut: bool,
    wire: Vec<(usize, Transmit)>,
    /// When, who, what.
    events: Vec<(Duration, usize, Event)>,
    /// All that was ever sent.
    record: Vec<(usize, Heartbeat)>,
}

impl Segment {
    fn new(nodes: usize) -> Self {
        let begin = Instant::now();
        let mut segment = Self {
            begin,
            now: begin,
            speakers: (0..nodes).map(|_| None).collect(),
            stopped: BTreeSet::new(),
            cut: false,
            wire: Vec::new(),
            events: Vec::new(),
            record: Vec::new(),
        };
        for n in 0..nodes {
            segment.start(n, 1);
        }
        segment
    }

    /// Speakers with a view, each ready.
    fn ready(nodes: usize, groups: u64, change: fn(&mut Group)) -> Self {
        let mut segment = Self::new(nodes);
        segment.tell(&view(1, nodes, &[], groups, change));
        segment.run(Duration::from_secs(1));
        segment.events.clear();
        segment
    }

    /// Three with 30 groups, of which speaker 1 was lost and has just started anew.
    fn with_return(change: fn(&mut Group)) -> Self {
        let mut segment = Self::ready(3, 30, change);
        segment.speakers[1] = None;
        segment.run(Duration::from_secs(1));
        segment.start(1, 2);
        segment.tell(&view(1, 3, &[], 30, change));
        segment
    }

    fn start(&mut self, n: usize, session: u64) {
        let config = Config {
            node: id(n),
            session: session * 1000 + n as u64,
            profile: Profile::Default,
        };
        self.speakers[n] = Some(Election::new(config, self.now));
        self.call(n, Election::handle_timeout);
    }

    fn tell(&mut self, view: &View) {
        for n in 0..self.speakers.len() {
            let view = view.clone();
            self.call(n, |speaker, now| speaker.set_view(view, now));
        }
    }

    fn call(&mut self, n: usize, call: impl FnOnce(&mut Election, Instant)) {
        let Some(speaker) = &mut self.speakers[n] else {
            return;
        };
        call(speaker, self.now);
        let at = self.now - self.begin;
        while let Some(event) = speaker.poll_event() {
            self.events.push((at, n, event));
        }
        while let Some(transmit) = speaker.poll_transmit() {
            self.record.push((n, transmit.heartbeat.clone()));
            self.wire.push((n, transmit));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += MS;
            for (from, transmit) in std::mem::take(&mut self.wire) {
                for n in (0..self.speakers.len()).filter(|n| *n != from) {
                    if !transmit.detour && !self.stopped.contains(&n) && !self.cut {
                        self.call(n, |speaker, now| {
                            speaker.handle_heartbeat(&transmit.heartbeat, now);
                        });
                    }
                }
            }
            for n in 0..self.speakers.len() {
                let due = self.speakers[n].as_ref().and_then(Election::poll_timeout);
                if due.is_some_and(|at| at <= self.now) && !self.stopped.contains(&n) {
                    self.call(n, Election::handle_timeout);
                }
            }
        }
    }

    fn owners(&self, group: GroupId) -> Vec<usize> {
        let owns = |n: &usize| self.speakers[*n].as_ref().is_some_and(|s| s.owns(group));
        (0..self.speakers.len()).filter(owns).collect()
    }

    fn owner(&self, group: GroupId) -> usize {
        let owners = self.owners(group);
        assert_eq!(owners.len(), 1, "{owners:?}");
        owners[0]
    }

    /// When somebody first announced a group since the events were cleared.
    fn announced(&self, group: GroupId) -> Option<Duration> {
        let mut events = self.events.iter();
        events
            .find(|(_, _, event)| matches!(event, Event::Announce { group: g, .. } if *g == group))
            .map(|(at, ..)| *at)
    }
}

#[test]
fn a_crash_is_taken_over_within_the_profile_and_moves_only_its_own() {
    let changes: [fn(&mut Group); 3] = [
        |group| group.profile = Profile::Default,
        |group| group.profile = Profile::Fast,
        |group| group.profile = Profile::Safe,
    ];
    for (change, profile) in changes.into_iter().zip(Profile::ALL) {
        let detect = profile.detect();
        let mut segment = Segment::ready(5, 50, change);
        let before: Vec<usize> = (0..50).map(|i| segment.owner(group(i))).collect();
        assert!((0..5).all(|n| before.iter().filter(|owner| **owner == n).count() == 10));
        segment.speakers[2] = None;
        let crash = segment.now - segment.begin;
        segment.run(detect + MS * 3);
        for (i, owner) in (0..).zip(before) {
            if owner == 2 {
                assert_ne!(segment.owner(group(i)), 2);
                assert!(segment.announced(group(i)).unwrap() <= crash + detect + MS * 3);
            } else {
                assert_eq!(segment.owner(group(i)), owner);
                assert_eq!(segment.announced(group(i)), None);
            }
        }
    }
}

#[test]
fn whoever_comes_back_does_not_get_it_back_unless_asked_for() {
    let mut segment = Segment::with_return(|_| {});
    segment.run(Duration::from_secs(4));
    let owns =
        |segment: &Segment, n: usize| segment.speakers[n].as_ref().map(|s| s.owned().count());
    assert_eq!(owns(&segment, 1), Some(0));
    for n in 0..3 {
        segment.call(n, Election::rebalance);
    }
    segment.run(Duration::from_secs(1));
    assert_eq!([0, 1, 2].map(|n| owns(&segment, n)), [Some(10); 3]);
}

#[test]
fn whoever_does_not_run_after_its_start_has_not_listened() {
    let mut segment = Segment::with_return(|_| {});
    segment.stopped.insert(1);
    segment.run(Duration::from_secs(3));
    segment.stopped.remove(&1);
    segment.run(Duration::from_secs(4));
    let speaker = segment.speakers[1].as_ref().unwrap();
    assert_eq!((speaker.counters().taken, speaker.is_ready()), (0, true));
}

#[test]
fn with_on_join_it_gets_them_back_by_itself() {
    let change: fn(&mut Group) = |group| group.rebalance = Rebalance::OnJoin;
    let mut segment = Segment::with_return(change);
    segment.run(Duration::from_secs(4));
    let counts = segment.speakers.iter().flatten().map(|s| s.owned().count());
    assert_eq!(counts.collect::<Vec<_>>(), [10; 3]);
}

#[test]
fn in_a_planned_move_the_new_owner_speaks_before_the_old_one_is_silent() {
    for policy in [Policy::Available, Policy::Strict] {
        let change: fn(&mut Group) = match policy {
            Policy::Available => |_| {},
            Policy::Strict => |group| group.policy = Policy::Strict,
        };
        let mut segment = Segment::ready(3, 1, change);
        let old = segment.owner(group(0));
        segment.events.clear();
        segment.call(old, Election::drain);
        segment.run(Duration::from_secs(1));
        assert_ne!(segment.owner(group(0)), old);
        let begins = segment.announced(group(0)).unwrap();
        let (ends, ..) = *segment
            .events
            .iter()
            .find(|(_, n, event)| {
                *n == old && matches!(event, Event::HandOver { .. } | Event::Withdraw { .. })
            })
            .unwrap();
        match policy {
            Policy::Available => assert!(begins < ends),
            // Two are worse than none: a few milliseconds without an owner.
            Policy::Strict => assert!(ends < begins && begins < ends + MS * 30),
        }
    }
}

#[test]
fn who_leaves_is_not_waited_for() {
    let mut segment = Segment::ready(3, 1, |_| {});
    let old = segment.owner(group(0));
    let at = segment.now - segment.begin;
    segment.call(old, Election::leave);
    segment.run(MS * 20);
    assert_ne!(segment.owner(group(0)), old);
    assert!(segment.announced(group(0)).unwrap() <= at + MS * 3);
}

#[test]
fn a_link_that_goes_down_is_not_waited_for() {
    let mut segment = Segment::ready(3, 1, |_| {});
    let old = segment.owner(group(0));
    segment.call(old, |speaker, now| speaker.set_link(false, now));
    assert!(segment.owners(group(0)).is_empty(), "silent at once");
    let farewell = segment.wire.iter().position(|(_, t)| t.detour).unwrap();
    // By way of another network.
    segment.wire[farewell].1.detour = false;
    segment.run(MS * 5);
    assert_ne!(segment.owner(group(0)), old);
}

#[test]
fn a_link_that_returns_is_listened_to_before_anything_is_called_vacant() {
    for away in [20, 100, 400, 3000] {
        let mut segment = Segment::ready(3, 1, |_| {});
        let old = segment.owner(group(0));
        segment.call(old, |speaker, now| speaker.set_link(false, now));
        for (_, transmit) in &mut segment.wire {
            transmit.detour = false;
        }
        segment.run(MS * 5);
        let new = segment.owner(group(0));
        // While it is away nothing reaches it.
        segment.stopped.insert(old);
        segment.run(MS * away);
        segment.stopped.remove(&old);
        segment.events.clear();
        segment.call(old, |speaker, now| speaker.set_link(true, now));
        segment.run(Duration::from_secs(4));
        assert_eq!(segment.owner(group(0)), new, "away for {away} ms");
        assert_eq!(segment.announced(group(0)), None, "away for {away} ms");
    }
}

#[test]
fn who_was_cut_off_and_hears_the_others_again_calls_nothing_vacant_before_it_knows() {
    let mut segment = Segment::ready(3, 1, |_| {});
    let alone = (0..3).find(|n| *n != segment.owner(group(0))).unwrap();
    // Cut off for so long that it forgets the others, and may own nothing then.
    segment.stopped.insert(alone);
    for _ in 0..70 {
        segment.run(Duration::from_secs(1));
        segment.call(alone, Election::handle_timeout);
    }
    segment.events.clear();
    segment.stopped.remove(&alone);
    segment.run(Duration::from_secs(4));
    let took = |(_, n, event): &(Duration, usize, Event)| {
        *n == alone
            && matches!(
                event,
                Event::Announce {
                    cause: Cause::Vacant,
                    ..
                }
            )
    };
    assert!(!segment.events.iter().any(took), "{:?}", segment.events);
    segment.owner(group(0));
}

#[test]
fn a_stall_of_our_own_is_not_charged_to_the_others() {
    let mut segment = Segment::ready(3, 30, |_| {});
    let mine: Vec<GroupId> = segment.speakers[0].as_ref().unwrap().owned().collect();
    segment.stopped.insert(0);
    segment.run(MS * 150);
    segment.stopped.clear();
    segment.run(Duration::from_secs(2));
    let taken = segment
        .events
        .iter()
        .any(|(.., e)| matches!(e, Event::Announce { .. }));
    assert!(!taken, "{:?}", segment.events);
    assert_eq!(
        segment.speakers[0]
            .as_ref()
            .unwrap()
            .owned()
            .collect::<Vec<_>>(),
        mine
    );
}

#[test]
fn who_stalls_for_long_is_silent_when_it_runs_again_and_finds_out() {
    let mut segment = Segment::ready(3, 30, |_| {});
    segment.stopped.insert(0);
    segment.run(Duration::from_secs(3));
    segment.stopped.clear();
    segment.events.clear();
    segment.run(MS * 70);
    assert_eq!(segment.speakers[0].as_ref().unwrap().owned().count(), 0);
    assert!(matches!(
        segment.events.first(),
        Some((_, 0, Event::Stalled { .. }))
    ));
    segment.run(Duration::from_secs(2));
    assert!((0..30).all(|i| segment.owner(group(i)) != 0));
}

#[test]
fn of_two_owners_that_hear_each_other_again_one_is_silent_with_the_first_heartbeat() {
    let mut segment = Segment::ready(2, 1, |_| {});
    segment.cut = true;
    segment.run(Duration::from_secs(3));
    assert_eq!(segment.owners(group(0)), [0, 1]);
    segment.events.clear();
    segment.cut = false;
    let healed = segment.now - segment.begin;
    segment.run(Duration::from_secs(1));
    let one = segment.owner(group(0));
    let silent: Vec<_> = segment
        .events
        .iter()
        .filter(|(.., event)| matches!(event, Event::Withdraw { .. } | Event::HandOver { .. }))
        .collect();
    let why = Silence::Settled;
    let group = group(0);
    let [(at, node, Event::Withdraw { .. })] = silent[..] else {
        panic!("{silent:?}");
    };
    assert_eq!(silent[0].2, Event::Withdraw { group, why });
    assert_eq!(*node, 1 - one);
    let settled = at.saturating_sub(healed);
    assert!(
        settled <= Profile::Default.interval() * 3 / 2,
        "{settled:?}"
    );
    // And the one that stays says so again.
    let again = Event::Reannounce { group };
    assert!(
        segment
            .events
            .iter()
            .any(|(_, n, e)| *n == one && *e == again)
    );
}

#[test]
fn the_api_may_flap_and_the_group_does_not() {
    let mut segment = Segment::ready(2, 1, |_| {});
    segment.events.clear();
    for i in 0..20 {
        let out = segment.owner(group(0));
        segment.tell(&view(2 + i, 2, &[out], 1, |_| {}));
        segment.run(Duration::from_secs(2));
    }
    let moves = segment
        .events
        .iter()
        .filter(|(.., e)| matches!(e, Event::Announce { .. }));
    assert_eq!(moves.count(), MOST_MOVES);
}

#[test]
fn ten_thousand_groups_are_told_in_datagrams_and_then_cost_nothing() {
    let mut segment = Segment::ready(3, 10_000, |_| {});
    let known = segment.record.len();
    let keys = KeyRing::new([[1; 32]]).unwrap();
    for (_, heartbeat) in &segment.record {
        assert!(keys.seal(heartbeat.to_bytes()).len() <= MAX_DATAGRAM);
    }
    segment.run(Duration::from_secs(1));
    let quiet = &segment.record[known..];
    assert!(quiet.len() <= 3 * 15, "{}", quiet.len());
    assert!(
        quiet
            .iter()
            .all(|(_, hb)| hb.to_bytes().len() + TRAILER < 150)
    );
    for i in 0..10_000 {
        segment.owner(group(i));
    }
    segment.speakers[1] = None;
    segment.run(MS * 300);
    for i in 0..10_000 {
        assert_ne!(segment.owner(group(i)), 1);
    }
}

#[test]
fn a_replay_does_not_bring_the_dead_back() {
    let mut segment = Segment::ready(2, 4, |_| {});
    let recorded: Vec<Heartbeat> = segment
        .record
        .iter()
        .filter(|(n, _)| *n == 1)
        .map(|(_, hb)| hb.clone())
        .collect();
    segment.speakers[1] = None;
    // To one that knows the session, and to one that has started since.
    for restart in [false, true] {
        if restart {
            segment.start(0, 2);
            segment.tell(&view(1, 2, &[], 4, |_| {}));
        }
        for heartbeat in recorded.iter().cycle().take(5000) {
            segment.call(0, |speaker, now| {
                speaker.handle_heartbeat(heartbeat, now);
            });
            segment.run(MS);
        }
        let speaker = segment.speakers[0].as_ref().unwrap();
        let liveness = speaker.liveness(id(1), Profile::Default);
        assert!(
            matches!(liveness, None | Some(Liveness::Down)),
            "{liveness:?}"
        );
        assert_eq!(speaker.owned().count(), 4);
    }
}

#[test]
fn two_nodes_of_one_name_are_told_of() {
    let mut segment = Segment::ready(2, 1, |_| {});
    let mut foreign = segment.record[0].1.clone();
    foreign.session += 1;
    segment.call(0, |speaker, now| {
        speaker.handle_heartbeat(&foreign, now);
    });
    assert!(
        segment
            .events
            .iter()
            .any(|(.., event)| *event == Event::Impostor)
    );
}

#[test]
fn without_the_api_nothing_moves_and_crashes_are_taken_over() {
    let mut segment = Segment::ready(3, 30, |_| {});
    segment.run(Duration::from_mins(10));
    assert_eq!(segment.events, []);
    segment.speakers[0] = None;
    segment.run(Duration::from_secs(1));
    assert!((0..30).all(|i| segment.owner(group(i)) != 0));
    segment.events.clear();
    segment.tell(&view(1, 3, &[], 30, |_| {}));
    segment.run(Duration::from_secs(5));
    let moved = segment
        .events
        .iter()
        .any(|(.., e)| matches!(e, Event::Announce { .. }));
    assert!(!moved, "when it is back nothing moves either");
}

#[test]
fn a_heartbeat_that_waited_to_be_read_counts_from_when_it_came() {
    let mut segment = Segment::ready(2, 1, |_| {});
    let last = segment.record.iter().rev().find(|(n, _)| *n == 1);
    let mut heartbeat = last.unwrap().1.clone();
    heartbeat.sequence += 1;
    segment.speakers[1] = None;
    segment.run(MS * 200);
    assert!(
        segment.speakers[0]
            .as_ref()
            .unwrap()
            .knows(id(1), heartbeat.session)
    );
    assert!(!segment.speakers[0].as_ref().unwrap().knows(id(1), 7));
    segment.call(0, |speaker, now| {
        let came = now.checked_sub(MS * 150).unwrap();
        speaker.take_heartbeat(&heartbeat, came, now);
        speaker.handle_timeout(now);
    });
    segment.run(MS * 140);
    let speaker = segment.speakers[0].as_ref().unwrap();
    assert_eq!(
        speaker.liveness(id(1), Profile::Default),
        Some(Liveness::Down)
    );
}

#[test]
fn who_asks_for_what_is_not_lost_yet_does_not_wait_when_it_is() {
    let mut segment = Segment::ready(3, 1, |group| group.policy = Policy::Strict);
    let owner = segment.owner(group(0));
    let last = segment.record.iter().rev().find(|(n, _)| *n == owner);
    let mut heartbeat = last.unwrap().1.clone();
    heartbeat.sequence += 1;
    segment.speakers[owner] = None;
    let asks = |segment: &Segment, n: usize| {
        let speaker = segment.speakers[n].as_ref();
        let entry = speaker.and_then(|speaker| speaker.groups.get(&group(0)));
        entry.is_some_and(|entry| matches!(entry.mine, Mine::Acquiring { .. }))
    };
    let mut asking = None;
    while asking.is_none() {
        segment.run(MS);
        asking = (0..3).find(|n| asks(&segment, *n));
    }
    let n = asking.unwrap();
    // What the owner sent last was read late.
    segment.call(n, |speaker, now| {
        let came = (now + MS * 2)
            .checked_sub(Profile::Default.detect())
            .unwrap();
        speaker.take_heartbeat(&heartbeat, came, now);
        speaker.handle_timeout(now);
    });
    assert!(!asks(&segment, n));
    let lost = segment.now;
    segment.run(Profile::Default.detect());
    let announced = segment.begin + segment.announced(group(0)).unwrap();
    let took = announced - lost;
    assert!(took < Profile::Default.detect() / 4, "after {took:?}");
    assert_eq!(segment.owner(group(0)), n);
}

#[test]
fn who_catches_up_with_the_view_takes_what_it_waited_with() {
    let mut segment = Segment::ready(2, 1, |_| {});
    let old = segment.owner(group(0));
    let new = 1 - old;
    // The owner has seen more, the other that the owner is excluded.
    segment.call(old, |speaker, now| speaker.set_view_number(3, now));
    segment.run(MS * 100);
    let excluded = view(2, 2, &[old], 1, |_| {});
    segment.call(new, |speaker, now| speaker.set_view(excluded, now));
    segment.run(Duration::from_secs(1));
    assert_eq!(segment.owner(group(0)), old);
    segment.call(new, |speaker, now| speaker.set_view_number(3, now));
    segment.run(MS * 100);
    assert_eq!(segment.owner(group(0)), new);
}

/// All of the owner's groups, asked for in vain by `n`.
fn complain(segment: &mut Segment, n: usize, owner: usize) {
    let owner = id(owner);
    segment.call(n, |speaker, now| {
        speaker.set_unanswered(vec![Unanswered { owner, group: None }], now);
    });
}

#[test]
fn an_owner_that_two_ask_in_vain_loses_what_it_has_and_does_not_get_it_back() {
    for policy in [Policy::Available, Policy::Strict] {
        let change: fn(&mut Group) = match policy {
            Policy::Available => |group| group.rebalance = Rebalance::OnJoin,
            Policy::Strict => |group| {
                group.rebalance = Rebalance::OnJoin;
                group.policy = Policy::Strict;
            },
        };
        let mut segment = Segment::ready(4, 8, change);
        let mute = segment.owner(group(0));
        let others: Vec<usize> = (0..4).filter(|n| *n != mute).collect();
        complain(&mut segment, others[0], mute);
        segment.run(Duration::from_secs(1));
        assert_eq!(segment.owner(group(0)), mute, "one alone may be wrong");
        complain(&mut segment, others[2], mute);
        segment.run(Duration::from_secs(2));
        for i in 0..8 {
            assert_ne!(segment.owner(group(i)), mute, "{policy:?}");
        }
        let causes: Vec<&Event> = segment.events.iter().map(|(.., event)| event).collect();
        assert!(causes.iter().any(|event| matches!(
            event,
            Event::Announce { cause: Cause::Unanswered(node), .. } if *node == id(mute)
        )));
        // It is not asked any more, so nobody complains.
        for n in others {
            segment.call(n, |speaker, now| speaker.set_unanswered(Vec::new(), now));
        }
        segment.run(Duration::from_secs(20));
        assert_ne!(segment.owner(group(0)), mute, "{policy:?}");
    }
}

#[test]
fn of_two_nodes_the_other_one_is_enough() {
    let mut segment = Segment::ready(2, 1, |_| {});
    let mute = segment.owner(group(0));
    complain(&mut segment, 1 - mute, mute);
    segment.run(Duration::from_secs(1));
    assert_eq!(segment.owner(group(0)), 1 - mute);
}

/// Its owner does not answer and loses it, a third starts, and the new owner dies: who
/// started knows at once that the first one is not to be waited for.
#[test]
fn who_starts_later_knows_who_did_not_answer() {
    // In rank order: the mute one, the one that takes over, the one that starts.
    let mut segment = Segment::ready(3, 1, |_| {});
    let mute = segment.owner(group(0));
    for n in (0..3).filter(|n| *n != mute) {
        complain(&mut segment, n, mute);
    }
    segment.run(Duration::from_secs(1));
    let next = segment.owner(group(0));
    let last = (0..3).find(|n| ![mute, next].contains(n)).unwrap();
    segment.start(last, 2);
    segment.tell(&view(1, 3, &[], 1, |_| {}));
    segment.run(Duration::from_secs(3));
    segment.speakers[next] = None;
    segment.run(Profile::Default.stalled() + MS * 100);
    assert_eq!(segment.owner(group(0)), last);
    // After a while it is as good as any other again.
    segment.run(crate::DAMPING);
    segment.speakers[last] = None;
    segment.start(next, 3);
    segment.tell(&view(1, 3, &[], 1, |_| {}));
    segment.run(Profile::Default.stalled() + MS * 100);
    assert_eq!(segment.owner(group(0)), mute);
}

#[test]
fn where_nobody_is_answered_for_it_does_not_go_round_and_round() {
    let mut segment = Segment::ready(3, 1, |_| {});
    segment.events.clear();
    for _ in 0..60 {
        let owner = segment.owner(group(0));
        for n in (0..3).filter(|n| *n != owner) {
            complain(&mut segment, n, owner);
        }
        segment.run(Duration::from_secs(1));
    }
    let moves = segment
        .events
        .iter()
        .filter(|(.., event)| matches!(event, Event::Announce { .. }))
        .count();
    assert!(moves <= 2, "{moves} moves");
    // And whoever is left when the others die still takes it.
    let owner = segment.owner(group(0));
    segment.speakers[owner] = None;
    segment.run(Duration::from_secs(1));
    segment.owner(group(0));
}

#[test]
fn complaints_of_one_who_is_no_candidate_or_about_another_group_count_nothing() {
    let mut segment = Segment::ready(3, 2, |_| {});
    let mute = segment.owner(group(0));
    let stranger = Unanswered {
        owner: id(mute),
        group: Some(group(77)),
    };
    for n in (0..3).filter(|n| *n != mute) {
        segment.call(n, |speaker, now| {
            speaker.set_unanswered(vec![stranger], now);
        });
    }
    segment.run(Duration::from_secs(1));
    assert_eq!(segment.owner(group(0)), mute);
    let out = (0..3).find(|n| *n != mute).unwrap();
    segment.tell(&view(2, 3, &[out], 2, |_| {}));
    segment.run(Duration::from_secs(1));
    complain(&mut segment, out, mute);
    segment.run(Duration::from_secs(1));
    assert_eq!(segment.owner(group(0)), mute);
}
