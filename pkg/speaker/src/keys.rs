//! The keys of the heartbeats, from their Secret.

use std::sync::Arc;

use futures::StreamExt as _;
use herald_api::following;
use herald_api::names::{HEARTBEAT_KEY_PRIMARY, SECRET_HEARTBEAT_KEYS};
use herald_election::{KeyError, KeyRing};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{self, Event};
use thiserror::Error;
use tokio::sync::watch::{Receiver, channel};

use crate::watch::all_in;

/// None while there are no keys.
pub(crate) type Keys = Receiver<Option<Arc<KeyRing>>>;

/// Why a Secret is of no use.
#[derive(Debug, Error, PartialEq, Eq)]
enum KeysError {
    #[error(
        "Secret {SECRET_HEARTBEAT_KEYS} has no entry {HEARTBEAT_KEY_PRIMARY:?}, which heartbeats are sealed with; add it"
    )]
    NoPrimary,
    #[error("Secret {SECRET_HEARTBEAT_KEYS}: {0}")]
    Key(#[from] KeyError),
    // What the parser says may cite the keys.
    #[error("Secret {SECRET_HEARTBEAT_KEYS} is not of a Secret's form")]
    Form,
}

/// Follows the Secret in a task of its own. One that is gone or of no use leaves
/// the keys as they were.
pub(crate) fn start(client: &Client, namespace: &str) -> Keys {
    let (publish, keys) = channel(None);
    let source = all_in::<Secret>(client, namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={SECRET_HEARTBEAT_KEYS}"));
    tokio::spawn(async move {
        let events = following(
            SECRET_HEARTBEAT_KEYS,
            "the keys are used on",
            watch(source.api, only),
        );
        let mut events = std::pin::pin!(events);
        let mut listed = false;
        while let Some(event) = events.next().await {
            let secret = match event {
                Event::InitApply(secret) | Event::Apply(secret) => secret,
                Event::Init => {
                    listed = false;
                    continue;
                }
                Event::InitDone => {
                    if !listed {
                        tracing::warn!(
                            secret = SECRET_HEARTBEAT_KEYS,
                            "there is no Secret with a key for heartbeats yet; the operator makes it"
                        );
                    }
                    continue;
                }
                Event::Delete(_) => {
                    tracing::warn!(
                        secret = SECRET_HEARTBEAT_KEYS,
                        "the Secret with the keys for heartbeats is gone; the keys are used on"
                    );
                    continue;
                }
            };
            listed = true;
            match secret
                .decode()
                .map_err(|_| KeysError::Form)
                .and_then(|secret| ring(&secret))
            {
                Ok(ring) => {
                    tracing::info!(?ring, "keys for heartbeats");
                    if publish.send(Some(Arc::new(ring))).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::error!(%error, "the keys for heartbeats stay as they were"),
            }
        }
    });
    keys
}

/// The keys in a Secret: the primary one seals, all others are accepted.
fn ring(secret: &Secret) -> Result<KeyRing, KeysError> {
    let data = secret.data.iter().flatten();
    let (primary, others): (Vec<_>, Vec<_>) =
        data.partition(|(name, _)| *name == HEARTBEAT_KEY_PRIMARY);
    if primary.is_empty() {
        return Err(KeysError::NoPrimary);
    }
    let keys = primary.into_iter().chain(others);
    Ok(KeyRing::new(keys.map(|(_, key)| &key.0))?)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(entries: &[(&str, &[u8])]) -> Secret {
        let entries = entries.iter();
        Secret {
            data: Some(
                entries
                    .map(|(name, key)| ((*name).to_owned(), ByteString(key.to_vec())))
                    .collect(),
            ),
            ..Secret::default()
        }
    }

    #[test]
    fn the_primary_key_seals_and_all_are_accepted() {
        let old = ring(&secret(&[("primary", &[1; 32])])).unwrap();
        let both = ring(&secret(&[("a-new-one", &[2; 32]), ("primary", &[1; 32])])).unwrap();
        let new = ring(&secret(&[("primary", &[2; 32]), ("previous", &[1; 32])])).unwrap();
        let last = ring(&secret(&[("primary", &[2; 32])])).unwrap();
        for (from, to, well) in [
            (&old, &both, true),
            (&both, &old, true),
            (&new, &both, true),
            (&new, &old, false),
            (&last, &new, true),
            (&old, &last, false),
        ] {
            assert_eq!(to.open(&from.seal(b"x".to_vec())).is_ok(), well);
        }
    }

    #[test]
    fn what_is_missing_or_short_is_told_without_the_key() {
        assert_eq!(
            ring(&secret(&[("other", &[1; 32])])).unwrap_err(),
            KeysError::NoPrimary
        );
        let short = ring(&secret(&[("primary", b"abc")]))
            .unwrap_err()
            .to_string();
        assert!(short.contains("3 octets") && !short.contains("abc"));
        assert!(ring(&Secret::default()).is_err());
    }
}
