//! Puts the parts together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_core::AddressRange;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::{AddressError, Addresses};
use crate::api;
use crate::calls::CallLog;
use crate::datapath::Supervisor;
use crate::faults::Faults;
use crate::route::Limits;
use crate::shared::{Account, Shared};
use crate::state::{Cloud, Quotas, Settings};
use crate::throttle::TokenBucket;

/// A rate limit of all API calls together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Calls a second.
    pub rate: f64,
    /// Calls at once.
    pub burst: u32,
}

/// How a cloud behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API listens; port 0 for any free one.
    pub listen: SocketAddr,
    /// Where addresses come from.
    pub pools: Vec<AddressRange>,
    /// Where they are plugged; none if the host has them all already.
    pub interface: Option<String>,
    /// From create to active.
    pub provisioning_time: Duration,
    /// From delete to gone.
    pub deletion_time: Duration,
    /// How much there may be.
    pub quotas: Quotas,
    /// How often it may be called; none for as often as you like.
    pub rate_limit: Option<RateLimit>,
    /// Hostnames are `<name>.<domain>`.
    pub domain: String,
    /// The hosts file to keep.
    pub hosts_file: Option<PathBuf>,
    /// Times and numbers of the data path.
    pub limits: Limits,
}

impl Default for Config {
    /// On loopback, with addresses that every Linux host has.
    fn default() -> Self {
        let first = [127, 64, 0, 0].into();
        let last = [127, 64, 255, 255].into();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            pools: AddressRange::new(first, last).into_iter().collect(),
            interface: None,
            provisioning_time: Duration::from_secs(2),
            deletion_time: Duration::from_secs(1),
            quotas: Quotas::default(),
            rate_limit: None,
            domain: "fakecloud.herald.dev".into(),
            hosts_file: None,
            limits: Limits {
                connect_timeout: Duration::from_secs(1),
                drain_time: Duration::from_secs(30),
                flow_idle_time: Duration::from_secs(30),
                flows: 16_384,
            },
        }
    }
}

/// Why a cloud could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The API's address can't be had.
    #[error("cannot listen on {address} for the API")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The interface can't be used.
    #[error(transparent)]
    Addresses(#[from] AddressError),
}

/// A running cloud.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Starts a cloud without load balancers.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let cancel = CancellationToken::new();
        let addresses = Addresses::open(config.interface.as_deref(), &config.pools).await?;
        let listen = |source| StartError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let account = Account {
            cloud: Cloud::new(Settings {
                provisioning_time: config.provisioning_time,
                deletion_time: config.deletion_time,
                quotas: config.quotas,
                domain: config.domain,
                pools: config.pools,
            }),
            faults: Faults::default(),
            calls: CallLog::default(),
            bucket: config
                .rate_limit
                .map(|limit| TokenBucket::new(limit.rate, limit.burst, Instant::now())),
        };
        let shared = Arc::new(Shared::new(account, cancel.clone()));
        let tasks = TaskTracker::new();
        let router = api::router(Arc::clone(&shared));
        let stop = cancel.clone();
        tasks.spawn(async move {
            let served = axum::serve(listener, router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "the API stopped");
            }
        });
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            addresses,
            limits: config.limits,
            hosts_file: config.hosts_file,
        };
        tasks.spawn(supervisor.run(cancel.clone()));
        tasks.close();
        tracing::info!(%address, "the cloud is open");
        Ok(Self {
            address,
            shared,
            cancel,
            tasks,
        })
    }

    /// Where the API listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` and [`address`](Self::address).
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the API and the data path share: metrics, and for tests in the same
    /// process the whole account.
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends calls and connections, takes addresses back from the interface,
    /// and returns when all of that is done.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }
}
