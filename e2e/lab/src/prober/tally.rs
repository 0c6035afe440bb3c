//! What became of the probes: counts, and the longest time without an answer.
//! Pure: times come from the caller, measured from the start.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an answer says, as far as it says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The pod that answered.
    pub pod: Option<String>,
    /// The client's address as the pod saw it.
    pub client: Option<String>,
}

/// Counts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Probes sent.
    pub sent: u64,
    /// Probes answered.
    pub answered: u64,
    /// Probes that had no answer in time.
    pub lost: u64,
}

/// The whole of a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// What was probed.
    pub target: String,
    /// When the first probe was sent.
    pub began: Timestamp,
    /// Probes sent.
    pub sent: u64,
    /// Probes answered.
    pub answered: u64,
    /// Probes that had no answer in time, or an error.
    pub lost: u64,
    /// Milliseconds from the first probe to the first answer.
    pub first_answer_ms: Option<u64>,
    /// The longest time without an answer, in milliseconds: between two
    /// answers, or from the first probe to the first answer, or from the last
    /// answer to the last probe. Never much below the time between two probes.
    pub longest_gap_ms: u64,
    /// When that began.
    pub gap_began: Timestamp,
    /// The longest time by which the prober itself was late with a probe, in
    /// milliseconds: a gap is only as good as this is small.
    pub longest_stall_ms: u64,
    /// Answers by pod.
    pub answerers: BTreeMap<String, u64>,
    /// Answers by the client's address that the pod saw.
    pub clients: BTreeMap<String, u64>,
    /// Why probes were lost, with how many.
    pub errors: BTreeMap<String, u64>,
}

impl ProbeReport {
    /// The longest time without an answer.
    pub const fn longest_gap(&self) -> Duration {
        Duration::from_millis(self.longest_gap_ms)
    }
}

/// Counts probes and answers as they come.
#[derive(Debug, Default)]
pub struct Tally {
    progress: Progress,
    interval: Duration,
    last_sent: Duration,
    first_answer: Option<Duration>,
    last_answer: Duration,
    longest_gap: Duration,
    gap_began: Duration,
    longest_stall: Duration,
    answerers: BTreeMap<String, u64>,
    clients: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    /// A tally of probes that are sent every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            ..Self::default()
        }
    }

    /// A probe was sent.
    pub fn sent(&mut self, at: Duration) {
        if self.progress.sent > 0 {
            let late = at.saturating_sub(self.last_sent + self.interval);
            self.longest_stall = self.longest_stall.max(late);
        }
        self.progress.sent += 1;
        self.last_sent = at;
    }

    /// A probe was answered.
    pub fn answered(&mut self, at: Duration, answer: Answer) {
        self.quiet_until(at);
        self.last_answer = at;
        self.first_answer.get_or_insert(at);
        self.progress.answered += 1;
        if let Some(pod) = answer.pod {
            *self.answerers.entry(pod).or_default() += 1;
        }
        if let Some(client) = answer.client {
            *self.clients.entry(client).or_default() += 1;
        }
    }

    /// A probe had no answer in time, or an error.
    pub fn lost(&mut self, why: String) {
        self.progress.lost += 1;
        *self.errors.entry(why).or_default() += 1;
    }

    /// Counts so far.
    pub const fn progress(&self) -> Progress {
        self.progress
    }

    /// The report; `began` is the moment from which times were measured.
    pub fn report(mut self, target: String, began: Timestamp) -> ProbeReport {
        self.quiet_until(self.last_sent);
        ProbeReport {
            target,
            began,
            sent: self.progress.sent,
            answered: self.progress.answered,
            lost: self.progress.lost,
            first_answer_ms: self.first_answer.map(milliseconds),
            longest_gap_ms: milliseconds(self.longest_gap),
            gap_began: began + self.gap_began,
            longest_stall_ms: milliseconds(self.longest_stall),
            answerers: self.answerers,
            clients: self.clients,
            errors: self.errors,
        }
    }

    /// There was no answer since the last one until now.
    fn quiet_until(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.last_answer);
        if gap > self.longest_gap {
            self.longest_gap = gap;
            self.gap_began = self.last_answer;
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Probes every 10 ms until 1 s, answered 1 ms later but for those sent
    /// while it was dark.
    fn measure(dark: &[std::ops::Range<u64>]) -> ProbeReport {
        let mut tally = Tally::new(ms(10));
        for at in (0..1000).step_by(10) {
            tally.sent(ms(at));
            if dark.iter().any(|dark| dark.contains(&at)) {
                tally.lost("timed out".into());
            } else {
                tally.answered(ms(at + 1), Answer::default());
            }
        }
        tally.report("udp://192.0.2.1:1".into(), Timestamp::UNIX_EPOCH)
    }

    fn began_ms(report: &ProbeReport) -> i64 {
        report.gap_began.as_millisecond()
    }

    #[test]
    fn without_loss_the_gap_is_the_time_between_two_probes() {
        let report = measure(&[]);
        assert_eq!((report.sent, report.answered, report.lost), (100, 100, 0));
        assert_eq!(report.longest_gap(), ms(10));
    }

    #[test]
    fn the_longest_of_several_gaps_counts_from_the_last_answer_before_it() {
        let report = measure(&[100..150, 300..500, 700..710]);
        assert_eq!(report.lost, 5 + 20 + 1);
        assert_eq!(report.longest_gap(), ms(210));
        assert_eq!(began_ms(&report), 291);
    }

    #[test]
    fn darkness_at_the_start_and_at_the_end_counts() {
        let report = measure(&[0..400, 600..700]);
        assert_eq!(report.longest_gap(), ms(401));
        assert_eq!(report.first_answer_ms, Some(401));
        let report = measure(std::slice::from_ref(&(800..2000)));
        assert_eq!(report.longest_gap(), ms(990 - 791));
        assert_eq!(began_ms(&report), 791);
    }

    #[test]
    fn never_an_answer_is_one_gap() {
        let report = measure(std::slice::from_ref(&(0..2000)));
        assert_eq!(report.longest_gap(), ms(990));
        assert_eq!(began_ms(&report), 0);
        assert_eq!(report.first_answer_ms, None);
        assert_eq!(report.errors["timed out"], 100);
    }

    #[test]
    fn answers_that_come_late_and_out_of_order_still_end_a_gap_when_they_come() {
        let mut tally = Tally::new(ms(10));
        for at in [0, 10, 20, 30] {
            tally.sent(ms(at));
        }
        tally.answered(ms(1), Answer::default());
        // Two probes waited in a queue for the neighbour's address.
        tally.answered(ms(900), Answer::default());
        tally.answered(ms(900), Answer::default());
        tally.answered(ms(901), Answer::default());
        let report = tally.report(String::new(), Timestamp::UNIX_EPOCH);
        assert_eq!((report.lost, report.longest_gap()), (0, ms(899)));
    }

    #[test]
    fn the_probers_own_stall_is_told() {
        let mut tally = Tally::new(ms(10));
        for at in [0, 10, 60, 70] {
            tally.sent(ms(at));
            tally.answered(ms(at), Answer::default());
        }
        let report = tally.report(String::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(report.longest_stall_ms, 40);
    }

    #[test]
    fn answers_are_counted_by_pod_and_by_client() {
        let mut tally = Tally::new(ms(10));
        for pod in ["a", "b", "a"] {
            tally.answered(
                ms(0),
                Answer {
                    pod: Some(pod.into()),
                    client: Some("192.0.2.9".into()),
                },
            );
        }
        let report = tally.report(String::new(), Timestamp::UNIX_EPOCH);
        assert_eq!(report.answerers["a"], 2);
        assert_eq!(report.clients["192.0.2.9"], 3);
    }
}
