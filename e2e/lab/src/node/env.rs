//! A container's environment: literal values, references to the pod's own
//! fields, to config maps and to secrets, and `$(NAME)` in values and arguments.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use kube::api::Api;
use kube::{Client, ResourceExt as _};

/// Names and values, in no order.
pub(super) type Environment = BTreeMap<String, String>;

/// What the pod's fields are read from.
pub(super) struct PodFields<'a> {
    pub(super) pod: &'a Pod,
    pub(super) pod_ips: &'a [IpAddr],
    pub(super) host_ips: &'a [IpAddr],
}

/// The environment of a container, references resolved.
pub(super) async fn resolve(
    client: &Client,
    fields: &PodFields<'_>,
    container: &Container,
    base: Environment,
) -> Result<Environment> {
    let namespace = fields.pod.namespace().unwrap_or_default();
    let mut environment = base;
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let mut values = Values::new();
        if let Some(map) = &source.config_map_ref {
            values = config_map(client, &namespace, &map.name, map.optional).await?;
        }
        if let Some(secret) = &source.secret_ref {
            values = self::secret(client, &namespace, &secret.name, secret.optional).await?;
        }
        environment.extend(
            values
                .iter()
                .map(|(key, value)| (format!("{prefix}{key}"), text(value))),
        );
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &environment)),
            (None, Some(source)) => referred(client, fields, &namespace, source)
                .await
                .with_context(|| format!("variable {}", variable.name))?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            environment.insert(variable.name.clone(), value);
        }
    }
    Ok(environment)
}

async fn referred(
    client: &Client,
    fields: &PodFields<'_>,
    namespace: &str,
    source: &EnvVarSource,
) -> Result<Option<String>> {
    if let Some(field) = &source.field_ref {
        return self::field(fields, &field.field_path).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let values = config_map(client, namespace, &key.name, key.optional).await?;
        return pick(&values, &key.name, &key.key, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        let values = secret(client, namespace, &key.name, key.optional).await?;
        return pick(&values, &key.name, &key.key, key.optional);
    }
    bail!("only fieldRef, configMapKeyRef and secretKeyRef are known here")
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn pick(values: &Values, name: &str, key: &str, optional: Option<bool>) -> Result<Option<String>> {
    match values.get(key) {
        None if optional != Some(true) => bail!("{name:?} has no key {key:?}"),
        value => Ok(value.map(|value| text(value))),
    }
}

/// The value of a downward API field path.
pub(super) fn field(fields: &PodFields<'_>, path: &str) -> Result<String> {
    let pod = fields.pod;
    let spec = pod.spec.as_ref();
    let quoted = |path: &str, prefix: &str| -> Option<String> {
        Some(path.strip_prefix(prefix)?.strip_suffix("']")?.to_owned())
    };
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => spec
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.podIP" => first(fields.pod_ips),
        "status.podIPs" => joined(fields.pod_ips),
        "status.hostIP" => first(fields.host_ips),
        "status.hostIPs" => joined(fields.host_ips),
        other => {
            if let Some(key) = quoted(other, "metadata.labels['") {
                pod.labels().get(&key).cloned().unwrap_or_default()
            } else if let Some(key) = quoted(other, "metadata.annotations['") {
                pod.annotations().get(&key).cloned().unwrap_or_default()
            } else {
                bail!("field {other:?} is not known here")
            }
        }
    })
}

fn first(addresses: &[IpAddr]) -> String {
    addresses
        .first()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn joined(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Keys and values of a config map or a secret.
pub(super) type Values = BTreeMap<String, Vec<u8>>;

/// The values of a config map; none if it may be missing and is.
pub(super) async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Values> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = maps
        .get_opt(name)
        .await
        .with_context(|| format!("read ConfigMap {namespace}/{name}"))?;
    match found {
        Some(map) => {
            let texts = map.data.unwrap_or_default().into_iter();
            let binaries = map.binary_data.unwrap_or_default().into_iter();
            Ok(texts
                .map(|(key, text)| (key, text.into_bytes()))
                .chain(binaries.map(|(key, bytes)| (key, bytes.0)))
                .collect())
        }
        None if optional == Some(true) => Ok(Values::new()),
        None => bail!("ConfigMap {namespace}/{name} does not exist"),
    }
}

/// The values of a secret; none if it may be missing and is.
pub(super) async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Values> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets
        .get_opt(name)
        .await
        .with_context(|| format!("read Secret {namespace}/{name}"))?;
    match found {
        Some(secret) => {
            let data = secret.data.unwrap_or_default().into_iter();
            Ok(data.map(|(key, bytes)| (key, bytes.0)).collect())
        }
        None if optional == Some(true) => Ok(Values::new()),
        None => bail!("Secret {namespace}/{name} does not exist"),
    }
}

/// Replaces `$(NAME)` by the value of NAME; `$$` stands for `$`, and a name
/// that is not known stays as it is (API documentation of `container.args`).
pub(super) fn expand(text: &str, environment: &Environment) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        expanded.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match environment.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_the_api_says() {
        let environment = Environment::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("--a=$(A)", &environment), "--a=1");
        assert_eq!(expand("$$(A) $(B) $x $", &environment), "$(A) $(B) $x $");
    }

    #[test]
    fn a_field_path_may_name_a_label() {
        let mut pod = Pod::default();
        pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        let fields = PodFields {
            pod: &pod,
            pod_ips: &[],
            host_ips: &[],
        };
        assert_eq!(field(&fields, "metadata.labels['app']").unwrap(), "web");
        assert!(field(&fields, "spec.hostname").is_err());
    }
}
