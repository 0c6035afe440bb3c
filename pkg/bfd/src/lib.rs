//! Bidirectional Forwarding Detection, sans-IO: packets and instants in,
//! packets, timers and events out (RFC 5880, RFC 5881, RFC 5883).
//!
//! A [`Session`] is one state machine. [`Sessions`] holds many of them: it
//! gives out discriminators, finds the session that a packet belongs to, and
//! knows which timer is due next. Asynchronous mode only, without echo and
//! without authentication; a peer that asks for Demand mode is obeyed.

mod config;
mod packet;
mod queue;
mod session;
mod sessions;
mod turn;

pub use config::{ConfigError, SLOW, SessionConfig};
pub use packet::{ControlPacket, Diagnostic, Malformed, State};
pub use session::{Event, Session, Stall};
pub use sessions::{
    Arrival, Counters, Dropped, Hops, Path, PathError, SessionId, Sessions, Transmit,
};
pub use turn::{Take, Wire};
