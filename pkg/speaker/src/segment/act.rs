//! Does what the election decided, and sends what it has to say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_election::{Cause, Election, Event, GroupId, Silence};
use herald_l2::Source;
use herald_net::Interface;
use jiff::Timestamp;

use super::{Holding, LOOK_SOON, Segment};
use crate::metrics::{InterfaceLabel, ReasonLabel};
use crate::port::Plan;
use crate::report::{cause_name, liveness_name};

/// How long an address is answered for after another node became its owner, if
/// that one is not heard. Packets that still come are forwarded all the same.
const YIELD: Duration = Duration::from_secs(2);

/// How long an address counts as new to everybody, so that a port that is busy
/// sees it as such.
const FRESH: Duration = Duration::from_secs(1);

impl Segment {
    /// Sends what the election has to say, does what it decided, and tells.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        let keys = self.common.keys.borrow().clone();
        let mut changed = false;
        while let Some(mut transmit) = self.election.as_mut().and_then(Election::poll_transmit) {
            if let Some(keys) = &keys {
                transmit.heartbeat.hardware = self.interface.mac;
                let datagram = keys.seal(transmit.heartbeat.to_bytes());
                self.send(&datagram, transmit.detour, now);
            }
        }
        while let Some(event) = self.election.as_mut().and_then(Election::poll_event) {
            changed |= self.decided(&event, now);
        }
        if changed {
            let own = self.plan.borrow().own.clone();
            self.publish(&own);
        }
        if std::mem::take(&mut self.told.more) {
            self.tell_more();
        }
        let ready = self.election.as_ref().is_some_and(Election::is_ready);
        if self.unreported || ready != self.was_ready {
            self.was_ready = ready;
            self.report();
        }
        self.count();
    }

    pub(super) fn send(&self, datagram: &[u8], detour: bool, now: Instant) {
        let peers = self.view.iter().flat_map(|view| &view.peers);
        if detour {
            for host in peers.flat_map(|peer| &peer.elsewhere) {
                if let Err(error) = self.detour.send_to(datagram, *host) {
                    tracing::debug!(%host, %error, "a last word by another way");
                }
            }
        } else if self.common.unicast {
            for host in peers.filter_map(|peer| peer.here.first()) {
                self.beats.send_to(datagram, *host);
            }
        } else {
            self.beats.send_to_all(datagram, now);
        }
    }

    /// Does what the election decided; says whether the port has to know.
    pub(super) fn decided(&mut self, event: &Event, now: Instant) -> bool {
        self.unreported |= !matches!(event, Event::Probe { .. } | Event::Stalled { .. });
        let interface = self.interface.name.clone();
        match *event {
            Event::Announce { group, cause } => {
                self.announce(group, cause, now);
                true
            }
            Event::Reannounce { group } => match self.holding.get_mut(&group) {
                Some(holding) => {
                    holding.times += 1;
                    true
                }
                None => false,
            },
            Event::HandOver { group, to } => {
                let addresses: BTreeSet<IpAddr> =
                    self.addresses(group).iter().map(|v| v.0).collect();
                tracing::info!(interface, %group, ?addresses, to = self.name_of(to), "handing over");
                self.holding.remove(&group);
                self.told.forget(&addresses);
                self.yielding.extend(addresses);
                true
            }
            Event::Withdraw { group, why } => {
                let addresses: BTreeSet<IpAddr> =
                    self.addresses(group).iter().map(|v| v.0).collect();
                tracing::info!(interface, %group, ?addresses, ?why, "silent");
                if matches!(why, Silence::Settled | Silence::Released) {
                    self.told.forget(&addresses);
                }
                if why == Silence::Stalled {
                    if let Some(holding) = self.holding.get_mut(&group) {
                        holding.silent = true;
                    }
                } else {
                    self.holding.remove(&group);
                }
                for address in addresses {
                    self.yielding.remove(&address);
                }
                true
            }
            Event::Probe { node } => {
                self.ask(node);
                false
            }
            Event::Peer { node, liveness } => {
                let name = self.name_of(node);
                tracing::info!(
                    interface,
                    node = name,
                    liveness = liveness_name(liveness),
                    "peer"
                );
                self.peers.insert(node, liveness);
                self.count_peers();
                self.look_at = self.look_at.min(now + LOOK_SOON);
                false
            }
            Event::Stalled { late } => {
                let late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(
                    interface,
                    late_ms = late,
                    "this speaker did not run in time"
                );
                let label = InterfaceLabel { interface };
                self.common.metrics.stalls.get_or_create(&label).inc();
                false
            }
            Event::Impostor => {
                tracing::error!(
                    interface,
                    node = self.common.node,
                    "another speaker says that it is this node; two nodes have one name, or two \
                     speakers run on this node"
                );
                false
            }
        }
    }

    pub(super) fn announce(&mut self, group: GroupId, cause: Cause, now: Instant) {
        let before = self.holding.remove(&group);
        let resumed = cause == Cause::Resumed;
        let kept = before.filter(|_| resumed);
        let holding = kept.map_or_else(
            || Holding {
                since: Timestamp::now(),
                cause,
                silent: false,
                times: 0,
            },
            |kept| Holding {
                silent: false,
                ..kept
            },
        );
        self.holding.insert(group, holding);
        let addresses = self.addresses(group);
        for vip in addresses.iter() {
            self.yielding.remove(&vip.0);
            if cause == Cause::Vacant {
                self.fresh.insert(vip.0, now);
            }
        }
        let interface = self.interface.name.clone();
        let label = ReasonLabel {
            interface: interface.clone(),
            reason: cause_name(cause),
        };
        self.common.metrics.moves.get_or_create(&label).inc();
        if let Cause::Lost(from) = cause
            && let Some(heard) = self.beats.last_heard(from)
        {
            let took = now.saturating_duration_since(heard);
            self.common.metrics.takeover.observe(took.as_secs_f64());
            tracing::info!(interface, %group, after_ms = took.as_millis(), "taken over");
        }
        if !resumed {
            self.tell_owner(&addresses, cause);
        }
    }

    /// Gives the port its plan.
    pub(super) fn publish(&mut self, own: &Arc<BTreeSet<[u8; 6]>>) {
        let mut hold = BTreeMap::new();
        for (group, holding) in self.holding.iter().filter(|(_, holding)| !holding.silent) {
            for (address, _) in self.addresses(*group).iter() {
                hold.insert(*address, holding.times);
            }
        }
        self.yielding.retain(|address| !hold.contains_key(address));
        let now = Instant::now();
        self.fresh.retain(|_, since| *since + FRESH > now);
        self.look_at = self.look_at.min(now + LOOK_SOON);
        let plan = Plan {
            announcing: self.common.announcing,
            link: self.orders.borrow().link,
            source: source(&self.interface),
            fresh: self.fresh.keys().copied().collect(),
            check: self
                .check
                .iter()
                .map(|(address, owner)| (*address, owner.0))
                .collect(),
            controls: self.controls(),
            peers: Arc::new(self.beats.hardware()),
            mac: self.interface.mac.unwrap_or_default(),
            hold,
            yielding: Arc::new(self.yielding.clone()),
            grace: if self.stopping.is_some() {
                self.common.drain_timeout
            } else {
                YIELD
            },
            own: own.clone(),
        };
        self.plan.send_if_modified(|before| {
            let changed = *before != plan;
            *before = plan;
            changed
        });
    }
}

/// The addresses that questions on an interface come from.
fn source(interface: &Interface) -> Source {
    let mut source = Source::default();
    for (address, _) in &interface.addresses {
        match address {
            IpAddr::V4(address) if source.v4.is_unspecified() => source.v4 = *address,
            IpAddr::V6(address) if address.is_unicast_link_local() => source.v6 = *address,
            _ => {}
        }
    }
    source
}
