//! herald-speaker: flags to wiring.

mod flags;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use herald_speaker::SpeakerMetrics;
use herald_telemetry::{Health, Registry};
use tokio_util::sync::CancellationToken;

use crate::flags::Flags;

// One thread is plenty for ARP, and keeps the process small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    herald_telemetry::init_logs(flags.log_format);
    let mut registry = Registry::default();
    let metrics = SpeakerMetrics::register(&mut registry);
    let health = Health::new();
    let stop = herald_telemetry::stop_on_signal()?;
    let client = kube::Client::try_default()
        .await
        .context("cannot tell where the API server is and who we are there")?;
    // Until the very end: probes must see that we stop.
    let endpoint = herald_telemetry::serve(
        flags.metrics_bind_address,
        Arc::new(registry),
        health.clone(),
        CancellationToken::new(),
    );
    tokio::select! {
        result = herald_speaker::run(client, flags.config(), metrics, health, stop) => result?,
        result = endpoint => result?,
    }
    Ok(())
}
