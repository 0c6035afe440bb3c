//! Every write of the operator to the API. Each asks the fence first.

use std::fmt::Debug;
use std::sync::Arc;

use herald_api::IPAddressPool;
use herald_api::names::{FIELD_MANAGER, FINALIZER};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use kube::api::{ListParams, Patch, PatchParams, PostParams, Request};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;

use crate::conditions::StatusChange;
use crate::events::Desk;
use crate::lease::Fence;
use crate::metrics::Metrics;

/// Why something was not written.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    /// The lease may not be ours any more.
    #[error("the leader lease is not held")]
    Fenced,
    /// Somebody changed the object since we saw it; it will be looked at again.
    #[error("the object has changed meanwhile")]
    Stale,
    /// The API server said no, or nothing.
    #[error(transparent)]
    Api(kube::Error),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 || status.code == 404 => Self::Stale,
            error => Self::Api(error),
        }
    }
}

/// Writes statuses, finalizers and events.
#[derive(Clone)]
pub(crate) struct Writer {
    /// Reads.
    reads: Client,
    /// Whose connections ask the fence too.
    writes: Client,
    fence: Fence,
    events: Desk,
    metrics: Arc<Metrics>,
}

impl Writer {
    pub(crate) const fn new(
        reads: Client,
        writes: Client,
        fence: Fence,
        events: Desk,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            reads,
            writes,
            fence,
            events,
            metrics,
        }
    }

    /// The client for writes.
    pub(crate) fn client(&self) -> Client {
        self.writes.clone()
    }

    /// Whether a write may begin now.
    pub(crate) fn check(&self) -> Result<(), WriteError> {
        if self.fence.holds() {
            Ok(())
        } else {
            Err(WriteError::Fenced)
        }
    }

    /// Makes a write, if one may begin now, and gives it up when the lease may
    /// have ended.
    pub(crate) async fn fenced<T>(
        &self,
        write: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        let until = self.fence.until().ok_or(WriteError::Fenced)?;
        match tokio::time::timeout_at(until.into(), write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(WriteError::Fenced),
        }
    }

    /// Writes a Service's status.
    pub(crate) async fn service_status(
        &self,
        service: &Service,
        change: &StatusChange,
    ) -> Result<(), WriteError> {
        self.status::<Service>(&self.services(service), service, &change.patch)
            .await
    }

    /// Writes the status of an object.
    pub(crate) async fn status<K: Resource>(
        &self,
        api: &Api<K>,
        object: &K,
        patch: &Value,
    ) -> Result<(), WriteError> {
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..Default::default()
        };
        let request = Request::new(api.resource_url()).patch_subresource(
            "status",
            &object.name_any(),
            &parameters,
            &Patch::Merge(patch),
        );
        let request = request.map_err(kube::Error::BuildRequest)?;
        // The answer is the object, which the watch brings too: it is not taken apart
        // twice.
        self.fenced(self.writes.request_text(request)).await?;
        self.metrics.status_writes.inc();
        Ok(())
    }

    /// Puts our finalizer on a Service, in the place of those that it replaces;
    /// returns the Service as it is then, or none where there was nothing to do.
    pub(crate) async fn mark(
        &self,
        service: &Service,
        replaced: &[&str],
    ) -> Result<Option<Service>, WriteError> {
        let stays = |other: &String| other != FINALIZER && !replaced.contains(&other.as_str());
        let mut finalizers = service.finalizers().to_vec();
        finalizers.retain(stays);
        finalizers.push(FINALIZER.into());
        self.set_finalizers(service, finalizers).await
    }

    /// Takes our finalizer off a Service, if it is there.
    pub(crate) async fn unmark(&self, service: &Service) -> Result<(), WriteError> {
        let mut finalizers = service.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        self.set_finalizers(service, finalizers).await.map(drop)
    }

    async fn set_finalizers(
        &self,
        service: &Service,
        finalizers: Vec<String>,
    ) -> Result<Option<Service>, WriteError> {
        if finalizers == service.finalizers() {
            return Ok(None);
        }
        self.patch_finalizers(&self.services(service), service, finalizers)
            .await
            .map(Some)
    }

    /// Puts our finalizer on a pool, or takes it off.
    pub(crate) async fn mark_pool(
        &self,
        api: &Api<IPAddressPool>,
        pool: &IPAddressPool,
        marked: bool,
    ) -> Result<(), WriteError> {
        let mut finalizers = pool.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if marked {
            finalizers.push(FINALIZER.into());
        }
        self.patch_finalizers(api, pool, finalizers).await.map(drop)
    }

    async fn patch_finalizers<K>(
        &self,
        api: &Api<K>,
        object: &K,
        finalizers: Vec<String>,
    ) -> Result<K, WriteError>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        let patch = json!({"metadata": {
            "resourceVersion": object.resource_version(),
            "uid": object.uid(),
            "finalizers": finalizers,
        }});
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..Default::default()
        };
        self.fenced(api.patch(&object.name_any(), &parameters, &Patch::Merge(patch)))
            .await
    }

    /// Makes an object; [`WriteError::Stale`] where there is one of its name.
    pub(crate) async fn create<K>(&self, api: &Api<K>, object: &K) -> Result<(), WriteError>
    where
        K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..Default::default()
        };
        self.fenced(api.create(&parameters, object)).await?;
        Ok(())
    }

    /// The Service as the API server has it now.
    pub(crate) async fn get(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Service>, kube::Error> {
        Api::<Service>::namespaced(self.reads.clone(), namespace)
            .get_opt(name)
            .await
    }

    /// The pods that a selector picks, perhaps a moment old: it is for the many reads
    /// of a rollout, which the API server answers from its cache.
    pub(crate) async fn pods(
        &self,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Pod>, kube::Error> {
        let parameters = ListParams::default().labels(selector).match_any();
        let api = Api::<Pod>::namespaced(self.reads.clone(), namespace);
        Ok(api.list(&parameters).await?.items)
    }

    /// Changes conditions of a pod, by their type.
    pub(crate) async fn pod_conditions(&self, pod: &Pod, patch: &Value) -> Result<(), WriteError> {
        let namespace = pod.namespace().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.writes.clone(), &namespace);
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..Default::default()
        };
        self.fenced(api.patch_status(&pod.name_any(), &parameters, &Patch::Strategic(patch)))
            .await?;
        self.metrics.status_writes.inc();
        Ok(())
    }

    /// Leaves an event about an object to be written, if one may be now.
    pub(crate) fn event(
        &self,
        about: &ObjectReference,
        warning: bool,
        reason: &str,
        message: &str,
    ) {
        if self.check().is_ok() {
            self.events.leave(about.clone(), warning, reason, message);
        }
    }

    fn services(&self, service: &Service) -> Api<Service> {
        Api::namespaced(
            self.writes.clone(),
            &service.namespace().unwrap_or_default(),
        )
    }
}
