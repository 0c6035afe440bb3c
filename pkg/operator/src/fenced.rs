//! A client for writes whose connections say nothing once the fence is shut.
//!
//! To ask the fence before a request is not enough: a process that is stopped
//! between the question and the system call would send the request when it runs
//! again, and the next leader may be at work by then. So the question is asked
//! again at the last place before the kernel, on the connection itself:
//!
//! ```text
//!   request ──> TLS ──> Gated: does the fence hold? ──> socket
//!                                  └─ no: the connection is broken
//! ```
//!
//! What the kernel has taken and could not deliver is thrown away with the
//! connection (`SO_LINGER` 0), or after a while by itself (`TCP_USER_TIMEOUT`), so
//! that a healed network delivers nothing from a former term.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tokio::net::TcpStream;
use tower::{BoxError, Service, ServiceBuilder};

use crate::lease::Fence;

/// A client whose requests leave this process only while `fence` holds.
/// `delivery` is how long the kernel may try to deliver what it was given.
pub(crate) fn client(config: &Config, fence: Fence, delivery: Duration) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    tcp.set_tcp_user_timeout(Some(delivery));
    let connector = config.rustls_https_connector_with_connector(GatedConnector { tcp, fence })?;
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector);
    // No layer that tries again by itself: the queue does, and asks the fence.
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// Makes TCP connections that ask the fence.
#[derive(Clone)]
struct GatedConnector {
    tcp: HttpConnector,
    fence: Fence,
}

impl Service<Uri> for GatedConnector {
    type Response = Gated<TokioIo<TcpStream>>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.tcp.call(uri);
        let fence = self.fence.clone();
        Box::pin(async move {
            let inner = connecting.await?;
            // Without it a connection that is given up is still delivered.
            if let Err(error) = inner.inner().set_zero_linger() {
                tracing::debug!(%error, "SO_LINGER");
            }
            Ok(Gated { inner, fence })
        })
    }
}

/// A connection that is written to only while the fence holds.
#[derive(Debug)]
struct Gated<S> {
    inner: S,
    fence: Fence,
}

impl<S> Gated<S> {
    fn ask(&self) -> io::Result<()> {
        if self.fence.holds() {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the leader lease is not held",
            ))
        }
    }
}

impl<S: Read + Unpin> Read for Gated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Gated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ask()?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.ask()?;
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }
}

impl<S: Connection> Connection for Gated<S> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use k8s_openapi::api::core::v1::Service;
    use kube::Api;
    use kube::api::{Patch, PatchParams};
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each request alike and counts the octets it was sent.
    async fn server() -> (Config, tokio::sync::watch::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, octets) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        heard.send_modify(|octets| *octets += count);
                        let body = r#"{"metadata":{"name":"web"}}"#;
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        (
            Config::new(format!("http://{address}").parse().unwrap()),
            octets,
        )
    }

    async fn write(client: &Client) -> kube::Result<Service> {
        let services = Api::<Service>::namespaced(client.clone(), "default");
        let patch = Patch::Merge(json!({}));
        services.patch("web", &PatchParams::default(), &patch).await
    }

    #[tokio::test]
    async fn nothing_leaves_once_the_fence_is_shut() {
        let (config, octets) = server().await;
        let fence = Fence::default();
        let client = client(&config, fence.clone(), Duration::from_millis(500)).unwrap();
        assert!(write(&client).await.is_err(), "no lease was ever held");
        assert_eq!(*octets.borrow(), 0);

        fence.set(Some(Instant::now() + Duration::from_mins(1)));
        write(&client).await.unwrap();
        let before = *octets.borrow();
        assert!(before > 0);

        // The connection is open and idle: only the fence is in the way.
        fence.set(Some(Instant::now()));
        let error = write(&client).await.unwrap_err();
        assert_eq!(*octets.borrow(), before, "{error}");

        fence.set(Some(Instant::now() + Duration::from_mins(1)));
        write(&client).await.unwrap();
        assert!(*octets.borrow() > before);
    }
}
