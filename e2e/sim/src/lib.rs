//! Elections of 2 to 50 speakers on virtual time: the real state machines of
//! `pkg/election`, with a network, clocks, processes and an API that fail in
//! every way that a seed draws.
//!
//! ```text
//!  seed ─> schedule (what goes wrong when) ─> world (nodes, network, clocks)
//!                                               │ every announcement, every 10 ms
//!                                               v
//!                                           invariants
//! ```
//!
//! A run is a function of its seed alone. One that breaks an invariant is run
//! again with a timeline.

pub mod invariants;
pub mod kept;
pub mod schedule;
pub mod world;

use fastrand::Rng;

use schedule::Schedule;
use world::World;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Heartbeats taken in.
    pub heartbeats: u64,
    /// Groups taken.
    pub takes: u64,
}

/// A run that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which run.
    pub seed: u64,
    /// Which invariant, where and when.
    pub broken: String,
    /// What happened until then, a line each.
    pub timeline: Vec<String>,
}

/// Runs a seed.
pub fn run(seed: u64) -> Result<Summary, Failure> {
    run_schedule(seed, Schedule::draw)
}

/// Runs a schedule that a seed may have drawn; what is not in it (delays, clocks,
/// identities) is drawn from the seed.
pub fn run_schedule(
    seed: u64,
    schedule: impl Fn(&mut Rng) -> Schedule,
) -> Result<Summary, Failure> {
    let once = |traced| {
        let mut rng = Rng::with_seed(seed);
        let schedule = schedule(&mut rng);
        let mut world = World::new(schedule, rng, traced);
        let result = world.run();
        (result, world)
    };
    match once(false) {
        (Ok(()), world) => Ok(world.summary()),
        (Err(broken), _) => Err(Failure {
            seed,
            broken,
            timeline: once(true).1.timeline,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::thread;

    use super::*;

    /// Of each kept schedule.
    const TIMES: u64 = 3;

    const SEEDS: u64 = 2000;

    fn check(seeds: impl Iterator<Item = u64>) -> Summary {
        let mut total = Summary::default();
        for seed in seeds {
            match run(seed) {
                Ok(summary) => {
                    total.heartbeats += summary.heartbeats;
                    total.takes += summary.takes;
                }
                Err(failure) => panic!(
                    "seed {}: {}\n{}",
                    failure.seed,
                    failure.broken,
                    failure.timeline.join("\n")
                ),
            }
        }
        total
    }

    #[test]
    fn kept_schedules_hold() {
        let mut broken = BTreeMap::new();
        for kept in kept::all() {
            for seed in 0..TIMES {
                if let Err(failure) = run_schedule(seed, |_| kept.schedule.clone()) {
                    broken.entry(kept.rule).or_insert(failure);
                }
            }
        }
        let timelines = broken.iter().map(|(rule, failure)| {
            let timeline = failure.timeline.join("\n");
            format!("RULE: {rule}: {}\n{timeline}\n", failure.broken)
        });
        assert!(broken.is_empty(), "{}", timelines.collect::<String>());
    }

    #[test]
    fn thousands_of_schedules_hold() {
        let halves = [0, 1].map(|first| thread::spawn(move || check((first..SEEDS).step_by(2))));
        for half in halves {
            let total = half.join().unwrap();
            assert!(
                total.takes > SEEDS && total.heartbeats > 100 * SEEDS,
                "{total:?}"
            );
        }
    }

    #[test]
    fn a_run_is_a_function_of_its_seed() {
        for seed in 0..20 {
            assert_eq!(run(seed).unwrap(), run(seed).unwrap());
        }
    }
}
