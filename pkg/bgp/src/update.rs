//! UPDATE as it is received (RFC 4271 §4.3).
//!
//! ```text
//! +-----------------------------------------------------+
//! |   Withdrawn Routes Length (2 octets)                |
//! +-----------------------------------------------------+
//! |   Withdrawn Routes (variable), IPv4 only            |
//! +-----------------------------------------------------+
//! |   Total Path Attribute Length (2 octets)            |
//! +-----------------------------------------------------+
//! |   Path Attributes (variable)                        |
//! +-----------------------------------------------------+
//! |   Network Layer Reachability Information, IPv4 only |
//! +-----------------------------------------------------+
//! ```
//!
//! [`Update::parse`] finds the three parts; [`Update::check`] looks into them
//! as RFC 7606 asks. No route is kept: this speaker only originates.

use crate::attribute::{Attribute, AttributeError, Context, RawAttributes, Severity, kind};
use crate::family::Family;
use crate::nlri::Prefixes;
use crate::notification::{Code, Fault};
use crate::read::Reader;

/// An UPDATE, cut into its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// Withdrawn Routes.
    pub withdrawn: &'a [u8],
    /// Path Attributes.
    pub attributes: &'a [u8],
    /// Network Layer Reachability Information.
    pub nlri: &'a [u8],
}

/// What an UPDATE came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Prefixes announced, of the families that are spoken.
    pub announced: usize,
    /// Prefixes withdrawn.
    pub withdrawn: usize,
    /// The family of which this ends the first sending of all routes
    /// (RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// The worst error in it, none of [`Severity::Reset`].
    pub error: Option<AttributeError>,
}

impl<'a> Update<'a> {
    /// Reads the body of an UPDATE. Fails when the two lengths do not fit it
    /// (RFC 4271 §6.3, RFC 7606 §3 (b)).
    pub fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader(body);
        let mut part = || {
            let length = reader.u16()?;
            reader.take(length.into())
        };
        let parts = part().and_then(|withdrawn| Some((withdrawn, part()?)));
        let (withdrawn, attributes) = parts.ok_or_else(|| {
            let detail = "the lengths in an UPDATE do not fit the message";
            Fault::new(Code::ATTRIBUTE_LIST, [], detail)
        })?;
        Ok(Self {
            withdrawn,
            attributes,
            nlri: reader.0,
        })
    }

    /// The attributes, one by one.
    pub const fn attributes(&self) -> RawAttributes<'a> {
        RawAttributes(Reader(self.attributes))
    }

    /// Looks at all of it. Fails when the session has to end.
    pub fn check(&self, context: Context) -> Result<Received, Fault> {
        let prefixes = |bytes| {
            let count = Prefixes::new(Family::Ipv4, bytes).count_valid();
            count.map_err(|_| {
                let detail = "a prefix in an UPDATE is malformed";
                Fault::new(Code::BAD_NETWORK, [], detail)
            })
        };
        let mut received = Received {
            withdrawn: prefixes(self.withdrawn)?,
            announced: prefixes(self.nlri)?,
            ..Received::default()
        };
        if self.withdrawn.is_empty() && self.attributes.is_empty() && self.nlri.is_empty() {
            received.end_of_rib = Some(Family::Ipv4);
            return Ok(received);
        }
        let mut seen = [false; 256];
        let mut attributes = 0;
        for raw in self.attributes() {
            attributes += 1;
            let checked = raw.and_then(|raw| {
                let again = std::mem::replace(&mut seen[usize::from(raw.kind)], true);
                if again {
                    return Err(repeated(raw.kind));
                }
                Attribute::parse(raw, context)
            });
            match checked {
                Ok(Attribute::MpReach {
                    family: Some(family),
                    nlri,
                    ..
                }) => received.announced += count(family, nlri),
                Ok(Attribute::MpUnreach {
                    family: Some(family),
                    withdrawn,
                }) => {
                    received.withdrawn += count(family, withdrawn);
                    received.end_of_rib = withdrawn.is_empty().then_some(family);
                }
                Ok(_) => {}
                Err(error) => received.note(error),
            }
        }
        let has = |kind: u8| seen[usize::from(kind)];
        let reaches = !self.nlri.is_empty() || has(kind::MP_REACH);
        let alone = attributes == 1 && !reaches && self.withdrawn.is_empty();
        received.end_of_rib = received.end_of_rib.filter(|_| alone);
        // RFC 7606 §3 (d).
        let complete = has(kind::ORIGIN)
            && has(kind::AS_PATH)
            && (self.nlri.is_empty() || has(kind::NEXT_HOP));
        if reaches && !complete {
            received.note(AttributeError::new(
                Severity::Withdraw,
                Code::MISSING_ATTRIBUTE,
                0,
                "ORIGIN, AS_PATH or NEXT_HOP is missing",
            ));
        }
        received.settle(self, reaches, has(kind::MP_UNREACH))
    }
}

impl Update<'_> {
    /// What RFC 4271 §6.3 has in a NOTIFICATION about an attribute: most of the
    /// time the attribute.
    fn data_for(&self, error: AttributeError) -> Vec<u8> {
        let mut data = Vec::new();
        let mut attributes = self.attributes().flatten();
        let wanted = !matches!(error.code, Code::ATTRIBUTE_LIST | Code::BAD_AS_PATH);
        if wanted && let Some(raw) = attributes.find(|raw| raw.kind == error.attribute) {
            raw.encode(&mut data);
        }
        data
    }
}

/// RFC 7606 §3 (g): only the first counts, but two of these can't be told
/// apart.
fn repeated(attribute: u8) -> AttributeError {
    let severity = match attribute {
        kind::MP_REACH | kind::MP_UNREACH => Severity::Reset,
        _ => Severity::Discard,
    };
    let detail = "it is there more than once";
    AttributeError::new(severity, Code::ATTRIBUTE_LIST, attribute, detail)
}

/// Of prefixes that have been found valid.
fn count(family: Family, bytes: &[u8]) -> usize {
    Prefixes::new(family, bytes).count()
}

impl Received {
    /// RFC 7606 §3 (h): the worst one decides.
    fn note(&mut self, error: AttributeError) {
        if self
            .error
            .is_none_or(|worst| worst.severity < error.severity)
        {
            self.error = Some(error);
        }
    }

    fn settle(self, update: &Update<'_>, reaches: bool, unreaches: bool) -> Result<Self, Fault> {
        let Some(error) = self.error else {
            return Ok(self);
        };
        // RFC 7606 §5.2: with no routes in sight there may have been some that
        // were not found, so that nothing can be withdrawn.
        let hidden = error.severity == Severity::Withdraw && !reaches && !unreaches;
        if error.severity == Severity::Reset || hidden {
            let detail = format!(
                "attribute {} in an UPDATE: {}",
                error.attribute, error.detail
            );
            return Err(Fault::new(error.code, update.data_for(error), detail));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
