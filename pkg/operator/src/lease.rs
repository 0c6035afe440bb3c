//! Leader election by a Lease, with the rules of client-go: a lease has run out
//! when *this process* has seen the same record, unchanged, for its duration on
//! its own monotonic clock. No two clocks are ever compared. A fence tells
//! every writer until when the lease surely holds.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// How a lease is held.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// Who we are; unique to this process.
    pub identity: String,
    /// Others wait this long after the last change they saw.
    pub duration: Duration,
    /// We stop this long after the last renewal that succeeded. Shorter than
    /// `duration`.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
}

/// Why the lease is not ours.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// `renew_deadline` or `retry_period` is too long.
    #[error("the lease's duration must exceed its renew deadline, and that its retry period")]
    Config,
    /// Another took it, or it could not be renewed in time.
    #[error("the leader lease is lost; this replica waits for it again")]
    Lost,
}

/// Until when the lease holds.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Whether a write may begin now.
    pub fn holds(&self) -> bool {
        self.until().is_some()
    }

    /// Until when a write that begins now must have ended; `None` if none may
    /// begin.
    pub fn until(&self) -> Option<Instant> {
        let until = *self.0.lock().expect("no holder of the fence panics");
        until.filter(|until| Instant::now() < *until)
    }

    pub(crate) fn set(&self, until: Option<Instant>) {
        *self.0.lock().expect("no holder of the fence panics") = until;
    }
}

/// The record of a lease, as far as the rules care.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    holder: String,
    duration: Duration,
    renewed: Option<Timestamp>,
    transitions: i32,
}

impl Record {
    fn of(spec: &LeaseSpec) -> Self {
        Self {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            // Anybody may write nonsense into a lease.
            duration: Duration::from_secs(
                spec.lease_duration_seconds
                    .and_then(|s| u64::try_from(s).ok())
                    .unwrap_or(0),
            ),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or(0),
        }
    }
}

/// What to do about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours, free, or has run out: write our own.
    Take,
    /// Another's, for this long at least.
    Wait(Duration),
}

/// The rules, without clock or API.
#[derive(Debug)]
struct Elector {
    identity: String,
    seen: Option<(Record, Instant)>,
}

impl Elector {
    fn step(&mut self, now: Instant, record: Option<Record>) -> Step {
        let Some(record) = record else {
            return Step::Take;
        };
        if record.holder.is_empty() || record.holder == self.identity {
            return Step::Take;
        }
        match &self.seen {
            Some((seen, since)) if *seen == record => {
                let left = (*since + record.duration).saturating_duration_since(now);
                if left.is_zero() {
                    Step::Take
                } else {
                    Step::Wait(left)
                }
            }
            _ => {
                let left = record.duration;
                self.seen = Some((record, now));
                if left.is_zero() {
                    Step::Take
                } else {
                    Step::Wait(left)
                }
            }
        }
    }
}

/// Renews a lease that was acquired.
#[derive(Debug)]
pub struct Keeper {
    leases: Api<Lease>,
    config: LeaseConfig,
    elector: Elector,
    fence: Fence,
    renewed: Instant,
    /// The lease as we wrote it last: what a renewal replaces.
    written: Option<Lease>,
}

/// How a try for the lease ended.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Ours,
    /// Another's, for this long at least.
    Others(Duration),
}

/// Waits until the lease is ours. `None` if `stop` came first.
pub async fn acquire(
    client: &Client,
    config: &LeaseConfig,
    stop: &CancellationToken,
) -> Result<(Fence, Option<Keeper>), LeaseError> {
    if config.duration <= config.renew_deadline || config.renew_deadline <= config.retry_period {
        return Err(LeaseError::Config);
    }
    let fence = Fence::default();
    let mut keeper = Keeper {
        leases: Api::namespaced(client.clone(), &config.namespace),
        elector: Elector {
            identity: config.identity.clone(),
            seen: None,
        },
        config: config.clone(),
        fence: fence.clone(),
        renewed: Instant::now(),
        written: None,
    };
    tracing::info!(identity = config.identity, "waiting for the leader lease");
    loop {
        let attempt = tokio::select! {
            () = stop.cancelled() => return Ok((fence, None)),
            attempt = tokio::time::timeout(config.renew_deadline, keeper.attempt()) => attempt,
        };
        let pause = match attempt {
            Ok(Ok(Attempt::Ours)) if fence.holds() => {
                tracing::info!(identity = config.identity, "leading");
                return Ok((fence, Some(keeper)));
            }
            // Looked at no later than it may run out: a dead leader is replaced then.
            Ok(Ok(Attempt::Others(left))) => left.min(config.retry_period),
            Ok(Ok(Attempt::Ours)) => config.retry_period,
            Ok(Err(error)) => {
                tracing::warn!(%error, "trying for the leader lease");
                config.retry_period
            }
            Err(_) => {
                tracing::warn!("trying for the leader lease takes too long");
                config.retry_period
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok((fence, None)),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Keeper {
    /// Renews until `done` is cancelled, then gives the lease back so that the
    /// next leader need not wait. An error if it is lost.
    pub async fn keep(mut self, done: CancellationToken) -> Result<(), LeaseError> {
        loop {
            tokio::select! {
                () = done.cancelled() => {
                    self.fence.set(None);
                    self.release().await;
                    return Ok(());
                }
                () = tokio::time::sleep(self.config.retry_period) => {}
            }
            let left = (self.renewed + self.config.renew_deadline)
                .saturating_duration_since(Instant::now());
            let attempt = tokio::time::timeout(left, self.attempt()).await;
            match attempt {
                Ok(Ok(Attempt::Ours)) => {}
                Ok(Ok(Attempt::Others(_))) => {
                    self.fence.set(None);
                    return Err(LeaseError::Lost);
                }
                Ok(Err(error)) => tracing::warn!(%error, "renewing the leader lease"),
                Err(_) => tracing::warn!("renewing the leader lease takes too long"),
            }
            if self.renewed.elapsed() >= self.config.renew_deadline {
                self.fence.set(None);
                return Err(LeaseError::Lost);
            }
        }
    }

    /// Writes the lease, if it is ours or the rules allow to take it. While it is
    /// ours that is one request: the resource version of the last write is the
    /// precondition of the next.
    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        if let Some(written) = self.written.take()
            && self.write(Some(written)).await?
        {
            return Ok(Attempt::Ours);
        }
        let current = self.leases.get_opt(&self.config.name).await?;
        let record = current
            .as_ref()
            .and_then(|lease| lease.spec.as_ref())
            .map(Record::of);
        if let Step::Wait(left) = self.elector.step(Instant::now(), record) {
            return Ok(Attempt::Others(left));
        }
        if self.write(current).await? {
            return Ok(Attempt::Ours);
        }
        // Another wrote in between; the next look tells who.
        Ok(Attempt::Others(Duration::ZERO))
    }

    /// Makes the lease ours in the place of `current`; false if that is not what
    /// stands there any more.
    async fn write(&mut self, current: Option<Lease>) -> Result<bool, kube::Error> {
        let spec = current.as_ref().and_then(|lease| lease.spec.clone());
        let exists = current.is_some();
        let metadata = current.map_or_else(
            || ObjectMeta {
                name: Some(self.config.name.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata,
        );
        let lease = Lease {
            metadata,
            spec: Some(renewal(&self.config, spec)),
        };
        // Counted from before the request: the lease may have begun then.
        let before = Instant::now();
        let parameters = PostParams::default();
        let written = if exists {
            self.leases
                .replace(&self.config.name, &parameters, &lease)
                .await
        } else {
            self.leases.create(&parameters, &lease).await
        };
        match written {
            Ok(lease) => {
                self.written = Some(lease);
                self.renewed = before;
                self.fence.set(Some(before + self.config.renew_deadline));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn release(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.config.name).await else {
            return;
        };
        let Some(spec) = lease.spec.as_mut() else {
            return;
        };
        if spec.holder_identity.as_ref() != Some(&self.config.identity) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        if let Err(error) = self
            .leases
            .replace(&self.config.name, &PostParams::default(), &lease)
            .await
        {
            tracing::warn!(%error, "giving the leader lease back");
        }
    }
}

/// The record by which we hold the lease, after another or a former one of ours.
fn renewal(config: &LeaseConfig, former: Option<LeaseSpec>) -> LeaseSpec {
    let wall = MicroTime(Timestamp::now());
    let record = former.as_ref().map(Record::of);
    let ours = record
        .as_ref()
        .is_some_and(|record| record.holder == config.identity);
    // The API has whole seconds; others must not wait for less than we say.
    let seconds = config.duration.as_secs() + u64::from(config.duration.subsec_nanos() > 0);
    LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: i32::try_from(seconds).ok(),
        acquire_time: former
            .and_then(|spec| spec.acquire_time)
            .filter(|_| ours)
            .or_else(|| Some(wall.clone())),
        renew_time: Some(wall),
        lease_transitions: Some(record.map_or(0, |record| {
            record.transitions.saturating_add(i32::from(!ours))
        })),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, renewed: i64) -> Record {
        Record {
            holder: holder.into(),
            duration: Duration::from_secs(15),
            renewed: Timestamp::from_second(renewed).ok(),
            transitions: 0,
        }
    }

    fn elector() -> (Elector, Instant) {
        (
            Elector {
                identity: "me".into(),
                seen: None,
            },
            Instant::now(),
        )
    }

    #[test]
    fn a_free_lease_is_taken_at_once() {
        let (mut elector, now) = elector();
        assert_eq!(elector.step(now, None), Step::Take);
        assert_eq!(elector.step(now, Some(record("", 0))), Step::Take);
        assert_eq!(elector.step(now, Some(record("me", 0))), Step::Take);
    }

    #[test]
    fn a_lease_runs_out_when_it_was_seen_unchanged_for_its_duration() {
        let (mut elector, now) = elector();
        // However old the holder's clock says it is.
        let wait = |millis| Step::Wait(Duration::from_millis(millis));
        assert_eq!(elector.step(now, Some(record("other", 0))), wait(15_000));
        let almost = now + Duration::from_millis(14_999);
        assert_eq!(elector.step(almost, Some(record("other", 0))), wait(1));
        assert_eq!(
            elector.step(now + Duration::from_secs(15), Some(record("other", 0))),
            Step::Take
        );
    }

    #[test]
    fn a_renewal_starts_the_wait_anew() {
        let (mut elector, now) = elector();
        elector.step(now, Some(record("other", 0)));
        let later = now + Duration::from_secs(14);
        let wait = |seconds| Step::Wait(Duration::from_secs(seconds));
        assert_eq!(elector.step(later, Some(record("other", 1))), wait(15));
        assert_eq!(
            elector.step(later + Duration::from_secs(14), Some(record("other", 1))),
            wait(1)
        );
        assert_eq!(
            elector.step(later + Duration::from_secs(15), Some(record("other", 1))),
            Step::Take
        );
    }

    /// In steps of 10 ms: a holder that renews until it is stopped, and a waiter whose
    /// wall clock is off and whose clock runs at another speed.
    #[test]
    fn no_clock_makes_two_leaders() {
        let millis = Duration::from_millis;
        for (wall, percent, stopped) in [-86_400, 0, 86_400]
            .into_iter()
            .flat_map(|wall| [80, 100, 125].map(|percent| (wall, percent)))
            .flat_map(|(wall, percent)| [0, 490, 500, 3010].map(|stopped| (wall, percent, stopped)))
        {
            let (mut waiter, begin) = elector();
            let mut fence = 0;
            let mut lease = None;
            let took = (0..).step_by(10).find(|now: &u64| {
                if *now <= stopped && now % 500 == 0 {
                    fence = now + 1500;
                    let renewed = i64::try_from(*now).unwrap() / 1000 + wall;
                    let transitions = i32::try_from(now / 500).unwrap();
                    lease = Some(Record {
                        duration: millis(2000),
                        transitions,
                        ..record("other", renewed)
                    });
                }
                let clock = begin + millis(now * percent / 100);
                waiter.step(clock, lease.clone()) == Step::Take
            });
            let took = took.expect("a holder that is stopped is replaced");
            assert!(
                took >= fence,
                "{wall} s off, {percent} %, stopped at {stopped} ms: taken at {took}, fence at {fence}"
            );
            assert!(took <= stopped + 2600, "taken only at {took} ms");
        }
    }

    #[test]
    fn a_fence_falls_by_itself() {
        let fence = Fence::default();
        assert!(!fence.holds());
        fence.set(Some(Instant::now() + Duration::from_mins(1)));
        assert!(fence.holds());
        fence.set(Some(Instant::now()));
        assert!(
            !fence.holds(),
            "a leader that was paused past its deadline writes nothing"
        );
    }
}
