//! An object with a status for each node: it has the node's name, and goes with it.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Error, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// One request takes no longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is written. Not made into a tree of values first: a status may tell of
/// thousands of addresses.
#[derive(Debug, Serialize)]
struct Change<'a, S> {
    status: &'a S,
}

/// The object of one kind that is this node's.
pub(crate) struct NodeObject<K> {
    api: Api<K>,
    node: String,
    /// The node's UID; empty while it is not known.
    uid: watch::Receiver<String>,
    /// The object of that name, without owner and status.
    empty: fn(&str) -> K,
}

impl<K> NodeObject<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        node: String,
        uid: watch::Receiver<String>,
        empty: fn(&str) -> K,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            node,
            uid,
            empty,
        }
    }

    /// Writes the status, and makes the object if there is none.
    pub(crate) async fn write(&self, status: &(impl Debug + Serialize)) -> Result<(), Error> {
        let status = Change { status };
        match self.patch(&status).await {
            Err(Error::Api(error)) if error.code == 404 => {}
            result => return result,
        }
        let object = self.object();
        match self.api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(Error::Api(error)) if error.code == 409 => {}
            Err(error) => return Err(error),
        }
        self.patch(&status).await
    }

    async fn patch(&self, status: &Change<'_, impl Debug + Serialize>) -> Result<(), Error> {
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(status));
        let write = self.api.patch_status(&self.node, &parameters, &patch);
        match tokio::time::timeout(TIMEOUT, write).await {
            Ok(result) => result.map(drop),
            Err(elapsed) => Err(Error::Service(elapsed.into())),
        }
    }

    fn object(&self) -> K {
        let mut object = (self.empty)(&self.node);
        let uid = self.uid.borrow().clone();
        if !uid.is_empty() {
            object.meta_mut().owner_references = Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: self.node.clone(),
                uid,
                ..OwnerReference::default()
            }]);
        }
        object
    }
}
