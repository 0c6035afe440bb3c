//! The gate every API call passes: call log, rate limit, faults, then the
//! work.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::ApiError;
use crate::faults::{FaultKind, FaultSpec, HeldCall, Operation, Phase};
use crate::shared::Shared;
use crate::state::Cloud;

/// What the work of a call needs.
#[derive(Debug)]
pub struct Context {
    /// The time of the call.
    pub now: Instant,
    /// With `CreateLoadBalancer`: what provisioning must fail with.
    pub fate: Option<String>,
}

/// A successful answer.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    body: Option<serde_json::Value>,
}

impl Reply {
    /// An answer with a body.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, ApiError> {
        let body = serde_json::to_value(body)
            .map_err(|error| ApiError::new(500, "InternalError", error.to_string()))?;
        Ok(Self {
            status,
            body: Some(body),
        })
    }

    /// An answer without a body.
    pub const fn empty(status: StatusCode) -> Self {
        Self { status, body: None }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self.body {
            Some(body) => (self.status, Json(body)).into_response(),
            None => self.status.into_response(),
        }
    }
}

/// One call on its way. Dropped before it is finished, which is what happens
/// when the caller goes away, it is noted as abandoned.
struct Call {
    shared: Arc<Shared>,
    number: u64,
    operation: Operation,
    subject: String,
    finished: bool,
}

/// Takes a call through the gate. `work` runs at most once, under the lock, and
/// changes everything or nothing.
pub async fn pass(
    shared: Arc<Shared>,
    operation: Operation,
    subject: String,
    work: impl FnOnce(&mut Cloud, Context) -> Result<Reply, ApiError>,
) -> Response {
    let (mut call, fault) = Call::begin(shared, operation, subject);
    let result = call.run(fault, work).await;
    call.finish(&result);
    result.into_response()
}

impl Call {
    fn begin(
        shared: Arc<Shared>,
        operation: Operation,
        subject: String,
    ) -> (Self, Result<Option<FaultSpec>, ApiError>) {
        let mut account = shared.account();
        let number = account.calls.begin(operation, &subject, SystemTime::now());
        let limited = match &mut account.bucket {
            Some(bucket) => bucket.take(Instant::now()).map_err(ApiError::throttling),
            None => Ok(()),
        };
        let fault = limited.map(|()| account.faults.take(operation));
        drop(account);
        let call = Self {
            shared,
            number,
            operation,
            subject,
            finished: false,
        };
        (call, fault)
    }

    async fn run(
        &self,
        fault: Result<Option<FaultSpec>, ApiError>,
        work: impl FnOnce(&mut Cloud, Context) -> Result<Reply, ApiError>,
    ) -> Result<Reply, ApiError> {
        let fault = fault?;
        if let Some(refusal) = fault.as_ref().and_then(FaultSpec::refusal) {
            return Err(refusal);
        }
        let kind = fault.as_ref().map(|fault| fault.kind);
        let hangs = match (kind, fault.as_ref().map(|fault| fault.phase)) {
            (Some(FaultKind::TimeoutBefore), _) => Some(Phase::Before),
            (Some(FaultKind::TimeoutAfter), _) => Some(Phase::After),
            (Some(FaultKind::Hold), phase) => phase,
            _ => None,
        };
        if let (Some(kind), Some(Phase::Before)) = (kind, hangs) {
            self.hang(kind, Phase::Before).await?;
        }
        let fate = fault
            .filter(|fault| fault.kind == FaultKind::FailProvisioning)
            .map(|fault| fault.message);
        let result = work(
            &mut self.shared.account().cloud,
            Context {
                now: Instant::now(),
                fate,
            },
        );
        self.shared.notify();
        if let (Some(kind), Some(Phase::After)) = (kind, hangs) {
            self.hang(kind, Phase::After).await?;
        }
        result
    }

    /// Hangs until released (kind `hold`), or until the caller goes away and
    /// this future with it. An error means that the process ends.
    async fn hang(&self, kind: FaultKind, phase: Phase) -> Result<(), ApiError> {
        let held = HeldCall {
            call: self.number,
            operation: self.operation,
            subject: self.subject.clone(),
            kind,
            phase,
            age_millis: 0,
        };
        let mut released = self.shared.account().faults.hold(held, Instant::now());
        let released = async {
            // The sender lives in the account, as long as this call's Arc.
            let _ = released.changed().await;
        };
        let result = tokio::select! {
            () = released, if kind == FaultKind::Hold => Ok(()),
            () = self.shared.stopping.cancelled() => {
                Err(ApiError::new(503, "Stopping", "the cloud is shutting down"))
            }
        };
        self.shared.account().faults.let_go(self.number);
        result
    }

    fn finish(&mut self, result: &Result<Reply, ApiError>) {
        self.finished = true;
        self.note(match result {
            Ok(reply) => reply.status.as_u16().to_string(),
            Err(error) => format!("{} {}", error.status, error.code),
        });
    }

    fn note(&self, outcome: String) {
        self.shared.metrics.call(self.operation, &outcome);
        tracing::debug!(operation = %self.operation, subject = self.subject, outcome, "call");
        let mut account = self.shared.account();
        account.faults.let_go(self.number);
        account.calls.finish(self.number, outcome);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.finished {
            self.note("abandoned".into());
        }
    }
}
