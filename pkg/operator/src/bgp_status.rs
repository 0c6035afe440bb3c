//! Keeps the condition `Valid` of the objects that BGP is set up by.

use std::fmt::Debug;
use std::time::Duration;

use herald_api::names::CONDITION_VALID;
use herald_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, Condition, IPAddressPool, set_condition,
};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;

use crate::bgp_validity::{Objects, Problems, judge};
use crate::pool_status::Problem;
use crate::stores::{follow, settled};
use crate::writer::{WriteError, Writer};

/// Changes are gathered for so long.
const SETTLE: Duration = Duration::from_millis(200);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(2);

/// A kind that has the condition.
trait Judged:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What its status says.
    fn conditions(&self) -> &[Condition];
}

macro_rules! judged {
    ($($kind:ty),*) => {$(
        impl Judged for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map_or(&[], |status| &status.conditions)
            }
        }
    )*};
}

judged!(BGPPeer, BGPAdvertisement, BFDProfile, Community);

/// The objects, followed.
struct Followed {
    peers: Store<BGPPeer>,
    advertisements: Store<BGPAdvertisement>,
    profiles: Store<BFDProfile>,
    communities: Store<Community>,
    pools: Store<IPAddressPool>,
    changes: mpsc::UnboundedReceiver<()>,
}

impl Followed {
    fn start(client: &Client, namespace: &str) -> Self {
        let (sender, changes) = mpsc::unbounded_channel();
        Self {
            peers: whole(client, namespace, &sender),
            advertisements: whole(client, namespace, &sender),
            profiles: whole(client, namespace, &sender),
            communities: whole(client, namespace, &sender),
            pools: whole(client, namespace, &sender),
            changes,
        }
    }

    /// Returns when every list has been complete once: before that a name that is
    /// not known may be on its way.
    async fn ready(&self) {
        let _ = tokio::join!(
            self.peers.wait_until_ready(),
            self.advertisements.wait_until_ready(),
            self.profiles.wait_until_ready(),
            self.communities.wait_until_ready(),
            self.pools.wait_until_ready(),
        );
    }

    /// Returns when something has changed, and some time has passed for more.
    async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(SETTLE).await;
        while self.changes.try_recv().is_ok() {}
    }

    fn objects(&self) -> Objects {
        Objects {
            peers: self.peers.state(),
            advertisements: self.advertisements.state(),
            profiles: self.profiles.state(),
            communities: self.communities.state(),
            pools: self.pools.state(),
        }
    }
}

fn whole<K>(client: &Client, namespace: &str, sender: &mpsc::UnboundedSender<()>) -> Store<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api = Api::namespaced(client.clone(), namespace);
    let config = watcher::Config::default();
    follow(api, config, sender, |event| settled(event).then_some(()))
}

/// Says of each object whether it is in force as written, on change only. Never
/// returns.
pub(crate) async fn keep(client: Client, namespace: String, writer: Writer) {
    let mut followed = Followed::start(&client, &namespace);
    followed.ready().await;
    let desk = Desk { namespace, writer };
    loop {
        let objects = followed.objects();
        let judgement = judge(&objects, &desk.namespace);
        let mut done = true;
        done &= desk.write(&objects.peers, &judgement.peers).await;
        done &= desk
            .write(&objects.advertisements, &judgement.advertisements)
            .await;
        done &= desk.write(&objects.profiles, &judgement.profiles).await;
        done &= desk
            .write(&objects.communities, &judgement.communities)
            .await;
        if done {
            followed.changed().await;
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
}

struct Desk {
    namespace: String,
    writer: Writer,
}

impl Desk {
    /// Writes the condition of those whose condition differs; whether all stand as
    /// they should.
    async fn write<K: Judged>(&self, objects: &[std::sync::Arc<K>], problems: &Problems) -> bool {
        let mut done = true;
        for object in objects {
            let name = object.name_any();
            match self.write_one(&**object, problems.get(&name)).await {
                Ok(()) => {}
                Err(WriteError::Fenced | WriteError::Stale) => done = false,
                Err(WriteError::Api(error)) => {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, name, %error, "writing the condition Valid");
                    done = false;
                }
            }
        }
        done
    }

    async fn write_one<K: Judged>(
        &self,
        object: &K,
        problem: Option<&Problem>,
    ) -> Result<(), WriteError> {
        let before = object.conditions();
        let mut conditions = before.to_vec();
        if !set_condition(&mut conditions, condition(object, problem)) {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(self.writer.client(), &self.namespace);
        let patch = json!({
            "metadata": {"resourceVersion": object.resource_version()},
            "status": {"conditions": conditions},
        });
        self.writer.status(&api, object, &patch).await?;
        if let Some(problem) = problem
            && !before.iter().any(|old| old.message == problem.message)
        {
            let about = object.object_ref(&());
            self.writer
                .event(&about, true, problem.reason, &problem.message);
        }
        Ok(())
    }
}

fn condition<K: Judged>(object: &K, problem: Option<&Problem>) -> Condition {
    let (status, reason, message) = match problem {
        None => ("True", "Accepted", ""),
        Some(problem) => ("False", problem.reason, problem.message.as_str()),
    };
    Condition {
        type_: CONDITION_VALID.into(),
        status: status.into(),
        observed_generation: object.meta().generation,
        last_transition_time: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        reason: reason.into(),
        message: message.chars().take(LONGEST_MESSAGE).collect(),
    }
}

/// The API takes messages of conditions up to this length.
const LONGEST_MESSAGE: usize = 32768;

#[cfg(test)]
mod tests {
    use herald_api::{BGPPeerSpec, BGPPeerStatus};

    use super::*;

    #[test]
    fn a_condition_that_stands_is_not_written_again() {
        let mut object = BGPPeer::new("tor", BGPPeerSpec::default());
        object.metadata.generation = Some(1);
        let problem = Problem {
            reason: "NoPool",
            message: "words".into(),
        };
        let mut conditions = Vec::new();
        assert!(set_condition(
            &mut conditions,
            condition(&object, Some(&problem))
        ));
        object.status = Some(BGPPeerStatus { conditions });
        let mut again = object.conditions().to_vec();
        assert!(!set_condition(
            &mut again,
            condition(&object, Some(&problem))
        ));
        assert!(set_condition(&mut again, condition(&object, None)));
        assert_eq!(again[0].status, "True");
        // A change of the object is acknowledged, though nothing else is new.
        object.metadata.generation = Some(2);
        assert!(set_condition(&mut again, condition(&object, None)));
    }
}
