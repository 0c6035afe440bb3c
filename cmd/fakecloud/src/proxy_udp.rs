//! UDP: a table of flows, one per client address, each with a socket of its
//! own towards its target.
//!
//! ```text
//!   client --> [listener socket] --> flow[client].socket --> target
//!   client <-- [listener socket] <-- flow task <------------ target
//! ```
//!
//! The table is owned by the listener's task; a flow's task carries the way
//! back and tells the table when it ends.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::faults::millis;
use crate::metrics::InGauge;
use crate::route::Frontend;

/// The largest UDP payload and then some.
const DATAGRAM: usize = 65_536;
/// Ends of flows that may wait for the table's attention.
const ENDINGS: usize = 256;

/// Listens on an address that the host has.
pub async fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(address).await
}

/// Forwards datagrams until the frontend closes.
pub async fn serve(socket: UdpSocket, frontend: Frontend) {
    let (ended, mut endings) = mpsc::channel(ENDINGS);
    let mut table = Table {
        socket: Arc::new(socket),
        frontend,
        flows: HashMap::new(),
        turn: 0,
        begun: 0,
        start: Instant::now(),
        ended,
    };
    let socket = Arc::clone(&table.socket);
    let closing = table.frontend.closing.clone();
    let cut = table.frontend.cut.clone();
    let mut datagram = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => match received {
                Ok((length, client)) => table.forward(client, &datagram[..length]).await,
                // An ICMP error about an answer to a client that is gone.
                Err(error) => tracing::debug!(%error, "cannot receive"),
            },
            Some((client, number)) = endings.recv() => table.forget(client, number),
            () = closing.cancelled() => return,
            () = cut.cancelled() => return,
        }
    }
}

struct Table {
    socket: Arc<UdpSocket>,
    frontend: Frontend,
    flows: HashMap<SocketAddr, Flow>,
    /// Whose turn it is among the targets.
    turn: usize,
    /// Number of the last flow.
    begun: u64,
    /// Times of activity are milliseconds since then.
    start: Instant,
    ended: mpsc::Sender<(SocketAddr, u64)>,
}

struct Flow {
    number: u64,
    target: SocketAddr,
    upstream: Arc<UdpSocket>,
    active_at: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Table {
    /// Sends a datagram on, on the client's flow or on a new one.
    async fn forward(&mut self, client: SocketAddr, datagram: &[u8]) {
        // A target that is out of service loses its flows: the next datagram of
        // each begins anew.
        let usable = |flow: &Flow| self.frontend.route.borrow().is_healthy(flow.target);
        if !self.flows.get(&client).is_some_and(usable) {
            self.flows.remove(&client);
            let Some(flow) = self.begin(client).await else {
                self.frontend.metrics.datagrams_dropped.inc();
                return;
            };
            self.flows.insert(client, flow);
        }
        let Some(flow) = self.flows.get(&client) else {
            return;
        };
        flow.active_at
            .store(millis(self.start.elapsed()), Ordering::Relaxed);
        if let Err(error) = flow.upstream.send(datagram).await {
            // The target said by ICMP that nobody listens; the next datagram
            // gets another flow.
            tracing::debug!(target = %flow.target, %error, "cannot forward");
            self.flows.remove(&client);
        }
    }

    /// Begins a flow to the target whose turn it is.
    async fn begin(&mut self, client: SocketAddr) -> Option<Flow> {
        if self.flows.len() >= self.frontend.limits.flows {
            return None;
        }
        let targets = self.frontend.route.borrow().from_turn(self.turn);
        let target = *targets.first()?;
        self.turn = self.turn.wrapping_add(1);
        let upstream = match connect(target).await {
            Ok(upstream) => Arc::new(upstream),
            Err(error) => {
                tracing::warn!(%target, %error, "cannot begin a UDP flow");
                return None;
            }
        };
        self.begun += 1;
        self.frontend.metrics.flows.inc();
        let number = self.begun;
        let active_at = Arc::new(AtomicU64::new(millis(self.start.elapsed())));
        let way_back = WayBack {
            client,
            listener: Arc::clone(&self.socket),
            upstream: Arc::clone(&upstream),
            active_at: Arc::clone(&active_at),
            start: self.start,
            idle_time: self.frontend.limits.flow_idle_time,
            _open: InGauge::new(&self.frontend.metrics.flows_open),
        };
        let ended = self.ended.clone();
        let task = tokio::spawn(async move {
            way_back.carry().await;
            // An error means that the table is gone.
            let _ = ended.send((client, number)).await;
        });
        Some(Flow {
            number,
            target,
            upstream,
            active_at,
            task: task.abort_handle(),
        })
    }

    /// Removes a flow that ended, unless the client has a newer one.
    fn forget(&mut self, client: SocketAddr, number: u64) {
        if self
            .flows
            .get(&client)
            .is_some_and(|flow| flow.number == number)
        {
            self.flows.remove(&client);
        }
    }
}

/// A socket that talks to one target only.
async fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// The way back of a flow.
struct WayBack {
    client: SocketAddr,
    listener: Arc<UdpSocket>,
    upstream: Arc<UdpSocket>,
    active_at: Arc<AtomicU64>,
    start: Instant,
    idle_time: std::time::Duration,
    _open: InGauge,
}

impl WayBack {
    /// Carries answers until the flow is idle for too long or its target
    /// refuses.
    async fn carry(&self) {
        loop {
            let active_at = self.active_at.load(Ordering::Relaxed);
            let idle_at = self.start + std::time::Duration::from_millis(active_at) + self.idle_time;
            tokio::select! {
                ready = self.upstream.readable() => {
                    if ready.and_then(|()| self.drain()).is_err() {
                        return;
                    }
                }
                () = sleep_until(idle_at) => {
                    if self.active_at.load(Ordering::Relaxed) == active_at {
                        return;
                    }
                }
            }
        }
    }

    /// Carries all answers that are there. The buffer lives only for that
    /// long: thousands of flows are idle most of the time.
    fn drain(&self) -> io::Result<()> {
        let mut datagram = vec![0; DATAGRAM];
        loop {
            match self.upstream.try_recv(&mut datagram) {
                Ok(length) => {
                    self.active_at
                        .store(millis(self.start.elapsed()), Ordering::Relaxed);
                    // As UDP goes: what finds no room in the socket is lost.
                    let _ = self.listener.try_send_to(&datagram[..length], self.client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
