//! Events, written one after the other beside the work: nothing waits for them.

use herald_api::names::FIELD_MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

/// Events that wait; more are dropped, which takes as many news at once.
const BACKLOG: usize = 16_384;
/// The recorder remembers what it wrote, to count repetitions: it forgets after so
/// many events, so that it neither grows nor searches for long.
const MEMORY: usize = 512;
/// Longer notes are refused (events.k8s.io/v1: 1 kB).
const LONGEST_NOTE: usize = 1000;

/// Where events are left.
#[derive(Clone)]
pub(crate) struct Desk(mpsc::Sender<(Event, ObjectReference)>);

impl Desk {
    /// Opens a desk and starts what writes from it: it ends when the desk and its
    /// copies are gone and all is written.
    pub(crate) fn open(client: Client, instance: String) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), write(client, instance, receiver))
    }

    /// Leaves an event about an object. That it is not written in the end is no
    /// reason to stop.
    pub(crate) fn leave(&self, about: ObjectReference, warning: bool, reason: &str, note: &str) {
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            note: Some(note.chars().take(LONGEST_NOTE).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        if self.0.try_send((event, about)).is_err() {
            tracing::debug!(reason, "too many events wait; this one is not written");
        }
    }
}

async fn write(
    client: Client,
    instance: String,
    mut events: mpsc::Receiver<(Event, ObjectReference)>,
) {
    let reporter = Reporter {
        controller: FIELD_MANAGER.into(),
        instance: Some(instance),
    };
    let mut recorder = Recorder::new(client.clone(), reporter.clone());
    let mut written = 0;
    while let Some((event, about)) = events.recv().await {
        if let Err(error) = recorder.publish(&event, &about).await {
            tracing::debug!(reason = event.reason, %error, "an event was not written");
        }
        written += 1;
        if written % MEMORY == 0 {
            recorder = Recorder::new(client.clone(), reporter.clone());
        }
    }
}
