//! BGP-4, for a speaker that only originates routes, sans-IO: bytes and
//! instants in; bytes, timers and events out.
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

pub use attribute::*;
pub use capability::*;
pub use community::*;
pub use config::*;
pub use export::*;
pub use family::*;
pub use message::*;
pub use negotiate::*;
pub use nlri::*;
pub use notification::*;
pub use offers::*;
pub use open::*;
pub use path::*;
pub use session::*;
pub use speaker::*;
pub use update::*;
