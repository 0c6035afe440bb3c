//! The operator dies, or the cloud fails, at every single call of create,
//! update and delete, in every way there is. Whatever happens, in the end
//! exactly the right load balancers exist.
//!
//! Exhaustive by construction: a case lets `skip` calls pass and spoils the
//! next one; `skip` grows until a case ends without reaching its fault.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use common::{absent, desired, existing, present, provider, quick, reconcile};
use herald_core::{IpFamily, TrafficPolicy};
use herald_fake::FakeCloud;
use herald_fakecloud::Server;
use herald_fakecloud::faults::{FaultKind, FaultSpec, Operation, OperationFilter, Phase};
use herald_fakecloud::wire::LoadBalancerState;
use herald_provider::{Desired, Outcome};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A call of these tests that takes longer has timed out.
const CALL_TIMEOUT: Duration = Duration::from_millis(300);
/// Nothing takes that long.
const STUCK: Duration = Duration::from_mins(1);
/// More calls than any script makes without a fault.
const MANY_CALLS: u32 = 60;
/// Cases wait more than they work: so many walks go side by side, each taking
/// its share of the calls.
const LANES: u32 = 4;

/// What happens to a Service, one wish after the other.
#[derive(Clone)]
struct Script {
    name: &'static str,
    wishes: Vec<Desired>,
}

fn scripts() -> Vec<Script> {
    let first = || desired(present(1..4));
    // Everything that can change does.
    let second = || {
        let (mut service, nodes) = present(2..5);
        service.ip_families.push(IpFamily::V6);
        service.traffic_policy = TrafficPolicy::Local;
        service.health_check_node_port = Some(31000);
        service.ports[0].node_port = Some(30081);
        desired((service, nodes))
    };
    let script = |name, wishes| Script { name, wishes };
    vec![
        script("create", vec![first()]),
        script("update", vec![first(), second()]),
        script("delete", vec![first(), absent()]),
        script("recreate", vec![first(), absent(), second()]),
    ]
}

/// How a call is spoilt.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    /// The cloud fails in this way; the operator lives on.
    Cloud(FaultKind),
    /// The operator is killed before the call arrives, or after its work is
    /// done and before the answer.
    Kill(Phase),
}

const SPOILS: [Spoil; 7] = [
    Spoil::Kill(Phase::Before),
    Spoil::Kill(Phase::After),
    Spoil::Cloud(FaultKind::Error),
    Spoil::Cloud(FaultKind::Throttle),
    Spoil::Cloud(FaultKind::TimeoutBefore),
    Spoil::Cloud(FaultKind::TimeoutAfter),
    Spoil::Cloud(FaultKind::FailProvisioning),
];

impl Spoil {
    fn fault(self, skip: u32) -> FaultSpec {
        let mut fault = match self {
            Self::Cloud(kind) => FaultSpec::once(OperationFilter::Any, kind),
            Self::Kill(phase) => FaultSpec {
                phase,
                ..FaultSpec::once(OperationFilter::Any, FaultKind::Hold)
            },
        };
        if fault.kind == FaultKind::FailProvisioning {
            fault.operation = OperationFilter::One(Operation::CreateLoadBalancer);
        }
        fault.skip = skip;
        fault
    }
}

/// One case: a script, the faults that hit it one after the other, and whether
/// the wish changes to the next one when the operator is killed.
#[derive(Clone)]
struct Case {
    script: Script,
    faults: Vec<(u32, Spoil)>,
    moves_on: bool,
}

static CLOUDS: AtomicU16 = AtomicU16::new(0);

impl Case {
    /// Runs it; returns how many of its faults were reached.
    async fn run(mut self) -> usize {
        let number = CLOUDS.fetch_add(1, Ordering::Relaxed) % 20_000;
        // Loopback has but one IPv6 address: clouds beside each other need
        // ports of their own.
        for wish in &mut self.script.wishes {
            if let Desired::Present { service, .. } = wish {
                for port in &mut service.ports {
                    port.port = 10_000 + number;
                }
            }
        }
        let server = Server::start(quick(number)).await.unwrap();
        let what = format!(
            "{} with {:?}, moves on: {}",
            self.script.name, self.faults, self.moves_on
        );
        let reached = timeout(STUCK, self.play(&server))
            .await
            .unwrap_or_else(|_| panic!("stuck: {what}"));
        self.check(&server, &what);
        server.stop().await;
        reached
    }

    async fn play(&self, server: &Server) -> usize {
        let mut faults = self.faults.iter();
        let mut reached = 0;
        let mut arm = || {
            if let Some((skip, spoil)) = faults.next() {
                let fault = spoil.fault(*skip);
                server.shared().account().faults.add(fault).unwrap();
            }
        };
        arm();
        let armed = || {
            !server
                .shared()
                .account()
                .faults
                .report(std::time::Instant::now())
                .faults
                .is_empty()
        };
        let mut wishes = self.script.wishes.iter().peekable();
        let mut operator = new_operator(server);
        while let Some(&wish) = wishes.peek() {
            let was_armed = armed();
            let outcome = run_until_done_or_held(server, &operator, wish).await;
            let hit = was_armed && !armed();
            if hit {
                reached += 1;
                arm();
            }
            match outcome {
                None => {
                    operator = new_operator(server);
                    if self.moves_on {
                        wishes.next_if(|_| true);
                        if wishes.peek().is_none() {
                            wishes = self.script.wishes[self.script.wishes.len() - 1..]
                                .iter()
                                .peekable();
                        }
                    }
                }
                // Settled without the Service means that nothing is left; with
                // it, the cloud may be at work and tells nobody when it is done.
                Some(Outcome::Settled(status)) => match (wish, status.recheck) {
                    (Desired::Present { .. }, Some(_)) => sleep(Duration::from_millis(50)).await,
                    _ => {
                        wishes.next();
                    }
                },
                Some(Outcome::Failed(_)) => {}
                Some(other) => panic!("{other:?}"),
            }
        }
        reached
    }

    fn check(&self, server: &Server, what: &str) {
        let exist = existing(server);
        let Some(Desired::Present { service, nodes, .. }) = self.script.wishes.last() else {
            assert!(exist.is_empty(), "leaked: {what}: {exist:?}");
            return;
        };
        let [is] = &exist[..] else {
            panic!("{} load balancers: {what}", exist.len());
        };
        assert_eq!(is.state, LoadBalancerState::Active, "{what}");
        assert_eq!(is.families.len(), service.ip_families.len(), "{what}");
        let families = service.ip_families.len();
        // ::1 is one target, whichever nodes have it.
        assert_eq!(is.targets.len(), nodes.len() + families - 1, "{what}");
        for node in nodes {
            assert!(
                is.targets
                    .iter()
                    .any(|t| t.address == node.internal_addresses[0]),
                "{what}"
            );
        }
        let ports: Vec<Option<u16>> = is.listeners.iter().map(|l| Some(l.target_port)).collect();
        assert_eq!(
            ports,
            service
                .ports
                .iter()
                .map(|p| p.node_port)
                .collect::<Vec<_>>(),
            "{what}"
        );
        let check = service.health_check_node_port.unwrap_or(30080);
        assert_eq!(is.health_check.port, check, "{what}");
        let anew = self.script.wishes.contains(&absent())
            || self
                .faults
                .iter()
                .any(|(_, spoil)| matches!(spoil, Spoil::Cloud(FaultKind::FailProvisioning)));
        if !anew {
            assert_eq!(is.id, "lb-00000001", "made twice: {what}");
        }
    }
}

fn new_operator(server: &Server) -> FakeCloud {
    provider(server).with_call_timeout(CALL_TIMEOUT)
}

/// Reconciles once, but kills the operator when the cloud holds one of its
/// calls; `None` then.
async fn run_until_done_or_held(
    server: &Server,
    operator: &FakeCloud,
    wish: &Desired,
) -> Option<Outcome> {
    let mut holding = server.shared().account().faults.holding();
    let (operator, wish) = (operator.clone(), wish.clone());
    let mut run = tokio::spawn(async move { reconcile(&operator, &wish).await });
    let held = async {
        loop {
            holding.wait_for(|calls| *calls > 0).await.unwrap();
            let report = server
                .shared()
                .account()
                .faults
                .report(std::time::Instant::now());
            if report.held.iter().any(|call| call.kind == FaultKind::Hold) {
                return;
            }
            holding.changed().await.unwrap();
        }
    };
    tokio::select! {
        outcome = &mut run => return Some(outcome.unwrap()),
        () = held => {}
    }
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    // The cloud sees the connection close.
    holding.wait_for(|calls| *calls == 0).await.unwrap();
    None
}

/// Runs the cases that `make` gives for 0, 1, 2, ... calls to skip, until one
/// does not reach its fault any more. Returns how many cases did.
async fn every_call(slots: Arc<Semaphore>, make: impl Fn(u32) -> Case, depth: usize) -> usize {
    for skip in 0..MANY_CALLS {
        let case = make(skip);
        let permit = slots.acquire().await.unwrap();
        let reached = case.run().await;
        drop(permit);
        if reached < depth {
            return skip as usize;
        }
    }
    panic!("a script makes more than {MANY_CALLS} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_at_every_call() {
    let slots = Arc::new(Semaphore::new(24));
    let mut runs = JoinSet::new();
    for script in scripts() {
        for spoil in SPOILS {
            for moves_on in [false, true] {
                if moves_on && (script.wishes.len() < 2 || !matches!(spoil, Spoil::Kill(_))) {
                    continue;
                }
                let (script, slots) = (script.clone(), Arc::clone(&slots));
                runs.spawn(async move {
                    let make = |skip| Case {
                        script: script.clone(),
                        faults: vec![(skip, spoil)],
                        moves_on,
                    };
                    every_call(slots, make, 1).await
                });
            }
        }
    }
    let cases: usize = runs.join_all().await.into_iter().sum();
    println!("figure fake/crash/one-fault {cases} cases");
    assert!(
        cases > 100,
        "only {cases} cases: the walk is not what it says"
    );
}

/// The operator is killed at every call, and its successor at every call of its
/// own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_kills_at_every_pair_of_calls() {
    let slots = Arc::new(Semaphore::new(24));
    let kills = [Spoil::Kill(Phase::Before), Spoil::Kill(Phase::After)];
    let mut runs = JoinSet::new();
    for script in scripts() {
        for (first, second) in kills
            .iter()
            .flat_map(|a| kills.iter().map(move |b| (*a, *b)))
        {
            for lane in 0..LANES {
                let (script, slots) = (script.clone(), Arc::clone(&slots));
                runs.spawn(async move {
                    let mut cases = 0;
                    for skip in (lane..MANY_CALLS).step_by(LANES as usize) {
                        let make = |next| Case {
                            script: script.clone(),
                            faults: vec![(skip, first), (next, second)],
                            moves_on: false,
                        };
                        let more = every_call(Arc::clone(&slots), make, 2).await;
                        if more == 0 {
                            return cases;
                        }
                        cases += more;
                    }
                    panic!("a script makes more than {MANY_CALLS} calls");
                });
            }
        }
    }
    let cases: usize = runs.join_all().await.into_iter().sum();
    println!("figure fake/crash/two-kills {cases} cases");
    assert!(
        cases > 400,
        "only {cases} cases: the walk is not what it says"
    );
}
