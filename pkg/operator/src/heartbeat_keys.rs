//! The Secret that the speakers' heartbeats are sealed with, made when there is
//! none. Keys are changed by hand, and never by us.

use std::collections::BTreeMap;
use std::time::Duration;

use herald_api::names::{HEARTBEAT_KEY_PRIMARY, SECRET_HEARTBEAT_KEYS};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta};
use thiserror::Error;

use crate::writer::{WriteError, Writer};

/// Octets of a key: as many as the hash gives (RFC 2104 §3).
const KEY: usize = 32;

/// Whether the Secret is still there is looked at so often.
const PERIOD: Duration = Duration::from_mins(1);

/// After an error.
const RETRY: Duration = Duration::from_secs(2);

/// Why there is no key.
#[derive(Debug, Error)]
enum KeyError {
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes the Secret whenever there is none. Never returns.
pub(crate) async fn keep(secrets: Api<Secret>, writer: Writer) {
    loop {
        let pause = match ensure(&secrets, &writer).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::warn!(
                    secret = SECRET_HEARTBEAT_KEYS, %error,
                    "cannot make sure that the speakers have a key; they announce nothing without"
                );
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn ensure(secrets: &Api<Secret>, writer: &Writer) -> Result<(), KeyError> {
    let found = secrets.get_opt(SECRET_HEARTBEAT_KEYS).await;
    if found.map_err(WriteError::from)?.is_some() {
        return Ok(());
    }
    match writer.create(secrets, &secret()?).await {
        Ok(()) => {
            tracing::info!(secret = SECRET_HEARTBEAT_KEYS, "made a key for heartbeats");
            Ok(())
        }
        // Somebody was faster.
        Err(WriteError::Stale) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn secret() -> Result<Secret, KeyError> {
    let mut key = vec![0; KEY];
    getrandom::fill(&mut key).map_err(KeyError::Random)?;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET_HEARTBEAT_KEYS.into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::from([(
            HEARTBEAT_KEY_PRIMARY.into(),
            ByteString(key),
        )])),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_drawn_anew_and_long_enough() {
        let key = || {
            let data = secret().unwrap().data.unwrap();
            data[HEARTBEAT_KEY_PRIMARY].0.clone()
        };
        assert_eq!(key().len(), KEY);
        assert_ne!(key(), key());
    }
}
