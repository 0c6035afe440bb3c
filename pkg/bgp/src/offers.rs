//! What routes are offered with, each different thing kept once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::path::PathAttributes;

/// A peer, for as long as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u32);

/// Peers that are offered the same, such as those that one entry of a configuration
/// lets in. Offers name groups, so that a peer that comes or goes changes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub(crate) u32);

/// The peers that an offer is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Every peer.
    All,
    /// Those of these groups only.
    Only(BTreeSet<GroupId>),
}

impl Peers {
    fn has(&self, group: Option<GroupId>) -> bool {
        match self {
            Self::All => true,
            Self::Only(groups) => group.is_some_and(|group| groups.contains(&group)),
        }
    }
}

/// What some peers get a route with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offer {
    /// For whom.
    pub peers: Peers,
    /// With what.
    pub attributes: PathAttributes,
}

/// The number of an attribute set; above 0.
pub(crate) type SetId = u32;

#[derive(Debug)]
struct Counted<T: ?Sized> {
    value: Arc<T>,
    users: usize,
}

/// Values by number, each once, for as long as it is used.
#[derive(Debug)]
struct Store<T: ?Sized> {
    numbers: HashMap<Arc<T>, u32>,
    values: Vec<Option<Counted<T>>>,
    free: Vec<u32>,
}

impl<T: Eq + std::hash::Hash + ?Sized> Store<T> {
    fn new() -> Self {
        Self {
            numbers: HashMap::new(),
            values: Vec::new(),
            free: Vec::new(),
        }
    }

    fn find(&self, value: &T) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    fn insert(&mut self, value: Arc<T>) -> u32 {
        let counted = Some(Counted {
            value: Arc::clone(&value),
            users: 0,
        });
        let number = if let Some(number) = self.free.pop() {
            self.values[number as usize] = counted;
            number
        } else {
            self.values.push(counted);
            u32::try_from(self.values.len() - 1).expect("there are fewer than 2^32 values")
        };
        self.numbers.insert(value, number);
        number
    }

    fn get(&self, number: u32) -> &Arc<T> {
        let counted = self.values[number as usize].as_ref();
        &counted.expect("numbers in use have values").value
    }

    fn hold(&mut self, number: u32) {
        if let Some(counted) = &mut self.values[number as usize] {
            counted.users += 1;
        }
    }

    /// Gives the value if nobody uses it any more.
    fn release(&mut self, number: u32) -> Option<Arc<T>> {
        let place = &mut self.values[number as usize];
        let counted = place.as_mut()?;
        counted.users -= 1;
        if counted.users > 0 {
            return None;
        }
        let value = place.take()?.value;
        self.numbers.remove(&value);
        self.free.push(number);
        Some(value)
    }
}

/// All offers that routes have, and their attribute sets.
#[derive(Debug)]
pub(crate) struct Offers {
    whole: Store<[Offer]>,
    sets: Store<PathAttributes>,
    /// By the number of an offer: the sets of its parts, less one.
    parts: Vec<Vec<u32>>,
    /// The last one that was held: many routes in a row have the same.
    last: Option<u32>,
}

impl Offers {
    pub fn new() -> Self {
        Self {
            whole: Store::new(),
            sets: Store::new(),
            parts: Vec::new(),
            last: None,
        }
    }

    /// The number of `offer`, which a route uses from now on. Its attributes
    /// must be [normalized](PathAttributes::normalized).
    pub fn hold(&mut self, offer: &[Offer]) -> u32 {
        let same = |number: &u32| **self.whole.get(*number) == *offer;
        let known = self.last.filter(same).or_else(|| self.whole.find(offer));
        let number = known.unwrap_or_else(|| self.add(offer));
        self.last = Some(number);
        self.whole.hold(number);
        number
    }

    fn add(&mut self, offer: &[Offer]) -> u32 {
        let mut parts = Vec::new();
        for part in offer {
            let set = self
                .sets
                .find(&part.attributes)
                .unwrap_or_else(|| self.sets.insert(Arc::new(part.attributes.clone())));
            self.sets.hold(set);
            parts.push(set);
        }
        let number = self.whole.insert(offer.into());
        let at = number as usize;
        self.parts
            .resize_with(self.parts.len().max(at + 1), Vec::new);
        self.parts[at] = parts;
        number
    }

    /// A route does not use `offer` any more.
    pub fn release(&mut self, offer: u32) {
        if self.whole.release(offer).is_some() {
            self.last = self.last.filter(|last| *last != offer);
            for set in std::mem::take(&mut self.parts[offer as usize]) {
                self.sets.release(set);
            }
        }
    }

    /// What a peer of `group`, or of none, gets of `offer`: the first part that is
    /// for it.
    pub fn set_for(&self, offer: u32, group: Option<GroupId>) -> Option<SetId> {
        let parts = self.whole.get(offer);
        let at = parts.iter().position(|part| part.peers.has(group))?;
        Some(self.parts[offer as usize][at] + 1)
    }

    pub fn attributes(&self, set: SetId) -> &PathAttributes {
        self.sets.get(set - 1)
    }

    /// How many different attribute sets there are.
    pub fn sets(&self) -> usize {
        self.sets.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(peers: Peers, prepend: u8) -> Offer {
        Offer {
            peers,
            attributes: PathAttributes {
                prepend,
                ..PathAttributes::default()
            },
        }
    }

    #[test]
    fn equal_things_are_kept_once_and_for_as_long_as_they_are_used() {
        let mut offers = Offers::new();
        let first = GroupId(0);
        let some = vec![offer(Peers::Only([first].into()), 2), offer(Peers::All, 1)];
        let all = vec![offer(Peers::All, 1)];
        let a = offers.hold(&some);
        let b = offers.hold(&all);
        assert_eq!((offers.hold(&all), offers.sets()), (b, 2));
        let prepend = |offers: &Offers, offer, group| {
            let set = offers.set_for(offer, Some(group))?;
            Some(offers.attributes(set).prepend)
        };
        assert_eq!(prepend(&offers, a, first), Some(2));
        assert_eq!(prepend(&offers, a, GroupId(1)), Some(1));
        assert_eq!(
            offers.set_for(a, None),
            offers.set_for(b, Some(first)),
            "the same attributes are the same set"
        );
        let none = offers.hold(&[offer(Peers::Only(BTreeSet::new()), 1)]);
        assert_eq!(prepend(&offers, none, first), None);
        for number in [a, b, b, none] {
            offers.release(number);
        }
        assert_eq!((offers.sets(), offers.whole.numbers.len()), (0, 0));
        assert_eq!(prepend_of_again(&mut offers, &some), Some(2));
    }

    fn prepend_of_again(offers: &mut Offers, offer: &[Offer]) -> Option<u8> {
        let number = offers.hold(offer);
        let set = offers.set_for(number, Some(GroupId(0)))?;
        Some(offers.attributes(set).prepend)
    }
}
