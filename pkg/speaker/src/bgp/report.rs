//! The node's `BGPStatus`: written on change only, and never in the way of anything.

use std::time::Duration;

use herald_api::{BGPStatus, BGPStatusSpec, BGPStatusStatus};
use herald_core::chain;
use tokio::sync::watch;

use super::Parts;
use crate::node_object::NodeObject;

/// Changes are gathered for so long.
const SETTLE: Duration = Duration::from_millis(250);
/// Between two writes.
const GAP: Duration = Duration::from_secs(1);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(3);

pub(super) struct Desk {
    object: NodeObject<BGPStatus>,
    status: watch::Receiver<Option<BGPStatusStatus>>,
}

impl Desk {
    pub(super) fn new(parts: &Parts, status: watch::Receiver<Option<BGPStatusStatus>>) -> Self {
        Self {
            object: NodeObject::new(
                parts.client.clone(),
                &parts.namespace,
                parts.node.clone(),
                parts.uid.clone(),
                |name| BGPStatus::new(name, BGPStatusSpec {}),
            ),
            status,
        }
    }

    /// Keeps the object as the engine says, until that has ended. A node that never
    /// had a peer has none.
    pub(super) async fn keep(mut self) {
        let mut written: Option<BGPStatusStatus> = None;
        loop {
            let goes_on = self.status.changed().await.is_ok();
            if goes_on {
                tokio::time::sleep(SETTLE).await;
            }
            loop {
                let now = self.status.borrow_and_update().clone();
                let nothing = written.is_none() && now.as_ref().is_none_or(|s| s.configured == 0);
                if nothing || now == written {
                    break;
                }
                match self.object.write(&now).await {
                    Ok(()) => {
                        written = now;
                        if goes_on {
                            tokio::time::sleep(GAP).await;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "the BGPStatus was not written");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            if !goes_on {
                return;
            }
        }
    }
}
