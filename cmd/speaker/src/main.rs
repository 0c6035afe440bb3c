//! herald-speaker: flags to wiring.

mod flags;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use herald_speaker::SpeakerMetrics;
use herald_telemetry::{Health, Registry};
use tokio::signal::unix::{SignalKind, signal};
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
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
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

/// Cancels `stop` on SIGTERM or SIGINT.
fn stop_on_signal(stop: CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
