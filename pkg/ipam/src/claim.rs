//! What a Service brings along when it asks for an address that others may have:
//! its key, its ports, its backends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use herald_core::{Protocol, ServiceKey, ServiceRequest, TrafficPolicy};
use thiserror::Error;

/// A Service as those see it that it may share an address with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// `metadata.uid`.
    pub uid: String,
    /// Which Service.
    pub key: ServiceKey,
    sharing_key: Option<String>,
    ports: BTreeSet<(u16, Protocol)>,
    /// Where only a node's own pods are reached, which pods: an address is
    /// announced by one node for all that share it. None with policy `Cluster`.
    local: Option<BTreeMap<String, String>>,
}

impl Claim {
    /// The claim of a Service.
    pub fn of(service: &ServiceRequest) -> Self {
        Self {
            uid: service.uid.clone(),
            key: service.key.clone(),
            sharing_key: service.sharing_key.clone(),
            ports: service
                .ports
                .iter()
                .map(|port| (port.port, port.protocol))
                .collect(),
            local: match service.traffic_policy {
                TrafficPolicy::Local => Some(service.selector.clone()),
                TrafficPolicy::Cluster => None,
            },
        }
    }

    pub(crate) fn sharing_key(&self) -> Option<&str> {
        self.sharing_key.as_deref()
    }

    /// Why the two can't have one address, if they can't.
    pub(crate) fn clash(&self, other: &Self) -> Option<ClashReason> {
        match (&self.sharing_key, &other.sharing_key) {
            (None, _) => return Some(ClashReason::NotAsked),
            (Some(_), None) => return Some(ClashReason::NotShared),
            (Some(own), Some(others)) if own != others => return Some(ClashReason::OtherKey),
            _ => {}
        }
        if let Some((port, protocol)) = self.ports.intersection(&other.ports).next() {
            return Some(ClashReason::Port(*port, *protocol));
        }
        match (&self.local, &other.local) {
            (own, others) if own == others => None,
            (Some(_), Some(_)) => Some(ClashReason::OtherPods),
            _ => Some(ClashReason::OtherPolicy),
        }
    }
}

/// What stands between two Services and one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClashReason {
    /// The Service that asks has no sharing key.
    NotAsked,
    /// The Service that has it has none.
    NotShared,
    /// They have different sharing keys.
    OtherKey,
    /// Both have this port.
    Port(u16, Protocol),
    /// Only one of them has `externalTrafficPolicy: Local`.
    OtherPolicy,
    /// Both have `externalTrafficPolicy: Local`, with different selectors.
    OtherPods,
}

/// An address that another Service has and that it can't be shared with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Clash {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub holder: ServiceKey,
    /// Why it can't be shared.
    pub reason: ClashReason,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address, holder, ..
        } = self;
        match &self.reason {
            ClashReason::NotAsked => write!(f, "{address} is taken by Service {holder}"),
            ClashReason::NotShared => write!(
                f,
                "{address} is taken by Service {holder}, which has no annotation \
                 herald.dev/allow-shared-ip"
            ),
            ClashReason::OtherKey => write!(
                f,
                "{address} is taken by Service {holder}, whose annotation \
                 herald.dev/allow-shared-ip has another value"
            ),
            ClashReason::Port(port, protocol) => write!(
                f,
                "port {port}/{protocol} of {address} is taken by Service {holder}; Services that \
                 share an address need ports of their own"
            ),
            ClashReason::OtherPolicy => write!(
                f,
                "{address} is taken by Service {holder}, and only one of the two has \
                 externalTrafficPolicy Local; to share an address both need the same"
            ),
            ClashReason::OtherPods => write!(
                f,
                "{address} is taken by Service {holder}, and the two have other pods; with \
                 externalTrafficPolicy Local only Services with one selector can share an address"
            ),
        }
    }
}
