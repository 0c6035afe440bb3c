//! A pod's volumes, as files and directories on the node.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, ProjectedVolumeSource,
    ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use super::env::{self, PodFields, Values};

/// Tokens live an hour if nobody asks for less.
const TOKEN_LIFE: i64 = 3607;

/// A volume on the node.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    /// Whether containers may write to it at all.
    pub(super) writable: bool,
}

/// Makes a pod's volumes and fills them; called again to refresh tokens.
pub(super) async fn prepare(
    client: &Client,
    fields: &PodFields<'_>,
    directory: &Path,
) -> Result<BTreeMap<String, Prepared>> {
    let volumes = fields
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let mut prepared = BTreeMap::new();
    for volume in volumes {
        let path = directory.join("volumes").join(&volume.name);
        let made = fill(client, fields, volume, path)
            .await
            .with_context(|| format!("volume {}", volume.name))?;
        prepared.insert(volume.name.clone(), made);
    }
    Ok(prepared)
}

/// After how long the pod's tokens must be asked for again, if it has any: at
/// four fifths of the shortest life, as the kubelet does.
pub(super) fn refresh_after(pod: &Pod) -> Option<Duration> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten())
        .filter_map(|source| source.service_account_token.as_ref())
        .filter_map(|token| u64::try_from(token.expiration_seconds.unwrap_or(TOKEN_LIFE)).ok())
        .min()
        .map(|seconds| Duration::from_secs(seconds) * 4 / 5)
}

async fn fill(
    client: &Client,
    fields: &PodFields<'_>,
    volume: &Volume,
    path: PathBuf,
) -> Result<Prepared> {
    if let Some(host) = &volume.host_path {
        return host_path(host);
    }
    let namespace = fields.pod.namespace().unwrap_or_default();
    fs::create_dir_all(&path)?;
    if volume.empty_dir.is_some() {
        // Any user of the pod may write, as with the kubelet.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        return Ok(Prepared {
            path,
            writable: true,
        });
    }
    if let Some(map) = &volume.config_map {
        let values = env::config_map(client, &namespace, &map.name, map.optional).await?;
        write(&path, &values, map.items.as_deref(), map.optional)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let values = env::secret(client, &namespace, name, secret.optional).await?;
        write(&path, &values, secret.items.as_deref(), secret.optional)?;
    } else if let Some(projected) = &volume.projected {
        project(client, fields, projected, &path).await?;
    } else if let Some(downward) = &volume.downward_api {
        write_fields(&path, fields, downward.items.iter().flatten())?;
    } else {
        bail!(
            "only configMap, downwardAPI, emptyDir, hostPath, projected and secret are known here"
        );
    }
    Ok(Prepared {
        path,
        writable: false,
    })
}

/// A file or directory of the node. Only the node's own `/run` is made on
/// demand: the machine is not written to.
fn host_path(host: &HostPathVolumeSource) -> Result<Prepared> {
    let path = PathBuf::from(&host.path);
    if !path.exists() {
        if host.type_.as_deref() == Some("DirectoryOrCreate") && path.starts_with("/run") {
            fs::create_dir_all(&path)?;
        } else {
            bail!("hostPath {} does not exist on the node", host.path);
        }
    }
    Ok(Prepared {
        path,
        writable: true,
    })
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
            write(path, &values, map.items.as_deref(), map.optional)?;
        }
        if let Some(secret) = &source.secret {
            let values = env::secret(client, &namespace, &secret.name, secret.optional).await?;
            write(path, &values, secret.items.as_deref(), secret.optional)?;
        }
        if let Some(downward) = &source.downward_api {
            write_fields(path, fields, downward.items.iter().flatten())?;
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
    let namespace = pod.namespace().unwrap_or_default();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
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
        .with_context(|| format!("token of service account {namespace}/{account}"))?;
    Ok(answer.status.context("the API server sent no token")?.token)
}

fn write_fields<'a>(
    path: &Path,
    fields: &PodFields<'_>,
    items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
) -> Result<()> {
    for item in items {
        let Some(field) = &item.field_ref else {
            bail!("{}: only fieldRef is known here", item.path);
        };
        put(
            path,
            &item.path,
            env::field(fields, &field.field_path)?.as_bytes(),
        )?;
    }
    Ok(())
}

fn write(
    path: &Path,
    values: &Values,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Result<()> {
    let Some(items) = items else {
        for (key, value) in values {
            put(path, key, value)?;
        }
        return Ok(());
    };
    for item in items {
        match values.get(&item.key) {
            Some(value) => put(path, &item.path, value)?,
            None if optional == Some(true) => {}
            None => bail!("there is no key {:?}", item.key),
        }
    }
    Ok(())
}

/// A path below a directory, and nowhere else.
pub(super) fn below(directory: &Path, relative: &str) -> Result<PathBuf> {
    let path = Path::new(relative);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside {
        bail!("{relative:?} is no path below the volume");
    }
    Ok(directory.join(path))
}

/// Writes a file whole: a reader sees the old text or the new one.
fn put(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = below(directory, name)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    fs::write(&partial, bytes)?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o644))?;
    fs::rename(&partial, &path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_can_not_leave_its_volume() {
        let volume = Path::new("/volumes/v");
        assert!(below(volume, "a/b").is_ok());
        assert!(below(volume, "../other").is_err());
        assert!(below(volume, "/etc/passwd").is_err());
    }

    #[test]
    fn tokens_are_refreshed_before_the_first_one_dies() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {"containers": [], "volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "a"}},
                {"serviceAccountToken": {"path": "b", "expirationSeconds": 600}},
            ]}}]},
        }))
        .unwrap();
        assert_eq!(refresh_after(&pod), Some(Duration::from_mins(8)));
        assert_eq!(refresh_after(&Pod::default()), None);
    }
}
