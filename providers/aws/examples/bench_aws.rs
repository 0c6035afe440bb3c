//! What the AWS provider costs, in calls and seconds, against the strict stand-in:
//! `make bench-aws`. Figures are lines `figure NAME VALUE UNIT`.
//!
//! The stand-in's clock runs as it has to: where AWS's token buckets count they are on,
//! and where the account is slow, both it and the budget run faster by one factor.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{
    absent, budget, drive, hostname, node, port, present, provider, provider_at, provider_with,
    reconcile, service, settings, tuning,
};
use herald_aws::budget::{Budget, Family};
use herald_aws::{Aws, Tuning};
use herald_core::{Node, ServiceRequest};
use herald_fakeaws::throttle::Bucket;
use herald_fakeaws::{Config, FakeAws, Fixtures, Quotas, Throttling, Timing};
use herald_provider::{Desired, Outcome, ProviderError};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// As many Services are worked on at a time as by the operator.
const WORKERS: usize = 16;
/// Between two nodes of many.
const EVERY: Duration = Duration::from_millis(250);

fn figure(name: &str, value: impl std::fmt::Display, unit: &str) {
    println!("figure aws/{name} {value} {unit}");
}

fn nodes(count: u16) -> Vec<Node> {
    (1..=count).map(node).collect()
}

fn numbered(n: u16) -> ServiceRequest {
    let mut service = service(&format!("s{n}"));
    service.ports[0].node_port = Some(30_000 + n);
    service
}

async fn start(config: Config) -> FakeAws {
    let config = Config {
        fixtures: Fixtures::cluster("demo").nodes(40),
        quotas: Quotas {
            load_balancers: 1000,
            ..Quotas::default()
        },
        ..config
    };
    FakeAws::start(config).await.expect("loopback has a port")
}

/// Works on Services as the operator's workers do, each until nothing is to do.
async fn all(provider: &Aws, wishes: Vec<Desired>) -> Duration {
    let begin = Instant::now();
    let mut runs = JoinSet::new();
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(WORKERS));
    for wish in wishes {
        let (provider, slots) = (provider.clone(), slots.clone());
        runs.spawn(async move {
            let mut wish = wish;
            loop {
                let permit = slots.acquire().await.expect("never closed");
                let outcome = reconcile(&provider, &wish).await;
                drop(permit);
                let wait = match outcome {
                    Outcome::Settled(status) => {
                        if let Desired::Present { service, .. } = &mut wish {
                            service.ingress = status.ingress;
                        }
                        match status.recheck {
                            Some(after) if after < Duration::from_mins(1) => after,
                            _ => return,
                        }
                    }
                    Outcome::Failed(ProviderError::Waiting { recheck, .. }) => recheck,
                    Outcome::Failed(ProviderError::Throttled { retry_after, .. }) => {
                        retry_after.unwrap_or(Duration::from_millis(200))
                    }
                    Outcome::Failed(_) => Duration::from_millis(200),
                    other => panic!("{other:?}"),
                };
                sleep(wait).await;
            }
        });
    }
    runs.join_all().await;
    begin.elapsed()
}

/// Resident memory of this process, in MB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or_default()
        / 1024
}

/// Resident memory of a process that has the provider and the Services, and not the
/// stand-in: this program once more.
async fn memory_apart() {
    let fake = start(Config::quick()).await;
    let program = std::env::current_exe().expect("this program has a name");
    for services in [0, 100, 500] {
        let child = tokio::process::Command::new(&program)
            .args(["memory", &fake.endpoint(), &services.to_string()])
            .output()
            .await
            .expect("this program starts once more");
        assert!(child.status.success(), "{child:?}");
        let text = String::from_utf8_lossy(&child.stdout);
        figure(&format!("memory-{services}"), text.trim(), "MB");
    }
    fake.stop().await;
}

/// In the process of its own: brings so many Services up, then looks at all of them
/// again as after a change of nodes, and prints its memory.
async fn memory_of(endpoint: &str, services: u16) {
    let aws = provider_at(endpoint, settings(), tuning(), budget());
    let wishes = |with| -> Vec<Desired> {
        (1..=services)
            .map(|n| present(numbered(n), nodes(with)))
            .collect()
    };
    all(&aws, wishes(20)).await;
    all(&aws, wishes(24)).await;
    // With what the operator keeps of each.
    let kept = wishes(24);
    println!("{}", memory());
    drop(kept);
}

async fn create_and_delete() {
    let fake = start(Config::stopped()).await;
    let provider = provider(&fake);
    let say = |name: &str| {
        let counts = fake.counts();
        figure(&format!("{name}/writes"), counts.writes, "calls");
        figure(&format!("{name}/reads"), counts.reads, "calls");
        fake.clear_calls();
    };
    drive(&fake, &provider, &present(numbered(1), nodes(3))).await;
    say("create-first");
    drive(&fake, &provider, &present(numbered(2), nodes(3))).await;
    say("create");
    let mut three = numbered(3);
    three.ports = vec![port(80, 31_001), port(443, 31_002), port(8080, 31_003)];
    drive(&fake, &provider, &present(three, nodes(3))).await;
    say("create-three-ports");
    fake.set_timing(Timing {
        interface_release: Duration::ZERO,
        ..Timing::default()
    });
    drive(&fake, &provider, &absent("s2")).await;
    say("delete");
    fake.stop().await;
    // AWS holds on to the group for 45 s, in real time.
    let fake = start(Config {
        timing: Timing {
            interface_release: Duration::from_secs(45),
            ..Timing::NONE
        },
        ..Config::default()
    })
    .await;
    let slow = provider_with(
        &fake,
        settings(),
        Tuning {
            lag: Duration::ZERO,
            ..Tuning::default()
        },
        budget(),
    );
    drive(&fake, &slow, &present(numbered(1), nodes(3))).await;
    drive(&fake, &slow, &present(numbered(2), nodes(3))).await;
    fake.clear_calls();
    let took = all(&slow, vec![absent("s2")]).await;
    let counts = fake.counts();
    figure("delete-while-held/writes", counts.writes, "calls");
    figure("delete-while-held/failed", counts.failed, "calls");
    figure("delete-while-held/time", took.as_secs(), "s");
    fake.stop().await;
}

async fn many() {
    const SERVICES: u16 = 500;
    let fake = start(Config::quick()).await;
    let quick = provider(&fake);
    let wishes = |count: u16, with: u16| -> Vec<Desired> {
        (1..=count)
            .map(|n| present(numbered(n), nodes(with)))
            .collect()
    };
    all(&quick, wishes(100, 3)).await;
    fake.clear_calls();
    // One node more, at AWS's rate: 4 registrations a second.
    let paced = provider_with(
        &fake,
        settings(),
        Tuning {
            lag: Duration::ZERO,
            ..Tuning::default()
        },
        Budget::new(Instant::now()),
    );
    all(&paced, wishes(100, 3)).await;
    fake.clear_calls();
    let took = all(&paced, wishes(100, 4)).await;
    figure("node-added-100/calls", fake.counts().total(), "calls");
    figure(
        "node-added-100/registrations",
        fake.counts().of("RegisterTargets"),
        "calls",
    );
    figure("node-added-100/time", took.as_secs(), "s");
    // Twenty nodes, one every quarter of a second. Where looking at all Services takes
    // longer, the next look sees several, as with the operator's queue.
    fake.clear_calls();
    let begin = Instant::now();
    for count in 5..=24u16 {
        let due = EVERY * u32::from(count - 4);
        if count < 24 && begin.elapsed() > due {
            continue;
        }
        let mut runs = JoinSet::new();
        for wish in wishes(100, count) {
            let paced = paced.clone();
            runs.spawn(async move { reconcile(&paced, &wish).await });
        }
        runs.join_all().await;
        sleep(due.saturating_sub(begin.elapsed())).await;
    }
    figure(
        "nodes-added-20/came-within",
        format!("{:.1}", begin.elapsed().as_secs_f64()),
        "s",
    );
    all(&paced, wishes(100, 24)).await;
    figure(
        "nodes-added-20/registrations",
        fake.counts().of("RegisterTargets"),
        "calls",
    );
    figure("nodes-added-20/time", begin.elapsed().as_secs(), "s");
    drop(paced);
    all(&quick, wishes(SERVICES, 24)).await;
    drop(quick);
    // A restart, with AWS's buckets.
    fake.clear_calls();
    fake.set_throttling(Some(Throttling::default()));
    let fresh = provider_with(
        &fake,
        settings(),
        Tuning::default(),
        Budget::new(Instant::now()),
    );
    let took = all(&fresh, wishes(SERVICES, 24)).await;
    let counts = fake.counts();
    figure("resync-500/calls", counts.total(), "calls");
    figure("resync-500/writes", counts.writes, "calls");
    figure("resync-500/failed", counts.failed, "calls");
    figure("resync-500/time", took.as_millis(), "ms");
    fake.stop().await;
}

async fn restart_while_provisioning() {
    let fake = start(Config {
        timing: Timing {
            provisioning: Duration::from_secs(15),
            ..Timing::NONE
        },
        ..Config::default()
    })
    .await;
    let first = provider(&fake);
    let wish = present(numbered(1), nodes(3));
    let begin = Instant::now();
    reconcile(&first, &wish).await;
    drop(first);
    let second = provider_with(
        &fake,
        settings(),
        Tuning::default(),
        Budget::new(Instant::now()),
    );
    loop {
        if let Outcome::Settled(status) = reconcile(&second, &wish).await {
            if hostname(&status.ingress).is_some() {
                break;
            }
            sleep(status.recheck.unwrap_or_default()).await;
        }
    }
    let late = begin.elapsed().saturating_sub(Duration::from_secs(15));
    figure(
        "restart-while-provisioning/hostname",
        late.as_millis(),
        "ms after active",
    );
    fake.stop().await;
}

/// Everything runs this much faster than with AWS.
const FASTER: f64 = 60.0;

async fn throttled() {
    const SERVICES: u16 = 500;
    let faster = |bucket: Bucket| Bucket {
        rate: bucket.rate * FASTER,
        ..bucket
    };
    let slow = Throttling::default();
    let fake = start(Config {
        throttling: Some(Throttling {
            describe: faster(slow.describe),
            register: faster(slow.register),
            mutate: faster(slow.mutate),
            intensive: faster(slow.intensive),
            ec2_read: faster(slow.ec2_read),
            ec2_write: faster(slow.ec2_write),
            ..slow
        }),
        ..Config::quick()
    })
    .await;
    let budget = Budget::with_buckets(Instant::now(), |family: Family| {
        let (capacity, rate) = family.bucket();
        (capacity * 0.9, rate * FASTER * 0.9)
    });
    let provider = provider_with(&fake, settings(), tuning(), budget);
    let wishes = (1..=SERVICES)
        .map(|n| present(numbered(n), nodes(3)))
        .collect();
    let took = all(&provider, wishes).await;
    let counts = fake.counts();
    let minutes = took.as_secs_f64() * FASTER / 60.0;
    figure(
        "throttled-500/done",
        fake.snapshot()
            .count(herald_fakeaws::ResourceKind::LoadBalancer),
        "load balancers",
    );
    figure(
        "throttled-500/time",
        format!("{minutes:.0}"),
        "min at AWS's rate",
    );
    figure("throttled-500/failed", counts.failed, "calls");
    figure("throttled-500/calls", counts.total(), "calls");
    fake.stop().await;
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, what, endpoint, services] = &arguments[..]
        && what == "memory"
    {
        let services = services.parse().expect("a number of Services");
        return memory_of(endpoint, services).await;
    }
    memory_apart().await;
    create_and_delete().await;
    restart_while_provisioning().await;
    many().await;
    throttled().await;
}
