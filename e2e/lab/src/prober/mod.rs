//! The prober: numbered probes at a fixed rate, seen from the client's side.
//!
//! ```text
//!   scenario (the lab's process)           child in the client's network namespace
//!   Prober::start ------ spawn ----------> herald-lab __probe TARGET
//!   Probing::wait_answered <-- stdout ---- {"event":"progress", ...}
//!   Probing::stop ------ stdin ends -----> sends no more, waits for what is under way
//!   ProbeReport <------------ stdout ----- {"event":"report", ...}
//! ```
//!
//! Every probe is a new flow (a new source port), so that no answer rests on
//! state that an earlier probe left in a node's connection table.

mod command;
mod handle;
mod probe;
mod run;
mod tally;
mod target;

pub use command::ProbeArguments;
pub use handle::{Prober, Probing};
pub use run::{Options, Output, run};
pub use tally::{Answer, ProbeReport, Progress, Tally};
pub use target::{InvalidTarget, Scheme, Target};

use serde::{Deserialize, Serialize};

/// One line of the prober's JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The counts have changed.
    Progress(Progress),
    /// The last line.
    Report(ProbeReport),
}
