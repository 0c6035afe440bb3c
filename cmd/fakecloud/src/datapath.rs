//! The data path: makes what the account says come true, address by address
//! and listener by listener.
//!
//! ```text
//!   account --programs--> [supervisor] --route--> [tcp | udp frontend] --> targets
//!      ^                      |                                              ^
//!      +------ carried -------+--check--> [health check] --------------------+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_core::IpFamily;
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::carrier::{Carrier, FrontendKey, Means};
use crate::health::watch_target;
use crate::hosts;
use crate::route::{Limits, Route};
use crate::shared::Shared;
use crate::state::Program;
use crate::wire::{HealthCheck, HostEntry, LoadBalancerState};

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
    carrier: Carrier,
    check: watch::Sender<HealthCheck>,
    checks: BTreeMap<IpAddr, CancellationToken>,
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

    fn means(&self) -> Means<'_> {
        Means {
            addresses: &self.addresses,
            limits: self.limits,
            metrics: &self.shared.metrics,
        }
    }

    /// Brings one load balancer up to date.
    async fn carry(&self, program: &Program, running: &mut Running) -> Result<(), String> {
        running.update_checks(program, &self.shared);
        let addresses: BTreeSet<IpAddr> = program.addresses.iter().copied().collect();
        let mut wanted = BTreeMap::new();
        for address in &addresses {
            for listener in &program.listeners {
                let key: FrontendKey = (*address, listener.port, listener.protocol);
                let route = Route::new(program, IpFamily::of(address), listener.target_port);
                wanted.insert(key, route);
            }
        }
        running
            .carrier
            .carry(self.means(), &addresses, wanted)
            .await
    }

    async fn stop(&self, id: &str, running: Running) {
        for cancel in running.checks.values() {
            cancel.cancel();
        }
        running.carrier.stop(self.means()).await;
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
            carrier: Carrier::default(),
            check: watch::Sender::new(program.health_check.clone()),
            checks: BTreeMap::new(),
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
