//! Which peers there are, and whether they are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use herald_api::Password;
use herald_bgp::{Drain, Input, PeerId, Stop};

use super::dynamic::Template;
use super::{Engine, Peer};
use crate::bgp::neighbors::Link;
use crate::bgp::secrets::Passwords;
use crate::bgp::settings::{Facts, Refused, Settings, settings, settings_at};
use crate::bgp::{Orders, PeerView};

/// Peers that can be, and those that can't, with why.
#[derive(Default)]
struct Wanted {
    peers: BTreeMap<String, (Settings, Option<Password>)>,
    templates: BTreeMap<String, Template>,
    refused: BTreeMap<String, Refused>,
    /// The Secrets that passwords are in.
    secrets: BTreeSet<String>,
}

impl Wanted {
    fn of(orders: &Orders, facts: &Facts, passwords: &Passwords) -> Self {
        let mut wanted = Self::default();
        let mut ends = BTreeMap::new();
        for (name, view) in &orders.peers {
            if !view.spec.listen_ranges.is_empty() {
                match wanted.template(view, facts, passwords) {
                    Ok(template) => drop(wanted.templates.insert(name.clone(), template)),
                    Err(refused) => drop(wanted.refused.insert(name.clone(), refused)),
                }
                continue;
            }
            let settled = settings(&view.spec, facts).and_then(|settings| {
                let end = (settings.peer, settings.device.clone());
                match ends.entry(end) {
                    std::collections::btree_map::Entry::Vacant(free) => {
                        free.insert(name);
                        Ok(settings)
                    }
                    std::collections::btree_map::Entry::Occupied(other) => Err(format!(
                        "BGPPeer {} has this address and port already; take one of them away",
                        other.get()
                    )
                    .into()),
                }
            });
            let settled = settled.and_then(|settings| {
                let password = wanted.password(view, passwords)?;
                Ok((settings, password))
            });
            match settled {
                Ok(peer) => {
                    wanted.peers.insert(name.clone(), peer);
                }
                Err(problem) => {
                    wanted.refused.insert(name.clone(), problem);
                }
            }
        }
        wanted
    }

    /// What is wrong with the settings is told before somebody dials.
    fn template(
        &mut self,
        view: &PeerView,
        facts: &Facts,
        passwords: &Passwords,
    ) -> Result<Template, Refused> {
        let template = Template::new(&view.spec, self.password(view, passwords)?)?;
        for range in template.ranges() {
            let some = SocketAddr::new(range.addr(), view.spec.peer_port);
            settings_at(&view.spec, facts, some)?;
        }
        Ok(template)
    }

    fn password(
        &mut self,
        view: &PeerView,
        passwords: &Passwords,
    ) -> Result<Option<Password>, Refused> {
        let Some(secret) = view.spec.password_secret.as_ref().map(|s| &s.name) else {
            return Ok(view.spec.password.clone());
        };
        self.secrets.insert(secret.clone());
        match passwords.get(secret) {
            Some(Ok(read)) => Ok(Some(read.clone())),
            Some(Err(problem)) => Err(problem.clone().into()),
            None => Err(Refused {
                problem: format!("Secret {secret} is being read"),
                passing: true,
            }),
        }
    }
}

/// That the router of an unnumbered peer is not the one that it was, in words.
fn another_router(before: &Settings, now: &Settings) -> Option<String> {
    let name = now.interface.as_ref()?;
    let same = before.interface.as_ref() == Some(name) && before.peer != now.peer;
    same.then(|| {
        format!(
            "the router on interface {name} was {} and is {} now",
            before.peer.ip(),
            now.peer.ip()
        )
    })
}

/// The `BGPPeer` that a peer is of.
fn name_of(key: &str) -> &str {
    key.split_once('/').map_or(key, |(name, _)| name)
}

impl Engine {
    pub(super) fn facts<'a>(&'a self, orders: &'a Orders) -> Facts<'a> {
        Facts {
            node: &self.inputs.node,
            router_id: orders.router_id,
            addresses: &orders.addresses,
            interfaces: &self.interfaces,
            neighbors: &self.neighbors,
            aliases: &orders.aliases,
            profiles: &orders.profiles,
        }
    }

    /// Has the routers found at the other ends of the interfaces that unnumbered peers
    /// are on.
    pub(super) fn seek_neighbors(&mut self, orders: &Orders) {
        let mut wanted = BTreeMap::new();
        let specs = orders.peers.values().map(|view| &view.spec);
        for name in specs.filter_map(|spec| spec.interface.as_ref()) {
            let mut all = self.interfaces.iter();
            if let Some((index, interface)) = all.find(|(_, it)| it.name == *name) {
                wanted.insert(*index, Link::of(interface));
            }
        }
        self.seeker.seek(wanted);
        self.neighbors = self.seeker.found();
    }

    pub(super) fn follow_peers(&mut self, orders: &Orders, passwords: &Passwords, now: Instant) {
        let facts = self.facts(orders);
        let mut wanted = Wanted::of(orders, &facts, passwords);
        for (key, id) in &self.ids {
            let Some(peer) = self.peers.get(id).filter(|peer| peer.dynamic) else {
                continue;
            };
            let template = wanted.templates.get(&peer.name);
            if let Some(stays) = template.and_then(|t| t.stays(&facts, peer.settings.peer)) {
                wanted.peers.insert(key.clone(), stays);
            }
        }
        self.templates = wanted.templates;
        self.inputs.wanted.send_if_modified(|secrets| {
            let changed = *secrets != wanted.secrets;
            *secrets = wanted.secrets;
            changed
        });
        let before = std::mem::replace(&mut self.refused, wanted.refused);
        for (name, refused) in self.refused.clone() {
            if !refused.passing && before.get(&name) != Some(&refused) {
                self.tell(&name, true, "NotInForce", &refused.problem);
            }
        }
        let gone = |name: &&String| !wanted.peers.contains_key(*name);
        let gone: Vec<String> = self.ids.keys().filter(gone).cloned().collect();
        for name in gone {
            self.remove(&name, now);
        }
        self.groups
            .retain(|name, _| orders.peers.contains_key(name));
        self.allowances
            .retain(|name, _| orders.peers.contains_key(name));
        for (name, (settings, password)) in wanted.peers {
            self.set(&name, settings, password, now);
        }
    }

    pub(super) fn remove(&mut self, name: &str, now: Instant) {
        if let Some(id) = self.ids.remove(name) {
            self.speaker.remove_peer(id, &Stop::Deconfigured, now);
            self.perform();
            self.peers.remove(&id);
            self.inputs.metrics.bgp.forget(name);
        }
    }

    fn set(&mut self, name: &str, settings: Settings, password: Option<Password>, now: Instant) {
        let present = self.ids.get(name).copied();
        match present.and_then(|id| Some((id, self.peers.get_mut(&id)?))) {
            Some((id, peer)) if peer.settings.same_end(&settings) => {
                if peer.settings.config != settings.config {
                    match self.speaker.set_peer(id, settings.config.clone(), now) {
                        Ok(change) => tracing::info!(peer = name, ?change, "BGP peer changed"),
                        Err(error) => tracing::error!(peer = name, %error, "BGP peer not changed"),
                    }
                }
                peer.settings = settings;
                // For the next connection; what is up stays so.
                peer.password = password;
            }
            Some((_, peer)) => {
                let before = peer.settings.clone();
                self.remove(name, now);
                let moved = another_router(&before, &settings);
                self.add(name, settings, password, now);
                if let Some(words) = moved
                    && let Some(peer) = self.ids.get(name).and_then(|id| self.peers.get_mut(id))
                {
                    tracing::warn!(peer = name, words);
                    peer.last_error = Some(words);
                }
            }
            None => self.add(name, settings, password, now),
        }
    }

    pub(super) fn add(
        &mut self,
        key: &str,
        settings: Settings,
        password: Option<Password>,
        now: Instant,
    ) {
        let name = name_of(key);
        let speaker = &mut self.speaker;
        let group = self.groups.entry(name.to_owned());
        let group = *group.or_insert_with(|| speaker.add_group());
        match speaker.add_member(group, settings.config.clone(), now) {
            Ok(id) => {
                tracing::info!(peer = name, address = %settings.peer, "BGP peer");
                self.ids.insert(key.to_owned(), id);
                self.peers.insert(id, Peer::new(name, settings, password));
            }
            Err(error) => {
                self.refused
                    .insert(name.to_owned(), error.to_string().into());
            }
        }
    }

    pub(super) fn follow_drain(&mut self, orders: &Orders, now: Instant) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            match &orders.drain {
                Some(reason) if !peer.draining => {
                    peer.draining = true;
                    let drain = Drain {
                        wait: self.inputs.config.drain_wait,
                        text: reason.clone(),
                    };
                    self.speaker.drain(id, drain, now);
                }
                None if peer.draining => {
                    peer.draining = false;
                    peer.stopped = false;
                    // One that is still on its way out is begun anew when it is out.
                    self.speaker.handle(id, Input::Start, now);
                }
                _ => {}
            }
        }
    }
}
