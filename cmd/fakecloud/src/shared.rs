//! What the API, the data path and the health checks share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::calls::CallLog;
use crate::faults::Faults;
use crate::metrics::Metrics;
use crate::state::Cloud;
use crate::throttle::TokenBucket;

/// Everything behind the one lock. Nobody awaits while holding it.
#[derive(Debug)]
pub struct Account {
    /// Load balancers.
    pub cloud: Cloud,
    /// Faults on demand.
    pub faults: Faults,
    /// The call log.
    pub calls: CallLog,
    /// The rate limit, if there is one.
    pub bucket: Option<TokenBucket>,
}

/// Shared by all tasks.
#[derive(Debug)]
pub struct Shared {
    account: Mutex<Account>,
    changed: watch::Sender<()>,
    /// Metrics.
    pub metrics: Metrics,
    /// The process ends: calls that hang must give up.
    pub stopping: CancellationToken,
}

impl Shared {
    /// Shares an account.
    pub fn new(account: Account, stopping: CancellationToken) -> Self {
        Self {
            account: Mutex::new(account),
            changed: watch::Sender::new(()),
            metrics: Metrics::default(),
            stopping,
        }
    }

    /// The account, for as long as the guard lives. A panic elsewhere does not
    /// take it away: every change to it is whole or refused.
    pub fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the data path that there may be something to do.
    pub fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Hears [`notify`](Self::notify).
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
