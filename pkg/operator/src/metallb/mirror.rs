//! Copies of `MetalLB`'s objects, kept while `MetalLB` has them. Only the leader
//! keeps them, and through the fence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use herald_api::names::FIELD_MANAGER;
use herald_api::{Retry, following};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use super::{KINDS, Kind, LABEL_ADOPTED, METALLB, MigrateError, THEIR_GROUP, convert, list};
use crate::writer::{WriteError, Writer};

/// Changes are gathered for this long.
const SETTLE: Duration = Duration::from_millis(200);
/// Everything is looked at anew so often, whatever is heard.
const PERIOD: Duration = Duration::from_mins(1);

/// Keeps the copies of the objects in `from` in `namespace`. Never returns.
pub(crate) async fn keep(client: Client, writer: Writer, from: String, namespace: String) {
    let mirror = Mirror {
        client,
        writer,
        from,
        namespace,
    };
    let mut changes = mirror.changes();
    let mut retry = Retry::default();
    loop {
        let pause = match mirror.level().await {
            Ok(()) => {
                retry = Retry::default();
                PERIOD
            }
            Err(error) => {
                tracing::warn!(%error, "following MetalLB's objects; it is tried again");
                retry.next().unwrap_or(PERIOD)
            }
        };
        let _ = tokio::time::timeout(pause, changes.next()).await;
        tokio::time::sleep(SETTLE).await;
        // All that is ready by now is one change.
        while futures::FutureExt::now_or_never(changes.next())
            .flatten()
            .is_some()
        {}
    }
}

/// Why the copies are not what they should be.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error(transparent)]
    Read(#[from] MigrateError),
    #[error("cannot read Herald's objects: {0}")]
    Ours(#[from] kube::Error),
    #[error("cannot write {kind} {name}: {source}")]
    Write {
        kind: &'static str,
        name: String,
        source: WriteError,
    },
}

struct Mirror {
    client: Client,
    writer: Writer,
    from: String,
    namespace: String,
}

impl Mirror {
    /// Tells of every change of `MetalLB`'s objects, but not what it is.
    fn changes(&self) -> BoxStream<'static, ()> {
        let follow = |kind: &Kind| {
            // The API server gives every version of an object.
            let theirs = kind.theirs(kind.versions[0]);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.from, &theirs);
            let events = watcher(api, watcher::Config::default());
            following(kind.name, "copies stay as they are", events)
                .map(drop)
                .boxed()
        };
        stream::select_all(KINDS.iter().map(follow)).boxed()
    }

    /// Makes the copies what they should be. An object that is wrong is left out, and
    /// its copy stays as it was; the others go on.
    async fn level(&self) -> Result<(), MirrorError> {
        for kind in &KINDS {
            let theirs = list(&self.client, kind, &self.from).await?;
            let ours = self.ours(kind).await?;
            let mut known = BTreeSet::new();
            for object in &theirs {
                known.insert(object.name_any());
                self.copy(kind, object, &ours).await?;
            }
            let gone: Vec<&DynamicObject> = ours
                .values()
                .filter(|copy| is_copy(copy) && !known.contains(&copy.name_any()))
                .collect();
            if !gone.is_empty() && self.theirs_stand(kind).await? {
                for copy in gone {
                    self.remove(kind, copy).await?;
                }
            }
        }
        Ok(())
    }

    async fn ours(&self, kind: &Kind) -> Result<BTreeMap<String, DynamicObject>, kube::Error> {
        let api = self.api(kind);
        let list = api.list(&ListParams::default()).await?;
        Ok(list
            .items
            .into_iter()
            .map(|object| (object.name_any(), object))
            .collect())
    }

    async fn copy(
        &self,
        kind: &Kind,
        theirs: &DynamicObject,
        ours: &BTreeMap<String, DynamicObject>,
    ) -> Result<(), MirrorError> {
        let name = theirs.name_any();
        let mut wanted = match convert(kind, theirs, &self.namespace) {
            Ok(conversion) => conversion.object,
            Err(error) => {
                tracing::warn!(kind = kind.name, name = name, %error, "MetalLB's object is left out");
                return Ok(());
            }
        };
        let labels = wanted.metadata.labels.get_or_insert_default();
        labels.insert(LABEL_ADOPTED.into(), METALLB.into());
        match ours.get(&name) {
            // Somebody made one of this name himself: that is what holds.
            Some(own) if !is_copy(own) => return Ok(()),
            Some(copy)
                if says(&copy.data["spec"], &wanted.data["spec"])
                    && copy.labels() == wanted.labels() =>
            {
                return Ok(());
            }
            _ => {}
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api_for_writes(kind);
        let patch = Patch::Apply(&wanted);
        let write = api.patch(&name, &parameters, &patch);
        tracing::info!(kind = kind.name, name = name, "copies MetalLB's object");
        self.writer
            .fenced(write)
            .await
            .map(drop)
            .map_err(|source| MirrorError::Write {
                kind: kind.name,
                name,
                source,
            })
    }

    /// Whether an object that is gone was deleted by itself, and not with the whole
    /// of `MetalLB`: who takes that away wants to keep what it was told.
    async fn theirs_stand(&self, kind: &Kind) -> Result<bool, kube::Error> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespaces.get_opt(&self.from).await?;
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = format!("{}.{THEIR_GROUP}", kind.plural);
        let definition = definitions.get_opt(&name).await?;
        let stands = |gone: Option<bool>| gone == Some(false);
        Ok(
            stands(namespace.map(|n| n.metadata.deletion_timestamp.is_some()))
                && stands(definition.map(|d| d.metadata.deletion_timestamp.is_some())),
        )
    }

    async fn remove(&self, kind: &Kind, copy: &DynamicObject) -> Result<(), MirrorError> {
        let name = copy.name_any();
        tracing::info!(
            kind = kind.name,
            name,
            "MetalLB's object is gone, and its copy"
        );
        let parameters = kube::api::DeleteParams {
            preconditions: Some(kube::api::Preconditions {
                uid: copy.uid(),
                resource_version: copy.resource_version(),
            }),
            ..Default::default()
        };
        let api = self.api_for_writes(kind);
        match self.writer.fenced(api.delete(&name, &parameters)).await {
            // It changed or went by itself; the next look tells.
            Ok(_) | Err(WriteError::Stale) => Ok(()),
            Err(source) => Err(MirrorError::Write {
                kind: kind.name,
                name,
                source,
            }),
        }
    }

    fn api(&self, kind: &Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.ours())
    }

    fn api_for_writes(&self, kind: &Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.writer.client(), &self.namespace, &kind.ours())
    }
}

fn is_copy(object: &DynamicObject) -> bool {
    object
        .labels()
        .get(LABEL_ADOPTED)
        .is_some_and(|from| from == METALLB)
}

/// Whether an object that the API server has filled in with defaults says all that
/// is wanted, and nothing is left of what was wanted before.
fn says(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => {
            wanted
                .iter()
                .all(|(key, value)| stored.get(key).is_some_and(|had| says(had, value)))
                && stored.len() == wanted.len()
        }
        (Value::Array(stored), Value::Array(wanted)) => {
            stored.len() == wanted.len() && stored.iter().zip(wanted).all(|(a, b)| says(a, b))
        }
        (stored, wanted) => stored == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let stored = json!({"addresses": ["a"], "autoAssign": true});
        assert!(says(
            &stored,
            &json!({"autoAssign": true, "addresses": ["a"]})
        ));
        assert!(!says(
            &stored,
            &json!({"autoAssign": true, "addresses": ["b"]})
        ));
        assert!(!says(&stored, &json!({"autoAssign": true})));
    }
}
