//! Carries one load balancer: its addresses and its frontends, brought to what
//! they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use herald_core::Protocol;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::metrics::Metrics;
use crate::route::{Frontend, Limits, Route};
use crate::{proxy_tcp, proxy_udp};

/// What all load balancers share.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// Where addresses go.
    pub addresses: &'a Addresses,
    /// Times and numbers of the frontends.
    pub limits: Limits,
    /// Where to count.
    pub metrics: &'a Metrics,
}

/// A frontend is told from others by its address, port and protocol.
pub type FrontendKey = (IpAddr, u16, Protocol);

/// What runs for one load balancer.
#[derive(Debug, Default)]
pub struct Carrier {
    cut: CancellationToken,
    plugged: BTreeSet<IpAddr>,
    frontends: BTreeMap<FrontendKey, RunningFrontend>,
}

#[derive(Debug)]
struct RunningFrontend {
    route: watch::Sender<Route>,
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Carrier {
    /// Brings addresses and frontends to what they should be, as far as the
    /// kernel lets it; an error says what it did not. Calling it again tries
    /// the rest again.
    pub async fn carry(
        &mut self,
        means: Means<'_>,
        addresses: &BTreeSet<IpAddr>,
        wanted: BTreeMap<FrontendKey, Route>,
    ) -> Result<(), String> {
        let mut problems = Vec::new();
        let closed: Vec<FrontendKey> = self
            .frontends
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in closed {
            if let Some(frontend) = self.frontends.remove(&key) {
                frontend.close().await;
            }
        }
        for address in self.plugged.clone().difference(addresses) {
            match means.addresses.unplug(*address).await {
                Ok(()) => {
                    self.plugged.remove(address);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        for address in addresses {
            if self.plugged.contains(address) {
                continue;
            }
            match means.addresses.plug(*address).await {
                Ok(()) => {
                    self.plugged.insert(*address);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        for (key, route) in wanted {
            if let Some(frontend) = self.frontends.get(&key) {
                frontend.route.send_if_modified(|current| {
                    let changed = *current != route;
                    *current = route;
                    changed
                });
            } else if self.plugged.contains(&key.0) {
                match open(means, key, route, self.cut.clone()).await {
                    Ok(frontend) => {
                        self.frontends.insert(key, frontend);
                    }
                    Err(error) => problems.push(format!(
                        "cannot listen on {} {}: {error}",
                        key.2,
                        SocketAddr::new(key.0, key.1)
                    )),
                }
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems.join("; "))
        }
    }

    /// Ends everything at once and takes the addresses back.
    pub async fn stop(self, means: Means<'_>) {
        self.cut.cancel();
        for frontend in self.frontends.into_values() {
            frontend.close().await;
        }
        for address in self.plugged {
            if let Err(error) = means.addresses.unplug(address).await {
                tracing::warn!(%error, "an address stays behind");
            }
        }
    }
}

async fn open(
    means: Means<'_>,
    (address, port, protocol): FrontendKey,
    route: Route,
    cut: CancellationToken,
) -> std::io::Result<RunningFrontend> {
    let (route, receiver) = watch::channel(route);
    let closing = CancellationToken::new();
    let frontend = Frontend {
        route: receiver,
        closing: closing.clone(),
        cut,
        limits: means.limits,
        metrics: means.metrics.clone(),
    };
    let address = SocketAddr::new(address, port);
    let task = match protocol {
        Protocol::Tcp => tokio::spawn(proxy_tcp::serve(proxy_tcp::bind(address)?, frontend)),
        Protocol::Udp => tokio::spawn(proxy_udp::serve(proxy_udp::bind(address).await?, frontend)),
        // Nobody takes such a listener.
        Protocol::Sctp => return Err(std::io::ErrorKind::Unsupported.into()),
    };
    Ok(RunningFrontend {
        route,
        closing,
        task,
    })
}

impl RunningFrontend {
    /// Closes the socket; what it carries drains by itself.
    async fn close(self) {
        self.closing.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a frontend ended badly");
        }
    }
}
