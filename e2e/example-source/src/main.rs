//! herald-example-source: the smallest source of addresses that keeps what it promises
//! (docs/external-sources.md). It gives from ranges, and keeps what it gave in a file.
//!
//! In front of a real IPAM system stands the same: `store.rs` is what would be calls
//! there.

mod server;
mod store;
mod tls;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::serve::Listener;
use clap::Parser;
use herald_core::AddressRange;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::Server;
use crate::store::Store;
use crate::tls::TlsListener;

/// Gives addresses from ranges to those who ask over HTTP.
#[derive(Debug, Parser)]
#[command(name = "herald-example-source", version)]
struct Flags {
    /// Where to listen: ADDRESS:PORT, or `unix:///PATH`.
    #[arg(long, default_value = "[::]:8095")]
    listen: String,
    /// A range that it may give of: a CIDR, or FIRST-LAST; repeatable.
    #[arg(long = "range", required = true)]
    ranges: Vec<AddressRange>,
    /// The file that holds what was given.
    #[arg(long)]
    state: PathBuf,
    /// A file with the token that callers must show; all are answered if not given.
    #[arg(long)]
    token: Option<PathBuf>,
    /// A file with the certificate that callers know it by, PEM; without TLS if not given.
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// The file with its key, PEM.
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let end = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let store = Store::open(flags.ranges, flags.state)?;
    let app = Server::new(store, flags.token).router();
    if let Some(path) = flags.listen.strip_prefix("unix://") {
        // What a former process left behind.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| format!("listen on {path}"))?;
        return serve(listener, app, end).await;
    }
    let Ok(address) = flags.listen.parse::<SocketAddr>() else {
        bail!(
            "--listen {:?} is neither ADDRESS:PORT nor unix:///PATH",
            flags.listen
        );
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    if let (Some(certificate), Some(key)) = (flags.certificate, flags.key) {
        let listener = TlsListener::new(listener, &certificate, &key)?;
        return serve(listener, app, end).await;
    }
    serve(listener, app, end).await
}

/// Answers until it is told to end.
async fn serve<L>(listener: L, app: Router, mut end: Signal) -> Result<()>
where
    L: Listener,
    L::Addr: Debug,
{
    let stop = async move {
        end.recv().await;
    };
    Ok(axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?)
}
