//! Logs, metrics and health of a Herald process.

mod health;
mod logs;
mod server;

pub use health::Health;
pub use logs::{LogFormat, init_logs};
pub use prometheus_client;
pub use prometheus_client::registry::Registry;
pub use server::{TelemetryError, serve};
