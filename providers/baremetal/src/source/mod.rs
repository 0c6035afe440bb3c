//! Sources outside that pools may take their addresses from, and the interface that
//! they have (docs/external-sources.md).

mod client;
mod settings;

pub(crate) use client::{Source, SourceError};
pub use settings::{InvalidSource, SourceSettings, SourceUrl};
