//! What every Herald process has: logs, metrics, health, and an end on a
//! signal.

mod health;
mod logs;
mod server;
mod stop;

pub use health::Health;
pub use logs::{LogFormat, init_logs};
pub use prometheus_client;
pub use prometheus_client::registry::Registry;
pub use server::{TelemetryError, serve};
pub use stop::stop_on_signal;
