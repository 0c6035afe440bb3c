//! Faults on demand: which call goes wrong next, and how.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::actions::{Action, Kind};
use crate::error::ApiError;
use crate::params::{Form, Service};

/// Which calls a fault is for. What is not said matches every call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Matching {
    /// Calls of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// Calls of this action, such as `CreateLoadBalancer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Reads or writes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Calls with a parameter of exactly this value, such as a name or an ARN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Matching {
    /// Every call.
    pub fn any() -> Self {
        Self::default()
    }

    /// Every call that may change something.
    pub fn writes() -> Self {
        Self {
            kind: Some(Kind::Write),
            ..Self::default()
        }
    }

    /// Every call that only looks.
    pub fn reads() -> Self {
        Self {
            kind: Some(Kind::Read),
            ..Self::default()
        }
    }

    /// Calls of one action.
    pub fn action(name: &str) -> Self {
        Self {
            action: Some(name.to_owned()),
            ..Self::default()
        }
    }

    /// Of these, calls with a parameter of exactly this value.
    #[must_use]
    pub fn with_value(mut self, value: &str) -> Self {
        self.value = Some(value.to_owned());
        self
    }

    /// Whether a call is one of them.
    pub fn matches(&self, action: &Action, form: &Form) -> bool {
        self.service.is_none_or(|service| service == action.service)
            && self.action.as_ref().is_none_or(|name| name == action.name)
            && self.kind.is_none_or(|kind| kind == action.kind)
            && self
                .value
                .as_ref()
                .is_none_or(|value| form.flat().values().any(|other| other == value))
    }
}

/// Before or after the work of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Nothing is done yet.
    #[default]
    Before,
    /// The work is done; the answer is not sent.
    After,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Refused with this status, code and message.
    Error {
        /// HTTP status, 400 to 599.
        status: u16,
        /// Such as `InternalFailure`.
        code: String,
        /// For people.
        message: String,
    },
    /// Refused with the service's own words for too many calls.
    Throttle,
    /// No answer, until the caller gives up. Before: nothing is done, and
    /// nothing ever will be.
    Hang,
    /// The connection is closed without an answer.
    Cut,
    /// Waits for [`FakeAws::release`](crate::FakeAws::release), then goes on.
    Hold,
    /// The caller is dead from here on: this call and every later one of
    /// anybody hangs without effect, until
    /// [`FakeAws::revive`](crate::FakeAws::revive) cuts them.
    Crash,
}

/// A fault that waits for its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Which calls.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// What goes wrong.
    pub effect: Effect,
    /// Before or after the work.
    #[serde(default)]
    pub phase: Phase,
    /// Matching calls that pass unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// How many calls it hits; 0 means until it is cleared.
    #[serde(default = "once")]
    pub count: u64,
}

const fn once() -> u64 {
    1
}

impl Fault {
    /// Hits the next matching call, before its work.
    pub const fn once(matching: Matching, effect: Effect) -> Self {
        Self {
            matching,
            effect,
            phase: Phase::Before,
            skip: 0,
            count: 1,
        }
    }

    /// An error of the caller's choice. Statuses from 500 on are retried by
    /// SDKs.
    pub fn error(matching: Matching, status: u16, code: &str) -> Self {
        Self::once(
            matching,
            Effect::Error {
                status,
                code: code.to_owned(),
                message: "a fault that was asked for".into(),
            },
        )
    }

    /// The same after the work.
    #[must_use]
    pub const fn after(mut self) -> Self {
        self.phase = Phase::After;
        self
    }

    /// The same, after so many matching calls went well.
    #[must_use]
    pub const fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// The same for so many calls; 0 for all.
    #[must_use]
    pub const fn times(mut self, calls: u64) -> Self {
        self.count = calls;
        self
    }
}

/// An armed fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Armed {
    /// Its number, from 1.
    pub id: u64,
    /// Calls hit so far.
    pub hits: u64,
    /// What was asked for; `skip` and `count` are what is left of them.
    #[serde(flatten)]
    pub fault: Fault,
}

/// A call that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Its number in the record of calls.
    pub call: u64,
    /// Its action.
    pub action: String,
    /// `hang`, `hold` or `crash`.
    pub why: &'static str,
    /// Whether its work is done.
    pub phase: Phase,
}

/// All faults and the calls that wait because of them.
#[derive(Debug)]
pub struct Faults {
    next: u64,
    armed: Vec<Armed>,
    held: Vec<Held>,
    /// How many crashes were reached.
    crashes: watch::Sender<u64>,
    crashed: bool,
    /// How many calls wait.
    holding: watch::Sender<usize>,
    released: watch::Sender<u64>,
    revived: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            next: 1,
            armed: Vec::new(),
            held: Vec::new(),
            crashes: watch::Sender::new(0),
            crashed: false,
            holding: watch::Sender::new(0),
            released: watch::Sender::new(0),
            revived: watch::Sender::new(0),
        }
    }
}

impl Faults {
    /// Arms a fault; its number.
    pub fn add(&mut self, fault: Fault) -> Result<u64, ApiError> {
        if let Effect::Error { status, .. } = &fault.effect
            && !(400..=599).contains(status)
        {
            return Err(ApiError::validation(format!(
                "status {status} is not an error; it must be from 400 to 599"
            )));
        }
        let id = self.next;
        self.next += 1;
        self.armed.push(Armed { id, hits: 0, fault });
        Ok(id)
    }

    /// Disarms one; whether it was there.
    pub fn remove(&mut self, id: u64) -> bool {
        let before = self.armed.len();
        self.armed.retain(|armed| armed.id != id);
        before != self.armed.len()
    }

    /// Disarms all. Calls that wait go on waiting.
    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// What is armed.
    pub fn armed(&self) -> &[Armed] {
        &self.armed
    }

    /// Which calls wait.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// What this call suffers: the first armed fault that matches it and has
    /// nothing more to skip.
    pub fn take(&mut self, action: &Action, form: &Form) -> Option<(Effect, Phase)> {
        for (index, armed) in self.armed.iter_mut().enumerate() {
            if !armed.fault.matching.matches(action, form) {
                continue;
            }
            if armed.fault.skip > 0 {
                armed.fault.skip -= 1;
                continue;
            }
            armed.hits += 1;
            let suffers = (armed.fault.effect.clone(), armed.fault.phase);
            match armed.fault.count {
                0 => {}
                1 => {
                    self.armed.remove(index);
                }
                _ => armed.fault.count -= 1,
            }
            return Some(suffers);
        }
        None
    }

    /// Whether callers are dead.
    pub const fn is_crashed(&self) -> bool {
        self.crashed
    }

    /// Callers are dead from now on.
    pub fn crash(&mut self) {
        self.crashed = true;
        self.crashes.send_modify(|crashes| *crashes += 1);
    }

    /// Hears of crashes.
    pub fn crashes(&self) -> watch::Receiver<u64> {
        self.crashes.subscribe()
    }

    /// Callers live again: calls that hung because of a crash are cut, crashes
    /// that were not reached are disarmed.
    pub fn revive(&mut self) {
        self.crashed = false;
        self.armed
            .retain(|armed| armed.fault.effect != Effect::Crash);
        self.revived.send_modify(|generation| *generation += 1);
    }

    /// Hears of [`revive`](Self::revive).
    pub fn revivals(&self) -> watch::Receiver<u64> {
        self.revived.subscribe()
    }

    /// Lets calls go on that are held; how many.
    pub fn release(&mut self) -> usize {
        self.released.send_modify(|generation| *generation += 1);
        self.held.iter().filter(|held| held.why == "hold").count()
    }

    /// Hears of [`release`](Self::release).
    pub fn releases(&self) -> watch::Receiver<u64> {
        self.released.subscribe()
    }

    /// Notes a call that waits.
    pub fn hold(&mut self, held: Held) {
        self.held.push(held);
        self.holding.send_replace(self.held.len());
    }

    /// Notes that a call waits no longer.
    pub fn let_go(&mut self, call: u64) {
        let before = self.held.len();
        self.held.retain(|held| held.call != call);
        if before != self.held.len() {
            self.holding.send_replace(self.held.len());
        }
    }

    /// Hears how many calls wait.
    pub fn holding(&self) -> watch::Receiver<usize> {
        self.holding.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::find;

    fn call(service: Service, action: &str) -> (&'static Action, Form) {
        (
            find(service, action).unwrap(),
            Form::parse(b"Name=web").unwrap(),
        )
    }

    #[test]
    fn a_fault_skips_hits_and_is_gone() {
        let mut faults = Faults::default();
        faults
            .add(
                Fault::error(Matching::writes(), 500, "InternalFailure")
                    .skip(1)
                    .times(2),
            )
            .unwrap();
        let (write, form) = call(Service::Ec2, "CreateTags");
        let (read, _) = call(Service::Ec2, "DescribeVpcs");
        assert!(faults.take(write, &form).is_none());
        assert!(faults.take(read, &form).is_none());
        assert!(faults.take(write, &form).is_some());
        assert!(faults.take(write, &form).is_some());
        assert!(faults.take(write, &form).is_none());
        assert!(faults.armed().is_empty());
    }

    #[test]
    fn a_match_can_name_service_action_and_value() {
        let (create, form) = call(Service::Ec2, "CreateTags");
        let (other, _) = call(Service::Sts, "GetCallerIdentity");
        let named = |value| Matching::action("CreateTags").with_value(value);
        assert!(named("web").matches(create, &form));
        assert!(!named("x").matches(create, &form));
        let ec2 = Matching {
            service: Some(Service::Ec2),
            ..Matching::any()
        };
        assert!(ec2.matches(create, &form) && !ec2.matches(other, &form));
    }

    #[test]
    fn the_json_of_a_fault_is_short_and_nonsense_is_refused() {
        let fault: Fault = serde_json::from_str(
            r#"{"match": {"action": "DeleteLoadBalancer"}, "effect": "hang", "phase": "after"}"#,
        )
        .unwrap();
        assert_eq!(
            fault,
            Fault::once(Matching::action("DeleteLoadBalancer"), Effect::Hang).after()
        );
        let error: Fault = serde_json::from_str(
            r#"{"effect": {"error": {"status": 503, "code": "X", "message": "m"}}, "count": 0}"#,
        )
        .unwrap();
        assert_eq!(error.count, 0);
        assert!(serde_json::from_str::<Fault>(r#"{"effect": "hang", "kind": "x"}"#).is_err());
        assert!(
            Faults::default()
                .add(Fault::error(Matching::any(), 200, "x"))
                .is_err()
        );
    }
}
