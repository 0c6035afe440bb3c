//! The process: one task, which owns the engine; one for each connection, which
//! reads.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use herald_bgp::{
    ConnectionId, Drain, Families, Family, Input, Offer, Output, PathAttributes, PeerAs,
    PeerConfig, PeerId, Peers, Speaker,
};
use herald_net::{BgpListener, Dial, Distance};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Order, Peer, Report, Routes, Settings};

const PORT: u16 = 179;

enum News {
    Accepted(TcpStream, SocketAddr),
    Dialled(PeerId, ConnectionId, Result<TcpStream, String>),
    Received(PeerId, ConnectionId, Vec<u8>),
    Closed(PeerId, ConnectionId),
    Writable,
    Ordered(Order),
    /// Standard input is at its end.
    End,
}

struct Running {
    speaker: Speaker,
    peers: HashMap<PeerId, Peer>,
    connections: HashMap<(PeerId, ConnectionId), Arc<Writer>>,
    tell: mpsc::UnboundedSender<News>,
    ended: bool,
}

struct Writer {
    stream: std::sync::Mutex<Option<tokio::net::tcp::OwnedWriteHalf>>,
}

/// Runs until its input ends or it is told to restart.
pub async fn run(settings: &str) -> Result<()> {
    let settings: Settings = serde_json::from_str(settings).context("read the settings")?;
    let (tell, mut news) = mpsc::unbounded_channel();
    listen(&settings, &tell)?;
    say(&Report::Listening);
    orders(tell.clone());
    let now = Instant::now();
    let mut running = Running {
        speaker: Speaker::new(fastrand::u64(..)),
        peers: HashMap::new(),
        connections: HashMap::new(),
        tell,
        ended: false,
    };
    // Told before they are up, as a speaker does that knows its Services.
    running.announce(&settings.routes, now)?;
    running.speaker.set_complete();
    for peer in settings.peers {
        let id = running
            .speaker
            .add_peer(config(settings.asn, settings.id, &peer), now)?;
        running.peers.insert(id, peer);
    }
    while !running.ended {
        running.outputs();
        running.flush();
        let due = running.speaker.poll_timeout();
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            one = news.recv() => {
                let Some(one) = one else { break };
                running.take(one)?;
                // What has come is handed in before time is.
                while let Ok(one) = news.try_recv() {
                    running.take(one)?;
                }
            }
            () = wait => {}
        }
        running.speaker.handle_timeout(Instant::now());
    }
    Ok(())
}

fn seconds(count: u16) -> Duration {
    Duration::from_secs(count.into())
}

fn config(asn: u32, id: std::net::Ipv4Addr, peer: &Peer) -> PeerConfig {
    let mut config = PeerConfig::new(asn, PeerAs::Exactly(peer.asn), id);
    config.passive = peer.passive;
    config.hold_time = seconds(peer.hold);
    config.send_hold_time = peer.send_hold.map(seconds);
    config.connect_retry = Duration::from_secs(2);
    config.graceful_restart = peer.graceful_restart.map(seconds);
    let stale = peer.long_lived.map(u64::from);
    config.long_lived_stale = stale.map(Duration::from_secs);
    config.families = match (peer.v4, peer.v6) {
        (true, true) => Families::BOTH,
        (false, true) => Family::Ipv6.into(),
        _ => Family::Ipv4.into(),
    };
    config
}

fn listen(settings: &Settings, tell: &mpsc::UnboundedSender<News>) -> Result<()> {
    let listener = BgpListener::open(PORT, None)?;
    for peer in &settings.peers {
        if let Some(password) = &peer.password {
            listener
                .set_password(peer.address, None, Some(password.as_bytes()))
                .with_context(|| format!("set the password of {}", peer.address))?;
        }
    }
    let tell = tell.clone();
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            if tell.send(News::Accepted(stream, from)).is_err() {
                break;
            }
        }
    });
    Ok(())
}

const fn distance(peer: &Peer) -> Distance {
    if peer.ttl_security {
        Distance::Secured(peer.hops)
    } else {
        Distance::Hops(peer.hops)
    }
}

fn orders(tell: mpsc::UnboundedSender<News>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if let Ok(order) = serde_json::from_str(&line) {
                let _ = tell.send(News::Ordered(order));
            }
        }
        let _ = tell.send(News::End);
    });
}

impl Running {
    fn announce(&mut self, routes: &Routes, now: Instant) -> Result<()> {
        let offer = [Offer {
            peers: Peers::All,
            attributes: PathAttributes::default(),
        }];
        for prefix in routes.iter() {
            self.speaker.announce(prefix, &offer, now)?;
        }
        Ok(())
    }

    fn take(&mut self, news: News) -> Result<()> {
        let now = Instant::now();
        match news {
            News::Accepted(stream, from) => {
                let found = self.peers.iter().find(|(_, p)| p.address == from.ip());
                let Some((&id, peer)) = found else {
                    return Ok(());
                };
                if herald_net::settle(&stream, distance(peer), Duration::ZERO).is_err() {
                    return Ok(());
                }
                if let Some(connection) = self.speaker.accept(id, peer.source, now) {
                    self.keep(id, connection, stream);
                }
            }
            News::Dialled(id, connection, Ok(stream)) => {
                let local = stream.local_addr()?.ip();
                self.keep(id, connection, stream);
                self.speaker
                    .handle(id, Input::Connected { connection, local }, now);
            }
            News::Dialled(id, connection, Err(why)) => {
                let why = why.as_str();
                self.speaker
                    .handle(id, Input::ConnectFailed { connection, why }, now);
            }
            News::Received(id, connection, bytes) => {
                let bytes = bytes.as_slice();
                self.speaker
                    .handle(id, Input::Received { connection, bytes }, now);
            }
            News::Closed(id, connection) => {
                self.connections.remove(&(id, connection));
                self.speaker.handle(id, Input::Closed { connection }, now);
            }
            News::Writable => {}
            News::Ordered(Order::Announce(routes)) => self.announce(&routes, now)?,
            News::Ordered(Order::Withdraw(routes)) => {
                for prefix in routes.iter() {
                    self.speaker.withdraw(prefix, now);
                }
            }
            News::Ordered(Order::Drain { wait }) => {
                for &id in self.peers.keys() {
                    let drain = Drain {
                        wait: Duration::from_millis(wait.into()),
                        text: "the node is drained".into(),
                    };
                    self.speaker.drain(id, drain, now);
                }
            }
            News::Ordered(Order::Restart) => {
                self.speaker.restart(now);
                self.outputs();
                self.ended = true;
            }
            News::End => self.ended = true,
        }
        // Between two inputs, as one may say what is to be done before the next.
        self.outputs();
        Ok(())
    }

    fn keep(&mut self, id: PeerId, connection: ConnectionId, stream: TcpStream) {
        let (mut read, write) = stream.into_split();
        let writer = Arc::new(Writer {
            stream: std::sync::Mutex::new(Some(write)),
        });
        self.connections.insert((id, connection), writer);
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                let bytes = buffer[..count].to_vec();
                if tell.send(News::Received(id, connection, bytes)).is_err() {
                    return;
                }
            }
            let _ = tell.send(News::Closed(id, connection));
        });
    }

    fn dial(&self, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get(&id).cloned() else {
            return;
        };
        let dial = Dial {
            peer: SocketAddr::new(peer.address, PORT),
            source: Some(peer.source),
            device: None,
            password: peer.password.as_ref().map(|p| p.clone().into_bytes()),
            distance: distance(&peer),
            user_timeout: Duration::ZERO,
        };
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let dialled = herald_net::dial(&dial).await.map_err(|e| e.to_string());
            let _ = tell.send(News::Dialled(id, connection, dialled));
        });
    }

    fn outputs(&mut self) {
        while let Some((id, output)) = self.speaker.poll_output() {
            let Some(peer) = self.peers.get(&id).map(|peer| peer.address) else {
                continue;
            };
            match output {
                Output::Connect(connection) => self.dial(id, connection),
                Output::Close { connection, last } => {
                    if let Some(writer) = self.connections.remove(&(id, connection))
                        && let Ok(mut stream) = writer.stream.lock()
                        && let Some(stream) = stream.take()
                    {
                        let _ = stream.try_write(&last);
                    }
                }
                Output::Transmit(_) => {}
                Output::Up(_) => say(&Report::Up { peer }),
                Output::Down(why) | Output::Failed(why) => say(&Report::Down {
                    peer,
                    why: why.to_string(),
                }),
                Output::Refresh(_) => say(&Report::Refresh { peer }),
                Output::Stopped => say(&Report::Stopped { peer }),
            }
        }
    }

    fn flush(&mut self) {
        let now = Instant::now();
        let all: Vec<_> = self
            .connections
            .iter()
            .map(|(k, w)| (*k, Arc::clone(w)))
            .collect();
        for ((id, connection), writer) in all {
            let Ok(mut guard) = writer.stream.lock() else {
                continue;
            };
            // A waiter has it while the socket is full.
            let Some(stream) = guard.take() else { continue };
            let full = loop {
                let pending = self.speaker.pending(id, connection, now);
                if pending.is_empty() {
                    break false;
                }
                match stream.try_write(pending) {
                    Ok(count) => self.speaker.transmitted(id, connection, count, now),
                    Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
                }
            };
            if !full {
                *guard = Some(stream);
                continue;
            }
            drop(guard);
            let tell = self.tell.clone();
            tokio::spawn(async move {
                let _ = stream.writable().await;
                if let Ok(mut guard) = writer.stream.lock() {
                    *guard = Some(stream);
                }
                let _ = tell.send(News::Writable);
            });
        }
        self.outputs();
    }
}

fn say(report: &Report) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading any more; then the input ends soon.
    if let Ok(text) = serde_json::to_string(report) {
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}
