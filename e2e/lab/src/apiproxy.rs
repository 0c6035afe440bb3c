//! A proxy in front of the API server that fails requests at random: before the API
//! server heard of them, and after it did what they ask.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The command's arguments.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct ProxyArguments {
    /// Where to listen.
    #[arg(long)]
    pub listen: SocketAddr,
    /// The API server.
    #[arg(long)]
    pub upstream: SocketAddr,
    /// Folder with ca.crt, server.crt and server.key.
    #[arg(long)]
    pub certificates: PathBuf,
    /// How many requests of a hundred fail.
    #[arg(long)]
    pub errors: u8,
}

type Body = BoxBody<Bytes, hyper::Error>;

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Passes,
    /// Not passed on; answered with this status.
    Refused(StatusCode),
    /// Passed on; then the connection breaks before the answer.
    Unanswered,
}

fn fate(errors: u8) -> Fate {
    if fastrand::u8(0..100) >= errors {
        return Fate::Passes;
    }
    match fastrand::u8(0..3) {
        0 => Fate::Refused(StatusCode::INTERNAL_SERVER_ERROR),
        1 => Fate::Refused(StatusCode::SERVICE_UNAVAILABLE),
        _ => Fate::Unanswered,
    }
}

/// Serves until it is killed.
pub async fn run(arguments: ProxyArguments) -> Result<()> {
    let file = |name: &str| arguments.certificates.join(name);
    let chain = CertificateDer::pem_file_iter(file("server.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(file("server.key"))?;
    let accept = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let accept = TlsAcceptor::from(Arc::new(accept));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.crt"))?)?;
    let connect = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connect = TlsConnector::from(Arc::new(connect));
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("listen on {}", arguments.listen))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (accept, connect) = (accept.clone(), connect.clone());
        let (upstream, errors) = (arguments.upstream, arguments.errors);
        tokio::spawn(async move {
            // A connection that fails is the client's to make anew.
            let _ = serve(stream, &accept, &connect, upstream, errors).await;
        });
    }
}

async fn serve(
    stream: TcpStream,
    accept: &TlsAcceptor,
    connect: &TlsConnector,
    upstream: SocketAddr,
    errors: u8,
) -> Result<()> {
    let inner = accept.accept(stream).await?;
    let outer = TcpStream::connect(upstream).await?;
    let outer = connect
        .connect(ServerName::from(upstream.ip()), outer)
        .await?;
    let (sender, connection) = client::handshake(TokioIo::new(outer)).await?;
    tokio::spawn(connection);
    let sender = Arc::new(Mutex::new(sender));
    let service = service_fn(|request| forward(sender.clone(), request, errors));
    server::Builder::new()
        .serve_connection(TokioIo::new(inner), service)
        .await?;
    Ok(())
}

async fn forward(
    sender: Arc<Mutex<client::SendRequest<Incoming>>>,
    request: Request<Incoming>,
    errors: u8,
) -> Result<Response<Body>> {
    let fate = fate(errors);
    if let Fate::Refused(status) = fate {
        let text = Bytes::from_static(
            b"{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\"}",
        );
        let body = Full::new(text).map_err(|never| match never {}).boxed();
        return Ok(Response::builder().status(status).body(body)?);
    }
    let answer = sender.lock().await.send_request(request).await?;
    if matches!(fate, Fate::Unanswered) {
        // Whole, so that it is certain that the work is done.
        let _ = answer.into_body().frame().await;
        bail!("it is meant to fail");
    }
    Ok(answer.map(BodyExt::boxed))
}
