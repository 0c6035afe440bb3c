//! What the process of a group tells the runner: JSON, a line for each event.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::Outcome;

/// One line from the process of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A case begins.
    Began {
        /// Its label.
        case: String,
    },
    /// Something was done or seen.
    Step {
        /// Label of the case; none while the lab itself is made.
        case: Option<String>,
        /// What, in a sentence.
        text: String,
    },
    /// A case has ended.
    Ended(Outcome),
}

impl Event {
    /// Tells the runner. A runner that has gone needs no telling.
    pub fn tell(&self) {
        let mut line = serde_json::to_vec(self).expect("an event has only keys that are strings");
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}
