//! What a peer is set up with.

use std::net::Ipv4Addr;
use std::time::Duration;

use thiserror::Error;

use crate::capability::LongLived;
use crate::export::NextHop;
use crate::family::{Families, Family};
use crate::path::{PathAttributes, PathError};

/// RFC 9687 §3.2.
pub(crate) const LEAST_SEND_HOLD: Duration = Duration::from_mins(8);
/// For the send hold timer to be first.
const USER_TIMEOUT_SLACK: Duration = Duration::from_secs(30);

/// Which AS the peer may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAs {
    /// This one.
    Exactly(u32),
    /// Ours.
    Internal,
    /// Any but ours.
    External,
    /// Any.
    Any,
}

impl PeerAs {
    pub(crate) const fn allows(self, local: u32, peer: u32) -> bool {
        match self {
            Self::Exactly(number) => peer == number,
            Self::Internal => peer == local,
            Self::External => peer != local,
            Self::Any => true,
        }
    }
}

/// The settings of a peer. [`PeerConfig::new`] gives those that most have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Our AS, as this peer sees it.
    pub local_as: u32,
    /// The peer's AS.
    pub peer_as: PeerAs,
    /// Our BGP identifier: not 0, and no other router's.
    pub router_id: Ipv4Addr,
    /// Whether to wait for the peer to connect, and never do so ourselves.
    pub passive: bool,
    /// Hold time that we offer: 0 for none, or 3 to 65535 s. The smaller of
    /// both sides' holds.
    pub hold_time: Duration,
    /// Time between KEEPALIVEs: at least 1 s. None, and at most: a third of
    /// the hold time.
    pub keepalive_time: Option<Duration>,
    /// The longest pause between attempts to connect, 1 s to 65535 s. The
    /// first pause is 1 s, and each is twice the one before.
    pub connect_retry: Duration,
    /// After so long without a message getting out the session ends
    /// (RFC 9687). Not below the hold time; none: 8 minutes, or twice the hold
    /// time if that is longer.
    pub send_hold_time: Option<Duration>,
    /// The families to speak.
    pub families: Families,
    /// Next hop of IPv4 routes. None: our address in the session; an IPv6 one
    /// if the peer takes that (RFC 8950).
    pub next_hop_v4: Option<NextHop>,
    /// Next hop of IPv6 routes. None: our address in the session, if it is an
    /// IPv6 one.
    pub next_hop_v6: Option<NextHop>,
    /// How long the peer should keep our routes while we restart, 1 to 4095 s,
    /// whole seconds. None: no graceful restart.
    pub graceful_restart: Option<Duration>,
    /// How much longer the peer should keep our routes, as its last choice, when the
    /// restart took longer than that: whole seconds from 1 to 16777215 (RFC 9494).
    /// None, or without graceful restart: no longer.
    pub long_lived_stale: Option<Duration>,
    /// Whether to take, and to send to those who do, messages of up to 65535
    /// octets (RFC 8654).
    pub extended_messages: bool,
    /// Our host name, for people at the peer: up to 126 octets. None: it is
    /// not told.
    pub hostname: Option<String>,
    /// Our software, for people at the peer: up to 64 octets. None: it is not
    /// told.
    pub software: Option<String>,
    /// What is added to every route for this peer.
    pub policy: PathAttributes,
}

/// Settings that no peer can have.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// AS 0, or 23456, which stands for others (RFC 7607, RFC 6793 §9).
    #[error("the AS {0} is reserved; use the number of a real AS")]
    As(u32),
    /// BGP identifier 0.
    #[error("the router id is 0.0.0.0; use the node's IPv4 address or another unique number")]
    RouterId,
    /// Out of range.
    #[error("the {name} is {value:?}; it must be {range}")]
    Time {
        /// Which one.
        name: &'static str,
        /// What it was to be.
        value: Duration,
        /// What it may be.
        range: &'static str,
    },
    /// No family.
    #[error("no address family is enabled; enable IPv4 or IPv6 unicast")]
    Families,
    /// An IPv4 next hop for IPv6 routes.
    #[error("the next hop of IPv6 routes is {0}; it must be an IPv6 address")]
    NextHop(Ipv4Addr),
    /// A name that does not fit.
    #[error("the {name} is {length} octets long; at most {most} fit")]
    Name {
        /// Which one.
        name: &'static str,
        /// Its length.
        length: usize,
        /// The longest there may be.
        most: usize,
    },
    /// See there.
    #[error(transparent)]
    Policy(#[from] PathError),
}

/// What other settings do to a session that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// They are the same.
    None,
    /// Routes are advertised anew where they come out otherwise.
    Live,
    /// Some of them are used from the next session on.
    NextSession,
    /// The session ends, and another begins.
    Reset,
}

impl PeerConfig {
    /// The usual: dial and be dialled, 90 s of hold time, both families,
    /// graceful restart within 60 s.
    pub fn new(local_as: u32, peer_as: PeerAs, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            peer_as,
            router_id,
            passive: false,
            hold_time: Duration::from_secs(90),
            keepalive_time: None,
            connect_retry: Duration::from_secs(30),
            send_hold_time: None,
            families: Families::BOTH,
            next_hop_v4: None,
            next_hop_v6: None,
            graceful_restart: Some(Duration::from_mins(1)),
            long_lived_stale: None,
            extended_messages: true,
            hostname: None,
            software: None,
            policy: PathAttributes::default(),
        }
    }

    /// Whether every value is in its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let reserved = |number: u32| matches!(number, 0 | 23456 | u32::MAX);
        if reserved(self.local_as) {
            return Err(ConfigError::As(self.local_as));
        }
        if let PeerAs::Exactly(number) = self.peer_as
            && reserved(number)
        {
            return Err(ConfigError::As(number));
        }
        if self.router_id.is_unspecified() {
            return Err(ConfigError::RouterId);
        }
        self.validate_times()?;
        if self.families.is_empty() {
            return Err(ConfigError::Families);
        }
        if let Some(NextHop::V4(address)) = self.next_hop_v6 {
            return Err(ConfigError::NextHop(address));
        }
        for (name, value, most) in [
            ("host name", &self.hostname, 126),
            ("software name", &self.software, 64),
        ] {
            let length = value.as_ref().map_or(0, String::len);
            if length > most {
                return Err(ConfigError::Name { name, length, most });
            }
        }
        Ok(self.policy.validate()?)
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        let check = |name, value: Duration, good: bool, range| {
            if good {
                Ok(())
            } else {
                Err(ConfigError::Time { name, value, range })
            }
        };
        let seconds = Duration::from_secs;
        let whole = |value: Duration| value.subsec_nanos() == 0;
        let longest = seconds(65_535);
        let hold = self.hold_time;
        check(
            "hold time",
            hold,
            whole(hold) && (hold.is_zero() || (seconds(3)..=longest).contains(&hold)),
            "0, or whole seconds from 3 to 65535",
        )?;
        if let Some(keepalive) = self.keepalive_time {
            let good = (seconds(1)..=longest).contains(&keepalive);
            check("keepalive time", keepalive, good, "1 s to 65535 s")?;
        }
        let retry = self.connect_retry;
        let good = (seconds(1)..=longest).contains(&retry);
        check("connect retry time", retry, good, "1 s to 65535 s")?;
        if let Some(send_hold) = self.send_hold_time {
            check(
                "send hold time",
                send_hold,
                send_hold >= hold && send_hold >= seconds(3),
                "at least the hold time and 3 s",
            )?;
        }
        if let Some(restart) = self.graceful_restart {
            check(
                "graceful restart time",
                restart,
                whole(restart) && (seconds(1)..=seconds(4095)).contains(&restart),
                "whole seconds from 1 to 4095",
            )?;
        }
        if let Some(stale) = self.long_lived_stale {
            let most = seconds(LongLived::LONGEST.into());
            check(
                "long-lived stale time",
                stale,
                whole(stale) && (seconds(1)..=most).contains(&stale),
                "whole seconds from 1 to 16777215",
            )?;
        }
        Ok(())
    }

    /// What going over to `other` does to a session. What BGP can do by
    /// advertising anew never ends one.
    pub fn change_to(&self, other: &Self) -> Change {
        if self == other {
            return Change::None;
        }
        let same = |new: Self| new == *other;
        let live = Self {
            next_hop_v4: other.next_hop_v4,
            next_hop_v6: other.next_hop_v6,
            policy: other.policy.clone(),
            passive: other.passive,
            connect_retry: other.connect_retry,
            send_hold_time: other.send_hold_time,
            ..self.clone()
        };
        if same(live.clone()) {
            return Change::Live;
        }
        let next = Self {
            hold_time: other.hold_time,
            keepalive_time: other.keepalive_time,
            graceful_restart: other.graceful_restart,
            long_lived_stale: other.long_lived_stale,
            extended_messages: other.extended_messages,
            hostname: other.hostname.clone(),
            software: other.software.clone(),
            ..live
        };
        if same(next) {
            Change::NextSession
        } else {
            Change::Reset
        }
    }

    /// After so long without a message getting out a session with this hold time
    /// ends (RFC 9687 §3.2); none without a hold time.
    pub(crate) fn send_hold(&self, hold: Duration) -> Option<Duration> {
        let usual = LEAST_SEND_HOLD.max(hold * 2);
        let time = self.send_hold_time.unwrap_or(usual);
        (!hold.is_zero()).then_some(time.max(hold))
    }

    /// After so long without an acknowledgement TCP may give a connection up
    /// (RFC 5482). A peer that is gone is found by its hold time, and one that does
    /// not read is told by the send hold timer: TCP comes after both. Zero without a
    /// hold time: as the kernel has it.
    pub fn user_timeout(&self) -> Duration {
        self.send_hold(self.hold_time)
            .map_or(Duration::ZERO, |time| time + USER_TIMEOUT_SLACK)
    }

    /// The next hop that is set for `family`.
    pub(crate) const fn next_hop(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::Ipv4 => self.next_hop_v4,
            Family::Ipv6 => self.next_hop_v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PeerConfig {
        PeerConfig::new(64512, PeerAs::External, [192, 0, 2, 1].into())
    }

    #[test]
    fn ranges_are_kept() {
        let refused = |change: fn(&mut PeerConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(config().validate(), Ok(()));
        assert!(refused(|c| c.local_as = 0).contains("AS 0"));
        assert!(refused(|c| c.peer_as = PeerAs::Exactly(23456)).contains("23456"));
        assert!(refused(|c| c.router_id = Ipv4Addr::UNSPECIFIED).contains("router id"));
        assert!(refused(|c| c.hold_time = Duration::from_secs(2)).contains("hold time"));
        assert!(refused(|c| c.hold_time = Duration::from_millis(3500)).contains("whole"));
        assert!(refused(|c| c.connect_retry = Duration::ZERO).contains("retry"));
        assert!(refused(|c| c.keepalive_time = Some(Duration::ZERO)).contains("keepalive"));
        let send = |c: &mut PeerConfig| c.send_hold_time = Some(Duration::from_secs(89));
        assert!(refused(send).contains("send hold"));
        let restart = |c: &mut PeerConfig| c.graceful_restart = Some(Duration::from_secs(4096));
        assert!(refused(restart).contains("4095"));
        let stale = |c: &mut PeerConfig| c.long_lived_stale = Some(Duration::from_secs(1 << 24));
        assert!(refused(stale).contains("16777215"));
        assert!(refused(|c| c.families = Families::NONE).contains("family"));
        let next_hop = |c: &mut PeerConfig| c.next_hop_v6 = Some(NextHop::V4([1, 1, 1, 1].into()));
        assert!(refused(next_hop).contains("1.1.1.1"));
        assert!(refused(|c| c.hostname = Some("x".repeat(127))).contains("host name"));
        assert!(refused(|c| c.policy.prepend = 65).contains("prepended"));
    }

    /// RFC 9687: the session has the first word.
    #[test]
    fn tcp_gives_up_after_the_send_hold_timer() {
        let mut config = config();
        for (hold, send, least) in [(90, None, 480), (600, None, 1200), (9, Some(10), 10)] {
            config.hold_time = Duration::from_secs(hold);
            config.send_hold_time = send.map(Duration::from_secs);
            let least = Duration::from_secs(least);
            assert_eq!(config.send_hold(config.hold_time), Some(least));
            assert!(config.user_timeout() > least);
        }
        config.hold_time = Duration::ZERO;
        assert_eq!(config.user_timeout(), Duration::ZERO);
    }

    #[test]
    fn only_what_must_ends_a_session() {
        let change = |change: fn(&mut PeerConfig)| {
            let mut other = config();
            change(&mut other);
            config().change_to(&other)
        };
        assert_eq!(change(|_| ()), Change::None);
        assert_eq!(change(|c| c.policy.med = Some(1)), Change::Live);
        assert_eq!(change(|c| c.passive = true), Change::Live);
        assert_eq!(
            change(|c| c.hold_time = Duration::from_secs(9)),
            Change::NextSession
        );
        assert_eq!(change(|c| c.local_as = 1), Change::Reset);
        assert_eq!(change(|c| c.families = Family::Ipv4.into()), Change::Reset);
    }
}
