//! The provider: observe by name, plan, apply.

use std::time::Duration;

use async_trait::async_trait;
use herald_core::Ingress;
use herald_provider::{Desired, Provider, ProviderError, Refusal, Status};
use hyper::Uri;
use tokio::time::{Instant, sleep};

use crate::client::{Client, InvalidEndpoint};
use crate::identity;
use crate::plan::{Action, Observed, away, towards};
use crate::spec::{ADDRESS_TYPE_ANNOTATION, Spec};
use crate::status::{ingress, status};

/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one [`Action::AwaitDeletion`] waits; if that is not enough, the
/// next plan has another.
const DELETION_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks meanwhile.
const DELETION_POLL: Duration = Duration::from_millis(100);

/// Load balancers of a pretend cloud, for Services of class `herald.dev/fake`.
#[derive(Clone, Debug)]
pub struct FakeCloud {
    client: Client,
    cluster_id: String,
}

impl FakeCloud {
    /// The cloud at `endpoint` (`http://host:port`), for the cluster with that
    /// id. Two clusters with different ids share a cloud without touching each
    /// other's load balancers.
    pub fn new(endpoint: &Uri, cluster_id: String) -> Result<Self, InvalidEndpoint> {
        Ok(Self {
            client: Client::new(endpoint, CALL_TIMEOUT)?,
            cluster_id,
        })
    }

    /// The same with another time limit for each call (5 s by default).
    #[must_use]
    pub fn with_call_timeout(self, timeout: Duration) -> Self {
        Self {
            client: self.client.with_timeout(timeout),
            ..self
        }
    }
}

#[async_trait]
impl Provider for FakeCloud {
    type Observed = Observed;
    type Action = Action;

    fn name(&self) -> &'static str {
        "fake"
    }

    fn class(&self) -> &'static str {
        "herald.dev/fake"
    }

    fn external(&self) -> bool {
        true
    }

    async fn observe(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        let uid = desired.uid();
        let name = identity::name(&self.cluster_id, uid);
        Ok(match self.client.find(&name).await? {
            None => Observed::Nothing,
            Some(found) if identity::owns(&self.cluster_id, uid, &found.tags) => {
                Observed::Ours(Box::new(found))
            }
            Some(found) => Observed::Foreign { id: found.id, name },
        })
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> Result<Vec<Action>, Refusal> {
        let Desired::Present { service, nodes, .. } = desired else {
            return Ok(away(observed));
        };
        let keep = kept(observed);
        let refuse = |message| {
            Err(Refusal {
                reason: "InvalidRequest",
                message,
                keep: keep.clone(),
            })
        };
        let spec = match Spec::new(&self.cluster_id, service, nodes) {
            Ok(spec) => spec,
            Err(message) => return refuse(message),
        };
        if let Observed::Foreign { id, name } = observed {
            return refuse(format!(
                "name {name:?} is taken in the cloud by {id}, which does not bear this Service's \
                 tags and is left alone; delete it there"
            ));
        }
        let asks_for_addresses = !service.requested_addresses.is_empty();
        let asked = || {
            refuse(
                "the cloud chooses addresses itself; remove spec.loadBalancerIP and the \
                 annotation that asks for one"
                    .to_owned(),
            )
        };
        if asks_for_addresses && *observed == Observed::Nothing {
            return asked();
        }
        // What a load balancer can't become in place must not hold up what it
        // can: the rest is done first, then it is said.
        let actions = towards(&spec, observed);
        if !actions.is_empty() {
            return Ok(actions);
        }
        match observed {
            Observed::Ours(is) if is.address_type != spec.address_type => refuse(format!(
                "load balancer {:?} was made with {ADDRESS_TYPE_ANNOTATION} {:?}, and the cloud \
                 can't change it to {:?}; set it back, or delete the Service and create it again",
                is.name,
                is.address_type.to_string(),
                spec.address_type.to_string(),
            )),
            _ if asks_for_addresses => asked(),
            _ => Ok(actions),
        }
    }

    async fn apply(&self, action: &Action) -> Result<(), ProviderError> {
        match action {
            Action::Create(spec) => self.client.create(spec).await,
            Action::SetFamilies { id, families, .. } => {
                self.client.set_families(id, families).await
            }
            Action::SetTargets { id, targets, .. } => self.client.set_targets(id, targets).await,
            Action::SetHealthCheck {
                id, health_check, ..
            } => self.client.set_health_check(id, health_check).await,
            Action::SetListeners { id, listeners, .. } => {
                self.client.set_listeners(id, listeners).await
            }
            Action::Delete { id, .. } => self.client.delete(id).await,
            Action::AwaitDeletion { id, .. } => self.await_deletion(id).await,
        }
    }

    fn status(&self, _desired: &Desired, observed: &Observed) -> Status {
        status(observed)
    }
}

impl FakeCloud {
    async fn await_deletion(&self, id: &str) -> Result<(), ProviderError> {
        let until = Instant::now() + DELETION_PATIENCE;
        while self.client.exists(id).await? && Instant::now() < until {
            sleep(DELETION_POLL).await;
        }
        Ok(())
    }
}

/// What a Service keeps while its request is refused: what it has.
fn kept(observed: &Observed) -> Vec<Ingress> {
    match observed {
        Observed::Ours(is) => ingress(is),
        Observed::Nothing | Observed::Foreign { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;
    use crate::spec::tests::{node, service};

    fn provider() -> FakeCloud {
        FakeCloud::new(&"http://127.0.0.1:1".parse().unwrap(), "c".into()).unwrap()
    }

    fn present(change: impl FnOnce(&mut herald_core::ServiceRequest)) -> Desired {
        let mut service = service();
        change(&mut service);
        Desired::Present {
            service,
            nodes: vec![node(1)],
            endpoints: Vec::new(),
            references: Vec::new(),
        }
    }

    #[test]
    fn a_request_for_an_address_is_refused_before_anything_is_made() {
        let wrong = present(|s| s.requested_addresses.push([192, 0, 2, 1].into()));
        let refusal = provider().plan(&wrong, &Observed::Nothing).unwrap_err();
        assert_eq!(refusal.reason, "InvalidRequest");
        assert!(refusal.message.contains("loadBalancerIP"));
    }

    #[test]
    fn a_taken_name_is_refused_and_deletion_leaves_it_alone() {
        let foreign = Observed::Foreign {
            id: "lb-9".into(),
            name: "herald-x".into(),
        };
        let refusal = provider().plan(&present(|_| ()), &foreign).unwrap_err();
        assert!(refusal.message.contains("lb-9"));
        let absent = Desired::Absent {
            key: service().key,
            uid: "u1".into(),
        };
        assert_eq!(provider().plan(&absent, &foreign), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn a_cloud_that_is_not_there_is_named() {
        let error = provider().observe(&present(|_| ())).await.unwrap_err();
        let ProviderError::Failed { reason, message } = error else {
            panic!("{error:?}");
        };
        assert_eq!(reason, "CloudUnreachable");
        assert!(message.contains("http://127.0.0.1:1"), "{message}");
    }

    #[test]
    fn the_plan_of_a_new_service_is_one_step() {
        let plan = provider()
            .plan(&present(|_| ()), &Observed::Nothing)
            .unwrap();
        assert!(matches!(&plan[..], [Action::Create(_)]));
    }
}
