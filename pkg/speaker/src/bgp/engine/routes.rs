//! What peers are offered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use herald_bgp::{GroupId, Offer, Peers};

use super::Engine;
use crate::bgp::Orders;
use crate::bgp::routes::Part;

/// The offers that parts stand for. Parts are the same for many prefixes.
struct Offering<'a> {
    groups: &'a BTreeMap<String, GroupId>,
    /// How many peers there are.
    peers: usize,
    made: Vec<(&'a [Part], Arc<[Offer]>)>,
}

impl<'a> Offering<'a> {
    fn of(&mut self, parts: &'a [Part]) -> Arc<[Offer]> {
        if let Some((_, offers)) = self.made.iter().find(|(made, _)| *made == parts) {
            return Arc::clone(offers);
        }
        let offer = |part: &Part| Offer {
            peers: self.peers(&part.peers),
            attributes: part.attributes.clone(),
        };
        let offers: Arc<[Offer]> = parts.iter().map(offer).collect();
        self.made.push((parts, Arc::clone(&offers)));
        offers
    }

    /// What is for all is said so, that it stays the same when there is one more.
    fn peers(&self, names: &BTreeSet<String>) -> Peers {
        if names.len() == self.peers {
            return Peers::All;
        }
        let groups = names.iter().filter_map(|name| self.groups.get(name));
        Peers::Only(groups.copied().collect())
    }
}

impl Engine {
    pub(super) fn follow_routes(&mut self, orders: &Orders, now: Instant) {
        let want = &orders.routes.prefixes;
        let speaker = &mut self.speaker;
        self.routes.retain(|prefix, _| {
            let stays = want.contains_key(prefix);
            if !stays {
                speaker.withdraw(*prefix, now);
            }
            stays
        });
        let mut offering = Offering {
            groups: &self.groups,
            peers: orders.peers.len(),
            made: Vec::new(),
        };
        for (prefix, parts) in want {
            let offers = offering.of(parts);
            if self.routes.get(prefix) == Some(&offers) {
                continue;
            }
            match self.speaker.announce(*prefix, &offers, now) {
                Ok(()) => {
                    self.routes.insert(*prefix, offers);
                }
                Err(error) => {
                    tracing::error!(%error, "a route is not announced");
                    self.speaker.withdraw(*prefix, now);
                    self.routes.remove(prefix);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use herald_bgp::{PathAttributes, Speaker};

    use super::*;

    #[test]
    fn what_is_for_all_stays_the_same_when_a_peer_comes() {
        let mut speaker = Speaker::new(1);
        let mut groups = BTreeMap::new();
        let parts = |names: &[&str]| {
            vec![Part {
                peers: names.iter().map(ToString::to_string).collect(),
                attributes: PathAttributes::default(),
            }]
        };
        let offers = |groups: &BTreeMap<String, GroupId>, parts: &[Part]| {
            let peers = groups.len();
            let made = Vec::new();
            Offering {
                groups,
                peers,
                made,
            }
            .of(parts)[0]
                .clone()
        };
        groups.insert("a".to_owned(), speaker.add_group());
        let alone = offers(&groups, &parts(&["a"]));
        groups.insert("b".to_owned(), speaker.add_group());
        assert_eq!(alone, offers(&groups, &parts(&["a", "b"])));
        let some = offers(&groups, &parts(&["b"]));
        assert_eq!(some.peers, Peers::Only([groups["b"]].into()));
    }
}
