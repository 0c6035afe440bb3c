//! One of the connections of a session.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::message::MAX_MESSAGE;
use crate::negotiate::Negotiated;
use crate::open::Open;
use crate::outbox::Outbox;
use crate::session::ConnectionId;

#[derive(Debug)]
pub(super) enum Stage {
    OpenSent,
    OpenConfirm(Arc<Negotiated>),
    Established(Arc<Negotiated>, Instant),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnectionId,
    pub incoming: bool,
    pub opened: Instant,
    pub local: IpAddr,
    pub stage: Stage,
    /// What we sent.
    pub open: Open,
    pub inbox: Vec<u8>,
    pub outbox: Outbox,
    /// Whether the caller knows that there are bytes.
    pub transmitting: bool,
    /// When the peer is given up.
    pub hold: Option<Instant>,
    pub keepalive: Option<Instant>,
    /// When the peer is given up because it reads nothing.
    pub send_hold: Option<Instant>,
}

impl Connection {
    pub const fn terms(&self) -> Option<&Arc<Negotiated>> {
        match &self.stage {
            Stage::OpenSent => None,
            Stage::OpenConfirm(terms) | Stage::Established(terms, _) => Some(terms),
        }
    }

    pub const fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established(..))
    }

    pub fn max_received(&self) -> usize {
        self.terms().map_or(MAX_MESSAGE, |terms| terms.max_received)
    }

    pub fn restart_hold(&mut self, now: Instant) {
        if let Some(terms) = self.terms() {
            self.hold = (!terms.hold_time.is_zero()).then(|| now + terms.hold_time);
        }
    }
}
