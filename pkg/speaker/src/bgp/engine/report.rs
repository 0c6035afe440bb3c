//! How all is, for the status and the metrics.

use std::time::Duration;

use herald_api::{BFDSession, BGPSession, BGPStatusStatus};
use herald_bgp::{Family, PeerId, State};
use herald_net::BgpListener;
use jiff::Timestamp;

use super::{Engine, Peer};

/// Changes are gathered for so long before all is looked at.
pub(super) const GATHER: Duration = Duration::from_millis(100);

impl Engine {
    pub(super) fn report(&mut self) {
        self.report_at = None;
        let Some(orders) = self.inputs.orders.borrow().clone() else {
            return;
        };
        let sessions = self.ids.iter();
        let sessions = sessions.filter_map(|(key, id)| Some((key, *id, self.peers.get(id)?)));
        let mut peers = Vec::new();
        for (key, id, peer) in sessions {
            let session = self.session(id, peer);
            self.measure(key, id, &session);
            peers.push(session);
        }
        peers.extend(self.refused.iter().map(|(name, refused)| BGPSession {
            peer: name.clone(),
            state: "Idle".into(),
            since: Timestamp::UNIX_EPOCH.to_string(),
            problem: Some(refused.problem.clone()),
            ..BGPSession::default()
        }));
        peers.sort_by(|one, two| one.peer.cmp(&two.peer));
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let up = peers.iter().filter(|p| p.state == "Established").count();
        let mut problems = orders.problems.clone();
        problems.extend(self.listen_problem.clone());
        let status = BGPStatusStatus {
            router_id: orders.router_id.to_string(),
            listen_port: self.listener.as_ref().map_or(0, BgpListener::port),
            configured: number(peers.len()),
            established: number(up),
            routes: number(self.routes.len()),
            problems,
            peers,
        };
        self.inputs.status.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&status);
            *told = Some(status);
            changed
        });
    }

    fn measure(&self, key: &str, id: PeerId, told: &BGPSession) {
        let session = self.speaker.session(id);
        let updates = session.map_or(0, |session| session.counters().updates_sent);
        let up = told.state == "Established";
        let metrics = &self.inputs.metrics.bgp;
        metrics.set(key, up, self.speaker.told(id), updates, self.routes.len());
    }

    fn session(&self, id: PeerId, peer: &Peer) -> BGPSession {
        let session = self.speaker.session(id);
        let up = session.and_then(|session| session.established());
        let state = match session.map_or(State::Idle, herald_bgp::Session::state) {
            State::Established => "Established",
            State::Idle => "Idle",
            _ => "Active",
        };
        let terms = up.map(|(terms, _)| terms);
        let family = |family: Family| match family {
            Family::Ipv4 => "ipv4".to_owned(),
            Family::Ipv6 => "ipv6".to_owned(),
        };
        BGPSession {
            peer: peer.name.clone(),
            address: Some(peer.settings.peer.ip().to_string()),
            port: Some(peer.settings.peer.port()),
            interface: peer.settings.interface.clone(),
            state: state.into(),
            since: peer.since.to_string(),
            last_error: peer.last_error.clone(),
            problem: peer.settings.problem.clone(),
            prefixes_sent: i32::try_from(self.speaker.told(id)).unwrap_or(i32::MAX),
            families: terms.map_or_else(Vec::new, |t| t.families.iter().map(family).collect()),
            local_address: terms.map(|terms| terms.local_address.to_string()),
            remote_asn: terms.map(|terms| terms.peer_as),
            remote_router_id: terms.map(|terms| terms.peer_id.to_string()),
            remote_name: terms.and_then(|terms| terms.hostname.clone()),
            hold_time: terms.and_then(|terms| u32::try_from(terms.hold_time.as_secs()).ok()),
            graceful_restart: terms.is_some_and(|terms| terms.graceful_restart.is_some()),
            bfd: self.bfd(peer),
        }
    }

    fn bfd(&self, peer: &Peer) -> Option<BFDSession> {
        let bfd = peer.settings.bfd.as_ref()?;
        Some(self.inputs.paths.session(&bfd.way).unwrap_or(BFDSession {
            state: "Down".into(),
            since: peer.since.to_string(),
            diagnostic: None,
        }))
    }
}
