//! What happens to a session, and what comes of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::family::Family;
use crate::negotiate::Negotiated;
use crate::notification::{Code, Notification};

/// A connection of a session; never the same for two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(super) u32);

/// The state of a session (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Stopped, or refusing all for a while.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting to dial or to be dialled.
    Active,
    /// Connected, without the peer's OPEN.
    OpenSent,
    /// Connected, without the peer's first KEEPALIVE.
    OpenConfirm,
    /// Up.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How to end a session for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Administratively, with a text for the people at the peer (RFC 9003);
    /// the peer drops our routes.
    Shutdown(String),
    /// Because the peer was taken out of the configuration; it drops our
    /// routes.
    Deconfigured,
    /// Without a word, so that a peer that does graceful restart keeps our
    /// routes until we are back (RFC 4724 §4).
    Restart,
}

/// What happens to a session.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// It may begin.
    Start,
    /// What was asked for with [`Output::Connect`] is there.
    Connected {
        /// The one asked for.
        connection: ConnectionId,
        /// Our address in it.
        local: IpAddr,
    },
    /// What was asked for can't be had.
    ConnectFailed {
        /// The one asked for.
        connection: ConnectionId,
        /// Why, in words.
        why: &'a str,
    },
    /// Bytes came in.
    Received {
        /// On which connection.
        connection: ConnectionId,
        /// In order, cut anywhere.
        bytes: &'a [u8],
    },
    /// The peer closed the connection, or it failed.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// BFD found the path to the peer down (RFC 5882 §4.2).
    BfdDown,
    /// The session is to end and begin anew, for this reason, one of
    /// [`Code::ADMINISTRATIVE_RESET`] and [`Code::CONFIGURATION_CHANGE`].
    Reset(Code),
    /// The session is to end.
    Stop(&'a Stop),
}

/// Why a session, or an attempt at one, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// The peer said so.
    Received(Notification),
    /// We said so.
    Sent {
        /// What we sent.
        notification: Notification,
        /// Why, in words.
        detail: String,
    },
    /// The peer closed the connection without a word, or it failed.
    Closed,
    /// The peer, which does graceful restart, has restarted: it came with
    /// another connection (RFC 4724 §4.2).
    Replaced,
    /// There was no connection.
    Unreachable(String),
    /// We closed it without a word, to restart.
    Restart,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Received(notification) => write!(f, "the peer ended it: {notification}"),
            Self::Sent {
                notification,
                detail,
            } => write!(f, "{detail} (sent: {notification})"),
            Self::Closed => f.write_str(
                "the peer closed the connection without a word; \
                 does it have us as a neighbor, with this address and password?",
            ),
            Self::Replaced => f.write_str("the peer restarted and came with a new connection"),
            Self::Unreachable(why) => write!(f, "no connection to the peer: {why}"),
            Self::Restart => f.write_str("closed without a word, to restart"),
        }
    }
}

/// What is to be done, and what is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial the peer; answer with [`Input::Connected`] or
    /// [`Input::ConnectFailed`].
    Connect(ConnectionId),
    /// There are bytes for this connection: write what is
    /// [pending](super::Session::pending) until there is nothing, now or whenever the
    /// socket takes some.
    Transmit(ConnectionId),
    /// Close the connection, or give up dialling it.
    Close {
        /// Which.
        connection: ConnectionId,
        /// To be written before, as far as the socket takes it at once.
        last: Vec<u8>,
    },
    /// The session is up.
    Up(Arc<Negotiated>),
    /// The session, which was up, is down.
    Down(Down),
    /// An attempt failed; another follows.
    Failed(Down),
    /// The peer wants its routes of a family again.
    Refresh(Family),
    /// The session has been stopped; no other follows until it is started.
    Stopped,
}

/// What was counted since the session was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times it went up.
    pub established: u64,
    /// Messages that went out.
    pub sent: u64,
    /// UPDATEs among them.
    pub updates_sent: u64,
    /// Messages that came in.
    pub received: u64,
    /// UPDATEs among them.
    pub updates_received: u64,
    /// Prefixes announced by the peer, all ignored.
    pub prefixes_received: u64,
    /// UPDATEs with an error that did not end the session (RFC 7606).
    pub malformed_updates: u64,
    /// Requests for a refresh.
    pub refreshes: u64,
}
