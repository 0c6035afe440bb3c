//! An object of any kind, as the API sends it.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object that is not decoded yet. Watches of all kinds are of this one type: the
/// program has their code once, and a node pays for that in memory. And an object that
/// can't be read is left out, where the watch of its own type would fail as a whole.
/// Of a watch's event the type must come first, as the API server writes it.
#[derive(Clone)]
pub(crate) struct Raw {
    /// Its name, its namespace and its version, no more.
    metadata: ObjectMeta,
    text: Box<RawValue>,
}

impl Raw {
    /// The object as one of its kind, or with as much of it as is wanted.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.text.get())
    }
}

// Without the text, which may be a Secret's.
impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metadata = &self.metadata;
        f.debug_struct("Raw")
            .field("metadata", metadata)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Head { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            resource_version: metadata.resource_version,
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, text })
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use kube::ResourceExt as _;
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    const SERVICE: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web",
        "namespace":"default","resourceVersion":"7","managedFields":[{"manager":"x"}]},
        "spec":{"type":"LoadBalancer"}}"#;

    #[test]
    fn what_comes_from_a_watch_or_in_a_list_is_decoded_later() {
        let event = format!(r#"{{"type":"ADDED","object":{SERVICE}}}"#);
        let WatchEvent::Added(raw) = serde_json::from_str::<WatchEvent<Raw>>(&event).unwrap()
        else {
            panic!("it was added");
        };
        assert_eq!(raw.name_any(), "web");
        assert_eq!(raw.resource_version().as_deref(), Some("7"));
        let service: Service = raw.decode().unwrap();
        let spec = service.spec.unwrap();
        assert_eq!(spec.type_.as_deref(), Some("LoadBalancer"));
        let list = format!(
            r#"{{"apiVersion":"v1","kind":"ServiceList","metadata":{{"resourceVersion":"9"}},
            "items":[{SERVICE},{SERVICE}]}}"#
        );
        let list: ObjectList<Raw> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.items.len(), 2);
        assert_eq!(list.items[1].namespace().as_deref(), Some("default"));
    }

    #[test]
    fn an_object_of_another_form_is_read_by_its_head() {
        let raw: Raw =
            serde_json::from_str(r#"{"metadata":{"name":"web"},"spec":["odd"]}"#).unwrap();
        assert_eq!(raw.name_any(), "web");
        assert!(raw.decode::<Service>().is_err());
        assert!(!format!("{raw:?}").contains("odd"), "it may be secret");
    }
}
