//! Real health checks: one task per target asks at its group's pace and gives
//! its verdict.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_fakecloud::health::{connect, get};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::gate::Shared;
use crate::model::{HealthCheck, TargetGroup, TargetKey, Verdict};

/// How a target is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    target: SocketAddr,
    how: HealthCheck,
}

impl Check {
    /// The check of a target of a group.
    pub fn of(group: &TargetGroup, traffic: SocketAddr) -> Self {
        let port = group.health_check.port.parse().unwrap_or(traffic.port());
        Self {
            target: SocketAddr::new(traffic.ip(), port),
            how: group.health_check.clone(),
        }
    }

    /// Asks once. HTTPS is asked as TCP: that the port opens.
    async fn ask(&self) -> Result<(), String> {
        if self.how.protocol != "HTTP" {
            return connect(self.target).await.map(|_| ());
        }
        let path = self.how.path.as_deref().unwrap_or("/");
        let status = get(self.target, path).await?;
        if matches(self.how.matcher.as_deref().unwrap_or("200-399"), status) {
            return Ok(());
        }
        Err(format!("{}{path} answers {status}", self.target))
    }
}

/// Whether a status is one of `200`, `200-399`, `200,301`.
fn matches(codes: &str, status: u16) -> bool {
    codes.split(',').any(|part| match part.split_once('-') {
        Some((first, last)) => {
            let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
            range.is_some_and(|(first, last)| (first..=last).contains(&status))
        }
        None => part.parse() == Ok(status),
    })
}

/// Counts results until they make a verdict.
#[derive(Debug, Default)]
struct Judge {
    verdict: Option<Verdict>,
    /// Results in a row that speak against the verdict.
    against: u32,
}

impl Judge {
    /// Takes a result; the verdict, if it is a new one. The first success of a
    /// new target decides in its favour.
    fn hear(&mut self, success: bool, check: &HealthCheck) -> Option<Verdict> {
        let opinion = if success {
            Verdict::Healthy
        } else {
            Verdict::Unhealthy
        };
        if self.verdict == Some(opinion) {
            self.against = 0;
            return None;
        }
        let needed = match (self.verdict, success) {
            (None, true) => 1,
            (_, true) => check.healthy,
            (_, false) => check.unhealthy,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.verdict = Some(opinion);
        Some(opinion)
    }
}

/// Checks one target (group's ARN, id, port) until cancelled. Intervals and
/// time-outs are of the fake's time where that runs.
pub(crate) async fn watch_target(
    shared: Arc<Shared>,
    (group, id, port): (String, String, u16),
    check: Check,
    cancel: CancellationToken,
) {
    let world_time = |seconds: u32| {
        let time = Duration::from_secs(seconds.into());
        shared.world().clock.in_the_world(time).unwrap_or(time)
    };
    let interval = world_time(check.how.interval);
    let patience = world_time(check.how.timeout);
    let key = TargetKey { id, port };
    let work = async {
        let mut judge = Judge::default();
        loop {
            let begun = Instant::now();
            let result = match timeout(patience, check.ask()).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {patience:?}")),
            };
            if let Some(verdict) = judge.hear(result.is_ok(), &check.how) {
                tracing::info!(
                    target_group = group,
                    target = key.id,
                    port,
                    ?verdict,
                    reason = result.err(),
                    "target health"
                );
                record(&shared, &group, &key, verdict);
            }
            sleep_until(begun + interval).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = cancel.cancelled() => {}
        () = shared.stopping.cancelled() => {}
    }
}

fn record(shared: &Shared, group: &str, key: &TargetKey, verdict: Verdict) {
    for place in shared.world().places.values_mut() {
        if let Some(target) = place
            .region
            .target_groups
            .get_mut(group)
            .and_then(|group| group.targets.get_mut(key))
        {
            target.verdict = Some(verdict);
        }
    }
    shared.notify();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_decide_but_the_first_success_is_enough() {
        let check = HealthCheck {
            protocol: "TCP".into(),
            port: "traffic-port".into(),
            path: None,
            matcher: None,
            interval: 10,
            timeout: 10,
            healthy: 3,
            unhealthy: 2,
        };
        let mut judge = Judge::default();
        let mut verdicts = |results: &str| -> Vec<Option<Verdict>> {
            results
                .chars()
                .map(|c| judge.hear(c == '+', &check))
                .collect()
        };
        let (up, down) = (Some(Verdict::Healthy), Some(Verdict::Unhealthy));
        assert_eq!(verdicts("-+-+--"), [None, up, None, None, None, down]);
        assert_eq!(verdicts("++-+++"), [None, None, None, None, None, up]);
    }

    #[test]
    fn codes_are_numbers_and_ranges() {
        assert!(matches("200-399", 301) && !matches("200-399", 404));
        assert!(matches("200,404", 404) && !matches("200", 201));
    }
}
