use proptest::prelude::*;

use super::*;
use crate::ndp::NeighborAdvertisement;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);
const THIRD: Mac = Mac([2, 0, 0, 0, 0, 3]);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 20, 100, 0);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 1, 0);
const OWNER: u64 = 7;
const HOST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 13);
const SOURCE: Source = Source {
    v4: Ipv4Addr::new(10, 20, 0, 11),
    v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
};

fn checker(targets: &[IpAddr]) -> (Checker, Instant) {
    let now = Instant::now();
    let mut checker = Checker::new(OURS, 5);
    checker.set_source(OURS, SOURCE);
    checker.set_targets(
        &targets.iter().map(|target| (*target, OWNER)).collect(),
        now,
    );
    (checker, now)
}

/// Runs for a while; `holders` answer each question about a target.
fn run(
    checker: &mut Checker,
    from: Instant,
    time: Duration,
    holders: &[Mac],
) -> Vec<(IpAddr, Verdict)> {
    let mut told = Vec::new();
    while let Some(at) = checker.poll_timeout().filter(|at| *at <= from + time) {
        checker.handle_timeout(at);
        while let Some(frame) = checker.poll_transmit() {
            // Another host answers for itself, whoever is silent.
            if ArpPacket::parse(&frame).is_ok_and(|question| question.target_ip == HOST) {
                checker.handle_frame(&answer(&frame, THIRD), at);
                continue;
            }
            for holder in holders {
                checker.handle_frame(&answer(&frame, *holder), at);
            }
        }
        while let Some(event) = checker.poll_event() {
            if let CheckEvent::Verdict { address, verdict } = event {
                told.push((address, verdict));
            }
        }
    }
    told
}

fn answer(frame: &[u8], holder: Mac) -> Frame {
    if let Ok(question) = ArpPacket::parse(frame) {
        return question.reply(holder).to_frame();
    }
    let Ok(NeighborMessage::Solicitation(question)) = NeighborMessage::parse(frame) else {
        panic!("no question: {frame:?}")
    };
    NeighborAdvertisement::answer(&question, holder).to_frame()
}

#[test]
fn an_address_that_is_answered_for_is_told_once() {
    let (mut checker, now) = checker(&[VIP.into(), VIP6.into()]);
    let told = run(&mut checker, now, Duration::from_mins(5), &[THEIRS]);
    assert_eq!(
        told,
        [VIP.into(), VIP6.into()].map(|address: IpAddr| (address, Verdict::Answered(THEIRS)))
    );
    assert_eq!(checker.faults(), (0, 0));
}

#[test]
fn silence_is_believed_after_three_questions_and_within_seconds() {
    let (mut checker, now) = checker(&[VIP.into()]);
    checker.set_controls(&[HOST.into()].into());
    run(&mut checker, now, Duration::from_secs(5), &[THEIRS]);
    let silent = now + Duration::from_secs(5);
    let told = run(&mut checker, silent, Duration::from_secs(14), &[]);
    assert_eq!(told, [(VIP.into(), Verdict::Silent)]);
    assert_eq!(checker.faults(), (1, 0));
    let again = silent + Duration::from_secs(14);
    let told = run(&mut checker, again, Duration::from_secs(12), &[THIRD]);
    assert_eq!(told, [(VIP.into(), Verdict::Answered(THIRD))]);
}

/// What is told of owners in a while in which only `HOST`, if it is asked, and
/// those who hold what `answers` names are heard.
fn mutes(
    checker: &mut Checker,
    from: Instant,
    time: Duration,
    answers: &[IpAddr],
) -> Vec<(u64, bool)> {
    let mut told = Vec::new();
    while let Some(at) = checker.poll_timeout().filter(|at| *at <= from + time) {
        checker.handle_timeout(at);
        while let Some(frame) = checker.poll_transmit() {
            let about = match ArpPacket::parse(&frame) {
                Ok(question) => question.target_ip.into(),
                Err(_) => VIP6.into(),
            };
            if about == IpAddr::from(HOST) || answers.contains(&about) {
                checker.handle_frame(&answer(&frame, THEIRS), at);
            }
        }
        while let Some(event) = checker.poll_event() {
            if let CheckEvent::Mute { owner, mute } = event {
                told.push((owner, mute));
            }
        }
    }
    told
}

#[test]
fn an_owner_that_answers_nothing_is_mute_until_it_answers() {
    let (mut checker, now) = checker(&[VIP.into(), VIP6.into()]);
    checker.set_controls(&[HOST.into()].into());
    let all = [VIP.into(), VIP6.into()];
    let second = Duration::from_secs(1);
    assert_eq!(mutes(&mut checker, now, second * 30, &all), []);
    let silent = now + second * 30;
    assert_eq!(
        mutes(&mut checker, silent, second * 15, &[]),
        [(OWNER, true)]
    );
    let again = silent + second * 15;
    assert_eq!(
        mutes(&mut checker, again, second * 30, &[]),
        [],
        "told once"
    );
    let well = again + second * 30;
    assert_eq!(
        mutes(&mut checker, well, second * 12, &all),
        [(OWNER, false)]
    );
    // One that answers for some of its addresses is not mute.
    let some = well + second * 12;
    assert_eq!(mutes(&mut checker, some, second * 60, &[VIP.into()]), []);
    assert_eq!(checker.faults(), (1, 0));
}

#[test]
fn who_hears_nobody_blames_nobody() {
    let (mut checker, now) = checker(&[VIP.into()]);
    let minute = Duration::from_mins(1);
    assert_eq!(mutes(&mut checker, now, minute, &[]), [], "no controls");
    checker.set_targets(&[(VIP.into(), OWNER + 1)].into(), now + minute);
    let told = run(&mut checker, now + minute, minute, &[]);
    assert_eq!(told, [(VIP.into(), Verdict::Unheard)]);
}

#[test]
fn an_owner_that_has_nothing_any_more_is_not_mute() {
    let (mut checker, now) = checker(&[VIP.into()]);
    checker.set_controls(&[HOST.into()].into());
    let minute = Duration::from_mins(1);
    assert_eq!(mutes(&mut checker, now, minute, &[]), [(OWNER, true)]);
    checker.set_targets(&[(VIP.into(), OWNER + 1)].into(), now + minute);
    let owner = OWNER;
    assert_eq!(
        checker.poll_event(),
        Some(CheckEvent::Mute { owner, mute: false })
    );
}

#[test]
fn a_lost_frame_is_no_silence() {
    let (mut checker, now) = checker(&[VIP.into()]);
    run(&mut checker, now, Duration::from_secs(5), &[THEIRS]);
    // One question goes unanswered.
    let at = checker.poll_timeout().unwrap();
    assert_eq!(run(&mut checker, at, Duration::from_millis(500), &[]), []);
    let told = run(&mut checker, at, Duration::from_mins(1), &[THEIRS]);
    assert_eq!(told, []);
}

#[test]
fn two_that_answer_are_told_in_one_order() {
    let (mut checker, now) = checker(&[VIP.into()]);
    let mut told = run(&mut checker, now, Duration::from_secs(20), &[THEIRS, THIRD]);
    told.extend(run(
        &mut checker,
        now + Duration::from_secs(20),
        Duration::from_secs(30),
        &[THIRD, THEIRS],
    ));
    assert_eq!(told, [(VIP.into(), Verdict::Several(THEIRS, THIRD))]);
    assert_eq!(checker.faults(), (0, 1));
}

#[test]
fn without_a_source_nothing_is_said_of_ipv6() {
    let (mut checker, now) = checker(&[VIP6.into()]);
    checker.set_source(OURS, Source::default());
    assert_eq!(run(&mut checker, now, Duration::from_mins(5), &[]), []);
    assert!(checker.poll_transmit().is_none());
}

#[test]
fn many_targets_are_asked_at_the_rate_and_judged_in_time() {
    let targets: Vec<IpAddr> = (0..=255)
        .map(|i| Ipv4Addr::new(10, 20, 100, i).into())
        .collect();
    let (mut checker, now) = checker(&targets);
    let mut asked = 0;
    let mut first_judged = None;
    while let Some(at) = checker
        .poll_timeout()
        .filter(|at| *at <= now + Duration::from_secs(10))
    {
        checker.handle_timeout(at);
        while checker.poll_transmit().is_some() {
            asked += 1;
        }
        if checker.poll_event().is_some() {
            first_judged.get_or_insert(at - now);
        }
    }
    assert!((50..=51).contains(&asked), "{asked}");
    assert!(
        first_judged.is_some_and(|after| after < Duration::from_secs(6)),
        "{first_judged:?}"
    );
}

#[test]
fn what_is_asked_once_is_told_at_each_answer() {
    let (mut checker, now) = checker(&[]);
    let node = Ipv4Addr::new(10, 20, 0, 12);
    checker.ask(SOURCE.v4, node, now);
    let question = checker.poll_transmit().unwrap();
    checker.handle_frame(&answer(&question, THEIRS), now);
    let (address, mac) = (node, THEIRS);
    assert_eq!(
        checker.poll_event(),
        Some(CheckEvent::Answer { address, mac })
    );
    let late = now + 2 * ANSWERED_WITHIN;
    checker.handle_frame(&answer(&question, THEIRS), late);
    assert_eq!(checker.poll_event(), None);
}

#[test]
fn a_target_that_is_gone_leaves_no_timer() {
    let (mut checker, now) = checker(&[VIP.into(), VIP6.into()]);
    checker.handle_timeout(now);
    checker.set_targets(&BTreeMap::new(), now);
    assert_eq!(checker.poll_timeout(), None);
}

proptest! {
    #[test]
    fn hostile_frames_answer_nothing(
        frames in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..100)), 0..40,
        ),
    ) {
        let (mut checker, now) = checker(&[VIP.into(), VIP6.into()]);
        checker.handle_timeout(now);
        for (arp, mut frame) in frames {
            if frame.len() > 14 {
                frame[12..14].copy_from_slice(if arp { &[8, 6] } else { &[0x86, 0xdd] });
            }
            checker.handle_frame(&frame, now);
        }
        prop_assert_eq!(checker.poll_event(), None);
    }
}
