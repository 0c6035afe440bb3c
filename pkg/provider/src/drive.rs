//! Drives one Service through observe, plan and apply until nothing is left to
//! do, and hides the provider's types from the operator.

use async_trait::async_trait;
use herald_core::ServiceRequest;

use crate::{Desired, Provider, ProviderError, Refusal, Status, Warning};

/// More rounds than any honest plan needs: past it the provider and its plan
/// disagree, and the Service waits for its back-off rather than spin.
const MAX_ACTIONS: usize = 256;

/// How an attempt to bring one Service to its desired state ended.
#[derive(Debug)]
pub enum Outcome {
    /// Observed state equals desired state; for `Absent`, nothing is left.
    Settled(Status),
    /// A dry run: what would be done, a sentence a step.
    Planned(Vec<String>),
    /// The request can't be met as it stands.
    Refused(Refusal),
    /// A call failed; what was done so far stays done.
    Failed(ProviderError),
}

/// A [`Provider`] behind a pointer.
#[async_trait]
pub trait DynProvider: Send + Sync + 'static {
    /// See [`Provider::name`].
    fn name(&self) -> &'static str;
    /// See [`Provider::class`].
    fn class(&self) -> &'static str;
    /// See [`Provider::serves`].
    fn serves(&self, class: &str) -> bool;
    /// See [`Provider::replaced_finalizers`].
    fn replaced_finalizers(&self) -> &'static [&'static str];
    /// See [`Provider::external`].
    fn external(&self) -> bool;
    /// See [`Provider::follows_endpoints`].
    fn follows_endpoints(&self) -> bool;
    /// See [`Provider::needs_endpoints`].
    fn needs_endpoints(&self, service: &ServiceRequest) -> bool;
    /// See [`Provider::references`].
    fn references(&self, service: &ServiceRequest) -> Vec<String>;
    /// See [`Provider::readiness_gate`].
    fn readiness_gate(&self, service: &ServiceRequest) -> Option<String>;
    /// See [`Provider::warnings`].
    fn warnings(&self, service: &ServiceRequest) -> Vec<Warning>;
    /// See [`Provider::news`].
    fn news(&self, uid: &str) -> Vec<Warning>;
    /// See [`Provider::tend`].
    async fn tend(
        &self,
        fence: &(dyn Fn() -> Result<(), ProviderError> + Sync),
        stirred: &(dyn Fn() + Sync),
    );
    /// Observes, plans and applies until there is nothing left to do. `fence`
    /// is asked before each action: an error stops the run (the leader lease
    /// is gone, or the process ends). With `dry_run` nothing is applied.
    async fn reconcile(
        &self,
        desired: &Desired,
        dry_run: bool,
        fence: &(dyn Fn() -> Result<(), ProviderError> + Sync),
    ) -> Outcome;
}

#[async_trait]
impl<P: Provider> DynProvider for P {
    fn name(&self) -> &'static str {
        Provider::name(self)
    }

    fn class(&self) -> &'static str {
        Provider::class(self)
    }

    fn serves(&self, class: &str) -> bool {
        Provider::serves(self, class)
    }

    fn replaced_finalizers(&self) -> &'static [&'static str] {
        Provider::replaced_finalizers(self)
    }

    fn external(&self) -> bool {
        Provider::external(self)
    }

    fn follows_endpoints(&self) -> bool {
        Provider::follows_endpoints(self)
    }

    fn needs_endpoints(&self, service: &ServiceRequest) -> bool {
        Provider::needs_endpoints(self, service)
    }

    fn references(&self, service: &ServiceRequest) -> Vec<String> {
        Provider::references(self, service)
    }

    fn readiness_gate(&self, service: &ServiceRequest) -> Option<String> {
        Provider::readiness_gate(self, service)
    }

    fn warnings(&self, service: &ServiceRequest) -> Vec<Warning> {
        Provider::warnings(self, service)
    }

    fn news(&self, uid: &str) -> Vec<Warning> {
        Provider::news(self, uid)
    }

    async fn tend(
        &self,
        fence: &(dyn Fn() -> Result<(), ProviderError> + Sync),
        stirred: &(dyn Fn() + Sync),
    ) {
        Provider::tend(self, fence, stirred).await;
    }

    async fn reconcile(
        &self,
        desired: &Desired,
        dry_run: bool,
        fence: &(dyn Fn() -> Result<(), ProviderError> + Sync),
    ) -> Outcome {
        for _ in 0..MAX_ACTIONS {
            let observed = match self.observe(desired).await {
                Ok(observed) => observed,
                Err(error) => return Outcome::Failed(error),
            };
            let plan = match self.plan(desired, &observed) {
                Ok(plan) => plan,
                Err(refusal) => return Outcome::Refused(refusal),
            };
            let Some(action) = plan.first() else {
                return Outcome::Settled(self.status(desired, &observed));
            };
            if dry_run {
                return Outcome::Planned(plan.iter().map(ToString::to_string).collect());
            }
            if let Err(error) = fence() {
                return Outcome::Failed(error);
            }
            tracing::info!(service = %desired.key(), provider = Provider::name(self), %action, "apply");
            match self.apply(action).await {
                Ok(()) | Err(ProviderError::Conflict(_)) => {}
                Err(error) => return Outcome::Failed(error),
            }
        }
        Outcome::Failed(ProviderError::Failed {
            reason: "PlanDoesNotConverge",
            message: format!(
                "{} steps were applied for {} and its plan is still not empty; this is a bug of provider {:?}",
                MAX_ACTIONS,
                desired.key(),
                Provider::name(self),
            ),
        })
    }
}
