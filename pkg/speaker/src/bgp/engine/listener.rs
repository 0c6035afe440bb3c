//! The port that all peers share.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use herald_bgp::PeerId;
use herald_net::BgpListener;
use tokio::net::TcpStream;

use super::Engine;

/// The port is tried again after so long, should another program leave it.
const LISTEN_RETRY: Duration = Duration::from_secs(30);

/// The interface of a link-local address: on another one the same address is another
/// host.
fn scope(address: &SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

impl Engine {
    /// A connection to the port.
    pub(super) fn accept(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let Ok((stream, from)) = accepted else {
            return;
        };
        let Some(id) = self.whose(&from).or_else(|| self.admit(from)) else {
            tracing::debug!(%from, "a connection from no peer, or from one of several");
            return;
        };
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let settings = &peer.settings;
        let local = stream.local_addr();
        let set = herald_net::settle(&stream, settings.distance, settings.config.user_timeout());
        let (Ok(local), Ok(())) = (local, set) else {
            return;
        };
        if let Some(connection) = self.speaker.accept(id, local.ip(), Instant::now()) {
            self.take(id, connection, stream);
            // What the session said before the stream was known.
            self.write(id, connection);
        }
    }

    /// Of several behind one address only one may dial us: who it is, is not known
    /// before its OPEN.
    fn whose(&self, from: &SocketAddr) -> Option<PeerId> {
        let may_be = |id: &&PeerId| {
            self.peers.get(id).is_some_and(|peer| {
                let at = &peer.settings.peer;
                at.ip() == from.ip() && scope(at) == scope(from) && peer.settings.device.is_none()
            })
        };
        let candidates: Vec<PeerId> = self.ids.values().filter(may_be).copied().collect();
        let waits = |id: &&PeerId| {
            let peer = self.peers.get(id);
            peer.is_some_and(|peer| peer.settings.config.passive)
        };
        match &candidates[..] {
            [only] => Some(*only),
            several => several.iter().find(waits).copied(),
        }
    }

    pub(super) fn listen(&mut self) {
        self.listen_again = None;
        let port = self.inputs.config.listen_port;
        if port == 0 || self.listener.is_some() {
            return;
        }
        self.touch();
        match BgpListener::open(port, None) {
            Ok(listener) => {
                tracing::info!(port, "listening for BGP peers");
                self.listener = Some(listener);
                self.listen_problem = None;
                self.signed.clear();
                self.sign();
            }
            Err(error) => {
                let problem = if error.source.kind() == io::ErrorKind::AddrInUse {
                    format!(
                        "port {port} of this node is another program's, so that peers are only \
                         dialled; stop that, or set --bgp-listen-port"
                    )
                } else {
                    format!("peers are only dialled: {error} on port {port}")
                };
                if self.listen_problem.as_ref() != Some(&problem) {
                    tracing::warn!(problem);
                }
                self.listen_problem = Some(problem);
                self.listen_again = Some(Instant::now() + LISTEN_RETRY);
            }
        }
    }

    /// Sets the passwords of the port.
    pub(super) fn sign(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let mut want = BTreeMap::new();
        for peer in self.peers.values().filter(|peer| !peer.dynamic) {
            if let Some(password) = &peer.password {
                want.insert((peer.settings.peer.ip(), None), password.clone());
            }
        }
        for template in self.templates.values() {
            if let Some(password) = &template.password {
                for range in template.ranges() {
                    let place = (range.addr(), Some(range.prefix_len()));
                    want.insert(place, password.clone());
                }
            }
        }
        for place in self.signed.keys().filter(|place| !want.contains_key(place)) {
            let _ = listener.set_password(place.0, place.1, None);
        }
        for (place, password) in &want {
            let (peer, length) = *place;
            let text = Some(password.0.as_bytes());
            if self.signed.get(place) != Some(password)
                && let Err(error) = listener.set_password(peer, length, text)
            {
                tracing::error!(%peer, %error, "connections of this peer can't be accepted");
            }
        }
        self.signed = want;
    }
}
