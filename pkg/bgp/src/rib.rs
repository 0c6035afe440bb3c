//! Adj-RIB-Out of all peers (RFC 4271 §3.2): what each is to be told, and what
//! it has been told.
//!
//! Routes are kept once for all peers ([`Table`]), and so is each attribute
//! set ([`Offers`]). Of a peer there is a position in the table, and a bit for
//! each route that it has. UPDATEs are made when a peer's connection takes
//! them, of all that changed since the last ones, grouped by attributes; peers
//! for whom they come out the same share the bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::export::{Export, encode_end_of_rib};
use crate::family::{Families, Family};
use crate::message::{RefreshKind, RouteRefresh};
use crate::nlri::{Bits, Prefix};
use crate::offers::{GroupId, Offer, Offers, PeerId, SetId};
use crate::path::PathAttributes;
use crate::table::{Table, WITHDRAWN};

/// In the place of a set: to be withdrawn. Sorts before all sets.
const WITHDRAW: SetId = 0;

/// Whole messages, shared by those who send them.
pub(crate) type Messages = Arc<Vec<u8>>;

/// A set of routes, by their slots.
#[derive(Debug, Default)]
struct Bitmap {
    words: Vec<u64>,
    count: usize,
}

impl Bitmap {
    fn has(&self, slot: u32) -> bool {
        let word = self.words.get(slot as usize / 64);
        word.is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Gives whether it was in the set.
    fn set(&mut self, slot: u32, value: bool) -> bool {
        let before = self.has(slot);
        if before == value {
            return before;
        }
        let at = slot as usize / 64;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] ^= 1 << (slot % 64);
        if value {
            self.count += 1;
        } else {
            self.count -= 1;
        }
        before
    }
}

/// What one peer has been told of one family.
#[derive(Debug, Default)]
struct View {
    /// Whether the family is spoken in this session.
    spoken: bool,
    cursor: u64,
    sent: Bitmap,
    /// Whether End-of-RIB has yet to be sent.
    owes_end: bool,
    /// Whether a refresh was asked for and has not begun.
    refresh: bool,
}

/// A peer with a session.
#[derive(Debug)]
struct Told {
    group: Option<GroupId>,
    export: Arc<Export>,
    enhanced_refresh: bool,
    views: [View; 2],
}

/// What a peer is to get of one family: sets and slots, the sets in order.
type Plan = Vec<(SetId, u32)>;

/// UPDATEs that were made, for another peer that needs the same.
#[derive(Debug)]
struct Made {
    family: Family,
    export: Arc<Export>,
    plan: Plan,
    messages: Messages,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rib {
    v4: Table<Bits<4>>,
    v6: Table<Bits<16>>,
    offers: Offers,
    peers: BTreeMap<PeerId, Told>,
    made: Vec<Made>,
    /// How often UPDATEs were made, and not shared.
    encodings: u64,
    /// Whether all routes there are have been offered once since the start.
    complete: bool,
}

impl Rib {
    pub fn new() -> Self {
        Self {
            v4: Table::new(),
            v6: Table::new(),
            offers: Offers::new(),
            peers: BTreeMap::new(),
            made: Vec::new(),
            encodings: 0,
            complete: false,
        }
    }

    /// Offers a route, in the place of what it was offered with.
    pub fn announce(&mut self, prefix: IpNet, offer: &[Offer]) {
        let held = if offer.iter().all(|part| part.attributes.is_normal()) {
            self.offers.hold(offer)
        } else {
            let normal = |part: &Offer| Offer {
                peers: part.peers.clone(),
                attributes: part.attributes.clone().normalized(),
            };
            self.offers
                .hold(&offer.iter().map(normal).collect::<Vec<_>>())
        };
        let before = match prefix {
            IpNet::V4(net) => self.v4.set(net.into(), held),
            IpNet::V6(net) => self.v6.set(net.into(), held),
        };
        if let Some(before) = before {
            self.offers.release(before);
        }
    }

    pub fn withdraw(&mut self, prefix: IpNet) {
        let before = match prefix {
            IpNet::V4(net) => self.v4.withdraw(net.into()),
            IpNet::V6(net) => self.v6.withdraw(net.into()),
        };
        if let Some(before) = before {
            self.offers.release(before);
        }
    }

    /// All routes there are have been offered once: End-of-RIB may be sent,
    /// after what was gathered.
    pub fn set_complete(&mut self) {
        self.publish();
        self.complete = true;
    }

    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub fn sets(&self) -> usize {
        self.offers.sets()
    }

    pub const fn encodings(&self) -> u64 {
        self.encodings
    }

    /// Whether something changed that peers do not see yet.
    pub fn has_news(&self) -> bool {
        self.v4.has_news() || self.v6.has_news()
    }

    /// Lets peers see all changes.
    pub fn publish(&mut self) {
        self.made.clear();
        self.v4.publish();
        self.v6.publish();
        self.sweep();
    }

    /// A session is up: all routes are to be sent, and then End-of-RIB. What
    /// was gathered is published, so that nothing is missing before that.
    pub fn add_peer(
        &mut self,
        peer: PeerId,
        group: Option<GroupId>,
        export: Export,
        families: Families,
        enhanced_refresh: bool,
    ) {
        self.publish();
        let view = |family| View {
            spoken: families.has(family),
            owes_end: true,
            ..View::default()
        };
        let told = Told {
            group,
            export: Arc::new(export),
            enhanced_refresh,
            views: Family::ALL.map(view),
        };
        self.peers.insert(peer, told);
    }

    /// The session is down.
    pub fn remove_peer(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.sweep();
    }

    /// How the peer's routes are written, while it has a session.
    #[cfg(test)]
    pub fn export(&self, peer: PeerId) -> Option<&Export> {
        self.peers.get(&peer).map(|told| &*told.export)
    }

    /// Has routes written to the peer in another way. They are sent anew if
    /// that makes a difference.
    pub fn set_export(&mut self, peer: PeerId, export: Export) {
        let Some(told) = self.peers.get_mut(&peer) else {
            return;
        };
        if *told.export == export {
            return;
        }
        told.export = Arc::new(export);
        for view in &mut told.views {
            view.cursor = 0;
        }
        self.publish();
    }

    /// The peer wants all its routes of `family` again (RFC 2918 §4). Asked
    /// again before they are on their way, they are sent once.
    pub fn refresh(&mut self, peer: PeerId, family: Family) {
        let Some(told) = self.peers.get_mut(&peer) else {
            return;
        };
        let view = &mut told.views[family.index()];
        if view.spoken {
            view.cursor = 0;
            view.refresh = true;
            self.publish();
        }
    }

    /// How many routes the peer has been told of.
    pub fn told(&self, peer: PeerId) -> usize {
        let views = self.peers.get(&peer).map(|told| &told.views);
        views.map_or(0, |views| views.iter().map(|view| view.sent.count).sum())
    }

    /// Whether the peer is to be told something.
    pub fn has_work(&self, peer: PeerId) -> bool {
        let Some(told) = self.peers.get(&peer) else {
            return false;
        };
        Family::ALL.into_iter().any(|family| {
            let view = &told.views[family.index()];
            let behind = view.cursor < self.published(family);
            view.spoken && (behind || view.refresh || (view.owes_end && self.complete))
        })
    }

    const fn published(&self, family: Family) -> u64 {
        match family {
            Family::Ipv4 => self.v4.published(),
            Family::Ipv6 => self.v6.published(),
        }
    }

    /// All that the peer is to be told now. It counts as told.
    pub fn take(&mut self, peer: PeerId) -> Vec<Messages> {
        let mut out = Vec::new();
        if let Some(mut told) = self.peers.remove(&peer) {
            for family in Family::ALL {
                self.take_family(&mut told, family, &mut out);
            }
            self.peers.insert(peer, told);
            self.sweep();
        }
        out
    }

    fn take_family(&mut self, told: &mut Told, family: Family, out: &mut Vec<Messages>) {
        let group = told.group;
        let view = &mut told.views[family.index()];
        if !view.spoken {
            return;
        }
        // RFC 7313 §4: no marks before End-of-RIB, which says as much.
        let refresh = std::mem::take(&mut view.refresh);
        let marked = refresh && told.enhanced_refresh && !view.owes_end;
        let mark = |kind, out: &mut Vec<Messages>| {
            let mut message = Vec::new();
            RouteRefresh { family, kind }.encode(&mut message);
            out.push(Arc::new(message));
        };
        if marked {
            mark(RefreshKind::Begin, out);
        }
        let plan = match family {
            Family::Ipv4 => plan(&self.v4, &self.offers, group, &told.export, view),
            Family::Ipv6 => plan(&self.v6, &self.offers, group, &told.export, view),
        };
        if !plan.is_empty() {
            out.push(self.make(family, &told.export, plan));
        }
        if marked {
            mark(RefreshKind::End, out);
        }
        if view.owes_end && self.complete {
            view.owes_end = false;
            let mut message = Vec::new();
            encode_end_of_rib(family, &mut message);
            out.push(Arc::new(message));
        }
    }

    fn make(&mut self, family: Family, export: &Arc<Export>, plan: Plan) -> Messages {
        let same =
            |made: &&Made| made.family == family && made.export == *export && made.plan == plan;
        if let Some(made) = self.made.iter().find(same) {
            return Arc::clone(&made.messages);
        }
        let messages = Arc::new(match family {
            Family::Ipv4 => write(&self.v4, &self.offers, export, &plan),
            Family::Ipv6 => write(&self.v6, &self.offers, export, &plan),
        });
        self.encodings += 1;
        self.made.push(Made {
            family,
            export: Arc::clone(export),
            plan,
            messages: Arc::clone(&messages),
        });
        messages
    }

    /// Forgets what all peers have passed.
    fn sweep(&mut self) {
        let mut all_told = true;
        let mut slowest = |family: Family, published: u64| {
            let views = self.peers.values().map(|told| &told.views[family.index()]);
            let cursors = views.filter(|view| view.spoken).map(|view| view.cursor);
            let slowest = cursors.min().unwrap_or(published);
            all_told &= slowest == published;
            slowest
        };
        let slowest_v4 = slowest(Family::Ipv4, self.v4.published());
        let slowest_v6 = slowest(Family::Ipv6, self.v6.published());
        if all_told {
            self.made.clear();
        }
        let mut cursors_v4 = Vec::new();
        let mut cursors_v6 = Vec::new();
        for told in self.peers.values_mut() {
            let [v4, v6] = &mut told.views;
            cursors_v4.push(&mut v4.cursor);
            cursors_v6.push(&mut v6.cursor);
        }
        self.v4.sweep(slowest_v4, cursors_v4.into_iter());
        self.v6.sweep(slowest_v6, cursors_v6.into_iter());
    }

    /// What the peers of a group get, or would get if they had sessions: prefixes
    /// and their attributes, without what a peer's policy adds.
    pub fn routes(&self, group: Option<GroupId>) -> impl Iterator<Item = (IpNet, &PathAttributes)> {
        let offered = move |(prefix, offer): (IpNet, u32)| {
            let set = self.offers.set_for(offer, group)?;
            Some((prefix, self.offers.attributes(set)))
        };
        let v4 = self
            .v4
            .iter()
            .map(|(_, prefix, offer)| (prefix.to_net(), offer));
        let v6 = self
            .v6
            .iter()
            .map(|(_, prefix, offer)| (prefix.to_net(), offer));
        v4.chain(v6).filter_map(offered)
    }
}

/// What the peer does not have yet of what is published. It counts as told.
fn plan<P: Prefix>(
    table: &Table<P>,
    offers: &Offers,
    group: Option<GroupId>,
    export: &Export,
    view: &mut View,
) -> Plan {
    let speaks = export.next_hop(P::FAMILY).is_some();
    let mut plan = Plan::new();
    // Neighbours in the log mostly have the same offer.
    let mut last = (WITHDRAWN, None);
    for (slot, offer) in table.since(view.cursor) {
        if offer != last.0 {
            let wanted = speaks && offer != WITHDRAWN;
            let set = wanted.then(|| offers.set_for(offer, group)).flatten();
            last = (offer, set);
        }
        match last.1 {
            Some(set) => {
                view.sent.set(slot, true);
                plan.push((set, slot));
            }
            None => {
                if view.sent.set(slot, false) {
                    plan.push((WITHDRAW, slot));
                }
            }
        }
    }
    view.cursor = table.published();
    plan.sort_by_key(|(set, _)| *set);
    plan
}

fn write<P: Prefix>(
    table: &Table<P>,
    offers: &Offers,
    export: &Export,
    plan: &[(SetId, u32)],
) -> Vec<u8> {
    let mut out = Vec::new();
    for group in plan.chunk_by(|(one, _), (next, _)| one == next) {
        let prefixes = group.iter().map(|(_, slot)| table.prefix(*slot));
        match group[0].0 {
            WITHDRAW => export.withdraw(prefixes, &mut out),
            set => export.announce(offers.attributes(set), prefixes, &mut out),
        }
    }
    out.shrink_to_fit();
    out
}

#[cfg(test)]
mod tests;
