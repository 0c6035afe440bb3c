//! Faults on demand: which call goes wrong next, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::ApiError;

/// A call of the load-balancer API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    /// `POST /v1/load-balancers`.
    CreateLoadBalancer,
    /// `GET /v1/load-balancers`.
    ListLoadBalancers,
    /// `GET /v1/load-balancers/{id}`.
    GetLoadBalancer,
    /// `PUT /v1/load-balancers/{id}/families`.
    SetFamilies,
    /// `PUT /v1/load-balancers/{id}/listeners`.
    SetListeners,
    /// `PUT /v1/load-balancers/{id}/targets`.
    SetTargets,
    /// `PUT /v1/load-balancers/{id}/health-check`.
    SetHealthCheck,
    /// `DELETE /v1/load-balancers/{id}`.
    DeleteLoadBalancer,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Which calls a fault is for: a name of [`Operation`], or `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationFilter {
    /// Every call.
    #[serde(rename = "*")]
    Any,
    /// Calls of one operation.
    #[serde(untagged)]
    One(Operation),
}

impl OperationFilter {
    fn matches(self, operation: Operation) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => one == operation,
        }
    }
}

/// Before or after the work of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Nothing is done yet; if the caller goes away now, nothing ever is.
    #[default]
    Before,
    /// The work is done, the answer is not sent.
    After,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// Refused with `status`, `code` and `message`; nothing is done.
    Error,
    /// Refused with 429 `Throttling` and `Retry-After: retryAfterSeconds`.
    Throttle,
    /// Nothing is done and nothing is answered until the caller goes away.
    TimeoutBefore,
    /// The work is done, and nothing is answered until the caller goes away.
    TimeoutAfter,
    /// The call waits, before or after the work (`phase`), for
    /// `POST /v1/faults/release` or for the caller to go away.
    Hold,
    /// `CreateLoadBalancer` succeeds, and what it makes goes from
    /// `provisioning` to `failed` with `message`.
    FailProvisioning,
}

/// Body of `POST /v1/faults`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultSpec {
    /// Which calls.
    pub operation: OperationFilter,
    /// What goes wrong.
    pub kind: FaultKind,
    /// Matching calls that pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How many calls it hits; 0 means until it is deleted.
    #[serde(default = "default_count")]
    pub count: u32,
    /// With `error`: HTTP status, 400 to 599.
    #[serde(default = "default_status")]
    pub status: u16,
    /// With `error`: the error's code.
    #[serde(default = "default_code")]
    pub code: String,
    /// With `error` and `failProvisioning`: what people read.
    #[serde(default = "default_message")]
    pub message: String,
    /// With `throttle`: seconds to wait.
    #[serde(default = "default_retry_after")]
    pub retry_after_seconds: u32,
    /// With `hold`: where the call waits.
    #[serde(default)]
    pub phase: Phase,
}

const fn default_count() -> u32 {
    1
}

const fn default_status() -> u16 {
    500
}

fn default_code() -> String {
    "InternalError".into()
}

fn default_message() -> String {
    "a fault that was asked for".into()
}

const fn default_retry_after() -> u32 {
    1
}

impl FaultSpec {
    /// A fault that hits one matching call.
    pub fn once(operation: OperationFilter, kind: FaultKind) -> Self {
        Self {
            operation,
            kind,
            skip: 0,
            count: default_count(),
            status: default_status(),
            code: default_code(),
            message: default_message(),
            retry_after_seconds: default_retry_after(),
            phase: Phase::default(),
        }
    }

    /// The answer that the kinds `error` and `throttle` give instead of the
    /// work.
    pub fn refusal(&self) -> Option<ApiError> {
        match self.kind {
            FaultKind::Error => Some(ApiError::new(self.status, &*self.code, &*self.message)),
            FaultKind::Throttle => Some(ApiError::throttling(Duration::from_secs(
                self.retry_after_seconds.into(),
            ))),
            _ => None,
        }
    }
}

/// A fault that waits for its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Its number, from 1.
    pub id: u64,
    /// Calls hit so far.
    pub hits: u32,
    /// What was asked for; `skip` and `count` are what is left of them.
    #[serde(flatten)]
    pub spec: FaultSpec,
}

/// A call that hangs because of a fault.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldCall {
    /// Its number in the call log.
    pub call: u64,
    /// What was called.
    pub operation: Operation,
    /// Which load balancer, by name or id.
    pub subject: String,
    /// Why it hangs.
    pub kind: FaultKind,
    /// Whether its work is done.
    pub phase: Phase,
    /// Since when, in milliseconds.
    pub age_millis: u64,
}

/// Answer of `GET /v1/faults`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// Faults that wait for calls.
    pub faults: Vec<Fault>,
    /// Calls that hang now.
    pub held: Vec<HeldCall>,
}

/// All faults and held calls.
#[derive(Debug)]
pub struct Faults {
    next: u64,
    armed: Vec<Fault>,
    held: BTreeMap<u64, (HeldCall, Instant)>,
    holding: watch::Sender<usize>,
    released: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            next: 1,
            armed: Vec::new(),
            held: BTreeMap::new(),
            holding: watch::Sender::new(0),
            released: watch::Sender::new(0),
        }
    }
}

impl Faults {
    /// Arms a fault.
    pub fn add(&mut self, spec: FaultSpec) -> Result<Fault, ApiError> {
        if !(400..=599).contains(&spec.status) {
            return Err(ApiError::invalid(format!(
                "status {} is not an error; it must be from 400 to 599",
                spec.status
            )));
        }
        let create = OperationFilter::One(Operation::CreateLoadBalancer);
        if spec.kind == FaultKind::FailProvisioning && spec.operation != create {
            return Err(ApiError::invalid(
                "kind failProvisioning is for operation CreateLoadBalancer only",
            ));
        }
        let fault = Fault {
            id: self.next,
            hits: 0,
            spec,
        };
        self.next += 1;
        self.armed.push(fault.clone());
        Ok(fault)
    }

    /// Disarms one fault; whether it was there.
    pub fn remove(&mut self, id: u64) -> bool {
        let before = self.armed.len();
        self.armed.retain(|fault| fault.id != id);
        self.armed.len() != before
    }

    /// Disarms all faults. Held calls stay held.
    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// What this call suffers: the first armed fault that matches it. Every
    /// fault before it that still skips has one less to skip.
    pub fn take(&mut self, operation: Operation) -> Option<FaultSpec> {
        for (index, fault) in self.armed.iter_mut().enumerate() {
            if !fault.spec.operation.matches(operation) {
                continue;
            }
            if fault.spec.skip > 0 {
                fault.spec.skip -= 1;
                continue;
            }
            fault.hits += 1;
            let spec = fault.spec.clone();
            match spec.count {
                0 => {}
                1 => {
                    self.armed.remove(index);
                }
                _ => fault.spec.count -= 1,
            }
            return Some(spec);
        }
        None
    }

    /// Notes that a call hangs. It may go on when the receiver's value
    /// changes.
    pub fn hold(&mut self, call: HeldCall, now: Instant) -> watch::Receiver<u64> {
        self.held.insert(call.call, (call, now));
        self.holding.send_replace(self.held.len());
        self.released.subscribe()
    }

    /// Notes that a call hangs no longer.
    pub fn let_go(&mut self, call: u64) {
        if self.held.remove(&call).is_some() {
            self.holding.send_replace(self.held.len());
        }
    }

    /// How many calls hang, for those who wait for the next.
    pub fn holding(&self) -> watch::Receiver<usize> {
        self.holding.subscribe()
    }

    /// Lets every call of kind `hold` go on; how many there were.
    pub fn release(&mut self) -> usize {
        self.released.send_modify(|generation| *generation += 1);
        self.held
            .values()
            .filter(|(call, _)| call.kind == FaultKind::Hold)
            .count()
    }

    /// What is armed and what hangs.
    pub fn report(&self, now: Instant) -> FaultReport {
        FaultReport {
            faults: self.armed.clone(),
            held: self
                .held
                .values()
                .map(|(call, since)| HeldCall {
                    age_millis: millis(now.saturating_duration_since(*since)),
                    ..call.clone()
                })
                .collect(),
        }
    }
}

/// Whole milliseconds; saturates after 584 million years.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(operation: &str, more: &str) -> FaultSpec {
        serde_json::from_str(&format!(
            r#"{{"operation": "{operation}", "kind": "error"{more}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_fault_hits_as_often_as_asked_and_then_is_gone() {
        let mut faults = Faults::default();
        faults
            .add(fault("*", r#", "count": 2, "skip": 1"#))
            .unwrap();
        assert_eq!(faults.take(Operation::GetLoadBalancer), None);
        assert!(faults.take(Operation::SetTargets).is_some());
        assert!(faults.take(Operation::SetTargets).is_some());
        assert_eq!(faults.take(Operation::SetTargets), None);
        assert!(faults.report(Instant::now()).faults.is_empty());
    }

    #[test]
    fn a_fault_of_one_operation_leaves_the_others_alone() {
        let mut faults = Faults::default();
        let id = faults
            .add(fault("SetTargets", r#", "count": 0"#))
            .unwrap()
            .id;
        assert_eq!(faults.take(Operation::GetLoadBalancer), None);
        for _ in 0..3 {
            assert_eq!(faults.take(Operation::SetTargets).unwrap().status, 500);
        }
        assert!(faults.remove(id));
        assert!(!faults.remove(id));
        assert_eq!(faults.take(Operation::SetTargets), None);
    }

    #[test]
    fn release_is_for_calls_that_are_held_now() {
        let now = Instant::now();
        let mut faults = Faults::default();
        let call = HeldCall {
            call: 7,
            operation: Operation::CreateLoadBalancer,
            subject: "web".into(),
            kind: FaultKind::Hold,
            phase: Phase::After,
            age_millis: 0,
        };
        let waiting = faults.hold(call.clone(), now);
        assert!(!waiting.has_changed().unwrap());
        assert_eq!(faults.release(), 1);
        assert!(waiting.has_changed().unwrap());
        faults.let_go(7);
        let later = faults.hold(HeldCall { call: 8, ..call }, now);
        assert!(!later.has_changed().unwrap());
        assert_eq!(
            faults.report(now + Duration::from_millis(5)).held[0].age_millis,
            5
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let mut faults = Faults::default();
        assert!(faults.add(fault("*", r#", "status": 200"#)).is_err());
        let mut spec = FaultSpec::once(OperationFilter::Any, FaultKind::FailProvisioning);
        assert!(faults.add(spec.clone()).is_err());
        spec.operation = OperationFilter::One(Operation::CreateLoadBalancer);
        assert!(faults.add(spec).is_ok());
        assert!(
            serde_json::from_str::<FaultSpec>(r#"{"operation": "Creat", "kind": "hold"}"#).is_err()
        );
    }
}
