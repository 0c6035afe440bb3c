//! The kubelet's port: `kubectl logs` of the pods on this node. The API server
//! asks for `/containerLogs/NAMESPACE/POD/CONTAINER`.
//!
//! Whoever reaches the port may read; only the lab's own networks do. There is
//! no `exec`: what a pod's namespace has to tell, `herald-lab exec` tells.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::Stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::spec::NodeSpec;
use crate::process;

/// Port of the kubelet.
pub(super) const PORT: u16 = 10250;
/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Serves until killed.
pub(super) async fn run(spec: Arc<NodeSpec>) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(&spec.name)?));
    // Takes IPv4 too.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))
        .await
        .with_context(|| format!("listen on port {PORT}"))?;
    loop {
        // An error belongs to one connection, not to the listener.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, spec) = (acceptor.clone(), spec.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let service = service_fn(move |request| {
                let spec = spec.clone();
                async move { Ok::<_, Infallible>(answer(&spec, &request).await) }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await?;
            anyhow::Ok(())
        });
    }
}

/// A certificate that nobody checks, as the API server does with a kubelet's
/// unless told its authority.
fn tls(name: &str) -> Result<ServerConfig> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    Ok(config)
}

async fn answer(spec: &NodeSpec, request: &Request<Incoming>) -> Response<Body> {
    let wanted = match Wanted::parse(request.uri().path(), request.uri().query()) {
        Ok(wanted) => wanted,
        Err((status, message)) => return text(status, message),
    };
    let path = spec.logs.join(&wanted.file);
    match read(&path, wanted.tail).await {
        Ok((file, begin)) if wanted.follow => {
            let body = StreamBody::new(follow(file, begin, wanted.container));
            Response::new(body.boxed_unsync())
        }
        Ok((_, begin)) => Response::new(whole(begin)),
        Err(error) => text(
            StatusCode::NOT_FOUND,
            format!("the container has written no log yet: {error}"),
        ),
    }
}

/// What a request for a log asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    file: String,
    /// As [`process::POD`] names it.
    container: String,
    tail: Option<usize>,
    follow: bool,
}

impl Wanted {
    fn parse(path: &str, query: Option<&str>) -> Result<Self, (StatusCode, String)> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let ["containerLogs", namespace, pod, container] = parts.as_slice() else {
            let message = "the lab's node agent serves logs only".to_owned();
            return Err((StatusCode::NOT_FOUND, message));
        };
        let mut wanted = Self {
            file: format!("{namespace}_{pod}_{container}.log"),
            container: format!("{namespace}/{pod}/{container}"),
            tail: None,
            follow: false,
        };
        for (name, value) in query
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
        {
            match (name, value) {
                ("follow", value) => wanted.follow = value == "true",
                ("tailLines", value) => wanted.tail = value.parse().ok(),
                (_, "false" | "") | ("stream", "All") => {}
                (name, _) => {
                    let message = format!("the lab's node agent has no {name} for logs");
                    return Err((StatusCode::BAD_REQUEST, message));
                }
            }
        }
        Ok(wanted)
    }
}

fn text(status: StatusCode, message: String) -> Response<Body> {
    let mut response = Response::new(whole(message.into()));
    *response.status_mut() = status;
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A log's text so far and the file to read on from.
async fn read(path: &Path, tail: Option<usize>) -> std::io::Result<(File, Bytes)> {
    let mut file = File::open(path).await?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await?;
    if let Some(tail) = tail {
        let begin = last_lines(&bytes, tail);
        bytes.drain(..begin);
    }
    Ok((file, bytes.into()))
}

/// Where the last `count` lines of a text begin.
fn last_lines(text: &[u8], count: usize) -> usize {
    let lines = text.strip_suffix(b"\n").unwrap_or(text);
    if count == 0 {
        return text.len();
    }
    lines
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(count - 1)
        .map_or(0, |(position, _)| position + 1)
}

/// The log as it grows, until the container's processes are gone.
fn follow(
    file: File,
    begin: Bytes,
    container: String,
) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> {
    let state = (file, Some(begin), container);
    futures::stream::try_unfold(state, |(mut file, begin, container)| async move {
        if let Some(begin) = begin {
            return Ok(Some((Frame::data(begin), (file, None, container))));
        }
        loop {
            let alive = !process::find(process::POD, &container).is_empty();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).await?;
            if !bytes.is_empty() {
                return Ok(Some((Frame::data(bytes.into()), (file, None, container))));
            }
            if !alive {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log() {
        let log = b"one\ntwo\nthree\n";
        assert_eq!(&log[last_lines(log, 1)..], b"three\n");
        assert_eq!(&log[last_lines(log, 2)..], b"two\nthree\n");
        assert_eq!(last_lines(log, 3), 0);
        assert_eq!(last_lines(log, 9), 0);
        assert_eq!(last_lines(log, 0), log.len());
        assert_eq!(last_lines(b"unfinished", 1), 0);
        assert_eq!(last_lines(b"", 1), 0);
    }

    #[test]
    fn a_request_names_a_container() {
        let path = "/containerLogs/default/web-1/main";
        let wanted = Wanted::parse(path, Some("follow=true&tailLines=5")).unwrap();
        assert_eq!(wanted.file, "default_web-1_main.log");
        assert_eq!(wanted.container, "default/web-1/main");
        assert_eq!((wanted.tail, wanted.follow), (Some(5), true));
        assert!(Wanted::parse("/exec/default/web-1/main", None).is_err());
        let previous = Wanted::parse(path, Some("previous=true")).unwrap_err();
        assert!(previous.1.contains("previous"), "{}", previous.1);
    }
}
