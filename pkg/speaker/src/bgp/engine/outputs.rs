//! What the sessions want done, and how they end.

use std::net::IpAddr;
use std::time::Instant;

use herald_bgp::{Drain, Family, Input, NextHop, Output, PeerId, State, Stop};
use jiff::Timestamp;

use super::{Engine, LEAVE};
use crate::bgp::stop::Ending;

impl Engine {
    pub(super) fn perform(&mut self) {
        while let Some((id, output)) = self.speaker.poll_output() {
            self.touch();
            match output {
                Output::Connect(connection) => self.dial(id, connection),
                Output::Transmit(connection) => self.write(id, connection),
                Output::Close { connection, last } => self.close(id, connection, &last),
                Output::Up(terms) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        tracing::info!(
                            peer = peer.name, asn = terms.peer_as, id = %terms.peer_id,
                            "BGP session up"
                        );
                        peer.since = Timestamp::now();
                        peer.last_error = None;
                        let name = peer.name.clone();
                        let text = format!("the session with AS {} is up", terms.peer_as);
                        self.tell(&name, false, "SessionUp", &text);
                        self.next_hop_of_ipv4(id, terms.local_address, terms.ipv4_over_ipv6);
                    }
                }
                Output::Down(why) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        tracing::warn!(peer = peer.name, %why, "BGP session down");
                        peer.since = Timestamp::now();
                        let why = why.to_string();
                        peer.last_error = Some(why.clone());
                        peer.idle = peer.dynamic.then(Instant::now);
                        let name = peer.name.clone();
                        self.tell(&name, true, "SessionDown", &why);
                    }
                }
                Output::Failed(why) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        let why = why.to_string();
                        peer.idle = peer.dynamic.then(Instant::now);
                        if peer.last_error.as_ref() != Some(&why) {
                            tracing::warn!(peer = peer.name, why, "no BGP session");
                            peer.last_error = Some(why.clone());
                            let name = peer.name.clone();
                            self.tell(&name, true, "NoSession", &why);
                        }
                    }
                }
                Output::Refresh(_) => {}
                Output::Stopped => self.stopped(id),
            }
        }
    }

    /// One that was stopped for something that is over by now begins anew.
    fn stopped(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if self.ending.is_some() {
            // BFD goes on until the connections have ended: see `run`.
        } else if peer.draining {
            peer.stopped = true;
            self.watch_paths();
        } else {
            self.speaker.handle(id, Input::Start, Instant::now());
        }
    }

    /// Over IPv6 to a peer that takes no IPv6 next hops of IPv4 routes they have the
    /// node's IPv4 address.
    fn next_hop_of_ipv4(&mut self, id: PeerId, local: IpAddr, taken: bool) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let config = &peer.settings.config;
        let lacks = local.is_ipv6() && !taken && config.families.has(Family::Ipv4);
        if !lacks || config.next_hop_v4.is_some() {
            return;
        }
        let near = self
            .interfaces
            .values()
            .filter(|i| i.addresses.iter().any(|(own, _)| *own == local));
        let v4 = near
            .flat_map(|i| &i.addresses)
            .find_map(|(own, _)| match own {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            });
        if let Some(v4) = v4 {
            let mut config = config.clone();
            config.next_hop_v4 = Some(NextHop::V4(v4));
            if let Err(error) = self.speaker.set_peer(id, config, Instant::now()) {
                tracing::error!(%error, "no next hop for IPv4 routes");
            }
        }
    }

    /// Ends the sessions as it is told.
    pub(super) fn end(&mut self) {
        let Some(ending) = self.inputs.end.borrow_and_update().clone() else {
            return;
        };
        let now = Instant::now();
        let wait = self.inputs.config.drain_wait;
        let text = match &ending {
            Ending::Leave(text) => text.clone(),
            Ending::Restart => "the speaker is restarted".to_owned(),
        };
        for (id, peer) in &mut self.peers {
            let session = self.speaker.session(*id).and_then(|s| s.established());
            let keeps = session.is_some_and(|(terms, _)| terms.graceful_restart.is_some());
            if ending == Ending::Restart && keeps {
                self.speaker.handle(*id, Input::Stop(&Stop::Restart), now);
            } else if !peer.draining {
                let text = text.clone();
                self.speaker.drain(*id, Drain { wait, text }, now);
            }
            peer.draining = true;
        }
        self.ending = Some((ending, now + wait + LEAVE));
    }

    pub(super) fn is_over(&self) -> bool {
        let Some((_, until)) = &self.ending else {
            return false;
        };
        let stopped = |id: &PeerId| {
            let session = self.speaker.session(*id);
            session.is_none_or(|session| session.state() == State::Idle)
        };
        *until <= Instant::now() || self.peers.keys().all(stopped)
    }
}
