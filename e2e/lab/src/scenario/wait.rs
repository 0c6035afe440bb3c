//! Waiting for what should come to be, and saying what was waited for when it
//! does not.
//!
//! Kubernetes objects are watched; only what can't be watched (a client's
//! view) is asked for again and again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures::{StreamExt, pin_mut};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::watch_object};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::vm;

/// How long to wait for anything, unless it says otherwise. Generous: a
/// machine may be slow, Kubernetes' own parts back off for up to a minute after
/// an outage of the API server, and a pass is never slower for it. In a virtual
/// machine every limit is stretched.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Between two attempts of [`until`].
const AGAIN: Duration = Duration::from_millis(50);

/// Waits until `check` gives something for an object, which may be missing.
pub async fn object<K, T>(
    api: Api<K>,
    name: &str,
    what: &str,
    check: impl FnMut(Option<&K>) -> Option<T>,
) -> Result<T>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    object_for(PATIENCE, api, name, what, check).await
}

/// [`object`] with another limit.
pub async fn object_for<K, T>(
    limit: Duration,
    api: Api<K>,
    name: &str,
    what: &str,
    mut check: impl FnMut(Option<&K>) -> Option<T>,
) -> Result<T>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let limit = limit * vm::patience();
    let deadline = Instant::now() + limit;
    let states = watch_object(api, name).default_backoff();
    pin_mut!(states);
    let mut last = "nothing was seen".to_owned();
    loop {
        match timeout_at(deadline, states.next()).await {
            Ok(Some(Ok(state))) => {
                if let Some(found) = check(state.as_ref()) {
                    return Ok(found);
                }
                last = state.map_or_else(|| "it does not exist".to_owned(), |k| describe(&k));
            }
            Ok(Some(Err(error))) => last = format!("the watch failed: {error}"),
            Ok(None) => bail!("the watch for {what} ended"),
            Err(_) => bail!("waited {} s for {what}; last seen: {last}", limit.as_secs()),
        }
    }
}

/// Waits until `check` gives something for the set of all objects, by name.
pub async fn objects<K, T>(
    api: Api<K>,
    config: watcher::Config,
    what: &str,
    mut check: impl FnMut(&BTreeMap<String, K>) -> Option<T>,
) -> Result<T>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let limit = PATIENCE * vm::patience();
    let deadline = Instant::now() + limit;
    let events = watcher(api, config).default_backoff();
    pin_mut!(events);
    let mut seen = BTreeMap::new();
    let mut listed = false;
    loop {
        match timeout_at(deadline, events.next()).await {
            Ok(Some(Ok(event))) => {
                match event {
                    Event::Init => {
                        seen.clear();
                        listed = false;
                    }
                    Event::InitDone => listed = true,
                    Event::InitApply(object) | Event::Apply(object) => {
                        seen.insert(object.name_any(), object);
                    }
                    Event::Delete(object) => {
                        seen.remove(&object.name_any());
                    }
                }
                // Half a list is no state.
                if listed && let Some(found) = check(&seen) {
                    return Ok(found);
                }
            }
            // The next try is news enough; the set seen so far stays.
            Ok(Some(Err(_))) => {}
            Ok(None) => bail!("the watch for {what} ended"),
            Err(_) => {
                let states: Vec<String> = seen
                    .iter()
                    .map(|(name, object)| format!("{name}: {}", describe(object)))
                    .collect();
                bail!(
                    "waited {} s for {what}; last seen: {}",
                    limit.as_secs(),
                    states.join("; ")
                )
            }
        }
    }
}

/// Tries again until it succeeds.
pub async fn until<T, F>(what: &str, attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    until_for(PATIENCE, what, attempt).await
}

/// [`until`] with another limit.
pub async fn until_for<T, F>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let limit = limit * vm::patience();
    let deadline = Instant::now() + limit;
    let mut last = anyhow!("no attempt ended");
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}; last: {last:#}", limit.as_secs());
        }
        sleep(AGAIN).await;
    }
}

/// What a message about a failure should say of an object: its status, or its
/// specification where it has none.
fn describe(object: &impl Serialize) -> String {
    const LONGEST: usize = 1200;
    let value = serde_json::to_value(object).unwrap_or_default();
    let part = ["status", "spec"]
        .into_iter()
        .find_map(|part| value.get(part).filter(|part| !part.is_null()))
        .unwrap_or(&value);
    let text = part.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_waited_for_and_what_was_last_seen_is_told() {
        let error = until_for(Duration::from_millis(20), "rain", || async {
            Err::<(), _>(anyhow!("sunshine"))
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for rain; last: sunshine");
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_ends_with_the_wait() {
        let error = until_for(
            Duration::from_millis(20),
            "an echo",
            std::future::pending::<Result<()>>,
        )
        .await
        .unwrap_err();
        assert!(error.to_string().starts_with("waited 0 s for an echo"));
    }

    #[test]
    fn an_objects_status_tells_more_than_its_specification() {
        let object = serde_json::json!({"spec": {"a": 1}, "status": {"b": 2}});
        assert_eq!(describe(&object), r#"{"b":2}"#);
        assert_eq!(
            describe(&serde_json::json!({"spec": {"a": 1}})),
            r#"{"a":1}"#
        );
    }
}
