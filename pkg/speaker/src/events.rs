//! Events on Services, on BGP peers and on the node: how they are announced, how
//! sessions are, and how the speaker is, on change only.

use std::time::Duration;

use herald_api::BGPPeer;
use herald_core::ServiceKey;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tokio::sync::mpsc;

/// More than a node takes over at once; what does not fit is not told, since
/// announcing must never wait for the API.
const BACKLOG: usize = 4096;

/// Longer notes are refused (events.k8s.io/v1: 1 kB).
const LONGEST_NOTE: usize = 1000;

/// Between two events: a node that takes a thousand Services over does not
/// flood the API with them.
const GAP: Duration = Duration::from_millis(50);

/// Something to tell on an object.
pub(crate) trait Tell: Send + 'static {
    /// The object.
    fn about(&self) -> ObjectReference;
    /// What is told.
    fn event(self) -> Event;
}

/// Something to tell a Service's owner.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) service: ServiceKey,
    pub(crate) uid: String,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

impl Tell for Note {
    fn about(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(self.service.namespace.clone()),
            name: Some(self.service.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    fn event(self) -> Event {
        event("Announce", self.warning, self.reason, &self.text)
    }
}

/// Something to tell the people of a BGP peer.
#[derive(Debug)]
pub(crate) struct PeerNote {
    pub(crate) namespace: String,
    pub(crate) peer: String,
    pub(crate) uid: String,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

impl Tell for PeerNote {
    fn about(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(BGPPeer::api_version(&()).into()),
            kind: Some(BGPPeer::kind(&()).into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.peer.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    fn event(self) -> Event {
        event("Peer", self.warning, self.reason, &self.text)
    }
}

/// Something to tell the people of this node.
#[derive(Debug)]
pub(crate) struct NodeNote {
    pub(crate) node: String,
    /// Empty while it is not known.
    pub(crate) uid: String,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

impl Tell for NodeNote {
    fn about(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            uid: Some(self.uid.clone()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }
    }

    fn event(self) -> Event {
        event("Speak", true, self.reason, &self.text)
    }
}

fn event(action: &str, warning: bool, reason: &str, text: &str) -> Event {
    Event {
        type_: if warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: reason.into(),
        note: Some(text.chars().take(LONGEST_NOTE).collect()),
        action: action.into(),
        secondary: None,
    }
}

/// Starts the task that writes events; notes go into the channel.
pub(crate) fn start<T: Tell>(client: Client, node: &str) -> mpsc::Sender<T> {
    let (sender, mut notes) = mpsc::channel::<T>(BACKLOG);
    let reporter = Reporter {
        controller: "herald-speaker".into(),
        instance: Some(node.to_owned()),
    };
    tokio::spawn(async move {
        while let Some(note) = notes.recv().await {
            // A new one each time: it would count what is told soon again in the first
            // one, whose text stays, and each tells another thing, such as from which
            // node an address came.
            let recorder = Recorder::new(client.clone(), reporter.clone());
            let about = note.about();
            if let Err(error) = recorder.publish(&note.event(), &about).await {
                let (kind, name) = (about.kind, about.name);
                tracing::debug!(kind, name, %error, "an event was not written");
            }
            tokio::time::sleep(GAP).await;
        }
    });
    sender
}
