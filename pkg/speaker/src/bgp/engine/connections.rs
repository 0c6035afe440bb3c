//! Connections: dialled, read, written, closed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_bgp::{ConnectionId, Input, PeerId};
use herald_net::{BgpSocketError, Dial};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Engine, Ready};

/// A peer that floods us does not keep the others waiting.
const READ_BUDGET: usize = 1 << 20;
/// How long a connection that we close is read on, so that the peer gets our last
/// words and no reset.
const LINGER: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn dial(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let dial = Dial {
            peer: peer.settings.peer,
            source: peer.settings.source,
            device: peer.settings.device.clone(),
            password: peer.password.as_ref().map(|p| p.0.clone().into_bytes()),
            distance: peer.settings.distance,
            user_timeout: peer.settings.config.user_timeout(),
        };
        let answer = self.dialled.0.clone();
        let task = tokio::spawn(async move {
            let result = herald_net::dial(&dial).await;
            let _ = answer.send((id, connection, result));
        });
        peer.dials.insert(connection, task.abort_handle());
    }

    pub(super) fn connected(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        result: Result<TcpStream, BgpSocketError>,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        // One that was given up meanwhile is closed.
        if peer.dials.remove(&connection).is_none() {
            return;
        }
        let now = Instant::now();
        match result.and_then(|stream| {
            let local = stream.local_addr();
            local
                .map(|local| (stream, local))
                .map_err(|source| BgpSocketError {
                    step: "connecting",
                    source,
                })
        }) {
            Ok((stream, local)) => {
                self.take(id, connection, stream);
                let local = local.ip();
                self.speaker
                    .handle(id, Input::Connected { connection, local }, now);
            }
            Err(error) => {
                let why = error.to_string();
                let why = why.as_str();
                self.speaker
                    .handle(id, Input::ConnectFailed { connection, why }, now);
            }
        }
    }

    pub(super) fn take(&mut self, id: PeerId, connection: ConnectionId, stream: TcpStream) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let stream = Arc::new(stream);
            peer.connections.insert(connection, Arc::clone(&stream));
            peer.idle = None;
            self.ready.push(when_ready(id, connection, stream, true));
        }
    }

    fn stream(&self, id: PeerId, connection: ConnectionId) -> Option<Arc<TcpStream>> {
        self.peers.get(&id)?.connections.get(&connection).cloned()
    }

    pub(super) fn write(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(stream) = self.stream(id, connection) else {
            return;
        };
        let now = Instant::now();
        loop {
            let pending = self.speaker.pending(id, connection, now);
            if pending.is_empty() {
                return;
            }
            match stream.try_write(pending) {
                Ok(count) if count > 0 => {
                    self.speaker.transmitted(id, connection, count, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.push(when_ready(id, connection, stream, false));
                    return;
                }
                _ => return self.lost(id, connection),
            }
        }
    }

    pub(super) fn read(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(stream) = self.stream(id, connection) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut read = 0;
        let mut lost = false;
        while read < READ_BUDGET && !lost {
            match stream.try_read(&mut buffer) {
                Ok(count) if count > 0 => {
                    read += count;
                    self.received(id, connection, &buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => lost = true,
            }
        }
        self.buffer = buffer;
        if lost {
            self.lost(id, connection);
        } else if self.stream(id, connection).is_some() {
            self.ready.push(when_ready(id, connection, stream, true));
        }
    }

    /// What arrived in time must not be late because we are.
    pub(super) fn drain_sockets(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let all: Vec<(PeerId, ConnectionId, Arc<TcpStream>)> = self
            .peers
            .iter()
            .flat_map(|(id, peer)| {
                let streams = peer.connections.iter();
                streams.map(|(connection, stream)| (*id, *connection, Arc::clone(stream)))
            })
            .collect();
        for (id, connection, stream) in all {
            let mut read = 0;
            while read < READ_BUDGET
                && let Ok(count @ 1..) = herald_net::receive_now(&stream, &mut buffer)
            {
                read += count;
                self.received(id, connection, &buffer[..count]);
            }
        }
        self.buffer = buffer;
    }

    fn received(&mut self, id: PeerId, connection: ConnectionId, bytes: &[u8]) {
        let input = Input::Received { connection, bytes };
        self.speaker.handle(id, input, Instant::now());
    }

    fn lost(&mut self, id: PeerId, connection: ConnectionId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connections.remove(&connection);
        }
        self.speaker
            .handle(id, Input::Closed { connection }, Instant::now());
    }

    pub(super) fn close(&mut self, id: PeerId, connection: ConnectionId, last: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(dial) = peer.dials.remove(&connection) {
            dial.abort();
        }
        if let Some(stream) = peer.connections.remove(&connection) {
            let _ = stream.try_write(last);
            let _ = herald_net::shut(&stream, false);
            tokio::spawn(linger(stream));
        }
    }
}

fn when_ready(id: PeerId, connection: ConnectionId, stream: Arc<TcpStream>, read: bool) -> Ready {
    let interest = if read {
        Interest::READABLE
    } else {
        Interest::WRITABLE
    };
    Box::pin(async move {
        let _ = stream.ready(interest).await;
        (id, connection, read)
    })
}

/// Reads what still comes, so that the peer gets what was said.
async fn linger(stream: Arc<TcpStream>) {
    let mut buffer = [0; 1 << 10];
    let rest = async {
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(1..) => {}
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
    let _ = herald_net::shut(&stream, true);
}
