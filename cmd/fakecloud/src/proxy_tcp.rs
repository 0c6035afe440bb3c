//! TCP: takes connections and carries each to a healthy target.

use std::io;
use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use std::time::Duration;

use crate::metrics::InGauge;
use crate::route::Frontend;

/// Connections that the kernel keeps for us until we take them.
const BACKLOG: u32 = 1024;
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on an address that the host has.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A listener that comes back must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections until the frontend closes.
pub async fn serve(listener: TcpListener, frontend: Frontend) {
    let mut turn = 0usize;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = frontend.closing.cancelled() => return,
            () = frontend.cut.cancelled() => return,
        };
        match accepted {
            Ok((client, _)) => {
                frontend.metrics.connections.inc();
                tokio::spawn(carry(client, turn, frontend.clone()));
                turn = turn.wrapping_add(1);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Carries one connection until one end closes it or it has to end.
async fn carry(mut client: TcpStream, turn: usize, frontend: Frontend) {
    let _open = InGauge::new(&frontend.metrics.connections_open);
    let connected = tokio::select! {
        connected = connect(turn, &frontend) => connected,
        () = frontend.cut.cancelled() => None,
    };
    let Some((mut upstream, target)) = connected else {
        frontend.metrics.connections_refused.inc();
        reset(&client);
        return;
    };
    let ended = tokio::select! {
        // Its errors are those of the two ends; both see them by themselves.
        _ = copy_bidirectional(&mut client, &mut upstream) => true,
        () = drained(target, frontend.clone()) => false,
        () = frontend.cut.cancelled() => false,
    };
    if !ended {
        reset(&client);
        reset(&upstream);
    }
}

/// Connects to the target whose turn it is; where it does not answer, to the
/// next.
async fn connect(turn: usize, frontend: &Frontend) -> Option<(TcpStream, SocketAddr)> {
    let targets = frontend.route.borrow().from_turn(turn);
    for target in targets {
        match timeout(frontend.limits.connect_timeout, TcpStream::connect(target)).await {
            Ok(Ok(upstream)) => return Some((upstream, target)),
            Ok(Err(error)) => tracing::debug!(%target, %error, "target refused"),
            Err(_) => tracing::debug!(%target, "target did not answer"),
        }
    }
    None
}

/// Resolves when a connection to `target` has had its time to end: the target
/// or the listener was removed, and the drain time is over.
async fn drained(target: SocketAddr, mut frontend: Frontend) {
    tokio::select! {
        () = frontend.closing.cancelled() => {}
        // An error means that the frontend is gone altogether.
        _ = frontend.route.wait_for(|route| !route.registered.contains(&target.ip())) => {}
    }
    sleep(frontend.limits.drain_time).await;
}

/// Makes the close of a connection a reset, so that the other end knows at
/// once that data may be missing.
fn reset(stream: &TcpStream) {
    // It fails only on a connection that is over already.
    let _ = stream.set_zero_linger();
}
