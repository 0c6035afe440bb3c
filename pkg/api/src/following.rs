//! Watches of the API that say once that they fail, and once that they go on.

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use herald_core::chain;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Error, Event};
use tokio::time::timeout;

use crate::Retry;

/// A watch that failed goes on, if it has not failed again after so long: it is tried
/// again within 4 s ([`Retry`]), and a try that finds no server has failed
/// after 30 s. That it goes on where it was is no event.
const FOLLOWS: Duration = Duration::from_secs(40);

/// What a watch of this kind brings, tried again as [`Retry`] says, without its errors:
/// one line in the log when the API goes away and one when it is back, not one for each
/// try in between. `meanwhile` says what becomes of things until then. It ends as the
/// watch does.
pub fn following<K>(
    kind: impl AsRef<str>,
    meanwhile: &'static str,
    events: impl Stream<Item = Result<Event<K>, Error>>,
) -> impl Stream<Item = Event<K>> {
    let events = events.backoff(Retry::default());
    let begin = (Box::pin(events), kind, false);
    stream::unfold(begin, move |(mut events, kind, mut away)| async move {
        loop {
            let event = match timeout(FOLLOWS, events.next()).await {
                Ok(Some(Ok(event))) => Some(event),
                Err(_quiet) => None,
                Ok(Some(Err(error))) => {
                    let (kind, error) = (kind.as_ref(), chain(&error));
                    if std::mem::replace(&mut away, true) {
                        tracing::debug!(kind, error, "still can't follow the API");
                    } else {
                        tracing::warn!(kind, error, "can't follow the API just now; {meanwhile}");
                    }
                    continue;
                }
                Ok(None) => return None,
            };
            // A list's begin comes from ourselves, before the API has been asked.
            let follows = !matches!(event, Some(Event::Init | Event::InitApply(_)));
            if follows && std::mem::take(&mut away) {
                tracing::info!(kind = kind.as_ref(), "following the API again");
            }
            if let Some(event) = event {
                return Some((event, (events, kind, away)));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn errors_and_quiet_times_are_no_events() {
        let error = || Err(Error::NoResourceVersion);
        let quiet = stream::once(async {
            tokio::time::sleep(FOLLOWS * 2).await;
            Ok(Event::InitDone)
        });
        let events = [
            error(),
            Ok(Event::Init),
            error(),
            error(),
            Ok(Event::Apply(7)),
        ];
        let got: Vec<Event<u8>> = following("Seven", "it waits", stream::iter(events).chain(quiet))
            .collect()
            .await;
        assert!(matches!(
            got[..],
            [Event::Init, Event::Apply(7), Event::InitDone]
        ));
    }
}
