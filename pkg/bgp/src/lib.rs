//! BGP-4 for a speaker that only originates routes, sans-IO: bytes, instants
//! and routes in; bytes, timers and events out (RFC 4271, RFC 4760).
//!
//! ```text
//!   routes, offers ──> [Speaker] <── Input: connections, bytes, BFD
//!                       │     │
//!            Adj-RIB-Out      [Session] for each peer ──> Output: dial, close, up, down
//!            table, offers     │  negotiate   what two OPENs come to
//!                       │      │  outbox      what the socket has yet to take
//!                     export ──┘
//!
//!   message, open, capability, update, attribute, nlri, notification, community
//!                                                              the bytes
//! ```
//!
//! A peer's routes are read only as far as RFC 7606 asks, and not kept.
//! Reading is apart from judging: `parse` says what is there, `validate`,
//! `check` and `negotiate` whether it may be.

mod attribute;
mod capability;
mod community;
mod config;
#[cfg(test)]
mod differential;
mod export;
mod family;
mod message;
mod negotiate;
mod nlri;
mod notification;
mod offers;
mod open;
mod outbox;
mod path;
mod read;
mod rib;
mod session;
mod speaker;
mod table;
mod update;

pub use attribute::{
    AsPath, Attribute, AttributeError, Context, RawAttribute, RawAttributes, Severity,
};
pub use capability::{Capability, GracefulRestart, LongLived, NextHopPair, Preserved};
pub use community::{AnyCommunity, Community, CommunityError, ExtendedCommunity, LargeCommunity};
pub use config::{Change, ConfigError, PeerAs, PeerConfig};
pub use export::NextHop;
pub use family::{Families, Family};
pub use message::{
    Frame, HEADER, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType, RefreshKind, RouteRefresh,
    encode_keepalive,
};
pub use negotiate::Negotiated;
pub use nlri::{BadPrefix, Prefixes};
pub use notification::{Code, Fault, LONGEST_COMMUNICATION, Notification};
pub use offers::{GroupId, Offer, PeerId, Peers};
pub use open::{AS_TRANS, Open};
pub use path::{DEFAULT_LOCAL_PREF, MOST_COMMUNITIES, MOST_PREPENDED, PathAttributes, PathError};
pub use session::{ConnectionId, Counters, Down, Input, Output, Session, State, Stop};
pub use speaker::{Drain, GATHER, RouteError, Speaker};
pub use update::{Received, Update};
