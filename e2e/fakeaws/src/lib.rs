//! A strict stand-in for AWS's load balancers: ELB (network load balancers
//! only), the part of EC2 that a load-balancer controller uses, and a little of
//! STS, over HTTP as SDKs speak it. Time passes as told, quotas and token
//! buckets are AWS's, calls fail on demand, and every call is on record.
//! docs/fakeaws.md says what it does and what it cannot show.
//!
//! ```text
//!   HTTP, handle() --> gate (record, crash, buckets, faults) --> action --> Region
//!                                                                             |
//!                                    clients --> addresses, proxies <-- datapath
//! ```
//!
//! # In a test
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use herald_fakeaws::{Config, FakeAws, Fault, Matching, Phase};
//!
//! // AWS's times, on a clock that stands. Config::quick() has none;
//! // Config::default() has real time.
//! let fake = FakeAws::start(Config::stopped()).await.unwrap();
//! let endpoint = fake.endpoint(); // AWS_ENDPOINT_URL, or endpoint_url(…)
//! let before = fake.snapshot();
//!
//! // The second CreateListener fails after its work was done.
//! fake.inject(Fault::error(Matching::action("CreateListener"), 500, "InternalFailure").skip(1).after());
//!
//! // The caller dies at its k-th write: what comes after has no effect.
//! let k = 0;
//! let mut crash = fake.crash_at(Matching::writes(), k, Phase::After);
//! let program = async { /* the program under test, until quiet */ };
//! tokio::select! {
//!     () = program => {}           // not that many writes: all k were walked
//!     () = crash.reached() => {}   // its future is dropped here: it is dead
//! }
//! fake.revive();
//!
//! // Time passes; what is left over?
//! while fake.advance_to_next_event() {}
//! let left = fake.snapshot();
//! assert!(left.since(&before).is_empty());
//! assert_eq!(fake.counts().writes, 0);
//! # });
//! ```
//!
//! [`FakeAws::handle`] answers a request without a socket, and
//! [`FakeAws::detached`] is a fake that has none. [`FakeAws::edit`] changes
//! what there is behind everybody's back, and [`FakeAws::inspect`] looks.
//! `Fixtures::cluster("demo")` is there from the start ([`fixtures`]).

pub mod actions;
mod admin;
pub mod calls;
pub mod clock;
pub mod config;
mod datapath;
mod ec2;
mod elb;
pub mod error;
pub mod faults;
pub mod fixtures;
mod gate;
mod health;
pub mod model;
pub mod params;
pub mod scope;
mod server;
pub mod snapshot;
mod sts;
pub mod throttle;
pub mod xml;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_fakecloud::addresses::{AddressError, Addresses};
use http::{Request, Response};
use hyper::body::Bytes;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

pub use actions::{ACTIONS, Kind};
pub use calls::{CallRecord, Counts, Outcome};
pub use clock::Pace;
pub use config::{Config, DataPath, Quotas, Timing};
pub use faults::{Effect, Fault, Held, Matching, Phase};
pub use fixtures::Fixtures;
pub use gate::Cut;
pub use model::Region;
pub use params::Service;
pub use snapshot::{Resource, ResourceKind, Snapshot};
pub use throttle::Throttling;

use datapath::Supervisor;
use gate::Shared;

/// Why a fake could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its address can't be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The data path's interface can't be used.
    #[error(transparent)]
    Addresses(#[from] AddressError),
}

/// A fake. Clones are the same one; it ends with the last of them, or with
/// [`stop`](Self::stop).
#[derive(Clone, Debug)]
pub struct FakeAws {
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    tasks: TaskTracker,
    _end: Arc<DropGuard>,
}

impl FakeAws {
    /// Starts a fake that listens.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let address = config.listen;
        let listen = |source| StartError::Listen { address, source };
        let (listener, bound) = server::listen(address).await.map_err(listen)?;
        let data_path = config.data_path.clone();
        let fake = Self {
            address: Some(bound),
            ..Self::build(config)
        };
        if let Some(data_path) = data_path {
            let addresses =
                Addresses::open(data_path.interface.as_deref(), &data_path.pools).await?;
            let supervisor = Supervisor::new(
                Arc::clone(&fake.shared),
                addresses,
                &data_path.pools,
                data_path.hosts_file,
            );
            fake.tasks.spawn(supervisor.run());
        }
        let tasks = fake.tasks.clone();
        fake.tasks
            .spawn(server::serve(listener, Arc::clone(&fake.shared), tasks));
        Ok(fake)
    }

    /// A fake without a socket or a data path, for [`handle`](Self::handle)
    /// only.
    pub fn detached(config: Config) -> Self {
        Self::build(Config {
            data_path: None,
            ..config
        })
    }

    fn build(config: Config) -> Self {
        let shared = Arc::new(Shared::new(config));
        Self {
            address: None,
            tasks: TaskTracker::new(),
            _end: Arc::new(shared.stopping.clone().drop_guard()),
            shared,
        }
    }

    /// Answers one request, as over HTTP.
    pub async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        server::answer(&self.shared, request).await
    }

    /// Where it listens, as `http://127.0.0.1:PORT`; empty without a socket.
    pub fn endpoint(&self) -> String {
        self.address
            .map(|address| format!("http://{address}"))
            .unwrap_or_default()
    }

    /// Back to the fixtures, without faults, record, or time passed. Calls that
    /// wait are cut.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Cuts all connections and returns when everything has ended.
    pub async fn stop(self) {
        self.shared.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    // Time

    /// Its time: since the start, at its pace.
    pub fn now(&self) -> Duration {
        self.shared.world().clock.now()
    }

    /// Moves its time forward.
    pub fn advance(&self, by: Duration) {
        self.shared.world().clock.advance(by);
        self.shared.notify();
    }

    /// How long until time changes something by itself: a load balancer becomes
    /// active, a target healthy, an interface is released. None if nothing is
    /// due.
    pub fn next_event(&self) -> Option<Duration> {
        let world = self.shared.world();
        let now = world.clock.now();
        world
            .places
            .values()
            .filter_map(|place| place.region.next_event(now, &world.timing))
            .min()
            .map(|at| at.saturating_sub(now))
    }

    /// Moves its time forward to the next such event; false if nothing is due.
    pub fn advance_to_next_event(&self) -> bool {
        match self.next_event() {
            Some(by) => {
                self.advance(by);
                true
            }
            None => false,
        }
    }

    /// Changes how long things take from now on.
    pub fn set_timing(&self, timing: Timing) {
        self.shared.world().timing = timing;
    }

    /// Switches token buckets on (full ones) or off.
    pub fn set_throttling(&self, throttling: Option<Throttling>) {
        self.shared.throttle(throttling);
    }

    // Faults

    /// Arms a fault; its number.
    ///
    /// # Panics
    ///
    /// If its status is not an error's.
    pub fn inject(&self, fault: Fault) -> u64 {
        match self.shared.world().faults.add(fault) {
            Ok(id) => id,
            Err(error) => panic!("{error}"),
        }
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        self.shared.world().faults.clear();
    }

    /// Lets calls go on that are held ([`Effect::Hold`]); how many.
    pub fn release(&self) -> usize {
        self.shared.world().faults.release()
    }

    /// The calls that wait because of a fault.
    pub fn held(&self) -> Vec<Held> {
        self.shared.world().faults.held().to_vec()
    }

    /// Returns when so many calls wait because of faults.
    pub async fn until_held(&self, calls: usize) {
        let mut holding = self.shared.world().faults.holding();
        // The sender lives as long as the world.
        let _ = holding.wait_for(|held| *held >= calls).await;
    }

    /// Callers die at the matching call number `nth` (from 0): before or after
    /// its work. From there on no call has any effect, nor gets an answer, until
    /// [`revive`](Self::revive).
    pub fn crash_at(&self, matching: Matching, nth: u64, phase: Phase) -> CrashPoint {
        let fault = Fault {
            matching,
            effect: Effect::Crash,
            phase,
            skip: nth,
            count: 1,
        };
        let reached = self.shared.world().faults.crashes();
        let before = *reached.borrow();
        self.inject(fault);
        CrashPoint { reached, before }
    }

    /// Callers live again: calls that hung because of a crash are cut, and
    /// crashes that were not reached are disarmed.
    pub fn revive(&self) {
        self.shared.world().faults.revive();
    }

    // Record

    /// All calls since the record was cleared (at most the last 100,000),
    /// oldest first.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.shared.world().calls.all()
    }

    /// How many calls there were since the record was cleared.
    pub fn counts(&self) -> Counts {
        self.shared.world().calls.counts().clone()
    }

    /// Clears the record.
    pub fn clear_calls(&self) {
        self.shared.world().calls.clear();
    }

    // Contents

    /// What exists in the fixtures' account and region.
    pub fn snapshot(&self) -> Snapshot {
        self.inspect(Snapshot::of)
    }

    /// Looks at the fixtures' account and region.
    pub fn inspect<T>(&self, look: impl FnOnce(&Region) -> T) -> T {
        self.edit(|region| look(region))
    }

    /// Changes the fixtures' account and region behind everybody's back, as
    /// people with a console do. `change` must not call the fake.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Region) -> T) -> T {
        let fixtures = &self.shared.config.fixtures;
        self.edit_in(&fixtures.account, &fixtures.region, change)
    }

    /// The same in any account and region.
    pub fn edit_in<T>(
        &self,
        account: &str,
        region: &str,
        change: impl FnOnce(&mut Region) -> T,
    ) -> T {
        let mut world = self.shared.world();
        let now = world.clock.now();
        let region = &mut world.place(account, region).region;
        region.settle(now);
        let result = change(region);
        drop(world);
        self.shared.notify();
        result
    }
}

/// Where callers are to die.
#[derive(Debug)]
pub struct CrashPoint {
    reached: watch::Receiver<u64>,
    before: u64,
}

impl CrashPoint {
    /// Returns when they have died.
    pub async fn reached(&mut self) {
        let before = self.before;
        if self
            .reached
            .wait_for(|crashes| *crashes > before)
            .await
            .is_err()
        {
            // The fake was reset: this point will never be reached.
            std::future::pending::<()>().await;
        }
    }

    /// Whether they have died.
    pub fn was_reached(&self) -> bool {
        *self.reached.borrow() > self.before
    }
}
