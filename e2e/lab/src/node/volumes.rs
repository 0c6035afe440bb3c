//! A pod's volumes, as directories on the node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::{
    KeyToPath, Pod, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use super::env::{self, Environment, PodFields};

/// Makes a volume's directory and fills it; called again to refresh tokens.
pub(super) async fn prepare(
    client: &Client,
    fields: &PodFields<'_>,
    volume: &Volume,
    directory: &Path,
) -> Result<PathBuf> {
    if let Some(host) = &volume.host_path {
        let path = PathBuf::from(&host.path);
        if !path.exists() {
            bail!("volume {}: {} does not exist on the node", volume.name, host.path);
        }
        return Ok(path);
    }
    let namespace = fields.pod.namespace().unwrap_or_default();
    let path = directory.join("volumes").join(&volume.name);
    fs::create_dir_all(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    let fill = async {
        if let Some(map) = &volume.config_map {
            let values = env::config_map(client, &namespace, &map.name, map.optional).await?;
            write(&path, &values, map.items.as_deref())?;
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let values = env::secret(client, &namespace, name, secret.optional).await?;
            write(&path, &values, secret.items.as_deref())?;
        } else if let Some(projected) = &volume.projected {
            project(client, fields, projected, &path).await?;
        } else if volume.empty_dir.is_none() {
            bail!("only emptyDir, configMap, secret, projected and hostPath are known here");
        }
        Ok(())
    };
    fill.await.with_context(|| format!("volume {}", volume.name))?;
    Ok(path)
}

async fn project(
    client: &Client,
    fields: &PodFields<'_>,
    projected: &ProjectedVolumeSource,
    path: &Path,
) -> Result<()> {
    let namespace = fields.pod.namespace().unwrap_or_default();
    for source in projected.sources.iter().flatten() {
        if let Some(token) = &source.service_account_token {
            let text = request_token(client, fields.pod, token).await?;
            put(path, &token.path, text.as_bytes())?;
        }
        if let Some(map) = &source.config_map {
            let values = env::config_map(client, &namespace, &map.name, map.optional).await?;
            write(path, &values, map.items.as_deref())?;
        }
        if let Some(secret) = &source.secret {
            let values = env::secret(client, &namespace, &secret.name, secret.optional).await?;
            write(path, &values, secret.items.as_deref())?;
        }
        for item in source.downward_api.iter().flat_map(|api| api.items.iter().flatten()) {
            if let Some(field) = &item.field_ref {
                put(path, &item.path, env::field(fields, &field.field_path)?.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// A token of the pod's service account that dies with the pod.
async fn request_token(
    client: &Client,
    pod: &Pod,
    token: &ServiceAccountTokenProjection,
) -> Result<String> {
    let accounts: Api<ServiceAccount> =
        Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .unwrap_or_else(|| "default".into());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: token.audience.clone().into_iter().collect(),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            expiration_seconds: token.expiration_seconds,
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(&account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("token of service account {account}"))?;
    Ok(answer.status.context("the API server sent no token")?.token)
}

fn write(path: &Path, values: &Environment, items: Option<&[KeyToPath]>) -> Result<()> {
    match items {
        None => {
            for (key, value) in values {
                put(path, key, value.as_bytes())?;
            }
        }
        Some(items) => {
            for item in items {
                let value =
                    values.get(&item.key).with_context(|| format!("no key {:?}", item.key))?;
                put(path, &item.path, value.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// Writes a file whole: a reader sees the old text or the new one.
fn put(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let relative = Path::new(name);
    if relative.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        bail!("{name:?} is no path below the volume");
    }
    let path = directory.join(relative);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes)?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o644))?;
    fs::rename(partial, path)?;
    Ok(())
}
