//! One probe: there and back, over a socket of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use super::{Answer, Scheme, Target};

/// Sends probe `number` and waits for its answer, however long it takes.
pub(super) async fn once(target: &Target, number: u64) -> io::Result<Answer> {
    match target.scheme {
        Scheme::Udp => udp(target.address, number).await,
        Scheme::Tcp => tcp(target.address, number).await,
        Scheme::Connect => TcpStream::connect(target.address)
            .await
            .map(|_| Answer::default()),
        Scheme::Http => http(target).await,
    }
}

async fn udp(server: SocketAddr, number: u64) -> io::Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected: an answer from any other address is none, and ICMP errors
    // are reported.
    socket.connect(server).await?;
    socket.send(number.to_string().as_bytes()).await?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).await?;
    Ok(echoed(&String::from_utf8_lossy(&buffer[..length])))
}

async fn tcp(server: SocketAddr, number: u64) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("{number}\n").as_bytes()).await?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(echoed(&line))
}

async fn http(target: &Target) -> io::Result<Answer> {
    let stream = TcpStream::connect(target.address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let request = hyper::Request::get(&target.path)
        .header(hyper::header::HOST, target.address.to_string())
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    // The connection's own future does the input and output of the exchange.
    let (answer, _) = tokio::join!(exchange, connection);
    let (status, body) = answer.map_err(io::Error::other)?;
    if status.is_server_error() {
        return Err(io::Error::other(format!("status {}", status.as_u16())));
    }
    Ok(introduced(&body))
}

/// Reads `<payload> <pod> <client address>`; other servers' answers are
/// answers too, but from nobody known.
fn echoed(text: &str) -> Answer {
    let mut words = text.split_ascii_whitespace().skip(1).map(str::to_owned);
    Answer {
        pod: words.next(),
        client: words.next(),
    }
}

/// Reads the JSON by which `echo` introduces itself, if it is that.
fn introduced(body: &[u8]) -> Answer {
    #[derive(Deserialize)]
    struct Introduction {
        pod: String,
        client: SocketAddr,
    }
    serde_json::from_slice(body).map_or_else(
        |_| Answer::default(),
        |Introduction { pod, client }| Answer {
            pod: Some(pod),
            client: Some(client.ip().to_string()),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_strangers_are_answers_from_nobody() {
        assert_eq!(echoed(""), Answer::default());
        assert_eq!(introduced(b"<html>"), Answer::default());
    }

    #[test]
    fn the_echo_says_who_it_is_and_whom_it_sees() {
        let known = Answer {
            pod: Some("web-1".into()),
            client: Some("fd20::1".into()),
        };
        assert_eq!(echoed("17 web-1 fd20::1\n"), known);
        let json = br#"{"pod":"web-1","node":"n1","client":"[fd20::1]:4711","path":"/"}"#;
        assert_eq!(introduced(json), known);
    }
}
