//! `echo`: the program behind the lab's test pods. It says who it is and whom
//! it sees, over HTTP, TCP and UDP, in both families.
//!
//! ```text
//!   GET /anything    {"pod":"web-1","node":"n2","client":"10.20.1.1:4711","path":"/anything"}
//!   GET /healthz, /readyz
//!   "17\n" over TCP  "17 web-1 10.20.1.1\n", line by line
//!   "17" over UDP    "17 web-1 10.20.1.1"
//! ```
//!
//! On SIGTERM it goes on serving for a short while, as a well-behaved pod
//! does: endpoints leave the load balancers only after the signal.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{ConnectInfo, OriginalUri, State};
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Answers every request with its own name and the client's address.
#[derive(Debug, Parser)]
#[command(name = "echo")]
struct Arguments {
    /// Name to answer with.
    #[arg(long, env = "POD_NAME")]
    name: Option<String>,
    /// Node to answer with.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node: String,
    /// Port of the HTTP server; 0 for none.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Port of the TCP and UDP echo; 0 for none.
    #[arg(long, default_value_t = 9000)]
    probe_port: u16,
    /// How long to go on serving after SIGTERM.
    #[arg(long, default_value = "2s", value_parser = herald_lab::duration::parse)]
    linger: Duration,
}

/// What the answers say of this server.
#[derive(Debug)]
struct Identity {
    pod: String,
    node: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let identity = Arc::new(Identity {
        pod: arguments.name.map_or_else(host_name, Ok)?,
        node: arguments.node,
    });
    if arguments.http_port != 0 {
        let listener = listen(arguments.http_port).await?;
        tokio::spawn(serve_http(listener, Arc::clone(&identity)));
    }
    if arguments.probe_port != 0 {
        let listener = listen(arguments.probe_port).await?;
        tokio::spawn(serve_tcp(listener, Arc::clone(&identity)));
        let socket = bind_udp(arguments.probe_port)
            .with_context(|| format!("bind UDP port {}", arguments.probe_port))?;
        // A thread of its own: the reply's source address needs recvmsg with
        // control messages, which tokio's socket does not offer.
        std::thread::spawn(move || serve_udp(&socket, &identity));
    }
    tokio::select! {
        _ = terminated.recv() => tokio::time::sleep(arguments.linger).await,
        _ = interrupted.recv() => {}
    }
    Ok(())
}

/// The kernel's host name: the pod's name where the node set it.
fn host_name() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("read the host name; or give --name")?
        .trim()
        .to_owned())
}

/// Listens on both families: an IPv6 wildcard socket takes IPv4 as mapped
/// addresses.
async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("listen on TCP port {port}"))
}

async fn serve_http(listener: TcpListener, identity: Arc<Identity>) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .fallback(whoami)
        .with_state(identity);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).await {
        eprintln!("echo: the HTTP server ended: {error}");
    }
}

async fn whoami(
    State(identity): State<Arc<Identity>>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    OriginalUri(uri): OriginalUri,
) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "pod": identity.pod,
        "node": identity.node,
        "client": SocketAddr::new(client.ip().to_canonical(), client.port()),
        "path": uri.path(),
    }))
}

async fn serve_tcp(listener: TcpListener, identity: Arc<Identity>) {
    loop {
        // Accepting fails for one connection (aborted by its peer) or for want
        // of descriptors: neither is a reason to end.
        if let Ok((stream, client)) = listener.accept().await {
            let identity = Arc::clone(&identity);
            tokio::spawn(async move {
                // The client sees a broken connection; nobody else need know.
                let _ = echo_lines(stream, client.ip(), &identity).await;
            });
        }
    }
}

async fn echo_lines(mut stream: TcpStream, client: IpAddr, identity: &Identity) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = format!("{}\n", answer(&line, client, identity));
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// `<payload> <pod> <client address>`.
fn answer(payload: &str, client: IpAddr, identity: &Identity) -> String {
    format!("{payload} {} {}", identity.pod, client.to_canonical())
}

/// A wildcard socket that reports to which address each datagram was sent.
fn bind_udp(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    Ok(socket)
}

fn serve_udp(socket: &UdpSocket, identity: &Identity) {
    loop {
        // An error belongs to one datagram (such as a late ICMP answer to an
        // earlier reply); the next is served.
        if let Err(error) = answer_datagram(socket, identity) {
            eprintln!("echo: a UDP probe went unanswered: {error}");
        }
    }
}

/// Answers one datagram from the very address it was sent to (RFC 1122
/// section 4.1.3.5), whatever the routing table would choose.
fn answer_datagram(socket: &UdpSocket, identity: &Identity) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg::<SockaddrIn6>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let Some(client) = received.address.map(SocketAddrV6::from) else {
        return Ok(());
    };
    let local = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv6PacketInfo(mut info) => {
            // The way back is the routing table's choice; only a link-local
            // source needs its interface.
            if !is_link_local(&info.ipi6_addr.s6_addr) {
                info.ipi6_ifindex = 0;
            }
            Some(info)
        }
        _ => None,
    });
    let length = received.bytes;
    let payload = String::from_utf8_lossy(&buffer[..length]);
    let reply = answer(payload.trim_end(), (*client.ip()).into(), identity);
    let source = local.as_ref().map(ControlMessage::Ipv6PacketInfo);
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(reply.as_bytes())],
        source.as_slice(),
        MsgFlags::empty(),
        Some(&SockaddrIn6::from(client)),
    )?;
    Ok(())
}

/// `fe80::/10`.
fn is_link_local(octets: &[u8; 16]) -> bool {
    octets[0] == 0xfe && octets[1] & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            pod: "web-1".into(),
            node: "n1".into(),
        }
    }

    /// One datagram to `server`; the answer counts only if it comes from there.
    fn ask(server: SocketAddr) -> String {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => "0.0.0.0:0".parse().unwrap(),
            SocketAddr::V6(_) => "[::]:0".parse().unwrap(),
        };
        let client = UdpSocket::bind(any).unwrap();
        client.connect(server).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        client.send(b"17\n").unwrap();
        let mut buffer = [0; 100];
        let length = client.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn udp_answers_come_from_the_address_that_was_asked() {
        let socket = bind_udp(0).unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                answer_datagram(&socket, &identity()).unwrap();
            }
        });
        // Not the address that the routing table would choose as source.
        let mapped = ask(SocketAddr::from(([127, 0, 0, 5], port)));
        assert_eq!(mapped, "17 web-1 127.0.0.1");
        let v6 = ask(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        assert_eq!(v6, "17 web-1 ::1");
        server.join().unwrap();
    }
}
