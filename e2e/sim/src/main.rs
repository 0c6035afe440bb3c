//! herald-sim: runs elections from seeds until one breaks an invariant.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use herald_sim::{Failure, run};

/// Simulates elections of owners, with everything that goes wrong.
#[derive(Debug, Parser)]
#[command(name = "herald-sim", version)]
struct Flags {
    /// How many seeds to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Runs one seed only, and prints what happens if it fails
    #[arg(long)]
    seed: Option<u64>,
    /// How many failures to collect before giving up
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

/// Between two lines of progress, in seeds.
const PROGRESS: u64 = 10_000;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let (first, end) = match flags.seed {
        Some(seed) => (seed, seed + 1),
        None => (flags.first, flags.first + flags.seeds),
    };
    let next = AtomicU64::new(first);
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    let begin = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, end, begin, flags.failures, &failures));
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if let Some(failure) = failures.iter().min_by_key(|failure| failure.timeline.len()) {
        println!("\nthe shortest of them, seed {}:", failure.seed);
        println!("{}", failure.timeline.join("\n"));
        return ExitCode::FAILURE;
    }
    println!(
        "{} seeds, nothing broken, {:.1?}",
        end - first,
        begin.elapsed()
    );
    ExitCode::SUCCESS
}

fn work(next: &AtomicU64, end: u64, begin: Instant, most: usize, failures: &Mutex<Vec<Failure>>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        if seed > 0 && seed.is_multiple_of(PROGRESS) {
            eprintln!("seed {seed}, {:.0?}", begin.elapsed());
        }
        if let Err(failure) = run(seed) {
            println!("seed {}: {}", failure.seed, failure.broken);
            let mut failures = failures
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            failures.push(failure);
            if failures.len() >= most {
                next.store(end, Ordering::Relaxed);
            }
        }
    }
}
