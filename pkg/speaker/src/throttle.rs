//! Whether a CPU limit keeps this speaker from running: then its heartbeats come
//! late, and the fast profile is not to be had.

use std::fs;
use std::time::Duration;

use crate::metrics::Metrics;

const PERIOD: Duration = Duration::from_secs(10);

/// So much within a period is told.
const WORTH_TELLING: Duration = Duration::from_millis(20);

/// Looks every ten seconds, and never returns. Without a limit, or without a
/// cgroup v2, there is nothing to see.
pub(crate) async fn watch(metrics: &Metrics) {
    let mut before = None;
    let mut told = false;
    loop {
        if let Some(now) = throttled() {
            metrics.throttled.set(now.as_secs_f64());
            let grown = now.saturating_sub(before.unwrap_or(now));
            if grown >= WORTH_TELLING {
                let ms = u64::try_from(grown.as_millis()).unwrap_or(u64::MAX);
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        throttled_ms = ms,
                        "a CPU limit throttles this speaker, so that it may be taken for dead; take \
                         resources.limits.cpu off the DaemonSet"
                    );
                }
            } else {
                told = false;
            }
            before = Some(now);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn throttled() -> Option<Duration> {
    // A container sees its own cgroup as the root; a process on the host does not.
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let text = fs::read_to_string(format!("/sys/fs/cgroup{path}/cpu.stat"))
        .or_else(|_| fs::read_to_string("/sys/fs/cgroup/cpu.stat"))
        .ok()?;
    parse(&text)
}

/// `throttled_usec` of a `cpu.stat`, which is there only where a limit can be.
fn parse(text: &str) -> Option<Duration> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("throttled_usec "))?;
    line.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_from_the_kernels_figures() {
        let text = "usage_usec 12\nnr_periods 3\nnr_throttled 1\nthrottled_usec 4500\n";
        assert_eq!(parse(text), Some(Duration::from_micros(4500)));
        assert_eq!(parse("usage_usec 12\n"), None, "no limit");
        assert_eq!(parse("throttled_usec x\n"), None);
    }
}
