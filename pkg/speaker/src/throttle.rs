//! Whether a CPU limit keeps this speaker from running: then its heartbeats come
//! late, and the fast profile is not to be had.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::events::NodeNote;
use crate::metrics::Metrics;

const PERIOD: Duration = Duration::from_secs(10);

/// So much within a period is told.
const WORTH_TELLING: Duration = Duration::from_millis(20);

/// After so many periods without it is told anew.
const CALM: u32 = 30;

/// What is told of throttling.
#[derive(Debug, Default)]
struct Throttle {
    before: Option<Duration>,
    /// Periods since the last one that was worth telling; none if there was none.
    calm: Option<u32>,
}

impl Throttle {
    /// Takes in for how long the kernel has kept this process from running since it
    /// began, once in a period. Gives by how much that grew where it is to be told:
    /// once, until there was none of it for some minutes.
    fn look(&mut self, now: Duration) -> Option<Duration> {
        let grown = now.saturating_sub(self.before.replace(now).unwrap_or(now));
        if grown < WORTH_TELLING {
            self.calm = self.calm.map(|periods| periods + 1).filter(|p| *p < CALM);
            return None;
        }
        self.calm.replace(0).is_none().then_some(grown)
    }
}

/// Looks every ten seconds, and never returns. Without a limit there is nothing to see.
/// An event on the node tells of it, too.
pub(crate) async fn follow(
    metrics: Arc<Metrics>,
    node: String,
    uid: watch::Receiver<String>,
    notes: mpsc::Sender<NodeNote>,
) {
    let mut throttle = Throttle::default();
    loop {
        if let Some(now) = throttled() {
            metrics.throttled.set(now.as_secs_f64());
            if let Some(grown) = throttle.look(now) {
                let text = format!(
                    "a CPU limit kept the speaker from running for {} ms within {} s, so that it \
                     may be taken for dead; take resources.limits.cpu off the DaemonSet",
                    grown.as_millis(),
                    PERIOD.as_secs()
                );
                tracing::warn!("{text}");
                let note = NodeNote {
                    node: node.clone(),
                    uid: uid.borrow().clone(),
                    reason: "SpeakerThrottled",
                    text,
                };
                if notes.try_send(note).is_err() {
                    tracing::debug!("too many events at once");
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn throttled() -> Option<Duration> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    places(&own)
        .into_iter()
        .find_map(|place| parse(&fs::read_to_string(place).ok()?))
}

/// Where the kernel's figures of our cgroup may be, by what `/proc/self/cgroup` says. A
/// container sees its own cgroup as the root; a process on the host does not.
fn places(own: &str) -> Vec<String> {
    let place = |line: &str| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        let root = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            _ if controllers.split(',').any(|name| name == "cpu") => {
                format!("/sys/fs/cgroup/{controllers}")
            }
            _ => return None,
        };
        Some([format!("{root}{path}/cpu.stat"), format!("{root}/cpu.stat")])
    };
    own.lines().filter_map(place).flatten().collect()
}

/// The time of a `cpu.stat`: in version 2 of cgroups in microseconds, and only where a
/// limit can be; in version 1 in nanoseconds.
fn parse(text: &str) -> Option<Duration> {
    let number = |name: &str| -> Option<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    };
    let microseconds = number("throttled_usec ").map(Duration::from_micros);
    microseconds.or_else(|| number("throttled_time ").map(Duration::from_nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_until_there_was_none_for_minutes() {
        let ms = Duration::from_millis;
        let mut throttle = Throttle::default();
        assert_eq!(throttle.look(ms(500)), None, "of before we looked");
        assert_eq!(throttle.look(ms(519)), None, "too little");
        assert_eq!(throttle.look(ms(539)), Some(ms(20)));
        assert_eq!(throttle.look(ms(939)), None, "told");
        for _ in 1..CALM {
            assert_eq!(throttle.look(ms(939)), None);
        }
        assert_eq!(throttle.look(ms(1000)), None, "not calm for long enough");
        for _ in 0..CALM {
            assert_eq!(throttle.look(ms(1000)), None);
        }
        assert_eq!(throttle.look(ms(1100)), Some(ms(100)));
    }

    #[test]
    fn the_time_is_read_from_the_kernels_figures() {
        let text = "usage_usec 12\nnr_periods 3\nnr_throttled 1\nthrottled_usec 4500\n";
        assert_eq!(parse(text), Some(Duration::from_micros(4500)));
        assert_eq!(parse("usage_usec 12\n"), None, "no limit");
        assert_eq!(parse("throttled_usec x\n"), None);
        let text = "nr_periods 3\nnr_throttled 1\nthrottled_time 4500000\n";
        assert_eq!(parse(text), Some(Duration::from_micros(4500)), "version 1");
    }

    #[test]
    fn the_figures_are_looked_for_where_our_cgroup_is() {
        assert_eq!(
            places("0::/kubepods/pod1\n"),
            [
                "/sys/fs/cgroup/kubepods/pod1/cpu.stat",
                "/sys/fs/cgroup/cpu.stat"
            ]
        );
        assert_eq!(
            places("5:cpu,cpuacct:/pod1\n4:cpuset:/pod1\nnonsense\n"),
            [
                "/sys/fs/cgroup/cpu,cpuacct/pod1/cpu.stat",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.stat"
            ]
        );
    }
}
