//! From a connection to a session (RFC 4271 §6.2, §6.8, §8.2.2).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::negotiate::{Negotiated, negotiate, our_open};
use crate::notification::{Code, Fault, Notification};
use crate::open::Open;
use crate::outbox::Outbox;
use crate::session::connection::{Connection, Stage};
use crate::session::{ConnectionId, DAMPED, Dial, Down, Output, Session};

/// How long to wait for the peer's OPEN (RFC 4271 §8.2.2: "a large value").
pub(super) const OPEN_WAIT: Duration = Duration::from_mins(4);
/// How long to wait for a connection before dialling anew.
pub(super) const DIAL_WAIT: Duration = Duration::from_secs(10);
/// Connections opened within so long of each other's OPEN are taken for dialled
/// at the same time.
pub(super) const CONCURRENT: Duration = Duration::from_secs(5);

impl Session {
    /// The peer has dialled us: takes its connection, in which our address is
    /// `local`. It may be refused, with [`Output::Close`].
    pub fn accept(&mut self, local: IpAddr, now: Instant) -> ConnectionId {
        let id = self.next_id();
        let damped =
            self.errors >= DAMPED && matches!(self.dial, Dial::Pause(until) if now < until);
        if !self.running || damped {
            // RFC 4486 §4: for a connection that was accepted in TCP only.
            let mut last = Vec::new();
            if self.running {
                Notification::from(Code::CONNECTION_REJECTED).encode(&mut last);
            }
            self.outputs.push_back(Output::Close {
                connection: id,
                last,
            });
            return id;
        }
        // A peer that dials again has given up what it dialled before.
        let stale = |c: &&Connection| c.incoming && !c.is_established();
        if let Some(stale) = self.connections.iter().find(stale) {
            let stale = stale.id;
            self.close(stale, Some(Code::COLLISION.into()));
        }
        self.open(id, true, local, now);
        id
    }

    pub(super) fn connected(&mut self, id: ConnectionId, local: IpAddr, now: Instant) {
        if !matches!(self.dial, Dial::Under(under, _) if under == id) {
            return;
        }
        self.dial = Dial::Off;
        self.open(id, false, local, now);
    }

    pub(super) fn connect_failed(&mut self, id: ConnectionId, why: &str, now: Instant) {
        if !matches!(self.dial, Dial::Under(under, _) if under == id) {
            return;
        }
        self.dial = Dial::Off;
        self.failed(Down::Unreachable(why.into()), now);
    }

    /// A connection is there: RFC 4271 §8.2.2, into `OpenSent`.
    pub(super) fn open(&mut self, id: ConnectionId, incoming: bool, local: IpAddr, now: Instant) {
        // As an IPv6 socket tells of IPv4.
        let local = local.to_canonical();
        let open = our_open(&self.config, local, self.told, self.restarted);
        let mut outbox = Outbox::default();
        outbox.control(|out| open.encode(out));
        self.connections.push(Connection {
            id,
            incoming,
            opened: now,
            local,
            stage: Stage::OpenSent,
            open,
            inbox: Vec::new(),
            outbox,
            transmitting: false,
            hold: Some(now + OPEN_WAIT),
            keepalive: None,
            send_hold: None,
        });
        self.touch(id, now);
    }

    /// The peer's OPEN: RFC 4271 §6.2 and §6.8.
    pub(super) fn opened(
        &mut self,
        id: ConnectionId,
        body: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let theirs = Open::parse(body)?;
        theirs.validate()?;
        let Some(connection) = self.get(id) else {
            return Ok(());
        };
        let (local, ours) = (connection.local, connection.open.clone());
        let (incoming, opened) = (connection.incoming, connection.opened);
        let terms = Arc::new(negotiate(&self.config, local, &ours, &theirs)?);
        if !self.survives_collision((id, incoming, opened), &terms, now) {
            return Ok(());
        }
        let first = self.pause(terms.keepalive_time);
        let Some(connection) = self.get(id) else {
            return Ok(());
        };
        connection.outbox.keepalive();
        connection.keepalive = (!terms.keepalive_time.is_zero()).then(|| now + first);
        connection.stage = Stage::OpenConfirm(terms);
        connection.restart_hold(now);
        self.touch(id, now);
        Ok(())
    }

    /// RFC 4271 §6.8: whether this connection, whose OPEN is good, stays beside
    /// another one.
    ///
    /// One that waits for its OPEN counts too while it is young: now that the
    /// peer's identifier is known, what will come of it is. So no KEEPALIVE
    /// goes out on a connection that will not stay, and neither side can come
    /// up on one while the other gives it up. An old one may be of a peer that
    /// is gone.
    pub(super) fn survives_collision(
        &mut self,
        (id, incoming, opened): (ConnectionId, bool, Instant),
        terms: &Negotiated,
        now: Instant,
    ) -> bool {
        let counts = |c: &&Connection| {
            let young = now.saturating_duration_since(c.opened) < CONCURRENT;
            c.id != id && (c.terms().is_some() || young)
        };
        let rival = self.connections.iter().find(counts);
        let Some(rival) = rival else {
            return true;
        };
        let rival_id = rival.id;
        let collision = || Some(Notification::from(Code::COLLISION));
        if let Stage::Established(established, since) = &rival.stage {
            // RFC 4724 §4.2: a peer that restarts may be back before we have
            // noticed. It has no use for a NOTIFICATION on the old one. But
            // what was opened before that one was up is of no restart.
            if established.graceful_restart.is_some() && opened > *since {
                self.end(rival_id, None, Down::Replaced, now);
                return true;
            }
            self.close(id, collision());
            return false;
        }
        // The one that the higher identifier dialled; with equal ones, that
        // of the higher AS (RFC 6286 §2.3).
        let us = (self.config.router_id, self.config.local_as);
        let ours_stays = us > (terms.peer_id, terms.peer_as);
        let this_stays = incoming != ours_stays;
        if !this_stays && let Some(rival) = self.get(rival_id) {
            // With only that one left, its OPEN is not waited for so long.
            let limit = now + DIAL_WAIT;
            rival.hold = rival.hold.map(|hold| hold.min(limit));
        }
        self.close(if this_stays { rival_id } else { id }, collision());
        this_stays
    }

    pub(super) fn establish(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.get(id) else {
            return;
        };
        let Stage::OpenConfirm(terms) = &connection.stage else {
            return;
        };
        let terms = Arc::clone(terms);
        connection.stage = Stage::Established(Arc::clone(&terms), now);
        connection.restart_hold(now);
        self.stop_dialling();
        self.restarted = false;
        self.counters.established += 1;
        self.outputs.push_back(Output::Up(terms));
        self.touch(id, now);
    }

    pub(super) fn dial(&mut self, now: Instant) {
        self.dial = Dial::Off;
        if self.config.passive {
            // The pause of a peer that was refused is over.
            self.errors = self.errors.min(DAMPED - 1);
        } else if self.connections.is_empty() {
            let id = self.next_id();
            self.dial = Dial::Under(id, now + DIAL_WAIT);
            self.outputs.push_back(Output::Connect(id));
        }
    }

    pub(super) fn stop_dialling(&mut self) {
        if let Dial::Under(connection, _) = std::mem::replace(&mut self.dial, Dial::Off) {
            self.outputs.push_back(Output::Close {
                connection,
                last: Vec::new(),
            });
        }
    }
}
