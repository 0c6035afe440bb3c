//! The routes of one family, in the order in which they last changed.
//!
//! ```text
//!   log   ··· 7 ─ 3 ─ × ─ 9 ─ × ─ 1 ─ 4 │ 2 ─ 8
//!                     ^           ^     ^published
//!                     peer A      peer B        (a change not told yet)
//! ```
//!
//! The log names every route once, at its last change; where it stood before
//! is a hole. A peer is a position in it: what stands behind it the peer has
//! yet to get, in its newest state. So a peer that is slow, or new, costs
//! nothing but its position, and what changed ten times meanwhile is sent to
//! it once. A withdrawn route stays until all peers have passed it.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::nlri::Prefix;

/// In the place of an offer: the route is withdrawn.
pub(crate) const WITHDRAWN: u32 = u32::MAX;
/// In the place of a route in the log: it has moved on.
const HOLE: u32 = u32::MAX;
/// With more holes than routes, and more than these, the log is rebuilt.
const HOLES: usize = 1024;

#[derive(Debug)]
struct Route<P> {
    /// Where it stands in the log.
    position: u64,
    /// The number of what it is offered with, or [`WITHDRAWN`].
    offer: u32,
    prefix: P,
}

/// The routes of one family.
#[derive(Debug)]
pub(crate) struct Table<P> {
    hasher: RandomState,
    index: HashTable<u32>,
    routes: Vec<Route<P>>,
    free: Vec<u32>,
    log: VecDeque<u32>,
    /// The position of the log's first entry.
    start: u64,
    holes: usize,
    /// Routes that are not withdrawn.
    live: usize,
    /// Up to here peers may see the log.
    published: u64,
    /// Before this position there are no withdrawn routes.
    swept: u64,
}

impl<P: Prefix> Table<P> {
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            index: HashTable::new(),
            routes: Vec::new(),
            free: Vec::new(),
            log: VecDeque::new(),
            start: 0,
            holes: 0,
            live: 0,
            published: 0,
            swept: 0,
        }
    }

    /// Routes that are not withdrawn.
    pub const fn len(&self) -> usize {
        self.live
    }

    pub const fn published(&self) -> u64 {
        self.published
    }

    /// The number after the last position.
    fn end(&self) -> u64 {
        self.start + self.log.len() as u64
    }

    /// Whether there are changes that are not published.
    pub fn has_news(&self) -> bool {
        self.published < self.end()
    }

    /// Lets peers see all that was changed.
    pub fn publish(&mut self) {
        self.published = self.end();
    }

    fn find(&self, prefix: P) -> Option<u32> {
        let hash = self.hasher.hash_one(prefix);
        let found = self
            .index
            .find(hash, |slot| self.routes[*slot as usize].prefix == prefix);
        found.copied()
    }

    /// Offers `prefix` with `offer`; gives what it was offered with before. The
    /// same again is no change.
    pub fn set(&mut self, prefix: P, offer: u32) -> Option<u32> {
        let Some(slot) = self.find(prefix) else {
            self.insert(prefix, offer);
            self.live += 1;
            return None;
        };
        let before = std::mem::replace(&mut self.routes[slot as usize].offer, offer);
        if before != offer {
            self.move_to_end(slot);
        }
        let before = (before != WITHDRAWN).then_some(before);
        self.live += usize::from(before.is_none());
        before
    }

    /// Withdraws `prefix`; gives what it was offered with.
    pub fn withdraw(&mut self, prefix: P) -> Option<u32> {
        let slot = self.find(prefix)?;
        let route = &mut self.routes[slot as usize];
        if route.offer == WITHDRAWN {
            return None;
        }
        let before = std::mem::replace(&mut route.offer, WITHDRAWN);
        self.move_to_end(slot);
        self.live -= 1;
        Some(before)
    }

    fn insert(&mut self, prefix: P, offer: u32) {
        let route = Route {
            position: self.end(),
            offer,
            prefix,
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.routes[slot as usize] = route;
            slot
        } else {
            self.routes.push(route);
            u32::try_from(self.routes.len() - 1).expect("there are fewer than 2^32 routes")
        };
        self.log.push_back(slot);
        let Self {
            hasher,
            index,
            routes,
            ..
        } = self;
        let hash = |slot: &u32| hasher.hash_one(routes[*slot as usize].prefix);
        index.insert_unique(hash(&slot), slot, hash);
    }

    fn move_to_end(&mut self, slot: u32) {
        let end = self.end();
        let position = std::mem::replace(&mut self.routes[slot as usize].position, end);
        self.make_hole(position);
        self.log.push_back(slot);
    }

    fn make_hole(&mut self, position: u64) {
        let at = self.at(position);
        self.log[at] = HOLE;
        self.holes += 1;
    }

    /// Where `position` is in the log as it is kept.
    fn at(&self, position: u64) -> usize {
        usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX)
    }

    /// The routes that changed since `cursor`, as far as they are published:
    /// slot and offer.
    pub fn since(&self, cursor: u64) -> impl Iterator<Item = (u32, u32)> {
        let end = self.at(self.published);
        let slots = self.log.range(self.at(cursor).min(end)..end);
        slots
            .filter(|slot| **slot != HOLE)
            .map(|slot| (*slot, self.routes[*slot as usize].offer))
    }

    /// All routes that are not withdrawn: slot, prefix and offer.
    pub fn iter(&self) -> impl Iterator<Item = (u32, P, u32)> {
        let slots = self.log.iter().filter(|slot| **slot != HOLE);
        slots
            .map(|slot| (*slot, &self.routes[*slot as usize]))
            .filter(|(_, route)| route.offer != WITHDRAWN)
            .map(|(slot, route)| (slot, route.prefix, route.offer))
    }

    pub fn prefix(&self, slot: u32) -> P {
        self.routes[slot as usize].prefix
    }

    /// Forgets the withdrawn routes that every peer has passed: `slowest` is
    /// the position of the last one. Then brings the log into shape;
    /// `cursors` are all positions that are kept elsewhere.
    pub fn sweep<'a>(&mut self, slowest: u64, cursors: impl Iterator<Item = &'a mut u64>) {
        for position in self.swept.max(self.start)..slowest {
            let slot = self.log[self.at(position)];
            if slot != HOLE && self.routes[slot as usize].offer == WITHDRAWN {
                self.remove(slot);
            }
        }
        self.swept = self.swept.max(slowest);
        while self.log.front() == Some(&HOLE) {
            self.log.pop_front();
            self.start += 1;
            self.holes -= 1;
        }
        if self.holes > HOLES && self.holes > self.log.len() / 2 {
            self.rebuild(cursors);
        }
    }

    fn remove(&mut self, slot: u32) {
        let route = &self.routes[slot as usize];
        let (hash, position) = (self.hasher.hash_one(route.prefix), route.position);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        self.make_hole(position);
        self.free.push(slot);
    }

    /// Takes the holes out of the log.
    fn rebuild<'a>(&mut self, cursors: impl Iterator<Item = &'a mut u64>) {
        let log = std::mem::take(&mut self.log);
        // For each position, how many routes stand before it.
        let mut ranks = Vec::with_capacity(log.len() + 1);
        self.log.reserve_exact(log.len() - self.holes);
        for slot in log {
            ranks.push(self.log.len() as u64);
            if slot != HOLE {
                self.routes[slot as usize].position = self.end();
                self.log.push_back(slot);
            }
        }
        ranks.push(self.log.len() as u64);
        self.holes = 0;
        let start = self.start;
        let moved = |position: u64| {
            let at = usize::try_from(position.saturating_sub(start)).unwrap_or(usize::MAX);
            start + ranks[at.min(ranks.len() - 1)]
        };
        self.published = moved(self.published);
        self.swept = moved(self.swept);
        for cursor in cursors {
            *cursor = moved(*cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;
    use crate::nlri::Bits;

    fn prefix(number: u8) -> Bits<4> {
        Ipv4Net::new([10, 0, 0, number].into(), 32).unwrap().into()
    }

    #[test]
    fn a_change_moves_a_route_to_the_end() {
        let mut table = Table::new();
        for number in 0..4 {
            assert_eq!(table.set(prefix(number), 7), None);
        }
        assert_eq!(table.since(0).count(), 0);
        table.publish();
        let first = table.published();
        assert_eq!(table.set(prefix(1), 8), Some(7));
        assert_eq!(table.withdraw(prefix(2)), Some(7));
        assert_eq!(table.withdraw(prefix(2)), None);
        // What changed and is not published, nobody sees.
        assert_eq!(table.since(0).collect::<Vec<_>>(), [(0, 7), (3, 7)]);
        table.publish();
        assert_eq!(
            table.since(first).collect::<Vec<_>>(),
            [(1, 8), (2, WITHDRAWN)]
        );
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn a_withdrawn_route_is_kept_until_all_have_passed() {
        let mut table = Table::new();
        table.set(prefix(1), 1);
        table.publish();
        let mut slow = 0;
        table.withdraw(prefix(1));
        table.publish();
        table.sweep(slow, std::iter::once(&mut slow));
        assert_eq!(table.since(slow).count(), 1);
        table.sweep(table.published(), std::iter::empty());
        assert_eq!(table.since(0).count(), 0);
        assert!(table.index.is_empty());
        table.set(prefix(2), 1);
        assert_eq!(table.routes.len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u32),
        Withdraw(u8),
        Publish,
        Take(bool),
        Restart(bool),
        Sweep,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..40_u8, 0..5_u32).prop_map(|(n, offer)| Step::Set(n, offer)),
            3 => (0..40_u8).prop_map(Step::Withdraw),
            2 => Just(Step::Publish),
            2 => any::<bool>().prop_map(Step::Take),
            1 => any::<bool>().prop_map(Step::Restart),
            2 => Just(Step::Sweep),
        ]
    }

    proptest! {
        /// Two peers that take what is new when they like end up with what
        /// there is, whatever is swept and rebuilt meanwhile.
        #[test]
        fn every_peer_ends_with_what_there_is(
            steps in proptest::collection::vec(any_step(), 0..400),
            rebuild in any::<bool>(),
        ) {
            let mut table = Table::new();
            let mut truth = BTreeMap::new();
            let mut cursors = [0_u64; 2];
            let mut views = [BTreeMap::new(), BTreeMap::new()];
            let take = |table: &Table<Bits<4>>, cursor: &mut u64, view: &mut BTreeMap<_, _>| {
                for (slot, offer) in table.since(*cursor) {
                    let net = table.prefix(slot).to_net();
                    if offer == WITHDRAWN {
                        view.remove(&net);
                    } else {
                        view.insert(net, offer);
                    }
                }
                *cursor = table.published();
            };
            for step in steps {
                match step {
                    Step::Set(number, offer) => {
                        let before = table.set(prefix(number), offer);
                        prop_assert_eq!(before, truth.insert(prefix(number).to_net(), offer));
                    }
                    Step::Withdraw(number) => {
                        let before = table.withdraw(prefix(number));
                        prop_assert_eq!(before, truth.remove(&prefix(number).to_net()));
                    }
                    Step::Publish => table.publish(),
                    Step::Take(which) => {
                        let i = usize::from(which);
                        take(&table, &mut cursors[i], &mut views[i]);
                    }
                    Step::Restart(which) => {
                        // A full resend to a peer that keeps what it has.
                        cursors[usize::from(which)] = 0;
                    }
                    Step::Sweep => {
                        let slowest = cursors[0].min(cursors[1]);
                        table.sweep(slowest, cursors.iter_mut());
                        if rebuild {
                            table.rebuild(cursors.iter_mut());
                        }
                    }
                }
                prop_assert_eq!(table.len(), truth.len());
            }
            table.publish();
            for (cursor, view) in cursors.iter_mut().zip(&mut views) {
                take(&table, cursor, view);
                prop_assert_eq!(&*view, &truth);
            }
            table.sweep(table.published(), cursors.iter_mut());
            prop_assert_eq!(table.index.len(), truth.len());
        }
    }
}
