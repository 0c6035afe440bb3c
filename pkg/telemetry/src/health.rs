//! Whether the process is ready to do its work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Readiness, shared between the part that knows and the part that answers
/// probes. A process that answers at all is healthy.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Not ready yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether the process can do its work now.
    pub fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Whether the process can do its work now.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
