//! What two OPENs come to.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::capability::{Capability, GracefulRestart, LongLived, NextHopPair, Preserved};
use crate::config::{PeerAs, PeerConfig};
use crate::export::{Export, NextHop};
use crate::family::{Families, Family};
use crate::message::{MAX_EXTENDED_MESSAGE, MAX_MESSAGE};
use crate::notification::{Code, Fault};
use crate::open::{AS_TRANS, Open};

/// How much of what we can do is told. Some peers refuse an OPEN for what they
/// do not know, against RFC 5492 §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// All.
    All,
    /// Families and the AS number.
    Needed,
    /// Nothing.
    Nothing,
}

impl Told {
    pub const fn less(self) -> Self {
        match self {
            Self::All => Self::Needed,
            Self::Needed | Self::Nothing => Self::Nothing,
        }
    }
}

/// A session's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each was agreed on by itself"
)]
pub struct Negotiated {
    /// Our address in the session.
    pub local_address: IpAddr,
    /// The peer's AS.
    pub peer_as: u32,
    /// The peer's BGP identifier.
    pub peer_id: Ipv4Addr,
    /// Whether it is in our AS.
    pub internal: bool,
    /// After so long without a message the peer is taken for gone; zero:
    /// never.
    pub hold_time: Duration,
    /// The time between KEEPALIVEs, before jitter; zero: none are sent.
    pub keepalive_time: Duration,
    /// The families that both speak.
    pub families: Families,
    /// Those that we would speak and the peer does not.
    pub missing: Families,
    /// Whether AS numbers have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// The longest message that the peer takes, octets.
    pub max_sent: usize,
    /// The longest message that it may send, octets.
    pub max_received: usize,
    /// Whether the peer can ask for its routes again (RFC 2918).
    pub route_refresh: bool,
    /// Whether a refresh has marks (RFC 7313).
    pub enhanced_refresh: bool,
    /// Whether IPv4 routes may have IPv6 next hops (RFC 8950).
    pub ipv4_over_ipv6: bool,
    /// Whether a link-local next hop may stand alone.
    pub link_local_alone: bool,
    /// The peer's graceful restart capability, if it has it (RFC 4724): then
    /// it keeps our routes of these families while we restart.
    pub graceful_restart: Option<GracefulRestart>,
    /// Whether both sides keep routes over a NOTIFICATION, so that one that is
    /// meant for good must be a hard reset (RFC 8538).
    pub notifications_kept: bool,
    /// What the peer says its host name is, printable.
    pub hostname: Option<String>,
    /// What the peer says its software is, printable.
    pub software: Option<String>,
}

/// The OPEN that we send. `restarted`: no session with this peer has been up
/// since we started.
pub(crate) fn our_open(config: &PeerConfig, local: IpAddr, told: Told, restarted: bool) -> Open {
    let mut capabilities = Vec::new();
    if told != Told::Nothing {
        capabilities.extend(config.families.iter().map(Capability::multiprotocol));
        capabilities.push(Capability::FourOctetAs(config.local_as));
    }
    if told == Told::All {
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::EnhancedRouteRefresh);
        if config.extended_messages {
            capabilities.push(Capability::ExtendedMessage);
        }
        if wants_ipv4_over_ipv6(config, local) {
            let pairs = vec![NextHopPair::IPV4_OVER_IPV6];
            capabilities.push(Capability::ExtendedNextHop(pairs));
        }
        if local.is_ipv6() {
            capabilities.push(Capability::LinkLocalNextHop);
        }
        if let Some(time) = config.graceful_restart {
            // F for all families, always: that the kernel forwards does not
            // depend on us being there (RFC 4724 §3).
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarted,
                notifications: true,
                time: u16::try_from(time.as_secs()).unwrap_or(4095),
                families: config.families.iter().map(Preserved::kept).collect(),
            }));
            if let Some(stale) = config.long_lived_stale {
                let kept = |family| LongLived::kept(family, stale);
                capabilities.push(Capability::LongLivedGracefulRestart(
                    config.families.iter().map(kept).collect(),
                ));
            }
        }
        if let Some(host) = &config.hostname {
            capabilities.push(Capability::Fqdn {
                host: host.clone().into_bytes(),
                domain: Vec::new(),
            });
        }
        if let Some(software) = &config.software {
            capabilities.push(Capability::SoftwareVersion(software.clone().into_bytes()));
        }
    }
    Open {
        my_as: u16::try_from(config.local_as).unwrap_or(AS_TRANS),
        hold_time: u16::try_from(config.hold_time.as_secs()).unwrap_or(u16::MAX),
        identifier: config.router_id,
        capabilities,
    }
}

fn wants_ipv4_over_ipv6(config: &PeerConfig, local: IpAddr) -> bool {
    let over = match config.next_hop_v4 {
        None => local.is_ipv6(),
        Some(next_hop) => !matches!(next_hop, NextHop::V4(_)),
    };
    config.families.has(Family::Ipv4) && over
}

/// The terms of the two OPENs, or why there can be no session (RFC 4271 §6.2,
/// from the point where the peer's is valid by itself).
pub(crate) fn negotiate(
    config: &PeerConfig,
    local: IpAddr,
    ours: &Open,
    theirs: &Open,
) -> Result<Negotiated, Fault> {
    let peer_as = theirs.autonomous_system();
    check_as(config, peer_as)?;
    let internal = peer_as == config.local_as;
    // RFC 6286 §2.2: unique within an AS only.
    if internal && theirs.identifier == config.router_id {
        let detail = format!(
            "the peer has our BGP identifier, {}; each router in an AS needs its own",
            theirs.identifier
        );
        return Err(Fault::new(Code::BAD_IDENTIFIER, [], detail));
    }
    let families = spoken(ours).and(spoken(theirs));
    if families.is_empty() {
        return Err(no_common_family(config));
    }
    let both = |capability: &Capability| ours.has(capability) && theirs.has(capability);
    let hold = Duration::from_secs(ours.hold_time.min(theirs.hold_time).into());
    let limit = |open: &Open| {
        if open.has(&Capability::ExtendedMessage) {
            MAX_EXTENDED_MESSAGE
        } else {
            MAX_MESSAGE
        }
    };
    let graceful_restart = restart_of(ours).and(restart_of(theirs)).cloned();
    Ok(Negotiated {
        local_address: local,
        peer_as,
        peer_id: theirs.identifier,
        internal,
        hold_time: hold,
        keepalive_time: config
            .keepalive_time
            .map_or(hold / 3, |time| time.min(hold / 3)),
        families,
        missing: config
            .families
            .iter()
            .filter(|f| !families.has(*f))
            .collect(),
        four_octet_as: has_four_octets(ours) && has_four_octets(theirs),
        // RFC 8654 §3: who said so takes them; and what we did not say we
        // take, the peer may not send.
        max_sent: limit(theirs).min(limit(ours)),
        max_received: limit(ours),
        route_refresh: both(&Capability::RouteRefresh),
        enhanced_refresh: both(&Capability::EnhancedRouteRefresh),
        ipv4_over_ipv6: takes_ipv4_over_ipv6(ours) && takes_ipv4_over_ipv6(theirs),
        link_local_alone: both(&Capability::LinkLocalNextHop),
        notifications_kept: graceful_restart.as_ref().is_some_and(|gr| gr.notifications),
        graceful_restart,
        hostname: theirs.capabilities.iter().find_map(|c| match c {
            Capability::Fqdn { host, domain } if domain.is_empty() => Some(printable(host)),
            Capability::Fqdn { host, domain } => {
                Some(format!("{}.{}", printable(host), printable(domain)))
            }
            _ => None,
        }),
        software: theirs.capabilities.iter().find_map(|c| match c {
            Capability::SoftwareVersion(version) => Some(printable(version)),
            _ => None,
        }),
    })
}

fn check_as(config: &PeerConfig, peer_as: u32) -> Result<(), Fault> {
    if config.peer_as.allows(config.local_as, peer_as) {
        return Ok(());
    }
    let local = config.local_as;
    let detail = match config.peer_as {
        PeerAs::Exactly(expected) => {
            format!("the peer is in AS {peer_as}; AS {expected} is configured")
        }
        PeerAs::Internal => format!(
            "the peer is in AS {peer_as}; an internal one is configured, and we are in AS {local}"
        ),
        PeerAs::External | PeerAs::Any => {
            format!("the peer is in AS {peer_as}, as we are; an external one is configured")
        }
    };
    Err(Fault::new(Code::BAD_PEER_AS, [], detail))
}

/// RFC 5492 §5: the data are the capabilities that were missed.
fn no_common_family(config: &PeerConfig) -> Fault {
    let mut data = Vec::new();
    for family in config.families.iter() {
        Capability::multiprotocol(family).encode(&mut data);
    }
    let wanted: Vec<_> = config.families.iter().map(|f| f.to_string()).collect();
    let detail = format!(
        "the peer speaks none of our address families; enable {} there",
        wanted.join(" or ")
    );
    Fault::new(Code::UNSUPPORTED_CAPABILITY, data, detail)
}

/// RFC 4760 §8: without a word about families it is IPv4 unicast.
fn spoken(open: &Open) -> Families {
    let mut families = Families::NONE;
    let mut any = false;
    for capability in &open.capabilities {
        if let Capability::Multiprotocol { afi, safi } = capability {
            any = true;
            if let Some(family) = Family::from_wire(*afi, *safi) {
                families = families.with(family);
            }
        }
    }
    if any { families } else { Family::Ipv4.into() }
}

fn has_four_octets(open: &Open) -> bool {
    let mut capabilities = open.capabilities.iter();
    capabilities.any(|c| matches!(c, Capability::FourOctetAs(_)))
}

fn takes_ipv4_over_ipv6(open: &Open) -> bool {
    let mut capabilities = open.capabilities.iter();
    capabilities.any(|c| match c {
        Capability::ExtendedNextHop(pairs) => pairs.contains(&NextHopPair::IPV4_OVER_IPV6),
        _ => false,
    })
}

/// The last one counts (RFC 4724 §3).
fn restart_of(open: &Open) -> Option<&GracefulRestart> {
    open.capabilities.iter().rev().find_map(|c| match c {
        Capability::GracefulRestart(restart) => Some(restart),
        _ => None,
    })
}

fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

impl Negotiated {
    /// How routes are written in this session. `going`: they are to be
    /// depreferred; `withdrawn`: there are to be none.
    pub(crate) fn export(&self, config: &PeerConfig, going: bool, withdrawn: bool) -> Export {
        Export {
            local_as: config.local_as,
            internal: self.internal,
            four_octet_as: self.four_octet_as,
            max_message: self.max_sent,
            link_local_alone: self.link_local_alone,
            next_hops: Family::ALL.map(|family| self.next_hop(config, family)),
            policy: Arc::new(config.policy.clone().normalized()),
            graceful_shutdown: going,
            withdrawn,
        }
    }

    /// What is set, else our address in the session (RFC 4271 §5.1.3). None if
    /// the peer would not take it.
    pub fn next_hop(&self, config: &PeerConfig, family: Family) -> Option<NextHop> {
        if !self.families.has(family) {
            return None;
        }
        let own = match self.local_address {
            IpAddr::V4(address) => NextHop::V4(address),
            IpAddr::V6(address) if address.is_unicast_link_local() => NextHop::LinkLocal(address),
            IpAddr::V6(address) => NextHop::V6(address),
        };
        let next_hop = config.next_hop(family).unwrap_or(own);
        let is_v4 = matches!(next_hop, NextHop::V4(_));
        let taken = match family {
            Family::Ipv4 => is_v4 || self.ipv4_over_ipv6,
            Family::Ipv6 => !is_v4,
        };
        taken.then_some(next_hop)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn config(peer_as: PeerAs) -> PeerConfig {
        PeerConfig::new(64512, peer_as, [192, 0, 2, 1].into())
    }

    fn theirs(number: u32) -> Open {
        let mut config = config(PeerAs::Any);
        config.local_as = number;
        config.router_id = [192, 0, 2, 2].into();
        our_open(&config, LOCAL, Told::All, false)
    }

    fn with(config: &PeerConfig, local: IpAddr, theirs: &Open) -> Result<Negotiated, Fault> {
        let ours = our_open(config, local, Told::All, true);
        negotiate(config, local, &ours, theirs)
    }

    fn code(config: &PeerConfig, theirs: &Open) -> Option<Code> {
        let terms = with(config, LOCAL, theirs);
        terms.err().map(|fault| fault.notification.code)
    }

    /// RFC 4271 §6.2.
    #[test]
    fn the_peer_must_be_in_the_as_that_is_configured() {
        let wrong = Some(Code::BAD_PEER_AS);
        for (rule, own, other, big) in [
            (PeerAs::Exactly(64513), wrong, None, wrong),
            (PeerAs::Exactly(4_200_000_000), wrong, wrong, None),
            (PeerAs::Internal, None, wrong, wrong),
            (PeerAs::External, wrong, None, None),
            (PeerAs::Any, None, None, None),
        ] {
            let config = config(rule);
            assert_eq!(code(&config, &theirs(64512)), own, "{rule:?}");
            assert_eq!(code(&config, &theirs(64513)), other, "{rule:?}");
            assert_eq!(code(&config, &theirs(4_200_000_000)), big, "{rule:?}");
        }
        let fault = with(&config(PeerAs::Exactly(1)), LOCAL, &theirs(2)).unwrap_err();
        assert_eq!(fault.to_string(), "the peer is in AS 2; AS 1 is configured");
    }

    /// RFC 6286 §2.2.
    #[test]
    fn an_identifier_is_unique_within_an_as() {
        let mut same = theirs(64512);
        same.identifier = [192, 0, 2, 1].into();
        assert_eq!(
            code(&config(PeerAs::Any), &same),
            Some(Code::BAD_IDENTIFIER)
        );
        let mut outside = theirs(64513);
        outside.identifier = same.identifier;
        assert_eq!(code(&config(PeerAs::Any), &outside), None);
    }

    /// RFC 9494 §3.1: by the side of graceful restart only, and when it is asked for.
    #[test]
    fn long_lived_graceful_restart_is_told_where_it_is_set() {
        let mut config = config(PeerAs::Any);
        let told = |config: &PeerConfig| {
            let open = our_open(config, LOCAL, Told::All, false);
            open.capabilities.into_iter().find_map(|c| match c {
                Capability::LongLivedGracefulRestart(families) => Some(families),
                _ => None,
            })
        };
        assert_eq!(told(&config), None);
        config.long_lived_stale = Some(Duration::from_hours(1));
        let families = told(&config).unwrap();
        assert_eq!(families.len(), 2);
        assert!(
            families
                .iter()
                .all(|f| f.forwarding && f.stale_time == 3600)
        );
        config.graceful_restart = None;
        assert_eq!(told(&config), None);
    }

    /// RFC 4271 §4.2, §4.4.
    #[test]
    fn the_shorter_hold_time_holds() {
        let mut config = config(PeerAs::Any);
        config.keepalive_time = Some(Duration::from_secs(10));
        let mut peer = theirs(1);
        let times = |peer: &Open| {
            let terms = with(&config, LOCAL, peer).unwrap();
            (terms.hold_time.as_secs(), terms.keepalive_time.as_secs())
        };
        assert_eq!(times(&peer), (90, 10));
        peer.hold_time = 9;
        assert_eq!(times(&peer), (9, 3));
        peer.hold_time = 0;
        assert_eq!(times(&peer), (0, 0));
    }

    /// RFC 4760 §8, RFC 5492 §5.
    #[test]
    fn families_are_those_of_both() {
        let config = config(PeerAs::Any);
        let mut silent = theirs(1);
        silent.capabilities.clear();
        let terms = with(&config, LOCAL, &silent).unwrap();
        assert_eq!(terms.families, Family::Ipv4.into());
        assert_eq!(terms.missing, Family::Ipv6.into());
        assert!(!terms.four_octet_as && !terms.route_refresh);
        assert_eq!((terms.max_sent, terms.max_received), (4096, 65535));
        let vpn = Capability::Multiprotocol { afi: 25, safi: 70 };
        silent.capabilities = vec![vpn];
        let fault = with(&config, LOCAL, &silent).unwrap_err();
        assert_eq!(fault.notification.code, Code::UNSUPPORTED_CAPABILITY);
        assert_eq!(fault.notification.data[..6], [1, 4, 0, 1, 0, 1]);
    }

    #[test]
    fn the_next_hop_is_ours_where_the_peer_takes_it() {
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let local: Ipv6Addr = "fe80::1".parse().unwrap();
        let mut config = config(PeerAs::Any);
        let mut peer = theirs(1);
        let hops = |config: &PeerConfig, local: IpAddr, peer: &Open| {
            let terms = with(config, local, peer).unwrap();
            Family::ALL.map(|family| terms.next_hop(config, family))
        };
        let v4 = NextHop::V4([192, 0, 2, 1].into());
        assert_eq!(hops(&config, LOCAL, &peer), [Some(v4), None]);
        // Over IPv6 the peer has to take IPv6 next hops for IPv4 (RFC 8950 §4).
        assert_eq!(
            hops(&config, v6.into(), &peer),
            [None, Some(NextHop::V6(v6))]
        );
        let over = Capability::ExtendedNextHop(vec![NextHopPair::IPV4_OVER_IPV6]);
        peer.capabilities.push(over);
        let link_local = Some(NextHop::LinkLocal(local));
        assert_eq!(hops(&config, local.into(), &peer), [link_local; 2]);
        config.next_hop_v4 = Some(v4);
        config.next_hop_v6 = Some(NextHop::V6(v6));
        assert_eq!(
            hops(&config, LOCAL, &peer),
            [Some(v4), Some(NextHop::V6(v6))]
        );
    }

    /// RFC 8538 §2: both have to say so.
    #[test]
    fn graceful_restart_is_for_those_who_both_have_it() {
        let mut config = config(PeerAs::Any);
        let terms = with(&config, LOCAL, &theirs(1)).unwrap();
        assert!(terms.graceful_restart.is_some() && terms.notifications_kept);
        config.graceful_restart = None;
        let terms = with(&config, LOCAL, &theirs(1)).unwrap();
        assert!(terms.graceful_restart.is_none() && !terms.notifications_kept);
    }

    #[test]
    fn less_is_told_to_those_who_do_not_bear_it() {
        let mut config = config(PeerAs::Any);
        config.local_as = 4_200_000_000;
        config.hostname = Some("n1".into());
        config.software = Some("x".into());
        let count = |told| our_open(&config, LOCAL, told, true).capabilities.len();
        assert_eq!(
            [count(Told::All), count(Told::Needed), count(Told::Nothing)],
            [9, 3, 0]
        );
        let open = our_open(&config, LOCAL, Told::Nothing, true);
        assert_eq!(open.my_as, AS_TRANS);
    }
}
