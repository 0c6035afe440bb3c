//! BGP messages octet by octet, for peers that only count and for such as do what no
//! speaker should. `pkg/bgp` would refuse to write most of them.

use std::net::Ipv4Addr;

use herald_bgp::HEADER;

/// Type of an OPEN (RFC 4271 §4.1).
pub(super) const OPEN: u8 = 1;
/// Type of an UPDATE.
pub(super) const UPDATE: u8 = 2;
/// Type of a NOTIFICATION.
pub(super) const NOTIFICATION: u8 = 3;
/// Type of a KEEPALIVE.
pub(super) const KEEPALIVE: u8 = 4;
/// Type of a ROUTE-REFRESH (RFC 2918).
pub(super) const ROUTE_REFRESH: u8 = 5;

/// A message of a type with a body, at most 65,516 octets.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// What an OPEN says (RFC 4271 §4.2).
pub(super) struct Open {
    pub(super) version: u8,
    pub(super) asn: u16,
    pub(super) hold: u16,
    pub(super) id: Ipv4Addr,
    /// Capabilities as they stand in their optional parameter (RFC 5492).
    pub(super) capabilities: Vec<u8>,
}

impl Open {
    /// IPv4 unicast (RFC 4760), a four-octet AS (RFC 6793), and route refresh; 180 s
    /// of hold time.
    pub(super) fn new(asn: u16, id: Ipv4Addr) -> Self {
        let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4, 0, 0];
        capabilities.extend(asn.to_be_bytes());
        Self {
            version: 4,
            asn,
            hold: 180,
            id,
            capabilities,
        }
    }

    pub(super) fn message(&self) -> Vec<u8> {
        let length = u8::try_from(self.capabilities.len()).unwrap_or(u8::MAX);
        let parameter = [&[2, length][..], &self.capabilities].concat();
        message(OPEN, &self.with(&parameter))
    }

    /// The body with other optional parameters.
    pub(super) fn with(&self, parameters: &[u8]) -> Vec<u8> {
        let length = u8::try_from(parameters.len()).unwrap_or(u8::MAX);
        [
            &[self.version][..],
            &self.asn.to_be_bytes(),
            &self.hold.to_be_bytes(),
            &self.id.octets(),
            &[length],
            parameters,
        ]
        .concat()
    }
}

/// An UPDATE that announces `routes`, as they stand on the wire, with attributes as
/// they stand there.
pub(super) fn update(attributes: &[u8], routes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap_or(u16::MAX);
    let body = [&[0, 0][..], &length.to_be_bytes(), attributes, routes].concat();
    message(UPDATE, &body)
}

/// The first message, if it is all there.
pub(super) fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    bytes.get(..length.max(HEADER))
}
