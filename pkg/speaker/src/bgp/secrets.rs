//! Passwords of peers, from their Secrets. Each is read by its name: a speaker has no
//! right to list Secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use herald_api::Password;
use herald_core::chain;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::watch;

/// A Secret that was changed is seen after so long at most.
const REFRESH: Duration = Duration::from_mins(1);
/// After one could not be read.
const RETRY: Duration = Duration::from_secs(5);

/// By the names of Secrets: the password, or what is wrong with it, in words.
pub(super) type Passwords = BTreeMap<String, Result<Password, String>>;

/// Reads the Secrets that are wanted, in a task of its own.
pub(super) fn start(
    client: Client,
    namespace: &str,
    mut wanted: watch::Receiver<BTreeSet<String>>,
) -> watch::Receiver<Passwords> {
    let (publish, passwords) = watch::channel(Passwords::new());
    let api = Api::<Secret>::namespaced(client, namespace);
    tokio::spawn(async move {
        loop {
            let names = wanted.borrow_and_update().clone();
            let mut now = Passwords::new();
            for name in names {
                let before = publish.borrow().get(&name).cloned();
                let read = read(&api, &name, before).await;
                now.insert(name, read);
            }
            let failed = now.values().any(Result::is_err);
            publish.send_if_modified(|passwords| {
                let changed = *passwords != now;
                *passwords = now;
                changed
            });
            let pause = if failed { RETRY } else { REFRESH };
            let changed = wanted.changed();
            if let Ok(Err(_)) = tokio::time::timeout(pause, changed).await {
                return;
            }
        }
    });
    passwords
}

async fn read(
    api: &Api<Secret>,
    name: &str,
    before: Option<Result<Password, String>>,
) -> Result<Password, String> {
    match api.get_opt(name).await {
        Ok(Some(secret)) => password(name, &secret),
        Ok(None) => Err(format!(
            "there is no Secret {name} in Herald's namespace; make it, with the entry password"
        )),
        // The API is away: what was read holds.
        Err(error) => match before {
            Some(Ok(password)) => Ok(password),
            _ => Err(format!("Secret {name} can't be read: {}", chain(&error))),
        },
    }
}

fn password(name: &str, secret: &Secret) -> Result<Password, String> {
    let entry = secret.data.as_ref().and_then(|data| data.get("password"));
    let Some(entry) = entry else {
        return Err(format!("Secret {name} has no entry password; add it"));
    };
    let text = String::from_utf8(entry.0.clone())
        .map_err(|_| format!("the password in Secret {name} is not UTF-8 text"))?;
    match text.len() {
        1..=herald_net::LONGEST_PASSWORD => Ok(Password(text)),
        length => Err(format!(
            "the password in Secret {name} is {length} octets long; it must be 1 to 80"
        )),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        let secret = |entry: &str, value: &[u8]| Secret {
            data: Some([(entry.to_owned(), ByteString(value.to_vec()))].into()),
            ..Secret::default()
        };
        let good = password("a", &secret("password", b"x"));
        assert_eq!(good, Ok(Password("x".into())));
        let missing = password("a", &secret("pass", b"hidden")).unwrap_err();
        assert!(missing.contains("Secret a") && !missing.contains("hidden"));
        assert!(password("a", &secret("password", &[b'x'; 81])).is_err());
        assert!(password("a", &secret("password", b"")).is_err());
    }
}
