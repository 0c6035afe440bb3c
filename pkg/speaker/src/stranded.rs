//! Addresses that nobody announces, as no node has a place for them: told once,
//! by one of the nodes that should.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::duties::Duties;
use crate::events::Note;
use crate::view;

/// What was told.
pub(crate) struct Stranded {
    node: String,
    notes: mpsc::Sender<Note>,
    told: BTreeSet<(IpAddr, String)>,
}

impl Stranded {
    pub(crate) const fn new(node: String, notes: mpsc::Sender<Note>) -> Self {
        Self {
            node,
            notes,
            told: BTreeSet::new(),
        }
    }

    /// Tells what is new.
    pub(crate) fn follow(&mut self, duties: &Duties) {
        let mut now = BTreeSet::new();
        for ((address, services), teller) in view::stranded(duties) {
            if teller != self.node {
                continue;
            }
            for service in services {
                let stranded = (*address, service.uid.clone());
                if !self.told.contains(&stranded) {
                    tracing::warn!(service = %service.key, %address, "no node has a place for it");
                    let text = format!(
                        "no node announces {address}: none that may has an interface with a subnet \
                         that holds it; see nodeSelectors of the L2Advertisement, or name there the \
                         interfaces to announce it on"
                    );
                    // What does not fit is told when something changes.
                    let note = Note {
                        service: service.key.clone(),
                        uid: service.uid.clone(),
                        warning: true,
                        reason: "NoInterface",
                        text,
                    };
                    if self.notes.try_send(note).is_err() {
                        continue;
                    }
                }
                now.insert(stranded);
            }
        }
        self.told = now;
    }
}
