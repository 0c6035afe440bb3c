//! What the size of a pool costs: the same thousand Services in a pool of 1,000
//! addresses and in one of 1,000,000, and what an address costs when a pool of
//! either size is filled to the last.
//!
//! `cargo bench -p herald-ipam`
//!
//! Prints lines `figure NAME VALUE UNIT`; a ratio is the large pool's figure by the
//! small one's.

use std::time::{Duration, Instant, SystemTime};

use herald_core::{ServiceKey, ServiceRequest};
use herald_ipam::{Allocator, Claim, Pool, Selection};

/// 1,000 and 1,000,000 addresses, excluded ones not among them.
const SMALL: &str = "10.0.0.0-10.0.3.231";
const LARGE: &str = "10.0.0.0-10.15.66.63";
const SERVICES: usize = 1_000;
/// Memory is told in pages: so many allocators at once.
const COPIES: usize = 24;
/// The best of so many runs counts; the machine may be busy.
const RUNS: usize = 5;

fn pool(range: &str, selection: Selection) -> Pool {
    Pool {
        selection,
        avoid_buggy_ips: true,
        ..Pool::new("lan", vec![range.parse().expect("a range")])
    }
}

fn request(n: usize) -> ServiceRequest {
    ServiceRequest::new(
        ServiceKey::new("default", format!("web-{n}")),
        format!("00000000-0000-0000-0000-{n:012}"),
    )
}

/// Serves them all, as far as there is room; how many there was room for.
fn serve(allocator: &mut Allocator, requests: &[ServiceRequest], now: SystemTime) -> usize {
    let mut served = 0;
    for request in requests {
        if let Ok(decision) = allocator.decide(request, now) {
            allocator
                .assign(Claim::of(request), &decision, now)
                .expect("nobody else was served meanwhile");
            served += 1;
        }
    }
    served
}

/// A life of the Services: made, half of them deleted, made again, read on a
/// restart, and the pools set anew.
fn life(range: &str, selection: Selection, requests: &[ServiceRequest]) -> Allocator {
    let now = SystemTime::UNIX_EPOCH;
    let mut allocator = Allocator::default();
    allocator.set_pools(vec![pool(range, selection)]);
    serve(&mut allocator, requests, now);
    for request in requests.iter().step_by(2) {
        allocator.release(&request.uid, now);
    }
    serve(&mut allocator, requests, now + Duration::from_hours(1));
    let mut next = Allocator::default();
    next.set_pools(vec![pool(range, selection)]);
    for request in requests {
        let held = allocator.held(&request.uid);
        next.adopt(request, &held, now).expect("they are apart");
    }
    next.set_pools(vec![pool(range, selection)]);
    next
}

fn best(run: impl Fn()) -> f64 {
    let time = |_| {
        let begin = Instant::now();
        run();
        begin.elapsed().as_secs_f64()
    };
    (0..RUNS).map(time).fold(f64::INFINITY, f64::min)
}

/// Resident memory of this process, in KiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// KiB for each allocator with a thousand Services.
fn memory(range: &str, requests: &[ServiceRequest]) -> f64 {
    let before = resident();
    let all: Vec<Allocator> = (0..COPIES)
        .map(|_| life(range, Selection::FirstFit, requests))
        .collect();
    let grown = resident() - before;
    // They must live until then.
    assert_eq!(all.len(), COPIES);
    std::mem::forget(all);
    grown / f64::from(u32::try_from(COPIES).expect("a few"))
}

/// Microseconds an address when a pool is filled to the last.
fn filled(range: &str) -> f64 {
    let pool = Pool {
        avoid_buggy_ips: false,
        ..pool(range, Selection::FirstFit)
    };
    let size = usize::try_from(pool.ranges[0].size()).expect("a small number");
    let requests: Vec<ServiceRequest> = (0..=size).map(request).collect();
    let mut allocator = Allocator::default();
    allocator.set_pools(vec![pool]);
    let begin = Instant::now();
    let served = serve(&mut allocator, &requests, SystemTime::UNIX_EPOCH);
    let elapsed = begin.elapsed().as_secs_f64();
    assert_eq!(served, size, "all but the last are served");
    elapsed * 1e6 / f64::from(u32::try_from(size).expect("it is small"))
}

fn main() {
    // `cargo test` runs benches too, to see that they do.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let requests: Vec<ServiceRequest> = (0..SERVICES).map(request).collect();
    // The first to run finds memory that nobody had: it is not measured.
    memory(SMALL, &requests);
    let (small, large) = (memory(SMALL, &requests), memory(LARGE, &requests));
    println!("figure ipam/memory/small {small:.0} KiB");
    println!("figure ipam/memory/ratio {:.2} x", large / small);
    for (name, selection) in [
        ("first-fit", Selection::FirstFit),
        ("random", Selection::Random),
        ("least-recently-used", Selection::LeastRecentlyUsed),
    ] {
        let time = |range| best(|| drop(life(range, selection, &requests)));
        let (small, large) = (time(SMALL), time(LARGE));
        println!("figure ipam/{name}/small {:.2} ms", small * 1e3);
        println!("figure ipam/{name}/ratio {:.2} x", large / small);
    }
    let (small, large) = (filled(SMALL), filled(LARGE));
    println!("figure ipam/filled/small {small:.2} us");
    println!("figure ipam/filled/large {large:.2} us");
    println!("figure ipam/filled/ratio {:.2} x", large / small);
}
