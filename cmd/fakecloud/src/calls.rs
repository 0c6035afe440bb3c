//! The call log: who called what, in which order, and what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::faults::{Operation, millis};

/// How many calls the log keeps; the counters go on.
const KEPT: usize = 10_000;

/// One call.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// Its number, from 1, never used twice.
    pub number: u64,
    /// What was called.
    pub operation: Operation,
    /// Which load balancer, by name or id; empty for lists without a name.
    pub subject: String,
    /// When it came, in milliseconds since 1970.
    pub unix_millis: u64,
    /// `pending`; then the status, with the error's code if it was one; or
    /// `abandoned` if the caller went away first.
    pub outcome: String,
}

/// Answer of `GET /v1/calls`.
#[derive(Clone, Debug, Serialize)]
pub struct CallReport {
    /// Calls since the log was last cleared.
    pub total: u64,
    /// Finished calls since then, by operation and outcome.
    pub counts: BTreeMap<Operation, BTreeMap<String, u64>>,
    /// The last 10 000 of them, oldest first.
    pub calls: Vec<CallRecord>,
}

/// All calls.
#[derive(Debug, Default)]
pub struct CallLog {
    last: u64,
    total: u64,
    counts: BTreeMap<Operation, BTreeMap<String, u64>>,
    calls: VecDeque<CallRecord>,
}

impl CallLog {
    /// Notes a call that begins; returns its number.
    pub fn begin(&mut self, operation: Operation, subject: &str, at: SystemTime) -> u64 {
        self.last += 1;
        self.total += 1;
        if self.calls.len() == KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(CallRecord {
            number: self.last,
            operation,
            subject: subject.to_owned(),
            unix_millis: millis(at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)),
            outcome: "pending".into(),
        });
        self.last
    }

    /// Notes how a call ended. Calls that the log no longer has are passed
    /// over.
    pub fn finish(&mut self, number: u64, outcome: String) {
        // Numbers in the log follow each other without a gap.
        let Some(first) = self.calls.front().map(|call| call.number) else {
            return;
        };
        let Some(call) = number
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| self.calls.get_mut(index))
        else {
            return;
        };
        *self
            .counts
            .entry(call.operation)
            .or_default()
            .entry(outcome.clone())
            .or_default() += 1;
        call.outcome = outcome;
    }

    /// Forgets all calls and counters; numbers go on.
    pub fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    /// All that is known.
    pub fn report(&self) -> CallReport {
        CallReport {
            total: self.total,
            counts: self.counts.clone(),
            calls: self.calls.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_outcome_and_survive_clearing_in_between() {
        let mut log = CallLog::default();
        let at = UNIX_EPOCH + Duration::from_millis(5);
        let first = log.begin(Operation::SetTargets, "lb-1", at);
        log.clear();
        let second = log.begin(Operation::GetLoadBalancer, "lb-1", at);
        assert_eq!(log.report().calls[0].outcome, "pending");
        log.finish(first, "200".into());
        log.finish(second, "404 NotFound".into());
        let report = log.report();
        assert_eq!((report.total, report.calls[0].unix_millis), (1, 5));
        assert_eq!(report.calls[0].outcome, "404 NotFound");
        assert_eq!(
            report.counts[&Operation::GetLoadBalancer]["404 NotFound"],
            1
        );
        assert!(!report.counts.contains_key(&Operation::SetTargets));
    }

    #[test]
    fn the_log_is_bounded_but_the_counters_are_not() {
        let mut log = CallLog::default();
        for _ in 0..KEPT + 5 {
            let number = log.begin(Operation::ListLoadBalancers, "", UNIX_EPOCH);
            log.finish(number, "200".into());
        }
        let report = log.report();
        assert_eq!(report.calls.len(), KEPT);
        assert_eq!(
            report.counts[&Operation::ListLoadBalancers]["200"],
            KEPT as u64 + 5
        );
    }
}
