//! Router Solicitation and Advertisement (RFC 4861 §4.1, §4.2), as `ICMPv6`
//! messages without the headers before them. The kernel makes and checks the
//! checksum of what goes by an `ICMPv6` socket (RFC 3542 §3.1).
//!
//! ```text
//!  0      1      2             4                       8
//! +------+------+-------------+-----------------------+---------
//! | 133  | code |  checksum   | reserved              | options
//! +------+------+-------------+-----------------------+---------
//!  0      1      2             4      5       6        8               12
//! +------+------+-------------+------+-------+--------+---------------+----
//! | 134  | code |  checksum   | hops | flags | router | reachable (4) | -->
//! |      |      |             |      |       | life-  | retransm. (4) |
//! |      |      |             |      |       | time   | options       |
//! +------+------+-------------+------+-------+--------+---------------+----
//! ```

use std::time::Duration;

use crate::ethernet::{Mac, Malformed, array};
use crate::ndp::{OPTION_SOURCE, link_option};

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;

/// Either message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterMessage {
    /// Who is a router?
    Solicitation(RouterSolicitation),
    /// I am.
    Advertisement(RouterAdvertisement),
}

/// A Router Solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterSolicitation {
    /// Source link-layer address option.
    pub source_link: Option<Mac>,
}

/// A Router Advertisement, as far as a neighbour that speaks BGP cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// How long hosts may have the sender as their default router: whole seconds
    /// to 65535 s, and zero for one that is none.
    pub lifetime: Duration,
    /// Source link-layer address option.
    pub source_link: Option<Mac>,
}

impl RouterMessage {
    /// Reads a message and checks what RFC 4861 §6.1 asks for of what is in it.
    /// Source and hop limit are the caller's to check.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let [kind, code] = array(message, 0)?;
        let options = match kind {
            SOLICITATION => message.get(8..),
            ADVERTISEMENT => message.get(16..),
            _ => return Err(Malformed::Kind),
        };
        let options = options.ok_or(Malformed::Short)?;
        if code != 0 {
            return Err(Malformed::Field("code is not 0"));
        }
        let source_link = link_option(options, OPTION_SOURCE)?;
        if kind == SOLICITATION {
            return Ok(Self::Solicitation(RouterSolicitation { source_link }));
        }
        let lifetime = u16::from_be_bytes(array(message, 6)?);
        Ok(Self::Advertisement(RouterAdvertisement {
            lifetime: Duration::from_secs(lifetime.into()),
            source_link,
        }))
    }
}

impl RouterSolicitation {
    /// The message to send to all routers, with a checksum of 0.
    pub fn to_message(&self) -> Vec<u8> {
        message(&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], self.source_link)
    }
}

impl RouterAdvertisement {
    /// The message to send to all nodes, with a checksum of 0 and nothing said of
    /// what hosts are to do. A lifetime above 65535 s is told as that.
    pub fn to_message(&self) -> Vec<u8> {
        let seconds = u16::try_from(self.lifetime.as_secs()).unwrap_or(u16::MAX);
        let [high, low] = seconds.to_be_bytes();
        message(
            &[
                ADVERTISEMENT,
                0,
                0,
                0,
                0,
                0,
                high,
                low,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ],
            self.source_link,
        )
    }
}

fn message(fixed: &[u8], source_link: Option<Mac>) -> Vec<u8> {
    let mut message = fixed.to_vec();
    if let Some(mac) = source_link {
        message.extend_from_slice(&[OPTION_SOURCE, 1]);
        message.extend_from_slice(&mac.0);
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, NdiscRepr, RawHardwareAddress};

    use super::*;

    /// What another stack reads.
    fn oracle(message: &[u8]) -> NdiscRepr<'_> {
        let from = "fe80::1".parse().unwrap();
        let to = "ff02::1".parse().unwrap();
        let packet = Icmpv6Packet::new_checked(message).unwrap();
        let ignored = ChecksumCapabilities::ignored();
        match Icmpv6Repr::parse(&from, &to, &packet, &ignored).unwrap() {
            Icmpv6Repr::Ndisc(repr) => repr,
            other => panic!("the oracle reads {other:?}"),
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = RouterMessage::parse(&bytes);
        }

        #[test]
        fn a_damaged_message_is_read_or_refused(
            at in 0usize..24, value in any::<u8>(), cut in 0usize..26,
        ) {
            let ours = RouterAdvertisement { lifetime: Duration::from_secs(9), source_link: Some(Mac([2; 6])) };
            let mut message = ours.to_message();
            message[at] = value;
            message.truncate(cut);
            let _ = RouterMessage::parse(&message);
        }

        #[test]
        fn an_advertisement_is_read_by_us_and_by_another_stack(
            seconds in any::<u16>(), mac in any::<Option<[u8; 6]>>(),
        ) {
            let lifetime = Duration::from_secs(seconds.into());
            let ours = RouterAdvertisement { lifetime, source_link: mac.map(Mac) };
            let message = ours.to_message();
            prop_assert_eq!(RouterMessage::parse(&message), Ok(RouterMessage::Advertisement(ours)));
            let NdiscRepr::RouterAdvert { router_lifetime, lladdr, hop_limit, flags, .. } = oracle(&message)
            else { panic!("the oracle reads another kind") };
            prop_assert_eq!(router_lifetime.secs(), u64::from(seconds));
            prop_assert_eq!(lladdr, mac.map(|mac| RawHardwareAddress::from_bytes(&mac)));
            prop_assert!(hop_limit == 0 && flags.is_empty());
        }

        #[test]
        fn a_solicitation_is_read_by_us_and_by_another_stack(mac in any::<Option<[u8; 6]>>()) {
            let ours = RouterSolicitation { source_link: mac.map(Mac) };
            let message = ours.to_message();
            prop_assert_eq!(RouterMessage::parse(&message), Ok(RouterMessage::Solicitation(ours)));
            let NdiscRepr::RouterSolicit { lladdr } = oracle(&message)
            else { panic!("the oracle reads another kind") };
            prop_assert_eq!(lladdr, mac.map(|mac| RawHardwareAddress::from_bytes(&mac)));
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        let ours = RouterAdvertisement {
            lifetime: Duration::ZERO,
            source_link: None,
        };
        let good = ours.to_message();
        let with = |change: fn(&mut Vec<u8>)| {
            let mut message = good.clone();
            change(&mut message);
            RouterMessage::parse(&message)
        };
        assert!(with(|_| ()).is_ok());
        assert_eq!(with(|m| m.truncate(15)), Err(Malformed::Short));
        assert!(with(|m| m[1] = 1).is_err());
        assert_eq!(with(|m| m[0] = 135), Err(Malformed::Kind));
        let endless = with(|m| m.extend([1, 0, 0, 0, 0, 0, 0, 0]));
        assert!(endless.is_err(), "an option of length 0");
    }
}
