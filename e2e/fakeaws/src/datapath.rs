//! The data path: active load balancers really listen, check their targets and
//! forward to the healthy ones.
//!
//! ```text
//!   regions --programs--> [supervisor] --route--> [tcp | udp frontend] --> targets
//!      ^                      |                                              ^
//!      +------ verdict -------+--check--> [health check] --------------------+
//! ```
//!
//! TLS is not ended here: a TLS listener is not carried. A proxy-protocol header
//! is not sent, and targets see the stand-in's address as the client's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use herald_core::{AddressRange, IpFamily, Protocol};
use herald_fakecloud::addresses::Addresses;
use herald_fakecloud::carrier::{Carrier, FrontendKey, Means};
use herald_fakecloud::hosts;
use herald_fakecloud::metrics::Metrics;
use herald_fakecloud::pool::Pool;
use herald_fakecloud::route::{Limits, Route};
use herald_fakecloud::wire::HostEntry;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Timing;
use crate::gate::Shared;
use crate::health::{Check, watch_target};
use crate::model::{Listener, LoadBalancer, Region};

/// How soon to try again what the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// Times and numbers of the frontends. When a connection has to end is decided
/// here, by the attributes of its target group, so nothing is added to that.
const LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(1),
    drain_time: Duration::ZERO,
    flow_idle_time: Duration::from_mins(2),
    flows: 16_384,
};

/// Which target of which group is checked.
type CheckKey = (String, String, SocketAddr);

/// Port, and whether it is the UDP side.
type LineKey = (u16, bool);

/// What the data path should carry for one load balancer.
#[derive(Debug, Default)]
struct Program {
    name: String,
    dual_stack: bool,
    lines: BTreeMap<LineKey, Line>,
}

/// What one frontend should do.
#[derive(Clone, Debug, Default)]
struct Line {
    route: Route,
    /// Every target of its groups, whatever its state.
    known: BTreeSet<IpAddr>,
    /// Those that drain, and whose connections end with that.
    ending: BTreeSet<IpAddr>,
}

/// What runs for one load balancer.
#[derive(Debug, Default)]
struct Running {
    name: String,
    addresses: BTreeSet<IpAddr>,
    carrier: Carrier,
    /// What each frontend did last, and targets that are gone but whose
    /// connections may go on for as long as they like: drained without
    /// termination, or no longer forwarded to.
    before: BTreeMap<LineKey, (Line, BTreeSet<IpAddr>)>,
}

/// Owns everything that runs for the load balancers.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    addresses: Addresses,
    pools: Vec<Pool>,
    hosts_file: Option<PathBuf>,
    metrics: Metrics,
    running: BTreeMap<String, Running>,
    checks: BTreeMap<CheckKey, (Check, CancellationToken)>,
}

impl Supervisor {
    pub fn new(
        shared: Arc<Shared>,
        addresses: Addresses,
        pools: &[AddressRange],
        hosts_file: Option<PathBuf>,
    ) -> Self {
        Self {
            shared,
            addresses,
            pools: pools.iter().copied().map(Pool::new).collect(),
            hosts_file,
            metrics: Metrics::default(),
            running: BTreeMap::new(),
            checks: BTreeMap::new(),
        }
    }

    /// Runs until the fake stops; then ends every connection and takes all
    /// addresses back.
    pub async fn run(mut self) {
        let mut changes = self.shared.changes();
        let stopping = self.shared.stopping.clone();
        let mut written = None;
        loop {
            changes.borrow_and_update();
            let retry = self.reconcile().await;
            self.write_hosts(&mut written).await;
            let wake = self.wake(retry);
            let wake_up = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives in `shared`, as long as we do.
                _ = changes.changed() => {}
                () = wake_up => {}
                () = stopping.cancelled() => break,
            }
        }
        for (_, cancel) in std::mem::take(&mut self.checks).into_values() {
            cancel.cancel();
        }
        for (_, running) in std::mem::take(&mut self.running) {
            running.carrier.stop(self.means()).await;
        }
    }

    /// When something changes by itself.
    fn wake(&self, retry: bool) -> Option<Instant> {
        let world = self.shared.world();
        let now = world.clock.now();
        let due = world
            .places
            .values()
            .filter_map(|place| place.region.next_event(now, &world.timing))
            .min()
            .and_then(|at| world.clock.in_the_world(at.saturating_sub(now)));
        let due = due.into_iter().chain(retry.then_some(RETRY)).min()?;
        // Not before the clock has really come there.
        Instant::now().checked_add(due + Duration::from_millis(1))
    }

    fn means(&self) -> Means<'_> {
        Means {
            addresses: &self.addresses,
            limits: LIMITS,
            metrics: &self.metrics,
        }
    }

    /// One pass. Returns whether something has to be tried again.
    async fn reconcile(&mut self) -> bool {
        let (programs, checks) = self.wanted();
        self.update_checks(checks);
        // First what goes, so that its addresses are free.
        let gone: Vec<String> = self
            .running
            .keys()
            .filter(|arn| !programs.contains_key(*arn))
            .cloned()
            .collect();
        for arn in gone {
            if let Some(running) = self.running.remove(&arn) {
                tracing::info!(load_balancer = running.name, "stopped");
                running.carrier.stop(self.means()).await;
            }
        }
        let mut retry = false;
        for (arn, program) in programs {
            let mut running = match self.running.remove(&arn) {
                Some(running) => running,
                None => Running {
                    name: program.name.clone(),
                    ..Running::default()
                },
            };
            self.address(&mut running, program.dual_stack);
            let routes = running.with_lingering(program.lines);
            let mut wanted = BTreeMap::new();
            for address in &running.addresses {
                for ((port, udp), route) in &routes {
                    let protocol = if *udp { Protocol::Udp } else { Protocol::Tcp };
                    let key: FrontendKey = (*address, *port, protocol);
                    wanted.insert(key, route.clone());
                }
            }
            let addresses = running.addresses.clone();
            if let Err(reason) = running
                .carrier
                .carry(self.means(), &addresses, wanted)
                .await
            {
                tracing::warn!(load_balancer = program.name, reason, "cannot carry");
                retry = true;
            }
            self.running.insert(arn, running);
        }
        retry
    }

    /// Gives a load balancer an address of each of its families, which it
    /// keeps.
    fn address(&mut self, running: &mut Running, dual_stack: bool) {
        let others = self
            .running
            .values()
            .flat_map(|other| other.addresses.iter().copied());
        let taken: BTreeSet<IpAddr> = others.chain(running.addresses.iter().copied()).collect();
        for family in [IpFamily::V4, IpFamily::V6] {
            if family == IpFamily::V6 && !dual_stack {
                running.addresses.retain(IpAddr::is_ipv4);
                continue;
            }
            if running
                .addresses
                .iter()
                .any(|address| IpFamily::of(address) == family)
            {
                continue;
            }
            let address = self
                .pools
                .iter_mut()
                .filter(|pool| pool.family() == family)
                .find_map(|pool| pool.take(&taken));
            // There may be no pool of that family.
            if let Some(address) = address {
                tracing::info!(load_balancer = running.name, %address, "listens");
                running.addresses.insert(address);
            }
        }
    }

    /// What should be carried and checked now.
    fn wanted(&self) -> (BTreeMap<String, Program>, BTreeMap<CheckKey, Check>) {
        let mut world = self.shared.world();
        let (now, timing) = (world.clock.now(), world.timing);
        let mut programs = BTreeMap::new();
        let mut checks = BTreeMap::new();
        for place in world.places.values_mut() {
            let region = &mut place.region;
            region.settle(now);
            for lb in region.load_balancers.values() {
                if !lb.is_active(now) {
                    continue;
                }
                let program = program(region, lb, now, &timing);
                programs.insert(lb.arn.clone(), program);
                for group in region.groups_of(&lb.arn) {
                    for (key, target) in &group.targets {
                        let health = region.health(group, key, target, now, &timing);
                        let Some(address) = region.address_of(group, key) else {
                            continue;
                        };
                        if health.state != "unused" && target.deregistered_at.is_none() {
                            let target = SocketAddr::new(address, key.port);
                            let check_key = (group.arn.clone(), key.id.clone(), target);
                            checks.insert(check_key, Check::of(group, target));
                        }
                    }
                }
            }
        }
        (programs, checks)
    }

    /// Starts and stops health checks as targets come, go and change.
    fn update_checks(&mut self, wanted: BTreeMap<CheckKey, Check>) {
        self.checks.retain(|key, (check, cancel)| {
            let keep = wanted.get(key) == Some(check);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        for (key, check) in wanted {
            if self.checks.contains_key(&key) {
                continue;
            }
            let cancel = CancellationToken::new();
            tokio::spawn(watch_target(
                Arc::clone(&self.shared),
                (key.0.clone(), key.1.clone(), key.2.port()),
                check.clone(),
                cancel.clone(),
            ));
            self.checks.insert(key, (check, cancel));
        }
    }

    /// Notes which names stand for which addresses, and writes them to the
    /// hosts file if they are not `written` there.
    async fn write_hosts(&self, written: &mut Option<Vec<HostEntry>>) {
        let entries = {
            let mut world = self.shared.world();
            let mut entries = Vec::new();
            for place in world.places.values() {
                for (arn, running) in &self.running {
                    if let Some(lb) = place.region.load_balancers.get(arn) {
                        entries.push(HostEntry {
                            hostname: lb.dns_name.clone(),
                            addresses: running.addresses.iter().copied().collect(),
                        });
                    }
                }
            }
            world.hosts.clone_from(&entries);
            entries
        };
        let Some(path) = &self.hosts_file else {
            return;
        };
        if written.as_ref() == Some(&entries) {
            return;
        }
        match hosts::write(path, &entries).await {
            Ok(()) => *written = Some(entries),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot write the hosts file");
            }
        }
    }
}

impl Running {
    /// The routes, with targets that are gone but may keep their connections.
    fn with_lingering(&mut self, lines: BTreeMap<LineKey, Line>) -> BTreeMap<LineKey, Route> {
        let mut routes = BTreeMap::new();
        let mut before = std::mem::take(&mut self.before);
        for (key, line) in lines {
            let (last, mut lingering) = before.remove(&key).unwrap_or_default();
            lingering.extend(last.route.registered.difference(&last.ending));
            lingering.retain(|address| !line.known.contains(address));
            let mut route = line.route.clone();
            route.registered.extend(&lingering);
            routes.insert(key, route);
            self.before.insert(key, (line, lingering));
        }
        routes
    }
}

fn program(region: &Region, lb: &LoadBalancer, now: Duration, timing: &Timing) -> Program {
    let mut lines = BTreeMap::new();
    for listener in region.listeners_of(&lb.arn) {
        for udp in sides(&listener.protocol) {
            lines.insert((listener.port, *udp), line(region, listener, now, timing));
        }
    }
    Program {
        name: lb.name.clone(),
        dual_stack: lb.ip_address_type == "dualstack",
        lines,
    }
}

/// Which frontends a listener has: TCP is `false`, UDP is `true`.
fn sides(protocol: &str) -> &'static [bool] {
    match protocol {
        "TCP" => &[false],
        "UDP" | "QUIC" => &[true],
        "TCP_UDP" | "TCP_QUIC" => &[false, true],
        _ => &[],
    }
}

/// Where a listener's traffic goes: to the healthy targets of its groups, by
/// their weights; of a group without a healthy one to all that were checked.
fn line(region: &Region, listener: &Listener, now: Duration, timing: &Timing) -> Line {
    let mut line = Line::default();
    let route = &mut line.route;
    let common = listener
        .forward
        .groups
        .iter()
        .map(|group| group.weight.unwrap_or(1))
        .fold(0, divisor)
        .max(1);
    for weighted in &listener.forward.groups {
        let Some(group) = region.target_groups.get(&weighted.arn) else {
            continue;
        };
        let terminates = |attribute: &str| {
            group
                .attributes
                .get(attribute)
                .is_some_and(|value| value == "true")
        };
        let cuts_unhealthy =
            terminates("target_health_state.unhealthy.connection_termination.enabled");
        let ends_drained = terminates("deregistration_delay.connection_termination.enabled");
        let (mut healthy, mut unhealthy) = (Vec::new(), Vec::new());
        for (key, target) in &group.targets {
            let Some(address) = region.address_of(group, key) else {
                continue;
            };
            line.known.insert(address);
            let socket = SocketAddr::new(address, key.port);
            match region.health(group, key, target, now, timing).state {
                "healthy" => healthy.push(socket),
                "unhealthy" => unhealthy.push(socket),
                "draining" => {
                    route.registered.insert(address);
                    if ends_drained {
                        line.ending.insert(address);
                    }
                    continue;
                }
                _ => continue,
            }
            if !cuts_unhealthy || healthy.contains(&socket) {
                route.registered.insert(address);
            }
        }
        if healthy.is_empty() {
            route
                .registered
                .extend(unhealthy.iter().map(SocketAddr::ip));
            healthy = unhealthy;
        }
        for _ in 0..weighted.weight.unwrap_or(1) / common {
            route.healthy.extend(&healthy);
        }
    }
    line
}

const fn divisor(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
