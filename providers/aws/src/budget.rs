//! How fast Herald calls AWS: a token bucket for each of AWS's own, as pure
//! state on instants.
//!
//! ```text
//!   ask --> a token, and nobody ahead? --yes--> go
//!             | no
//!             v
//!           a place in line, kept while its holder is away --> wait for so long
//! ```
//!
//! A place belongs to a Service, and a Service makes one call after the other: so
//! the line is fair between Services, and who deletes is never behind somebody
//! who came later. What nobody waits for (the background check) gets a small share
//! of its own, and only while there is no line. When AWS throttles, the rate is
//! halved, and grows back within a minute.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::actions::{Action, Api};

/// Of AWS's buckets, which the whole account shares, Herald takes this much unless it is
/// told otherwise.
const SHARE: f64 = 0.9;
/// Of the rate of reads, the background check gets this much.
const BACKGROUND_SHARE: f64 = 0.15;
/// As many reads as one Service's check needs may come together.
const BACKGROUND_BURST: f64 = 10.0;
/// The lowest rate, as a part of the full one.
const FLOOR: f64 = 1.0 / 16.0;
/// From the lowest rate to the full one in this time.
const RECOVERY: Duration = Duration::from_mins(1);
/// Answers that were under way together tell of one throttling.
const ONE_THROTTLING: Duration = Duration::from_secs(1);
/// A place in line is given up when its holder is away for this much longer than
/// it was told to wait.
const AWAY: Duration = Duration::from_secs(90);
/// Nobody is told to wait for longer: the rate may have grown meanwhile.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Nobody is told to wait for less.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Actions that share one token bucket of AWS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `ELBv2` `Describe…`.
    ElbRead,
    /// `ELBv2` mutating actions without a bucket of their own.
    ElbWrite,
    /// `ELBv2` `RegisterTargets` and `DeregisterTargets`.
    ElbTargets,
    /// `ELBv2` actions that make AWS place network interfaces, such as
    /// `CreateLoadBalancer` and `SetSubnets`.
    ElbHeavy,
    /// EC2 `Describe…`.
    Ec2Read,
    /// EC2 mutating actions.
    Ec2Write,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ElbRead,
        Self::ElbWrite,
        Self::ElbTargets,
        Self::ElbHeavy,
        Self::Ec2Read,
        Self::Ec2Write,
    ];

    /// Capacity of AWS's bucket, in calls, and its refill in calls a second.
    pub const fn bucket(self) -> (f64, f64) {
        match self {
            Self::ElbRead => (40.0, 10.0),
            Self::ElbWrite => (20.0, 3.0),
            Self::ElbTargets => (20.0, 4.0),
            Self::ElbHeavy => (10.0, 0.2),
            Self::Ec2Read => (100.0, 20.0),
            Self::Ec2Write => (50.0, 5.0),
        }
    }

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ElbRead => "elb_read",
            Self::ElbWrite => "elb_write",
            Self::ElbTargets => "elb_targets",
            Self::ElbHeavy => "elb_heavy",
            Self::Ec2Read => "ec2_read",
            Self::Ec2Write => "ec2_write",
        }
    }
}

impl Action {
    /// The bucket it draws from.
    pub const fn family(self) -> Family {
        match (self.api(), self) {
            (Api::Ec2, _) if self.is_read() => Family::Ec2Read,
            (Api::Ec2, _) => Family::Ec2Write,
            (Api::Elbv2, _) if self.is_read() => Family::ElbRead,
            (_, Self::RegisterTargets | Self::DeregisterTargets) => Family::ElbTargets,
            (
                _,
                Self::CreateLoadBalancer
                | Self::SetSubnets
                | Self::SetSecurityGroups
                | Self::SetIpAddressType
                | Self::ModifyCapacityReservation,
            ) => Family::ElbHeavy,
            (Api::Elbv2, _) => Family::ElbWrite,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who wants a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A Service (or the snapshot that all share) waits for it.
    Now,
    /// Nobody waits for it.
    Background,
}

/// What the budget says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Call.
    Go,
    /// Ask again after this long; the place in line is kept.
    Wait(Duration),
}

/// The buckets.
#[derive(Debug)]
pub struct Budget {
    buckets: BTreeMap<Family, Bucket>,
}

impl Budget {
    /// Full buckets: nine tenths of what AWS gives a new account.
    pub fn new(now: Instant) -> Self {
        Self::with_share(now, SHARE)
    }

    /// Full buckets of another share of what AWS gives a new account: less where other
    /// programs call much, more than 1 where AWS has raised the account's limits.
    pub fn with_share(now: Instant, share: f64) -> Self {
        Self::with_buckets(now, |family| {
            let (capacity, rate) = family.bucket();
            (capacity * share, rate * share)
        })
    }

    /// Full buckets of these sizes (calls) and rates (calls a second).
    pub fn with_buckets(now: Instant, size: impl Fn(Family) -> (f64, f64)) -> Self {
        let bucket = |family: Family| {
            let (capacity, rate) = size(family);
            (family, Bucket::new(now, capacity, rate))
        };
        Self {
            buckets: Family::ALL.into_iter().map(bucket).collect(),
        }
    }

    /// Asks for one call on behalf of `who`, a Service's UID.
    pub fn ask(&mut self, now: Instant, family: Family, need: Need, who: &str) -> Answer {
        let bucket = self.bucket(family);
        bucket.refill(now);
        match need {
            Need::Now => bucket.ask(now, who),
            Need::Background => bucket.ask_background(),
        }
    }

    /// AWS said that a call of this family came too soon.
    pub fn throttled(&mut self, now: Instant, family: Family) {
        self.bucket(family).throttled(now);
    }

    /// How many wait for a call of this family.
    pub fn waiting(&self, family: Family) -> usize {
        self.buckets[&family].line.len()
    }

    /// Calls a second at present.
    pub fn rate(&self, family: Family) -> f64 {
        self.buckets[&family].rate
    }

    fn bucket(&mut self, family: Family) -> &mut Bucket {
        self.buckets
            .get_mut(&family)
            .expect("there is a bucket for every family")
    }
}

/// Somebody in line.
#[derive(Debug)]
struct Place {
    who: String,
    /// Kept until then.
    until: Instant,
}

#[derive(Debug)]
struct Bucket {
    capacity: f64,
    full_rate: f64,
    rate: f64,
    tokens: f64,
    /// What the background may spend.
    background: f64,
    at: Instant,
    slowed: Option<Instant>,
    line: VecDeque<Place>,
}

impl Bucket {
    fn new(now: Instant, capacity: f64, rate: f64) -> Self {
        Self {
            capacity: capacity.max(1.0),
            full_rate: rate,
            rate,
            tokens: capacity.max(1.0),
            background: BACKGROUND_BURST,
            at: now,
            slowed: None,
            line: VecDeque::new(),
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.capacity);
        self.background =
            (self.background + passed * self.rate * BACKGROUND_SHARE).min(BACKGROUND_BURST);
        let growth = self.full_rate * passed / RECOVERY.as_secs_f64();
        self.rate = (self.rate + growth).min(self.full_rate);
        self.line.retain(|place| place.until > now);
    }

    fn ask(&mut self, now: Instant, who: &str) -> Answer {
        let place = self.line.iter().position(|place| place.who == who);
        let ahead = place.unwrap_or(self.line.len());
        // Tokens of those ahead stay theirs, whoever asks first.
        #[expect(clippy::cast_precision_loss, reason = "lines are short")]
        let missing = ahead as f64 + 1.0 - self.tokens;
        if missing <= 0.0 {
            self.tokens -= 1.0;
            if let Some(place) = place {
                self.line.remove(place);
            }
            return Answer::Go;
        }
        let wait = Duration::from_secs_f64((missing / self.rate).min(LONGEST_WAIT.as_secs_f64()))
            .max(SHORTEST_WAIT);
        let until = now + wait + AWAY;
        match place {
            Some(place) => self.line[place].until = until,
            None => self.line.push_back(Place {
                who: who.to_owned(),
                until,
            }),
        }
        Answer::Wait(wait)
    }

    /// At most half of the bucket, at a small rate, and never before anybody.
    fn ask_background(&mut self) -> Answer {
        if self.line.is_empty() && self.background >= 1.0 && self.tokens > self.capacity / 2.0 {
            self.background -= 1.0;
            self.tokens -= 1.0;
            return Answer::Go;
        }
        let missing = (1.0 - self.background).max(0.1);
        let wait = missing / (self.rate * BACKGROUND_SHARE);
        Answer::Wait(Duration::from_secs_f64(
            wait.min(LONGEST_WAIT.as_secs_f64()),
        ))
    }

    fn throttled(&mut self, now: Instant) {
        self.refill(now);
        self.tokens = self.tokens.min(0.0);
        if self
            .slowed
            .is_none_or(|at| now.saturating_duration_since(at) >= ONE_THROTTLING)
        {
            self.slowed = Some(now);
            self.rate = (self.rate / 2.0).max(self.full_rate * FLOOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Lets `callers` want `calls` each, asking when they were told to, for
    /// `time`; returns when each got its calls.
    fn run(
        budget: &mut Budget,
        begin: Instant,
        callers: usize,
        calls: u32,
        time: Duration,
    ) -> Vec<Vec<Duration>> {
        let mut got = vec![Vec::new(); callers];
        let mut due: std::collections::BTreeSet<(Duration, usize)> =
            (0..callers).map(|c| (Duration::ZERO, c)).collect();
        while let Some((at, caller)) = due.pop_first() {
            if at > time {
                break;
            }
            match budget.ask(
                begin + at,
                Family::ElbHeavy,
                Need::Now,
                &format!("s{caller}"),
            ) {
                Answer::Go => {
                    got[caller].push(at);
                    if got[caller].len() < calls as usize {
                        due.insert((at, caller));
                    }
                }
                Answer::Wait(wait) => {
                    due.insert((at + wait, caller));
                }
            }
        }
        got
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        let got = run(&mut budget, begin, 30, 1, Duration::from_mins(10));
        let at_once = got.iter().filter(|got| got[0] < SECOND).count();
        assert_eq!(at_once, 9, "nine tenths of ten");
        let last = got.iter().map(|got| got[0]).max().unwrap();
        // 21 more at 0.18 a second.
        assert!((110..125).contains(&last.as_secs()), "{last:?}");
        assert_eq!(budget.waiting(Family::ElbHeavy), 0);
    }

    #[test]
    fn who_wants_much_does_not_hold_up_the_others() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        for _ in 0..9 {
            assert_eq!(
                budget.ask(begin, Family::ElbHeavy, Need::Now, "greedy"),
                Answer::Go
            );
        }
        assert!(matches!(
            budget.ask(begin, Family::ElbHeavy, Need::Now, "greedy"),
            Answer::Wait(_)
        ));
        assert!(matches!(
            budget.ask(begin, Family::ElbHeavy, Need::Now, "late"),
            Answer::Wait(_)
        ));
        let then = begin + Duration::from_secs(6);
        assert_eq!(
            budget.ask(then, Family::ElbHeavy, Need::Now, "greedy"),
            Answer::Go
        );
        assert!(matches!(
            budget.ask(then, Family::ElbHeavy, Need::Now, "greedy"),
            Answer::Wait(_)
        ));
        let later = begin + Duration::from_secs(12);
        assert!(
            matches!(
                budget.ask(later, Family::ElbHeavy, Need::Now, "greedy"),
                Answer::Wait(_)
            ),
            "not before who came first"
        );
        assert_eq!(
            budget.ask(later, Family::ElbHeavy, Need::Now, "late"),
            Answer::Go
        );
    }

    #[test]
    fn a_place_is_kept_for_who_is_away_but_not_for_ever() {
        let begin = Instant::now();
        let mut budget = Budget::with_buckets(begin, |_| (1.1, 1.1));
        assert_eq!(
            budget.ask(begin, Family::ElbWrite, Need::Now, "a"),
            Answer::Go
        );
        assert!(matches!(
            budget.ask(begin, Family::ElbWrite, Need::Now, "gone"),
            Answer::Wait(_)
        ));
        let then = begin + 2 * SECOND;
        assert!(
            matches!(
                budget.ask(then, Family::ElbWrite, Need::Now, "b"),
                Answer::Wait(_)
            ),
            "the token is not b's"
        );
        let much_later = begin + Duration::from_secs(100);
        assert_eq!(
            budget.ask(much_later, Family::ElbWrite, Need::Now, "b"),
            Answer::Go
        );
    }

    #[test]
    fn throttling_halves_the_rate_once_and_it_grows_back() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        let full = budget.rate(Family::ElbRead);
        for _ in 0..5 {
            budget.throttled(begin, Family::ElbRead);
        }
        assert!((budget.rate(Family::ElbRead) - full / 2.0).abs() < 1e-9);
        assert!(
            (budget.rate(Family::ElbWrite) - Family::ElbWrite.bucket().1 * SHARE).abs() < 1e-9,
            "others are not slowed"
        );
        assert!(matches!(
            budget.ask(begin, Family::ElbRead, Need::Now, "a"),
            Answer::Wait(_)
        ));
        assert_eq!(
            budget.ask(begin + RECOVERY, Family::ElbRead, Need::Now, "a"),
            Answer::Go
        );
        assert!((budget.rate(Family::ElbRead) - full).abs() < 1e-9);
        for minute in 0..100 {
            budget.throttled(begin + RECOVERY + SECOND * minute, Family::ElbRead);
        }
        assert!(budget.rate(Family::ElbRead) >= full * FLOOR);
    }

    #[test]
    fn the_background_stays_behind() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        let mut went = 0;
        for tenth in 0..1000 {
            let now = begin + SECOND / 10 * tenth;
            if budget.ask(now, Family::ElbRead, Need::Background, "deep") == Answer::Go {
                went += 1;
            }
        }
        // 15 % of nine a second, for a hundred seconds, after ten at once.
        assert!((140..150).contains(&went), "{went}");
        let now = begin + Duration::from_secs(200);
        for _ in 0..30 {
            assert_eq!(budget.ask(now, Family::ElbRead, Need::Now, "s"), Answer::Go);
        }
        assert!(matches!(
            budget.ask(now, Family::ElbRead, Need::Background, "deep"),
            Answer::Wait(_)
        ));
    }

    proptest! {
        /// Whoever asks, when and how often: no more goes than the bucket held and got.
        #[test]
        fn no_more_goes_than_was_there(asks in proptest::collection::vec((0u64..2000, 0u8..20, any::<bool>()), 1..300)) {
            let begin = Instant::now();
            let mut budget = Budget::new(begin);
            let mut now = begin;
            let mut went = 0.0;
            for (later, who, throttle) in asks {
                now += Duration::from_millis(later);
                if budget.ask(now, Family::ElbTargets, Need::Now, &who.to_string()) == Answer::Go {
                    went += 1.0;
                }
                if throttle && who == 0 {
                    budget.throttled(now, Family::ElbTargets);
                }
            }
            let (capacity, rate) = Family::ElbTargets.bucket();
            prop_assert!(went <= capacity + rate * (now - begin).as_secs_f64());
        }

        /// Everybody who keeps asking gets a turn, in the order they came.
        #[test]
        fn everybody_gets_a_turn(callers in 1usize..60, calls in 1u32..4) {
            let begin = Instant::now();
            let mut budget = Budget::new(begin);
            let got = run(&mut budget, begin, callers, calls, Duration::from_secs(100_000));
            for one in &got {
                prop_assert_eq!(one.len(), calls as usize);
            }
        }
    }
}
