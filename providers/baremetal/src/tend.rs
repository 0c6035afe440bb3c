//! What sources are told beside the work on Services: what is not needed any more is
//! given back until that succeeds, and now and then their lists are compared with who
//! has what, so that nothing is left over and nothing is given to others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use herald_provider::ProviderError;
use tokio::time::sleep_until;

use crate::BareMetal;
use crate::source::{Source, SourceError};

/// Lists are compared this often.
const AUDIT_PERIOD: Duration = Duration::from_mins(5);
/// After the beginning of a term: what the last leader asked for and did not come to
/// write is asked for again before.
const AUDIT_FIRST: Duration = Duration::from_secs(5);
/// A pool that is deleted is looked at this often until its source has nothing of it.
const CLOSING_PERIOD: Duration = Duration::from_secs(2);

/// Whether something may be done outside, asked before each call.
pub(crate) type MayAct<'a> = &'a (dyn Fn() -> Result<(), ProviderError> + Sync);

impl BareMetal {
    /// Runs for as long as a term.
    pub(crate) async fn tend_sources(&self, may: MayAct<'_>, stirred: &(dyn Fn() + Sync)) {
        if self.sources.is_empty() {
            return;
        }
        let begun = Instant::now();
        let mut next: HashMap<String, Instant> = HashMap::new();
        loop {
            let pools = self.sourced().clone();
            next.retain(|pool, _| pools.contains_key(pool));
            let visits = pools.iter().filter_map(|(pool, sourced)| {
                let source = self.sources.get(&sourced.source)?;
                let audit =
                    *next.entry(pool.clone()).or_insert(begun + AUDIT_FIRST) <= Instant::now();
                Some(async move {
                    let again = self.visit(pool, source, audit, sourced.closing, may).await;
                    (pool.clone(), again)
                })
            });
            let visited = join_all(visits.collect::<Vec<_>>()).await;
            for (pool, again) in visited {
                if let Some(again) = again {
                    next.insert(pool, Instant::now() + again);
                }
            }
            if self.allocator().is_stirred() {
                stirred();
            }
            let wake = next.values().min().copied();
            tokio::select! {
                () = self.news.notified() => {}
                () = async {
                    match wake {
                        Some(wake) => sleep_until(wake.into()).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Tells a source what has to be told of a pool; returns when to audit it next,
    /// if that is another time than was planned.
    async fn visit(
        &self,
        pool: &str,
        source: &Arc<Source>,
        audit: bool,
        closing: bool,
        may: MayAct<'_>,
    ) -> Option<Duration> {
        let mut told = self.give_back(pool, source, may).await;
        if told.is_ok() && audit {
            told = self.audit(pool, source, may).await;
            if told.is_ok() {
                told = self.give_back(pool, source, may).await;
            }
        }
        match told {
            Ok(()) if closing => Some(CLOSING_PERIOD),
            Ok(()) => audit.then_some(AUDIT_PERIOD),
            Err(error) => {
                tracing::warn!(pool, %error, "telling the source of a pool; it is tried again");
                Some(source.pause())
            }
        }
    }

    /// Gives back what nobody has any more.
    async fn give_back(
        &self,
        pool: &str,
        source: &Arc<Source>,
        may: MayAct<'_>,
    ) -> Result<(), SourceError> {
        loop {
            may().map_err(|error| not_now(&error))?;
            let Some(id) = self.allocator().next_departing(pool) else {
                return Ok(());
            };
            // Dropped half-way, the whole term ends with it, and its book.
            let told = source.release(pool, &id).await;
            self.allocator().returned(pool, &id, told.is_ok());
            told?;
            tracing::info!(pool, lease = id, source = source.name(), "given back");
        }
    }

    /// Compares what a source lists with who has what.
    async fn audit(
        &self,
        pool: &str,
        source: &Arc<Source>,
        may: MayAct<'_>,
    ) -> Result<(), SourceError> {
        may().map_err(|error| not_now(&error))?;
        let begun = self.allocator().audit_begins(pool);
        // What is being asked for now may be missing in the list.
        let idle = source.is_idle();
        let listed = source.list(pool).await?;
        self.set_emptied(pool, idle && listed.is_empty());
        let missing = self.allocator().audit(pool, listed, begun);
        for request in missing {
            may().map_err(|error| not_now(&error))?;
            let said = match source.put(&request).await {
                Ok(address) if Some(address) == request.address => Ok(()),
                Ok(address) => Err(format!("it gives {address} instead")),
                Err(SourceError::Refused(message)) => Err(message),
                Err(error) => return Err(error),
            };
            let mut allocator = self.allocator();
            if allocator.reclaimed(&request, said) {
                allocator.nudge(request.service.clone());
            }
        }
        Ok(())
    }
}

fn not_now(error: &ProviderError) -> SourceError {
    SourceError::Unavailable(error.to_string())
}
