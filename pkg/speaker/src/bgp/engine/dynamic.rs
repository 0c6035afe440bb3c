//! Peers of `listenRanges`: they come by dialling us.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_api::{BGPPeerSpec, Password};
use herald_bgp::PeerId;
use ipnet::IpNet;

use super::Engine;
use crate::bgp::settings::{Facts, Settings, settings_at};

/// One that does not dial any more is forgotten after so long: until then its last
/// error is told, and how often it failed is known.
const KEEP: Duration = Duration::from_mins(1);

/// From where peers may dial, and how they are spoken with.
#[derive(Clone, Debug)]
pub(super) struct Template {
    spec: Arc<BGPPeerSpec>,
    ranges: Vec<IpNet>,
    pub(super) password: Option<Password>,
}

impl Template {
    pub(super) fn new(spec: &Arc<BGPPeerSpec>, password: Option<Password>) -> Result<Self, String> {
        let range = |text: &String| {
            let range = text.parse::<IpNet>();
            range.map_err(|_| format!("{text:?} of listenRanges is no CIDR"))
        };
        Ok(Self {
            spec: Arc::clone(spec),
            ranges: spec
                .listen_ranges
                .iter()
                .map(range)
                .collect::<Result<_, _>>()?,
            password,
        })
    }

    pub(super) fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// The settings of a peer that is there already; none where it may not stay.
    pub(super) fn stays(
        &self,
        facts: &Facts,
        peer: SocketAddr,
    ) -> Option<(Settings, Option<Password>)> {
        self.matches(peer.ip())?;
        let settings = settings_at(&self.spec, facts, peer).ok()?;
        Some((settings, self.password.clone()))
    }

    /// Length of the longest range that has the address.
    fn matches(&self, address: IpAddr) -> Option<u8> {
        let holding = self.ranges.iter().filter(|range| range.contains(&address));
        holding.map(IpNet::prefix_len).max()
    }
}

/// What a dynamic peer is called among the others.
fn key(name: &str, address: IpAddr) -> String {
    format!("{name}/{address}")
}

impl Engine {
    /// Takes in a peer that dials, if it may be one.
    pub(super) fn admit(&mut self, from: SocketAddr) -> Option<PeerId> {
        let templates = self.templates.iter();
        let matching = templates.filter_map(|(name, t)| Some((t.matches(from.ip())?, name, t)));
        let (_, name, template) = matching.max_by_key(|(length, ..)| *length)?;
        let (name, template) = (name.clone(), template.clone());
        if self.ending.is_some() || !self.has_room(&name, template.spec.listen_limit) {
            tracing::warn!(peer = name, %from, "refused: there are listenLimit peers");
            return None;
        }
        let orders = self.inputs.orders.borrow().clone()?;
        // Of a link-local address the port is not where it listens, but its scope counts.
        let mut peer = from;
        peer.set_port(template.spec.peer_port);
        let settings = settings_at(&template.spec, &self.facts(&orders), peer);
        match settings {
            Ok(settings) => {
                let key = key(&name, from.ip());
                self.add(&key, settings, template.password, Instant::now());
                let id = *self.ids.get(&key)?;
                self.peers.get_mut(&id)?.dynamic = true;
                self.watch_paths();
                Some(id)
            }
            Err(problem) => {
                tracing::warn!(peer = name, %from, problem, "refused");
                None
            }
        }
    }

    /// Whether one more fits; one that dials no more makes way.
    fn has_room(&mut self, name: &str, limit: u32) -> bool {
        let of_it = |(id, key): (&PeerId, &String)| {
            let peer = self.peers.get(id)?;
            (peer.dynamic && peer.name == name).then(|| (peer.idle, key.clone()))
        };
        let ids = self.ids.iter().map(|(key, id)| (id, key));
        let all: Vec<(Option<Instant>, String)> = ids.filter_map(of_it).collect();
        if all.len() < usize::try_from(limit).unwrap_or(usize::MAX) {
            return true;
        }
        let idle = all.iter().filter(|(idle, _)| idle.is_some()).min();
        let Some((_, key)) = idle else {
            return false;
        };
        self.remove(key, Instant::now());
        true
    }

    /// When the next dynamic peer is forgotten.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        let idle = self.peers.values().filter_map(|peer| peer.idle);
        idle.min().map(|since| since + KEEP)
    }

    pub(super) fn forget_idle(&mut self, now: Instant) {
        let over = |id: &PeerId| {
            let idle = self.peers.get(id).and_then(|peer| peer.idle);
            idle.is_some_and(|since| since + KEEP <= now)
        };
        let over = self.ids.iter().filter(|(_, id)| over(id));
        let over: Vec<String> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            self.remove(&key, now);
        }
        self.touch();
        self.watch_paths();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_range_counts() {
        let spec = Arc::new(BGPPeerSpec {
            listen_ranges: vec!["10.0.0.0/8".into(), "10.1.0.0/16".into()],
            ..BGPPeerSpec::default()
        });
        let template = Template::new(&spec, None).unwrap();
        let matches = |address: &str| template.matches(address.parse().unwrap());
        assert_eq!(matches("10.1.2.3"), Some(16));
        assert_eq!(matches("10.2.2.3"), Some(8));
        assert_eq!(matches("11.0.0.1"), None);
        assert_eq!(matches("fd00::1"), None);
    }
}
