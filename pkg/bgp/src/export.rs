//! How routes are written for a peer: UPDATEs, filled to the brim.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::attribute::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE, kind, put};
use crate::community::Community;
use crate::family::{Family, UNICAST};
use crate::message::{MessageType, begin, end};
use crate::nlri::Prefix;
use crate::open::AS_TRANS;
use crate::path::{DEFAULT_LOCAL_PREF, PathAttributes};

const IGP: u8 = 0;
const AS_SEQUENCE: u8 = 2;

/// Where a peer is to send the traffic: to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// An IPv4 address, for IPv4 routes.
    V4(Ipv4Addr),
    /// A global IPv6 address; for IPv4 routes too where the peer takes that
    /// (RFC 8950).
    V6(Ipv6Addr),
    /// A global and a link-local one, for a peer on the same segment
    /// (RFC 2545 §3).
    V6WithLinkLocal(Ipv6Addr, Ipv6Addr),
    /// A link-local one only, as between unnumbered peers. Sent alone if the
    /// peer has said that it takes that, else in the place of the global one
    /// too, which is what routers in the field take.
    LinkLocal(Ipv6Addr),
}

/// How routes are written for a peer. Peers with equal ones get the same
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Export {
    /// Our AS.
    pub local_as: u32,
    /// Whether the peer is in it too.
    pub internal: bool,
    /// Whether AS numbers have four octets in this session (RFC 6793).
    pub four_octet_as: bool,
    /// The longest message that the peer takes, octets.
    pub max_message: usize,
    /// Whether a link-local next hop may stand alone.
    pub link_local_alone: bool,
    /// By family: none if the family is not spoken with this peer, or if there
    /// is no next hop for it.
    pub next_hops: [Option<NextHop>; 2],
    /// What is added to every route.
    pub policy: Arc<PathAttributes>,
    /// Whether all paths are told to be going away (RFC 8326).
    pub graceful_shutdown: bool,
    /// Whether all routes are withdrawn.
    pub withdrawn: bool,
}

impl Export {
    /// The next hop of routes of `family`; none if there are to be no such
    /// routes.
    pub const fn next_hop(&self, family: Family) -> Option<NextHop> {
        if self.withdrawn {
            return None;
        }
        self.next_hops[family.index()]
    }

    /// Whether prefixes of `family` stand in attributes, not in the fields of
    /// RFC 4271.
    fn multiprotocol(&self, family: Family) -> bool {
        !matches!(
            (family, self.next_hops[family.index()]),
            (Family::Ipv4, None | Some(NextHop::V4(_)))
        )
    }

    /// Appends UPDATEs that announce `prefixes`, as few as hold them. Nothing
    /// if there is no next hop for them.
    pub(crate) fn announce<P: Prefix>(
        &self,
        attributes: &PathAttributes,
        prefixes: impl Iterator<Item = P>,
        out: &mut Vec<u8>,
    ) {
        let Some(next_hop) = self.next_hop(P::FAMILY) else {
            return;
        };
        let attributes = attributes.with_policy(&self.policy);
        let mut prefixes = prefixes.peekable();
        if self.multiprotocol(P::FAMILY) {
            // RFC 7606 §5.1: MP_REACH_NLRI comes first.
            let rest = self.encode_attributes(&attributes, None);
            let next_hop = self.next_hop_octets(next_hop);
            while prefixes.peek().is_some() {
                let start = begin(out, MessageType::Update);
                out.extend_from_slice(&[0, 0, 0, 0]);
                let value = begin_multiprotocol(kind::MP_REACH, P::FAMILY, out);
                out.push(u8::try_from(next_hop.len()).expect("it is at most 32"));
                out.extend_from_slice(&next_hop);
                out.push(0);
                fill(&mut prefixes, start + self.max_message - rest.len(), out);
                patch(out, value);
                out.extend_from_slice(&rest);
                patch(out, start + 23);
                end(out, start);
            }
        } else {
            let NextHop::V4(next_hop) = next_hop else {
                return;
            };
            let all = self.encode_attributes(&attributes, Some(next_hop));
            while prefixes.peek().is_some() {
                let start = begin(out, MessageType::Update);
                out.extend_from_slice(&[0, 0, 0, 0]);
                out.extend_from_slice(&all);
                patch(out, start + 23);
                fill(&mut prefixes, start + self.max_message, out);
                end(out, start);
            }
        }
    }

    /// Appends UPDATEs that withdraw `prefixes`, as few as hold them.
    pub(crate) fn withdraw<P: Prefix>(&self, prefixes: impl Iterator<Item = P>, out: &mut Vec<u8>) {
        let mut prefixes = prefixes.peekable();
        while prefixes.peek().is_some() {
            let start = begin(out, MessageType::Update);
            out.extend_from_slice(&[0, 0]);
            if self.multiprotocol(P::FAMILY) {
                out.extend_from_slice(&[0, 0]);
                let value = begin_multiprotocol(kind::MP_UNREACH, P::FAMILY, out);
                fill(&mut prefixes, start + self.max_message, out);
                patch(out, value);
                patch(out, start + 23);
            } else {
                fill(&mut prefixes, start + self.max_message - 2, out);
                patch(out, start + 21);
                out.extend_from_slice(&[0, 0]);
            }
            end(out, start);
        }
    }

    /// All attributes but those with prefixes, in the order of their types.
    fn encode_attributes(&self, set: &PathAttributes, next_hop: Option<Ipv4Addr>) -> Vec<u8> {
        let mut out = Vec::new();
        put(TRANSITIVE, kind::ORIGIN, &[IGP], &mut out);
        let (path, long_path) = self.as_path(set.prepend);
        put(TRANSITIVE, kind::AS_PATH, &path, &mut out);
        if let Some(next_hop) = next_hop {
            put(TRANSITIVE, kind::NEXT_HOP, &next_hop.octets(), &mut out);
        }
        if let Some(med) = set.med {
            put(OPTIONAL, kind::MED, &med.to_be_bytes(), &mut out);
        }
        if self.internal {
            // RFC 8326 §4: within an AS it is the preference that routers
            // obey, not the community.
            let preference = if self.graceful_shutdown {
                0
            } else {
                set.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
            };
            put(
                TRANSITIVE,
                kind::LOCAL_PREF,
                &preference.to_be_bytes(),
                &mut out,
            );
        }
        let optional = OPTIONAL | TRANSITIVE;
        let mut communities = set.communities.clone();
        let shutdown = Community::GRACEFUL_SHUTDOWN;
        if self.graceful_shutdown && !communities.contains(&shutdown) {
            communities.push(shutdown);
            communities.sort_unstable();
        }
        put_list(
            optional,
            kind::COMMUNITIES,
            communities.iter().flat_map(|c| c.0.to_be_bytes()),
            &mut out,
        );
        put_list(
            optional,
            kind::EXTENDED_COMMUNITIES,
            set.extended_communities.iter().flat_map(|c| c.0),
            &mut out,
        );
        if let Some(path) = long_path {
            put(optional, kind::AS4_PATH, &path, &mut out);
        }
        put_list(
            optional,
            kind::LARGE_COMMUNITIES,
            set.large_communities
                .iter()
                .flat_map(|c| [c.global, c.local1, c.local2])
                .flat_map(u32::to_be_bytes),
            &mut out,
        );
        out
    }

    /// `AS_PATH`, and `AS4_PATH` where an AS number does not fit the peer's
    /// two octets (RFC 6793 §4.2.2). To a peer in our AS the path is empty
    /// (RFC 4271 §5.1.2).
    fn as_path(&self, prepend: u8) -> (Vec<u8>, Option<Vec<u8>>) {
        if self.internal {
            return (Vec::new(), None);
        }
        let count = prepend.saturating_add(1);
        let path = |number: &[u8]| {
            let mut path = vec![AS_SEQUENCE, count];
            path.extend(number.repeat(count.into()));
            path
        };
        let long = path(&self.local_as.to_be_bytes());
        if self.four_octet_as {
            return (long, None);
        }
        match u16::try_from(self.local_as) {
            Ok(short) => (path(&short.to_be_bytes()), None),
            Err(_) => (path(&AS_TRANS.to_be_bytes()), Some(long)),
        }
    }

    fn next_hop_octets(&self, next_hop: NextHop) -> Vec<u8> {
        match next_hop {
            NextHop::V4(address) => address.octets().to_vec(),
            NextHop::V6(address) => address.octets().to_vec(),
            NextHop::V6WithLinkLocal(global, local) => [global.octets(), local.octets()].concat(),
            NextHop::LinkLocal(local) if self.link_local_alone => local.octets().to_vec(),
            NextHop::LinkLocal(local) => [local.octets(); 2].concat(),
        }
    }
}

/// Appends what tells that all routes of `family` have been sent
/// (RFC 4724 §2).
pub(crate) fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let start = begin(out, MessageType::Update);
    out.extend_from_slice(&[0, 0, 0, 0]);
    if family != Family::Ipv4 {
        let [high, low] = family.afi().to_be_bytes();
        put(OPTIONAL, kind::MP_UNREACH, &[high, low, UNICAST], out);
        patch(out, start + 23);
    }
    end(out, start);
}

fn put_list(flags: u8, kind: u8, value: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    let value: Vec<u8> = value.collect();
    if !value.is_empty() {
        put(flags, kind, &value, out);
    }
}

/// Starts an attribute with prefixes; gives where its value begins.
fn begin_multiprotocol(kind: u8, family: Family, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[OPTIONAL | EXTENDED_LENGTH, kind, 0, 0]);
    let value = out.len();
    out.extend_from_slice(&family.afi().to_be_bytes());
    out.push(UNICAST);
    value
}

/// Writes how long `out` is from `start` on into the two octets before it.
fn patch(out: &mut [u8], start: usize) {
    let length = u16::try_from(out.len() - start).expect("it fits a message");
    out[start - 2..start].copy_from_slice(&length.to_be_bytes());
}

/// Appends prefixes as long as `out` gets no longer than `limit`, and one at
/// the least.
fn fill<P: Prefix>(
    prefixes: &mut std::iter::Peekable<impl Iterator<Item = P>>,
    limit: usize,
    out: &mut Vec<u8>,
) {
    let mut first = true;
    while let Some(prefix) = prefixes.next_if(|prefix| first || out.len() + prefix.size() <= limit)
    {
        prefix.encode(out);
        first = false;
    }
}

#[cfg(test)]
pub(crate) mod tests;
