//! A heartbeat on the wire. All numbers are in network byte order.
//!
//! ```text
//!   0                   1                   2                   3
//!   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//!  |      'H'      |      'B'      |    version    | header length |
//!  +---------------+---------------+---------------+---------------+
//!  | flags: bit 0 ready, 1 draining, 2 leaving,    |               |
//!  | 3 votes (16)  |               | interval (16 bits, ms)        |
//!  +---------------+---------------+---------------+---------------+
//!  | sender (64)                                                   |
//!  | session (64): drawn by lot whenever the sender starts         |
//!  | sequence (64): grows with each datagram of the session        |
//!  | view (64): of the API that its decisions rest on              |
//!  | claims (64): the version of what it claims                    |
//!  | floor (64): who knows less of its claims begins anew          |
//!  +---------------+---------------+---------------+---------------+
//!  | (octets of newer versions, up to the header length, skipped)  |
//!  +---------------+---------------+---------------+---------------+
//!  | section type  | entry length  | octets that follow (16)       |   any number
//!  +---------------+---------------+---------------+---------------+   of sections
//!  | fixed part, then entries of the entry length                  |
//!  +---------------------------------------------------------------+
//!
//!  type 1, opinion: objects to all (8)
//!      entry: session (64), sequence (32), claims had (32), age (16, ms)
//!  type 2, objections: no fixed part
//!      entry: group (64), granted to (64)
//!  type 4, unanswered: no fixed part
//!      entry: owner (64), group (64; 0 for all of the owner's)
//!  type 3, page: from (64), to (64)
//!      entry: group (64), epoch (32), priority (8),
//!             flags (8): bits 0-1 standing, 2-3 profile, 4 strict,
//!             5 damped, 6 unanswered
//!  type 5, hardware: the sender's address on the segment (48); no entries
//! ```
//!
//! What a receiver does not know is skipped: sections of other types, header
//! octets and entry octets beyond those it knows, flags. A sender with another
//! `version` is not understood at all; that number changes only if the above
//! must.

use std::time::Duration;

use thiserror::Error;

use crate::auth::TRAILER;
use crate::claim::{Claim, Page, Standing};
use crate::id::{GroupId, NodeId};
use crate::profile::Profile;

/// The largest datagram, sealed: it fits an Ethernet frame behind an IPv6 header
/// and some tunnels' headers.
pub const MAX_DATAGRAM: usize = 1400;

/// The most peers that a heartbeat can tell of.
pub const MAX_HEARD: usize = 60;

/// The most objections that a heartbeat can hold.
pub const MAX_OBJECTIONS: usize = 8;

/// The most owners or groups that a heartbeat can say are not answered for; the
/// next are told when these have moved.
pub const MAX_UNANSWERED: usize = 3;

const MAGIC: [u8; 2] = *b"HB";
const VERSION: u8 = 1;
const HEADER: u8 = 56;
const SECTION: usize = 4;
const OPINION: u8 = 1;
const OBJECTIONS: u8 = 2;
const PAGE: u8 = 3;
const UNANSWERED: u8 = 4;
const HARDWARE: u8 = 5;
const HEARD_ENTRY: u8 = 18;
const OBJECTION_ENTRY: u8 = 16;
const UNANSWERED_ENTRY: u8 = 16;
const CLAIM_ENTRY: u8 = 14;
const HARDWARE_LENGTH: usize = 6;
/// The age of a session that has not yet proved that it is no replay.
const UNPROVEN: u16 = u16::MAX;

/// One datagram of a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the wire")]
pub struct Heartbeat {
    /// Who speaks.
    pub sender: NodeId,
    /// Since which start: drawn by lot.
    pub session: u64,
    /// Grows with each datagram of the session.
    pub sequence: u64,
    /// How often it speaks; whole milliseconds up to 65 s.
    pub interval: Duration,
    /// Whether it knows the segment well enough to own something.
    pub ready: bool,
    /// Whether its vote counts: it has been there for long enough to be bound by
    /// no vote of an earlier start. Whoever is ready votes too.
    pub votes: bool,
    /// Whether it wants others to take what it has.
    pub draining: bool,
    /// Whether this is its last word: it owns nothing any more.
    pub leaving: bool,
    /// Grows with what the API says; greater is newer.
    pub view: u64,
    /// How many changes its claims have had.
    pub claims: u64,
    /// Who knows fewer of them may hold groups for its own that it has
    /// forgotten, and begins anew.
    pub floor: u64,
    /// What it hears; not in every datagram.
    pub opinion: Option<Opinion>,
    /// Claims of its own that somebody lacks.
    pub page: Option<Page>,
    /// The sender's hardware address on the segment. Filled in by who sends it;
    /// none from speakers of versions that do not tell it.
    pub hardware: Option<[u8; HARDWARE_LENGTH]>,
}

/// What a speaker hears, and what it objects to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion {
    /// Whom it hears; at most [`MAX_HEARD`].
    pub heard: Vec<Heard>,
    /// Groups under `strict` that more than one claims, and whom it granted
    /// them to; at most [`MAX_OBJECTIONS`].
    pub objections: Vec<(GroupId, NodeId)>,
    /// Whether there are more of these than could be told.
    pub objects_to_all: bool,
    /// What it asked for in vain; at most [`MAX_UNANSWERED`].
    pub unanswered: Vec<Unanswered>,
}

/// An owner that did not answer a speaker that asked for its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Who.
    pub owner: NodeId,
    /// For which of its groups; none for all of them.
    pub group: Option<GroupId>,
}

/// A session that a speaker hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Which.
    pub session: u64,
    /// The lower half of the last sequence number heard.
    pub sequence: u32,
    /// The lower half of the version of its claims that is known.
    pub have: u32,
    /// How long ago it was heard, in whole milliseconds; none while it has not
    /// proved that it is no replay.
    pub age: Option<Duration>,
}

/// Why a message is no heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// It does not begin like one.
    #[error("no heartbeat; something else uses this port")]
    Foreign,
    /// It is of a version that we do not know.
    #[error(
        "a heartbeat of version {0}, which this speaker does not know; roll out one version of Herald"
    )]
    Version(u8),
    /// It ends too early, or a value is out of its range.
    #[error("a malformed heartbeat")]
    Malformed,
}

/// How many claims fit in a datagram beside an opinion.
pub(crate) fn room_for_claims(opinion: Option<&Opinion>) -> usize {
    let opinion = opinion.map_or(0, |opinion| {
        3 * SECTION
            + 1
            + opinion.unanswered.len().min(MAX_UNANSWERED) * usize::from(UNANSWERED_ENTRY)
            + opinion.heard.len() * usize::from(HEARD_ENTRY)
            + opinion.objections.len() * usize::from(OBJECTION_ENTRY)
    });
    let hardware = SECTION + HARDWARE_LENGTH;
    (MAX_DATAGRAM - TRAILER - usize::from(HEADER) - SECTION - 16 - hardware).saturating_sub(opinion)
        / usize::from(CLAIM_ENTRY)
}

impl Heartbeat {
    /// The message to be sealed. Beyond the limits of an [`Opinion`] entries are
    /// left out.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, HEADER]);
        let flags = u16::from(self.ready)
            | u16::from(self.draining) << 1
            | u16::from(self.leaving) << 2
            | u16::from(self.votes) << 3;
        out.extend_from_slice(&flags.to_be_bytes());
        let interval = u16::try_from(self.interval.as_millis()).unwrap_or(u16::MAX);
        out.extend_from_slice(&interval.to_be_bytes());
        for number in [
            self.sender.0,
            self.session,
            self.sequence,
            self.view,
            self.claims,
            self.floor,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        if let Some(opinion) = &self.opinion {
            opinion.write(&mut out);
        }
        if let Some(page) = &self.page {
            write_page(page, &mut out);
        }
        if let Some(hardware) = &self.hardware {
            section(&mut out, HARDWARE, 0, |out| out.extend_from_slice(hardware));
        }
        out
    }

    /// Reads an opened message.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(message);
        if reader.array() != Ok(MAGIC) {
            return Err(WireError::Foreign);
        }
        let [version, length] = reader.array()?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let rest = usize::from(length)
            .checked_sub(4)
            .ok_or(WireError::Malformed)?;
        let mut header = Reader(reader.take(rest)?);
        let flags = header.u16()?;
        let mut heartbeat = Self {
            interval: Duration::from_millis(header.u16()?.into()),
            ready: flags & 1 != 0,
            draining: flags & 2 != 0,
            leaving: flags & 4 != 0,
            votes: flags & 8 != 0,
            sender: NodeId(header.u64()?),
            session: header.u64()?,
            sequence: header.u64()?,
            view: header.u64()?,
            claims: header.u64()?,
            floor: header.u64()?,
            opinion: None,
            page: None,
            hardware: None,
        };
        while !reader.0.is_empty() {
            let [kind, entry] = reader.array()?;
            let length = reader.u16()?;
            let body = Reader(reader.take(length.into())?);
            match kind {
                OPINION => heartbeat.opinion = Some(Opinion::parse(body, entry)?),
                OBJECTIONS => {
                    if let Some(opinion) = &mut heartbeat.opinion {
                        opinion.objections = parse_objections(body, entry)?;
                    }
                }
                UNANSWERED => {
                    if let Some(opinion) = &mut heartbeat.opinion {
                        opinion.unanswered = parse_unanswered(body, entry)?;
                    }
                }
                PAGE => heartbeat.page = Some(parse_page(body, entry)?),
                HARDWARE => heartbeat.hardware = Some({ body }.array()?),
                _ => {}
            }
        }
        Ok(heartbeat)
    }
}

impl Opinion {
    fn write(&self, out: &mut Vec<u8>) {
        let too_many = self.objections.len() > MAX_OBJECTIONS;
        section(out, OPINION, HEARD_ENTRY, |out| {
            out.push(u8::from(self.objects_to_all || too_many));
            for heard in self.heard.iter().take(MAX_HEARD) {
                out.extend_from_slice(&heard.session.to_be_bytes());
                out.extend_from_slice(&heard.sequence.to_be_bytes());
                out.extend_from_slice(&heard.have.to_be_bytes());
                let age = heard.age.map_or(UNPROVEN, |age| {
                    u16::try_from(age.as_millis()).map_or(UNPROVEN - 1, |ms| ms.min(UNPROVEN - 1))
                });
                out.extend_from_slice(&age.to_be_bytes());
            }
        });
        if !self.objections.is_empty() {
            section(out, OBJECTIONS, OBJECTION_ENTRY, |out| {
                for (group, node) in self.objections.iter().take(MAX_OBJECTIONS) {
                    out.extend_from_slice(&group.0.to_be_bytes());
                    out.extend_from_slice(&node.0.to_be_bytes());
                }
            });
        }
        if !self.unanswered.is_empty() {
            section(out, UNANSWERED, UNANSWERED_ENTRY, |out| {
                for it in self.unanswered.iter().take(MAX_UNANSWERED) {
                    out.extend_from_slice(&it.owner.0.to_be_bytes());
                    let group = it.group.map_or(0, |group| group.0);
                    out.extend_from_slice(&group.to_be_bytes());
                }
            });
        }
    }

    fn parse(mut body: Reader, entry: u8) -> Result<Self, WireError> {
        let [objects_to_all] = body.array()?;
        let heard = body.entries(entry, HEARD_ENTRY, |entry| {
            Ok(Heard {
                session: entry.u64()?,
                sequence: entry.u32()?,
                have: entry.u32()?,
                age: Some(entry.u16()?)
                    .filter(|age| *age != UNPROVEN)
                    .map(|age| Duration::from_millis(age.into())),
            })
        })?;
        if heard.len() > MAX_HEARD {
            return Err(WireError::Malformed);
        }
        Ok(Self {
            heard,
            objections: Vec::new(),
            objects_to_all: objects_to_all != 0,
            unanswered: Vec::new(),
        })
    }
}

fn parse_objections(body: Reader, entry: u8) -> Result<Vec<(GroupId, NodeId)>, WireError> {
    body.entries(entry, OBJECTION_ENTRY, |entry| {
        Ok((GroupId(entry.u64()?), NodeId(entry.u64()?)))
    })
}

fn parse_unanswered(body: Reader, entry: u8) -> Result<Vec<Unanswered>, WireError> {
    let unanswered = body.entries(entry, UNANSWERED_ENTRY, |entry| {
        Ok(Unanswered {
            owner: NodeId(entry.u64()?),
            group: Some(GroupId(entry.u64()?)).filter(|group| group.0 != 0),
        })
    })?;
    if unanswered.len() > MAX_UNANSWERED {
        return Err(WireError::Malformed);
    }
    Ok(unanswered)
}

fn write_page(page: &Page, out: &mut Vec<u8>) {
    section(out, PAGE, CLAIM_ENTRY, |out| {
        for number in [page.from, page.to] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for claim in &page.claims {
            out.extend_from_slice(&claim.group.0.to_be_bytes());
            out.extend_from_slice(&claim.epoch.to_be_bytes());
            let standing = match claim.standing {
                Standing::Released => 0,
                Standing::Acquiring => 1,
                Standing::Holding => 2,
            };
            let profile = match claim.profile {
                Profile::Default => 0,
                Profile::Fast => 1,
                Profile::Safe => 2,
            };
            let flags = standing
                | profile << 2
                | u8::from(claim.strict) << 4
                | u8::from(claim.damped) << 5
                | u8::from(claim.unanswered) << 6;
            out.extend_from_slice(&[claim.priority, flags]);
        }
    });
}

fn parse_page(mut body: Reader, entry: u8) -> Result<Page, WireError> {
    let (from, to) = (body.u64()?, body.u64()?);
    if from >= to {
        return Err(WireError::Malformed);
    }
    let claims = body.entries(entry, CLAIM_ENTRY, |entry| {
        let (group, epoch) = (GroupId(entry.u64()?), entry.u32()?);
        let [priority, flags] = entry.array()?;
        Ok(Claim {
            group,
            epoch,
            priority,
            standing: match flags & 3 {
                0 => Standing::Released,
                1 => Standing::Acquiring,
                2 => Standing::Holding,
                _ => return Err(WireError::Malformed),
            },
            profile: *Profile::ALL
                .get(usize::from(flags >> 2 & 3))
                .ok_or(WireError::Malformed)?,
            strict: flags & 16 != 0,
            damped: flags & 32 != 0,
            unanswered: flags & 64 != 0,
        })
    })?;
    Ok(Page { from, to, claims })
}

/// Writes a section; what does not fit its length is our own mistake, and is
/// kept out by the limits above.
fn section(out: &mut Vec<u8>, kind: u8, entry: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[kind, entry, 0, 0]);
    body(out);
    let length = u16::try_from(out.len() - begin - SECTION).unwrap_or(0);
    out[begin + 2..begin + SECTION].copy_from_slice(&length.to_be_bytes());
}

/// What is left to be read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The entries that are left; each may be longer than `known`.
    fn entries<T>(
        mut self,
        length: u8,
        known: u8,
        parse: impl Fn(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        if length < known {
            return Err(WireError::Malformed);
        }
        let length = usize::from(length);
        let mut entries = Vec::with_capacity(self.0.len() / length);
        while !self.0.is_empty() {
            entries.push(parse(&mut Reader(self.take(length)?))?);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
