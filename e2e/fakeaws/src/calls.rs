//! The record of all calls, for tests that count them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::actions::{Action, Kind};
use crate::params::{Form, Service};

/// How many calls the record keeps; the counts go on.
const KEPT: usize = 100_000;

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is still under way.
    Pending,
    /// It was answered.
    Ok,
    /// It was refused with this code.
    Error(String),
    /// Its connection was closed without an answer.
    Cut,
    /// Its caller went away before the answer.
    Abandoned,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// Its number, from 1.
    pub number: u64,
    /// Its service.
    pub service: Service,
    /// Its action.
    pub action: String,
    /// Whether it may change something.
    pub kind: Kind,
    /// The caller's account.
    pub account: String,
    /// The region.
    pub region: String,
    /// When it came, in the fake's time.
    pub at: Duration,
    /// When it ended.
    pub ended: Option<Duration>,
    /// Whether its work was done.
    pub done: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// Its parameters as they were sent, tokens left out.
    pub parameters: BTreeMap<String, String>,
}

impl CallRecord {
    /// One of its parameters.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

/// How many calls there were since the record was last cleared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Calls that only look.
    pub reads: u64,
    /// Calls that may change something.
    pub writes: u64,
    /// Of both, those that were refused, cut or abandoned.
    pub failed: u64,
    /// Calls by action.
    pub actions: BTreeMap<String, u64>,
}

impl Counts {
    /// All calls.
    pub const fn total(&self) -> u64 {
        self.reads + self.writes
    }

    /// Calls of one action.
    pub fn of(&self, action: &str) -> u64 {
        self.actions.get(action).copied().unwrap_or(0)
    }
}

/// All calls.
#[derive(Debug, Default)]
pub struct CallLog {
    last: u64,
    counts: Counts,
    calls: VecDeque<CallRecord>,
}

impl CallLog {
    /// Notes a call that begins; its number.
    pub fn begin(
        &mut self,
        action: &Action,
        form: &Form,
        (account, region): (&str, &str),
        at: Duration,
    ) -> u64 {
        self.last += 1;
        match action.kind {
            Kind::Read => self.counts.reads += 1,
            Kind::Write => self.counts.writes += 1,
        }
        *self
            .counts
            .actions
            .entry(action.name.to_owned())
            .or_default() += 1;
        if self.calls.len() == KEPT {
            self.calls.pop_front();
        }
        let mut parameters = form.flat().clone();
        parameters.remove("WebIdentityToken");
        self.calls.push_back(CallRecord {
            number: self.last,
            service: action.service,
            action: action.name.to_owned(),
            kind: action.kind,
            account: account.to_owned(),
            region: region.to_owned(),
            at,
            ended: None,
            done: false,
            outcome: Outcome::Pending,
            parameters,
        });
        self.last
    }

    fn call(&mut self, number: u64) -> Option<&mut CallRecord> {
        // Numbers in the record follow each other without a gap.
        let first = self.calls.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        self.calls.get_mut(index)
    }

    /// Notes that a call's work is done.
    pub fn done(&mut self, number: u64) {
        if let Some(call) = self.call(number) {
            call.done = true;
        }
    }

    /// Notes how a call ended. Calls that the record no longer has are passed
    /// over.
    pub fn finish(&mut self, number: u64, outcome: Outcome, at: Duration) {
        let failed = outcome != Outcome::Ok;
        if let Some(call) = self.call(number) {
            call.outcome = outcome;
            call.ended = Some(at);
            self.counts.failed += u64::from(failed);
        }
    }

    /// Forgets all calls and counts; numbers go on.
    pub fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    /// The last 100,000 calls since it was cleared, oldest first.
    pub fn all(&self) -> Vec<CallRecord> {
        self.calls.iter().cloned().collect()
    }

    /// How many there were.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::find;

    #[test]
    fn calls_are_counted_and_clearing_in_between_harms_nothing() {
        let mut log = CallLog::default();
        let form = Form::parse(b"WebIdentityToken=secret&RoleArn=r").unwrap();
        let read = find(Service::Sts, "AssumeRoleWithWebIdentity").unwrap();
        let write = find(Service::Ec2, "CreateTags").unwrap();
        let scope = ("1", "r");
        let first = log.begin(read, &form, scope, Duration::ZERO);
        log.clear();
        let second = log.begin(write, &form, scope, Duration::ZERO);
        log.finish(first, Outcome::Ok, Duration::ZERO);
        log.done(second);
        log.finish(second, Outcome::Cut, Duration::from_secs(1));
        let counts = log.counts();
        assert_eq!(
            (
                counts.reads,
                counts.writes,
                counts.failed,
                counts.of("CreateTags")
            ),
            (0, 1, 1, 1)
        );
        let call = &log.all()[0];
        assert!(call.done && call.parameter("WebIdentityToken").is_none());
        assert_eq!(call.parameter("RoleArn"), Some("r"));
    }
}
