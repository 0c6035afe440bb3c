//! The calls of the interface, over HTTP.
//!
//! ```text
//!   PUT    /v1/leases/{id}                    an address for a Service, always the same
//!   DELETE /v1/leases/{id}?cluster=&pool=     it is not needed any more
//!   GET    /v1/leases?cluster=&pool=          what is given
//! ```

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use herald_ipam::{Lease, LeaseRequest};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;

use super::settings::{SourceSettings, SourceUrl};

/// Calls for Services under way at once, of all that the operator works on: the others
/// of its sixteen workers serve whoever needs no source.
const AT_ONCE: usize = 8;
/// For so long a Service waits for its turn in a worker; then the worker goes on.
const TURN: Duration = Duration::from_millis(100);
/// After a failed call nothing is asked for so long, then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// More than a list of 100,000 leases.
const LONGEST_ANSWER: usize = 32 << 20;
/// What a source says of itself is cut off here.
const LONGEST_MESSAGE: usize = 512;

/// Why there is no answer, or none that counts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum SourceError {
    /// It gives no address, and says why.
    #[error("{0}")]
    Refused(String),
    /// It did not answer, or not as it should: it is asked again.
    #[error("{0}")]
    Unavailable(String),
    /// Others wait for it already.
    #[error("source {0:?} takes its time, and others wait for it")]
    Busy(String),
}

/// A source that does not answer, and until when it is left alone.
#[derive(Debug)]
struct Away {
    until: Instant,
    pause: Duration,
    message: String,
}

/// One source of addresses.
#[derive(Debug)]
pub(crate) struct Source {
    settings: SourceSettings,
    /// What tells this cluster's leases from those of others.
    cluster: String,
    turns: Semaphore,
    away: Mutex<Option<Away>>,
}

#[derive(Serialize)]
struct Ask<'a> {
    cluster: &'a str,
    pool: &'a str,
    service: AskService<'a>,
    family: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
}

#[derive(Serialize)]
struct AskService<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

#[derive(Deserialize)]
struct Given {
    address: IpAddr,
}

#[derive(Deserialize)]
struct Listed {
    leases: Vec<ListedLease>,
}

#[derive(Deserialize)]
struct ListedLease {
    id: String,
    address: IpAddr,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
}

trait Octets: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Octets for T {}

impl Source {
    pub(crate) fn new(settings: SourceSettings, cluster: String) -> Self {
        Self {
            settings,
            cluster,
            turns: Semaphore::new(AT_ONCE),
            away: Mutex::new(None),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// How soon to look again after it was not available.
    pub(crate) fn pause(&self) -> Duration {
        let away = self.away.lock().expect("no holder panics");
        let left = away
            .as_ref()
            .map(|away| away.until.saturating_duration_since(Instant::now()));
        left.unwrap_or_default().max(FIRST_PAUSE)
    }

    /// The right to ask for a Service, until it is dropped. It is not waited for long:
    /// the worker that does has other Services to serve.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, SourceError> {
        match timeout(TURN, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(SourceError::Busy(self.name().to_owned())),
        }
    }

    /// Whether nothing is being asked of it for a Service.
    pub(crate) fn is_idle(&self) -> bool {
        self.turns.available_permits() == AT_ONCE
    }

    /// An address for a Service, the same each time it is asked for. It never takes
    /// longer than one call may; while the source does not answer it fails at once, with
    /// the words of the last failure.
    pub(crate) async fn put(&self, request: &LeaseRequest) -> Result<IpAddr, SourceError> {
        let ask = Ask {
            cluster: &self.cluster,
            pool: &request.pool,
            service: AskService {
                namespace: &request.service.namespace,
                name: &request.service.name,
                uid: &request.uid,
            },
            family: request.family.to_string(),
            address: request.address,
        };
        let body = serde_json::to_vec(&ask)
            .map_err(|error| SourceError::Unavailable(error.to_string()))?;
        let path = format!("/v1/leases/{}", request.id);
        let (status, answer) = self.call(Method::PUT, &path, body).await?;
        match status {
            StatusCode::OK | StatusCode::CREATED => {
                let given: Given = self.read(&answer)?;
                self.works();
                Ok(given.address)
            }
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
                self.works();
                Err(SourceError::Refused(complaint(status, &answer)))
            }
            _ => Err(self.odd(status, &answer)),
        }
    }

    /// Gives an address back; one that the source does not know is given back too.
    pub(crate) async fn release(&self, pool: &str, id: &str) -> Result<(), SourceError> {
        let path = format!("/v1/leases/{id}?{}", self.scope(pool));
        let (status, answer) = self.call(Method::DELETE, &path, Vec::new()).await?;
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => {
                self.works();
                Ok(())
            }
            _ => Err(self.odd(status, &answer)),
        }
    }

    /// All that it has given to a pool of this cluster.
    pub(crate) async fn list(&self, pool: &str) -> Result<Vec<Lease>, SourceError> {
        let path = format!("/v1/leases?{}", self.scope(pool));
        let (status, answer) = self.call(Method::GET, &path, Vec::new()).await?;
        if status != StatusCode::OK {
            return Err(self.odd(status, &answer));
        }
        let listed: Listed = self.read(&answer)?;
        self.works();
        let leases = listed.leases.into_iter();
        Ok(leases
            .map(|lease| Lease {
                id: lease.id,
                address: lease.address,
            })
            .collect())
    }

    /// Names of clusters may be given by people; those of pools are DNS names.
    fn scope(&self, pool: &str) -> String {
        let cluster: String = form_urlencoded::byte_serialize(self.cluster.as_bytes()).collect();
        format!("cluster={cluster}&pool={pool}")
    }

    fn read<'a, T: Deserialize<'a>>(&self, answer: &'a [u8]) -> Result<T, SourceError> {
        serde_json::from_slice(answer).map_err(|error| {
            self.failed(format!(
                "source {:?} gives an answer that makes no sense: {error}",
                self.name()
            ))
        })
    }

    fn odd(&self, status: StatusCode, answer: &[u8]) -> SourceError {
        self.failed(format!(
            "source {:?} answers with status {}: {}",
            self.name(),
            status.as_u16(),
            complaint(status, answer)
        ))
    }

    /// One call, answered in time or failed.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), SourceError> {
        if let Some(away) = self.away.lock().expect("no holder panics").as_ref()
            && away.until > Instant::now()
        {
            return Err(SourceError::Unavailable(away.message.clone()));
        }
        let limit = self.settings.timeout;
        let what = match timeout(limit, self.exchange(method, path, body)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => format!("cannot be reached: {error}"),
            Err(_) => format!("does not answer within {} s", limit.as_secs()),
        };
        let (name, url) = (self.name(), &self.settings.url);
        Err(self.failed(format!("source {name:?} at {url} {what}")))
    }

    fn works(&self) {
        *self.away.lock().expect("no holder panics") = None;
    }

    /// Remembers that it does not work, so that those who come next need not wait to
    /// find out.
    fn failed(&self, message: String) -> SourceError {
        let mut away = self.away.lock().expect("no holder panics");
        let now = Instant::now();
        let pause = match away.as_ref() {
            // The others that were under way when it began say nothing new.
            Some(away) if away.until > now => away.pause,
            Some(away) => (away.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        *away = Some(Away {
            until: now + pause,
            pause,
            message: message.clone(),
        });
        SourceError::Unavailable(message)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> io::Result<(StatusCode, Bytes)> {
        let (stream, host, prefix) = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"))
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json");
        if let Some(path) = &self.settings.token {
            let token = read(path).await?;
            let token = String::from_utf8_lossy(&token).trim().to_owned();
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(io::Error::other)?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER);
        let body = body.collect().await.map_err(io::Error::other)?;
        Ok((status, body.to_bytes()))
    }

    /// A connection, what the source is called on it, and what its paths begin with.
    async fn connect(&self) -> io::Result<(Box<dyn Octets>, String, &str)> {
        match &self.settings.url {
            SourceUrl::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                Ok((Box::new(stream), "localhost".to_owned(), ""))
            }
            SourceUrl::Tcp {
                host,
                port,
                tls,
                prefix,
            } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let shown = if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                };
                if !tls {
                    return Ok((Box::new(stream), shown, prefix));
                }
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let stream = self.tls().await?.connect(name, stream).await?;
                Ok((Box::new(stream), shown, prefix))
            }
        }
    }

    /// The certificates are read at each call: they may be changed in place.
    async fn tls(&self) -> io::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.settings.ca {
            for certificate in CertificateDer::pem_slice_iter(&read(path).await?) {
                let certificate = certificate.map_err(io::Error::other)?;
                roots.add(certificate).map_err(io::Error::other)?;
            }
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    tokio::fs::read(path).await.map_err(named)
}

/// What a source says is wrong, or what its status means.
fn complaint(status: StatusCode, answer: &[u8]) -> String {
    let said = serde_json::from_slice::<Complaint>(answer).map(|complaint| complaint.message);
    let said = said.ok().filter(|message| !message.is_empty());
    let text = said.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason").to_owned());
    text.chars().take(LONGEST_MESSAGE).collect()
}
