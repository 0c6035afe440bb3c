//! HTTP/1.1 on a socket.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::gate::{Cut, Shared};

/// More than any real call has.
const LARGEST_BODY: usize = 4 << 20;

/// Answers a call, or a request to the admin API.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Cut> {
    if request.uri().path().starts_with("/_admin") {
        return Ok(admin::answer(shared, &request));
    }
    shared.call(request).await
}

/// Takes connections until the fake stops.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(converse(stream, Arc::clone(&shared)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection.
async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    // Answers are small and callers wait for them.
    let _ = stream.set_nodelay(true);
    let stopping = shared.stopping.clone();
    let service = service_fn(move |request| one(Arc::clone(&shared), request));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // An error is a caller that went away, or a connection cut on purpose.
        _ = connection.as_mut() => {}
        () = stopping.cancelled() => {}
    }
}

/// One request. An error closes the connection.
async fn one(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Cut> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return Ok(response);
    };
    let request = Request::from_parts(head, body.to_bytes());
    let response = answer(&shared, request).await?;
    Ok(response.map(Full::new))
}

/// Listens. Separate from [`serve`] so that whoever starts a fake can call it
/// at once.
pub(crate) async fn listen(
    address: std::net::SocketAddr,
) -> Result<(TcpListener, std::net::SocketAddr), std::io::Error> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
