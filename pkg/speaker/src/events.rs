//! Events on Services: who announces them, on change only.

use std::time::Duration;

use herald_core::ServiceKey;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

/// More than a node takes over at once; what does not fit is not told, since
/// announcing must never wait for the API.
const BACKLOG: usize = 4096;

/// Between two events: a node that takes a thousand Services over does not
/// flood the API with them.
const GAP: Duration = Duration::from_millis(50);

/// Something to tell a Service's owner.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) service: ServiceKey,
    pub(crate) uid: String,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

/// Starts the task that writes events; notes go into the channel.
pub(crate) fn start(client: Client, node: &str) -> mpsc::Sender<Note> {
    let (sender, mut notes) = mpsc::channel::<Note>(BACKLOG);
    let reporter = Reporter {
        controller: "herald-speaker".into(),
        instance: Some(node.to_owned()),
    };
    let recorder = Recorder::new(client, reporter);
    tokio::spawn(async move {
        while let Some(note) = notes.recv().await {
            let event = Event {
                type_: if note.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: note.reason.into(),
                note: Some(note.text),
                action: "Announce".into(),
                secondary: None,
            };
            let reference = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Service".into()),
                namespace: Some(note.service.namespace.clone()),
                name: Some(note.service.name.clone()),
                uid: Some(note.uid),
                ..ObjectReference::default()
            };
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::debug!(service = %note.service, %error, "an event was not written");
            }
            tokio::time::sleep(GAP).await;
        }
    });
    sender
}
