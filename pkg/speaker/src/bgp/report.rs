//! The node's `BGPStatus`: written on change only, and never in the way of anything.

use std::time::Duration;

use herald_api::{BGPStatus, BGPStatusSpec, BGPStatusStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Error, Resource as _};
use serde_json::json;
use tokio::sync::watch;

use super::Parts;
use crate::chain;

/// Changes are gathered for so long.
const SETTLE: Duration = Duration::from_millis(250);
/// Between two writes.
const GAP: Duration = Duration::from_secs(1);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(3);
/// One request takes no longer.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Desk {
    api: Api<BGPStatus>,
    node: String,
    uid: watch::Receiver<String>,
    status: watch::Receiver<Option<BGPStatusStatus>>,
}

impl Desk {
    pub(super) fn new(parts: &Parts, status: watch::Receiver<Option<BGPStatusStatus>>) -> Self {
        Self {
            api: Api::namespaced(parts.client.clone(), &parts.namespace),
            node: parts.node.clone(),
            uid: parts.uid.clone(),
            status,
        }
    }

    /// Keeps the object as the engine says, until that has ended. A node that never
    /// had a peer has none.
    pub(super) async fn keep(mut self) {
        let mut written: Option<BGPStatusStatus> = None;
        loop {
            let goes_on = self.status.changed().await.is_ok();
            if goes_on {
                tokio::time::sleep(SETTLE).await;
            }
            loop {
                let now = self.status.borrow_and_update().clone();
                let nothing = written.is_none() && now.as_ref().is_none_or(|s| s.configured == 0);
                if nothing || now == written {
                    break;
                }
                match self.write(now.as_ref()).await {
                    Ok(()) => {
                        written = now;
                        if goes_on {
                            tokio::time::sleep(GAP).await;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "the BGPStatus was not written");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            if !goes_on {
                return;
            }
        }
    }

    async fn write(&self, status: Option<&BGPStatusStatus>) -> Result<(), Error> {
        match self.patch(status).await {
            Err(Error::Api(error)) if error.code == 404 => {}
            result => return result,
        }
        let mut object = BGPStatus::new(&self.node, BGPStatusSpec {});
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
        match self.api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(Error::Api(error)) if error.code == 409 => {}
            Err(error) => return Err(error),
        }
        self.patch(status).await
    }

    async fn patch(&self, status: Option<&BGPStatusStatus>) -> Result<(), Error> {
        let patch = Patch::Merge(json!({"status": status}));
        let parameters = PatchParams::default();
        let write = self.api.patch_status(&self.node, &parameters, &patch);
        match tokio::time::timeout(TIMEOUT, write).await {
            Ok(result) => result.map(drop),
            Err(elapsed) => Err(Error::Service(elapsed.into())),
        }
    }
}
