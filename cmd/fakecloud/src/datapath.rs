//! The data path: makes what the account says come true, address by address
//! and listener by listener.
//!
//! ```text
//!   account --programs--> [supervisor] --route--> [tcp | udp frontend] --> targets
//!      ^                      |                                              ^
//!      +------ carried -------+--check--> [health check] --------------------+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_core::{IpFamily, Protocol};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::health::watch_target;
use crate::route::{Frontend, Limits, Route};
use crate::shared::Shared;
use crate::state::Program;
use crate::wire::{HealthCheck, HostEntry, LoadBalancerState};
use crate::{hosts, proxy_tcp, proxy_udp};

/// How soon to try again what the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// Owns everything that runs for the load balancers.
#[derive(Debug)]
pub struct Supervisor {
    /// What it shares with the API.
    pub shared: Arc<Shared>,
    /// Where addresses go.
    pub addresses: Addresses,
    /// Times and numbers of the frontends.
    pub limits: Limits,
    /// The hosts file to keep.
    pub hosts_file: Option<PathBuf>,
}

/// What runs for one load balancer.
#[derive(Debug)]
struct Running {
    cut: CancellationToken,
    plugged: BTreeSet<IpAddr>,
    check: watch::Sender<HealthCheck>,
    checks: BTreeMap<IpAddr, CancellationToken>,
    frontends: BTreeMap<FrontendKey, RunningFrontend>,
}

type FrontendKey = (IpAddr, u16, Protocol);

#[derive(Debug)]
struct RunningFrontend {
    route: watch::Sender<Route>,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Runs until cancelled; then ends every connection and takes all
    /// addresses back.
    pub async fn run(self, cancel: CancellationToken) {
        let mut changes = self.shared.changes();
        let mut running = BTreeMap::new();
        let mut written = None;
        loop {
            changes.borrow_and_update();
            let retry = self.reconcile(&mut running).await;
            self.write_hosts(&mut written).await;
            let now = Instant::now();
            let due = self.shared.account().cloud.next_deadline(now);
            let wake = due.into_iter().chain(retry.then_some(now + RETRY)).min();
            let wake_up = async {
                match wake {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives in `shared`, as long as we do.
                _ = changes.changed() => {}
                () = wake_up => {}
                () = cancel.cancelled() => break,
            }
        }
        for (id, load_balancer) in running {
            self.stop(&id, load_balancer).await;
        }
    }

    /// One pass. Returns whether something has to be tried again.
    async fn reconcile(&self, running: &mut BTreeMap<String, Running>) -> bool {
        let now = Instant::now();
        let programs = {
            let cloud = &mut self.shared.account().cloud;
            cloud.advance(now);
            cloud.programs(now)
        };
        // First what goes, so that its addresses and ports are free.
        let wanted: BTreeSet<&str> = programs.iter().map(|program| &*program.id).collect();
        let gone: Vec<String> = running
            .keys()
            .filter(|id| !wanted.contains(id.as_str()))
            .cloned()
            .collect();
        for id in gone {
            if let Some(load_balancer) = running.remove(&id) {
                self.stop(&id, load_balancer).await;
            }
        }
        let mut retry = false;
        for program in &programs {
            let load_balancer = running
                .entry(program.id.clone())
                .or_insert_with(|| Running::new(program));
            let result = self.carry(program, load_balancer).await;
            retry |= result.is_err();
            let news =
                self.shared
                    .account()
                    .cloud
                    .carried(&program.id, result.clone(), Instant::now());
            match result {
                Ok(()) if program.becomes_active => {
                    tracing::info!(load_balancer = program.id, addresses = ?program.addresses, "active");
                }
                Err(reason) if news => {
                    tracing::warn!(load_balancer = program.id, reason, "cannot carry");
                }
                _ => {}
            }
        }
        self.count();
        retry
    }

    /// Brings one load balancer up to date.
    async fn carry(&self, program: &Program, running: &mut Running) -> Result<(), String> {
        let mut problems = Vec::new();
        running.update_checks(program, &self.shared);

        let wanted: BTreeMap<FrontendKey, u16> = program
            .addresses
            .iter()
            .flat_map(|address| {
                program
                    .listeners
                    .iter()
                    .map(|l| ((*address, l.port, l.protocol), l.target_port))
            })
            .collect();
        let closed: Vec<FrontendKey> = running
            .frontends
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in closed {
            if let Some(frontend) = running.frontends.remove(&key) {
                frontend.close().await;
            }
        }

        let addresses: BTreeSet<IpAddr> = program.addresses.iter().copied().collect();
        for address in running.plugged.clone().difference(&addresses) {
            match self.addresses.unplug(*address).await {
                Ok(()) => {
                    running.plugged.remove(address);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        for address in &addresses {
            if running.plugged.contains(address) {
                continue;
            }
            match self.addresses.plug(*address).await {
                Ok(()) => {
                    running.plugged.insert(*address);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }

        for (key, target_port) in wanted {
            let route = Route::new(program, IpFamily::of(&key.0), target_port);
            if let Some(frontend) = running.frontends.get(&key) {
                frontend.route.send_if_modified(|current| {
                    let changed = *current != route;
                    *current = route;
                    changed
                });
            } else if running.plugged.contains(&key.0) {
                match self.open(key, route, running.cut.clone()).await {
                    Ok(frontend) => {
                        running.frontends.insert(key, frontend);
                    }
                    Err(error) => problems.push(format!(
                        "cannot listen on {} {}: {error}",
                        key.2,
                        SocketAddr::new(key.0, key.1)
                    )),
                }
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems.join("; "))
        }
    }

    async fn open(
        &self,
        (address, port, protocol): FrontendKey,
        route: Route,
        cut: CancellationToken,
    ) -> std::io::Result<RunningFrontend> {
        let (route, receiver) = watch::channel(route);
        let closing = CancellationToken::new();
        let frontend = Frontend {
            route: receiver,
            closing: closing.clone(),
            cut,
            limits: self.limits,
            metrics: self.shared.metrics.clone(),
        };
        let address = SocketAddr::new(address, port);
        let task = match protocol {
            Protocol::Tcp => tokio::spawn(proxy_tcp::serve(proxy_tcp::bind(address)?, frontend)),
            Protocol::Udp => {
                tokio::spawn(proxy_udp::serve(proxy_udp::bind(address).await?, frontend))
            }
            // The account takes no such listener.
            Protocol::Sctp => return Err(std::io::ErrorKind::Unsupported.into()),
        };
        Ok(RunningFrontend {
            route,
            closing,
            task,
        })
    }

    async fn stop(&self, id: &str, running: Running) {
        running.cut.cancel();
        for cancel in running.checks.values() {
            cancel.cancel();
        }
        for frontend in running.frontends.into_values() {
            frontend.close().await;
        }
        for address in running.plugged {
            if let Err(error) = self.addresses.unplug(address).await {
                tracing::warn!(load_balancer = id, %error, "an address stays behind");
            }
        }
        tracing::info!(load_balancer = id, "stopped");
    }

    /// Writes the hosts file if it should say something else than `written`.
    async fn write_hosts(&self, written: &mut Option<Vec<HostEntry>>) {
        let Some(path) = &self.hosts_file else {
            return;
        };
        let entries = self.shared.account().cloud.hosts();
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

    fn count(&self) {
        let mut counts: BTreeMap<LoadBalancerState, i64> = BTreeMap::new();
        for state in self.shared.account().cloud.states() {
            *counts.entry(state).or_default() += 1;
        }
        self.shared.metrics.set_load_balancers(&counts);
    }
}

impl Running {
    fn new(program: &Program) -> Self {
        Self {
            cut: CancellationToken::new(),
            plugged: BTreeSet::new(),
            check: watch::Sender::new(program.health_check.clone()),
            checks: BTreeMap::new(),
            frontends: BTreeMap::new(),
        }
    }

    /// Starts and stops health checks as targets come and go.
    fn update_checks(&mut self, program: &Program, shared: &Arc<Shared>) {
        self.check.send_if_modified(|current| {
            let changed = *current != program.health_check;
            current.clone_from(&program.health_check);
            changed
        });
        self.checks.retain(|address, cancel| {
            let keep = program.targets.contains_key(address);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        for address in program.targets.keys() {
            self.checks.entry(*address).or_insert_with(|| {
                let cancel = CancellationToken::new();
                tokio::spawn(watch_target(
                    Arc::clone(shared),
                    program.id.clone(),
                    *address,
                    self.check.subscribe(),
                    cancel.clone(),
                ));
                cancel
            });
        }
    }
}

impl RunningFrontend {
    /// Closes the socket; what it carries drains by itself.
    async fn close(self) {
        self.closing.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a frontend ended badly");
        }
    }
}
