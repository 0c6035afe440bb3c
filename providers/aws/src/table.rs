//! Objects of one kind as last read, with what was written since.
//!
//! AWS's answers to `Describe…` may be older than a write that it has confirmed.
//! So for a while after a write, what was written is believed rather than what is
//! read.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Objects by ARN or id.
#[derive(Debug)]
pub(crate) struct Table<T> {
    items: BTreeMap<String, T>,
    /// When each was last written; also of those that were deleted.
    written: HashMap<String, Instant>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            written: HashMap::new(),
        }
    }
}

impl<T> Table<T> {
    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.items.get(id)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.items.values()
    }

    /// Changes an object after a write.
    pub(crate) fn wrote(&mut self, id: &str, now: Instant, change: impl FnOnce(&mut T)) {
        if let Some(item) = self.items.get_mut(id) {
            change(item);
            self.written.insert(id.to_owned(), now);
        }
    }

    /// Changes an object after a read of a part of it.
    pub(crate) fn learnt(&mut self, id: &str, change: impl FnOnce(&mut T)) {
        if let Some(item) = self.items.get_mut(id) {
            change(item);
        }
    }

    /// An object was made, or found by reading it alone.
    pub(crate) fn insert(&mut self, id: String, item: T, now: Instant) {
        self.written.insert(id.clone(), now);
        self.items.insert(id, item);
    }

    /// An object was deleted.
    pub(crate) fn remove(&mut self, id: &str, now: Instant) -> Option<T> {
        self.written.insert(id.to_owned(), now);
        self.items.remove(id)
    }

    /// Takes over a complete reading that began at `began`. `merge` sees what was
    /// known and is believed, and what was read of it.
    pub(crate) fn replace(
        &mut self,
        read: impl IntoIterator<Item = (String, T)>,
        began: Instant,
        lag: Duration,
        merge: impl Fn(&mut T, &T),
    ) {
        self.written.retain(|_, at| *at + lag > began);
        let mut read: BTreeMap<String, T> = read.into_iter().collect();
        for id in self.written.keys() {
            let now = read.remove(id);
            let Some(mut known) = self.items.remove(id) else {
                continue;
            };
            if let Some(now) = now {
                merge(&mut known, &now);
            }
            read.insert(id.clone(), known);
        }
        self.items = read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_secs(10);

    fn read(table: &mut Table<u8>, began: Instant, items: &[(&str, u8)]) -> Vec<(String, u8)> {
        let items: Vec<_> = items.iter().map(|(id, v)| ((*id).to_owned(), *v)).collect();
        table.replace(items, began, LAG, |_, _| ());
        table.items.clone().into_iter().collect()
    }

    #[test]
    fn a_write_is_believed_until_reads_must_know_of_it() {
        let now = Instant::now();
        let mut table = Table::default();
        read(&mut table, now, &[("a", 1), ("b", 1)]);
        table.wrote("a", now, |v| *v = 2);
        table.remove("b", now);
        table.insert("c".into(), 2, now);
        let soon = read(&mut table, now + LAG / 2, &[("a", 1), ("b", 1)]);
        assert_eq!(soon, [("a".into(), 2), ("c".into(), 2)]);
        let later = read(&mut table, now + LAG * 2, &[("a", 3), ("b", 3)]);
        assert_eq!(later, [("a".into(), 3), ("b".into(), 3)]);
    }
}
