//! Where calls wait for the budget.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::actions::Action;
use crate::budget::{Answer, Budget, Family, Need};
use crate::client::CallError;

/// On whose behalf a call is made.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// A Service's UID, or what else has a turn of its own.
    pub who: &'a str,
    /// Whether somebody waits for it.
    pub need: Need,
}

impl<'a> Caller<'a> {
    /// A Service that waits for the answer.
    pub const fn service(uid: &'a str) -> Self {
        Self {
            who: uid,
            need: Need::Now,
        }
    }

    /// The background check of a Service.
    pub const fn background(uid: &'a str) -> Self {
        Self {
            who: uid,
            need: Need::Background,
        }
    }
}

/// The budget, and how long a call stands before it.
#[derive(Debug)]
pub(crate) struct Gate {
    budget: Mutex<Budget>,
    /// Whoever would have to wait for longer comes back later, so that the
    /// operator's workers are free for others.
    patience: Duration,
}

impl Gate {
    pub(crate) const fn new(budget: Budget, patience: Duration) -> Self {
        Self {
            budget: Mutex::new(budget),
            patience,
        }
    }

    pub(crate) async fn pass(&self, action: Action, caller: Caller<'_>) -> Result<(), CallError> {
        let until = Instant::now() + self.patience;
        loop {
            let now = Instant::now();
            let answer =
                self.with(|budget| budget.ask(now, action.family(), caller.need, caller.who));
            let Answer::Wait(wait) = answer else {
                return Ok(());
            };
            if now + wait > until {
                return Err(CallError::Later {
                    action,
                    after: wait,
                });
            }
            sleep(wait).await;
        }
    }

    pub(crate) fn throttled(&self, family: Family) {
        self.with(|budget| budget.throttled(Instant::now(), family));
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Budget) -> T) -> T {
        f(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
