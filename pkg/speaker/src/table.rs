//! Objects of one kind as the API last told them.

use std::collections::BTreeMap;

/// One step of a watch. A watch begins with a list, and begins anew where the
/// API lost its place or went away.
#[derive(Debug)]
pub(crate) enum Step<K, V> {
    /// A list begins.
    Begin,
    /// An object of that list.
    Listed(K, Option<V>),
    /// The list is complete.
    Complete,
    /// An object is new or has changed; no value where it does not concern us.
    Put(K, Option<V>),
    /// An object is gone.
    Remove(K),
}

/// The objects of one kind. A list under way takes nothing away: it replaces
/// what is known as a whole when it is complete.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    known: BTreeMap<K, V>,
    listed: BTreeMap<K, V>,
    complete: bool,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            listed: BTreeMap::new(),
            complete: false,
        }
    }
}

impl<K: Ord, V: PartialEq> Table<K, V> {
    /// Takes a step; says whether what is known has changed by it.
    pub(crate) fn apply(&mut self, step: Step<K, V>) -> bool {
        match step {
            Step::Begin => {
                self.listed.clear();
                false
            }
            Step::Listed(key, value) => {
                if let Some(value) = value {
                    self.listed.insert(key, value);
                }
                false
            }
            Step::Complete => {
                let first = !std::mem::replace(&mut self.complete, true);
                let listed = std::mem::take(&mut self.listed);
                let changed = self.known != listed;
                // Collected anew, the nodes of the tree are full: half as large.
                self.known = listed.into_iter().collect();
                first || changed
            }
            Step::Put(key, Some(value)) => {
                if self.known.get(&key) == Some(&value) {
                    return false;
                }
                self.known.insert(key, value);
                true
            }
            Step::Put(key, None) | Step::Remove(key) => self.known.remove(&key).is_some(),
        }
    }

    /// Whether a list has been complete once.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The objects by key.
    pub(crate) const fn known(&self) -> &BTreeMap<K, V> {
        &self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<&'static str, u8> {
        let mut table = Table::default();
        for step in [
            Step::Begin,
            Step::Listed("a", Some(1)),
            Step::Listed("b", Some(2)),
        ] {
            assert!(!table.apply(step));
        }
        assert!(!table.is_complete() && table.known().is_empty());
        assert!(table.apply(Step::Complete));
        table
    }

    #[test]
    fn a_list_under_way_takes_nothing_away() {
        let mut table = table();
        assert!(!table.apply(Step::Begin));
        assert!(!table.apply(Step::Listed("b", Some(3))));
        assert_eq!(table.known(), &BTreeMap::from([("a", 1), ("b", 2)]));
        assert!(table.apply(Step::Complete));
        assert_eq!(
            table.known(),
            &BTreeMap::from([("b", 3)]),
            "and then replaces all"
        );
    }

    #[test]
    fn a_list_that_is_cut_off_leaves_no_trace_in_the_next() {
        let mut table = table();
        table.apply(Step::Begin);
        table.apply(Step::Listed("c", Some(9)));
        table.apply(Step::Begin);
        table.apply(Step::Listed("a", Some(1)));
        table.apply(Step::Complete);
        assert_eq!(table.known(), &BTreeMap::from([("a", 1)]));
    }

    #[test]
    fn only_what_changes_is_told() {
        let mut table = table();
        assert!(!table.apply(Step::Put("a", Some(1))));
        assert!(table.apply(Step::Put("a", Some(2))));
        assert!(table.apply(Step::Put("a", None)), "it concerns us no more");
        assert!(!table.apply(Step::Remove("a")));
        assert!(table.apply(Step::Remove("b")));
    }

    #[test]
    fn the_same_list_again_changes_nothing() {
        let mut table = table();
        for step in [
            Step::Begin,
            Step::Listed("a", Some(1)),
            Step::Listed("b", Some(2)),
        ] {
            table.apply(step);
        }
        assert!(!table.apply(Step::Complete));
    }
}
