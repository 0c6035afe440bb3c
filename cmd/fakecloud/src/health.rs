//! Health checks: one task per target asks at a fixed pace and tells the
//! account, which decides by its thresholds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::wire::{CheckProtocol, HealthCheck};

/// More than the status line of any honest answer.
const STATUS_LINE: u64 = 256;

/// Checks one target of a load balancer until cancelled.
pub async fn watch_target(
    shared: Arc<Shared>,
    load_balancer: String,
    address: IpAddr,
    mut check: watch::Receiver<HealthCheck>,
    cancel: CancellationToken,
) {
    let work = async {
        loop {
            let now = check.borrow_and_update().clone();
            let interval = Duration::from_millis(now.interval_millis);
            let begun = Instant::now();
            let result = match timeout(interval, probe(address, &now)).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {interval:?}")),
            };
            let changed =
                shared
                    .account()
                    .cloud
                    .record_check(&load_balancer, address, result.clone());
            if changed {
                tracing::info!(load_balancer, %address, healthy = result.is_ok(), reason = result.err(), "target health");
                shared.notify();
            }
            tokio::select! {
                () = sleep_until(begun + interval) => {}
                changed = check.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = cancel.cancelled() => {}
    }
}

/// Asks once.
async fn probe(address: IpAddr, check: &HealthCheck) -> Result<(), String> {
    let target = SocketAddr::new(address, check.port);
    match check.protocol {
        CheckProtocol::Tcp => connect(target).await.map(|_| ()),
        CheckProtocol::Http => match get(target, &check.path).await? {
            200..=399 => Ok(()),
            status => Err(format!("{target}{} answers {status}", check.path)),
        },
    }
}

/// Opens a connection; an error says which one can't be opened and why.
pub async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(target)
        .await
        .map_err(|error| format!("cannot connect to {target}: {error}"))
}

/// The status that `GET path` is answered with.
pub async fn get(target: SocketAddr, path: &str) -> Result<u16, String> {
    let mut stream = connect(target).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: herald-fakecloud\r\nConnection: close\r\n\r\n"
    );
    let line = exchange(&mut stream, request.as_bytes())
        .await
        .map_err(|error| format!("{target}: {error}"))?;
    status(&line).ok_or_else(|| format!("{target} does not speak HTTP"))
}

/// Sends a request and reads the beginning of the answer.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    let mut limited = stream.take(STATUS_LINE);
    while !answer.contains(&b'\n') {
        if limited.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(answer)
}

/// The status of a status line (RFC 9112 section 4).
fn status(line: &[u8]) -> Option<u16> {
    let text = str::from_utf8(line.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = text.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_http_status_line_has_a_status() {
        assert_eq!(
            status(b"HTTP/1.1 503 Service Unavailable\r\nDate: x"),
            Some(503)
        );
        assert_eq!(status(b"HTTP/1.0 200\r\n"), Some(200));
        for wrong in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1",
            b"",
            b"\xff\xfe 200\r\n",
            b"HTTP/2 200\r\n",
        ] {
            assert_eq!(status(wrong), None);
        }
    }
}
