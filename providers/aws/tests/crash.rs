//! The operator dies, or a call fails, at every single call of create, update, replace
//! and delete. Whatever happens, in the end there is exactly what should be.
//!
//! Exhaustive by construction: a script is run once without a fault and its calls are
//! counted; then once more for every one of them and every way to spoil it. The short
//! form spoils with deaths and lost answers; `HERALD_CRASH=full` with all else too.

mod common;

use std::time::Duration;

use common::{
    absent, annotate, budget, drive, nodes, port, present, provider_with, service, settings, tuning,
};
use herald_aws::{Aws, Tuning};
use herald_core::Ingress;
use herald_fakeaws::{
    Config, Effect, FakeAws, Fault, Matching, Phase, ResourceKind, Snapshot, Timing,
};
use herald_provider::Desired;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Nothing takes that long.
const STUCK: Duration = Duration::from_mins(2);

/// What happens to a Service, one wish after the other.
#[derive(Clone)]
struct Script {
    name: &'static str,
    wishes: Vec<Desired>,
}

fn scripts() -> Vec<Script> {
    let first = || present(service("web"), nodes(2));
    // Everything that can change in place does.
    let second = || {
        let mut web = service("web");
        web.ports = vec![port(80, 30_080), port(443, 30_443)];
        web.source_ranges = vec!["10.1.0.0/16".into()];
        annotate(
            &mut web,
            "aws-load-balancer-attributes",
            "load_balancing.cross_zone.enabled=true",
        );
        annotate(
            &mut web,
            "aws-load-balancer-target-group-attributes",
            "deregistration_delay.timeout_seconds=30",
        );
        annotate(
            &mut web,
            "aws-load-balancer-additional-resource-tags",
            "team=web",
        );
        annotate(&mut web, "aws-load-balancer-healthcheck-interval", "20");
        present(web, nodes(3))
    };
    // Nothing of this can be changed in place.
    let other = || {
        let mut web = service("web");
        web.ports = vec![port(80, 30_081)];
        annotate(&mut web, "aws-load-balancer-scheme", "internet-facing");
        present(web, nodes(2))
    };
    // Its target group can't be changed in place.
    let at = |node_port: u16| {
        let mut web = service("web");
        web.ports = vec![port(80, node_port)];
        present(web, nodes(2))
    };
    let script = |name, wishes| Script { name, wishes };
    vec![
        script("create", vec![first()]),
        script("update", vec![first(), second()]),
        script("replace", vec![first(), other()]),
        script("replace-target-group", vec![at(30_080), at(30_081)]),
        script("delete", vec![first(), absent("web")]),
        script(
            "delete-while-handing-over",
            vec![at(30_080), at(30_081), absent("web")],
        ),
        script(
            "delete-while-replacing",
            vec![first(), other(), absent("web")],
        ),
    ]
}

/// How a call is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoil {
    /// The operator dies before the call arrives, or after its work and before the
    /// answer; its successor goes on, or the wish has changed meanwhile.
    Kill(Phase, bool),
    /// The connection is cut.
    Cut(Phase),
    /// AWS fails.
    Fail(Phase),
    /// AWS throttles.
    Throttle,
}

fn spoils() -> Vec<Spoil> {
    use Phase::{After, Before};
    let short = vec![
        Spoil::Kill(Before, false),
        Spoil::Kill(After, false),
        Spoil::Kill(After, true),
        Spoil::Cut(After),
    ];
    let full = [
        Spoil::Kill(Before, true),
        Spoil::Cut(Before),
        Spoil::Fail(Before),
        Spoil::Fail(After),
        Spoil::Throttle,
    ];
    if std::env::var("HERALD_CRASH").as_deref() == Ok("full") {
        short.into_iter().chain(full).collect()
    } else {
        short
    }
}

/// Where AWS's describes show what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Describes {
    AtOnce,
    /// After [`LAG`], in the time of the world.
    Later,
}

const LAG: Duration = Duration::from_millis(60);

async fn start(describes: Describes) -> FakeAws {
    let config = match describes {
        Describes::AtOnce => Config::stopped(),
        Describes::Later => Config {
            timing: Timing {
                elbv2_lag: LAG,
                ec2_lag: LAG,
                ..Timing::NONE
            },
            ..Config::default()
        },
    };
    FakeAws::start(config).await.unwrap()
}

fn provider(fake: &FakeAws, describes: Describes) -> Aws {
    let lag = match describes {
        Describes::AtOnce => Duration::ZERO,
        Describes::Later => 3 * LAG,
    };
    let tuning = Tuning { lag, ..tuning() };
    provider_with(fake, settings(), tuning, budget())
}

fn with_ingress(wish: &Desired, ingress: &[Ingress]) -> Desired {
    let mut wish = wish.clone();
    if let Desired::Present { service, .. } = &mut wish {
        service.ingress = ingress.to_vec();
    }
    wish
}

/// Fulfils all wishes, one after the other.
async fn play(fake: &FakeAws, provider: &Aws, wishes: &[Desired], ingress: &mut Vec<Ingress>) {
    for wish in wishes {
        let quiet = drive(fake, provider, &with_ingress(wish, ingress)).await;
        *ingress = quiet.ingress;
    }
}

/// How many calls a script makes that nobody spoils.
async fn calls(script: &Script, describes: Describes) -> u64 {
    let fake = start(describes).await;
    let before = fake.snapshot();
    let mut ingress = Vec::new();
    play(
        &fake,
        &provider(&fake, describes),
        &script.wishes,
        &mut ingress,
    )
    .await;
    let found = check(&fake, &before, script, "no fault");
    assert!(found.wrong.is_none(), "{:?}", found.wrong);
    let calls = fake.counts().total();
    fake.stop().await;
    calls
}

/// Names the case when it panics.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: {}", self.0);
        }
    }
}

/// What a case has left.
#[derive(Debug, Default)]
struct Found {
    /// The call that was to be spoilt was made.
    reached: bool,
    /// Resources that nobody asked for.
    leaked: usize,
    /// What is not as it should be.
    wrong: Option<String>,
}

/// Runs a case.
async fn case(script: &Script, describes: Describes, spoil: Spoil, nth: u64) -> Found {
    let what = format!(
        "{} with {spoil:?} at call {nth}, {describes:?}",
        script.name
    );
    let _named = Named(&what);
    let fake = start(describes).await;
    let aws = || provider(&fake, describes);
    let before = fake.snapshot();
    let run = async {
        match spoil {
            Spoil::Kill(phase, moves_on) => killed(&fake, &aws, script, nth, phase, moves_on).await,
            Spoil::Cut(phase) => spoilt(&fake, &aws(), script, nth, Effect::Cut, phase).await,
            Spoil::Throttle => {
                spoilt(&fake, &aws(), script, nth, Effect::Throttle, Phase::Before).await
            }
            Spoil::Fail(phase) => {
                let effect = Effect::Error {
                    status: 500,
                    code: "InternalFailure".into(),
                    message: "a fault".into(),
                };
                spoilt(&fake, &aws(), script, nth, effect, phase).await
            }
        }
    };
    let Ok(reached) = timeout(STUCK, run).await else {
        panic!("stuck: {what}");
    };
    let found = check(&fake, &before, script, &what);
    fake.stop().await;
    Found { reached, ..found }
}

async fn spoilt(
    fake: &FakeAws,
    aws: &Aws,
    script: &Script,
    nth: u64,
    effect: Effect,
    phase: Phase,
) -> bool {
    let mut fault = Fault::once(Matching::any(), effect).skip(nth);
    fault.phase = phase;
    fake.inject(fault);
    play(fake, aws, &script.wishes, &mut Vec::new()).await;
    fake.counts().total() > nth
}

async fn killed(
    fake: &FakeAws,
    aws: &(dyn Fn() -> Aws + Sync),
    script: &Script,
    nth: u64,
    phase: Phase,
    moves_on: bool,
) -> bool {
    let mut crash = fake.crash_at(Matching::any(), nth, phase);
    let mut ingress = Vec::new();
    let mut wishes = &script.wishes[..];
    let first = aws();
    while let [wish, rest @ ..] = wishes {
        let desired = with_ingress(wish, &ingress);
        tokio::select! {
            quiet = drive(fake, &first, &desired) => ingress = quiet.ingress,
            () = crash.reached() => break,
        }
        wishes = rest;
    }
    let reached = crash.was_reached();
    fake.revive();
    if moves_on && wishes.len() > 1 {
        wishes = &wishes[1..];
    }
    play(fake, &aws(), wishes, &mut ingress).await;
    reached
}

/// Whether exactly what the last wish asks for is there.
fn check(fake: &FakeAws, before: &Snapshot, script: &Script, what: &str) -> Found {
    let after = fake.snapshot();
    let new: Vec<String> = after
        .since(before)
        .iter()
        .map(ToString::to_string)
        .collect();
    let Some(Desired::Present { service, nodes, .. }) = script.wishes.last() else {
        return Found {
            leaked: new.len(),
            wrong: (!new.is_empty()).then(|| format!("{what}: {new:#?}")),
            ..Found::default()
        };
    };
    let ports = service.ports.len();
    let wanted = [
        (ResourceKind::LoadBalancer, 1),
        (ResourceKind::TargetGroup, ports),
        (ResourceKind::Listener, ports),
        (ResourceKind::SecurityGroup, 2),
        (ResourceKind::Target, ports * nodes.len()),
    ];
    let mut found = Found::default();
    for (kind, wanted) in wanted {
        let is = after.count(kind) - before.count(kind);
        found.leaked += is.saturating_sub(wanted);
        if is != wanted {
            found.wrong = Some(format!("{what}: {is} of {kind:?}, not {wanted}: {new:#?}"));
        }
    }
    found
}

/// Adds up what cases have left.
#[derive(Default)]
struct Sum {
    cases: usize,
    leaked: usize,
    wrong: Vec<String>,
}

impl Sum {
    fn add(&mut self, found: Found) {
        self.cases += usize::from(found.reached);
        self.leaked += found.leaked;
        self.wrong.extend(found.wrong);
    }
}

/// Walks all calls of scripts, and all ways to spoil them.
async fn walk(scripts: Vec<Script>, describes: Describes, spoils: &[Spoil]) -> Sum {
    let mut sum = Sum::default();
    for script in scripts {
        let calls = timeout(STUCK, calls(&script, describes)).await.unwrap();
        let mut runs = JoinSet::new();
        for spoil in spoils.iter().copied() {
            if matches!(spoil, Spoil::Kill(_, true)) && script.wishes.len() < 2 {
                continue;
            }
            // How often AWS is asked whether it is done is a matter of time: so a few
            // more.
            for nth in 0..calls + 4 {
                if runs.len() >= 8 {
                    sum.add(runs.join_next().await.unwrap().unwrap());
                }
                let script = script.clone();
                runs.spawn(async move { case(&script, describes, spoil, nth).await });
            }
        }
        while let Some(run) = runs.join_next().await {
            sum.add(run.unwrap());
        }
        println!("{}: {calls} calls, {describes:?}", script.name);
    }
    sum
}

fn judge(name: &str, sum: &Sum, at_least: usize) {
    println!("figure aws/{name}/cases {} cases", sum.cases);
    println!("figure aws/{name}/leaked {} resources", sum.leaked);
    assert!(sum.wrong.is_empty(), "{}", sum.wrong.join("\n"));
    assert!(
        sum.cases > at_least,
        "only {} cases: the walk is not what it says",
        sum.cases
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_every_plan() {
    let sum = walk(scripts(), Describes::AtOnce, &spoils()).await;
    judge("crash", &sum, 600);
}

/// Where describes do not show yet what the predecessor has just done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_where_describes_lag() {
    let mut scripts = scripts();
    scripts.retain(|script| matches!(script.name, "create" | "delete"));
    let spoils = [Spoil::Kill(Phase::After, false), Spoil::Cut(Phase::After)];
    let sum = walk(scripts, Describes::Later, &spoils).await;
    judge("crash-lagging", &sum, 60);
}
