//! The free addresses of one range, as a set of intervals: it costs what is
//! used, not how large the range is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_core::AddressRange;

/// Which addresses of a range are free.
#[derive(Clone, Debug)]
pub(crate) struct Free {
    range: AddressRange,
    /// First and last offset of each interval.
    intervals: BTreeMap<u128, u128>,
}

impl Free {
    /// All of them.
    pub(crate) fn all(range: AddressRange) -> Self {
        Self {
            range,
            intervals: BTreeMap::from([(0, range.size() - 1)]),
        }
    }

    pub(crate) const fn range(&self) -> &AddressRange {
        &self.range
    }

    /// Takes an address out, if it is in the range and free.
    pub(crate) fn take(&mut self, address: &IpAddr) {
        let Some(offset) = self.offset(address) else {
            return;
        };
        let Some((&first, &last)) = self.intervals.range(..=offset).next_back() else {
            return;
        };
        if offset > last {
            return;
        }
        self.intervals.remove(&first);
        if first < offset {
            self.intervals.insert(first, offset - 1);
        }
        if offset < last {
            self.intervals.insert(offset + 1, last);
        }
    }

    /// Takes all addresses from `first` to `last` out, as far as they are in the
    /// range.
    pub(crate) fn take_all(&mut self, taken: &AddressRange) {
        if !self.range.overlaps(taken) {
            return;
        }
        let first = self.offset(&taken.first()).unwrap_or(0);
        let last = self
            .offset(&taken.last())
            .unwrap_or_else(|| self.range.size() - 1);
        let inside: Vec<(u128, u128)> = self
            .intervals
            .range(..=last)
            .rev()
            .map(|(a, b)| (*a, *b))
            .take_while(|(_, b)| *b >= first)
            .collect();
        for (a, b) in inside {
            self.intervals.remove(&a);
            if a < first {
                self.intervals.insert(a, first - 1);
            }
            if b > last {
                self.intervals.insert(last + 1, b);
            }
        }
    }

    /// The first free address that `usable` accepts.
    pub(crate) fn first(&self, usable: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.at_or_after(0, usable)
    }

    /// The first free address that `usable` accepts and that is at least `offset`
    /// places above the range's first. Of each interval only three are asked
    /// about: of three neighbours at most two are refused by the one rule there
    /// is (no .0, no .255).
    pub(crate) fn at_or_after(
        &self,
        offset: u128,
        usable: impl Fn(&IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let around = self.intervals.range(..=offset).next_back();
        let around = around.filter(|(first, last)| **first < offset && offset <= **last);
        around
            .map(|(_, last)| (offset, *last))
            .into_iter()
            .chain(self.intervals.range(offset..).map(|(a, b)| (*a, *b)))
            .find_map(|(first, last)| {
                (first..=last)
                    .take(3)
                    .filter_map(|offset| self.range.nth(offset))
                    .find(|address| usable(address))
            })
    }

    fn offset(&self, address: &IpAddr) -> Option<u128> {
        if !self.range.contains(address) {
            return None;
        }
        match (self.range.first(), address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                Some(u128::from(address.to_bits() - first.to_bits()))
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => Some(address.to_bits() - first.to_bits()),
            _ => None,
        }
    }

    /// Puts an address back.
    pub(crate) fn give(&mut self, address: &IpAddr) {
        let Some(offset) = self.offset(address) else {
            return;
        };
        let before = self
            .intervals
            .range(..=offset)
            .next_back()
            .map(|(a, b)| (*a, *b));
        if before.is_some_and(|(_, last)| offset <= last) {
            return;
        }
        let mut interval = (offset, offset);
        if let Some((first, last)) = before
            && last + 1 == offset
        {
            self.intervals.remove(&first);
            interval.0 = first;
        }
        if let Some(last) = self.intervals.remove(&(offset + 1)) {
            interval.1 = last;
        }
        self.intervals.insert(interval.0, interval.1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn intervals_hold_what_a_set_would(
            steps in proptest::collection::vec((any::<bool>(), 0u128..20), 0..200),
        ) {
            let range: AddressRange = "10.0.0.250-10.0.1.13".parse().unwrap();
            let mut free = Free::all(range);
            let mut model: BTreeSet<IpAddr> =
                (0..range.size()).filter_map(|i| range.nth(i)).collect();
            for (take, offset) in steps {
                let address = range.nth(offset).unwrap();
                if take {
                    free.take(&address);
                    model.remove(&address);
                } else {
                    free.give(&address);
                    model.insert(address);
                }
                prop_assert_eq!(free.first(|_| true), model.first().copied());
                let from = range.nth(offset).unwrap();
                let next = model.range(from..).next().copied();
                prop_assert_eq!(free.at_or_after(offset, |_| true), next);
            }
        }
    }

    #[test]
    fn whole_stretches_are_taken_out() {
        let mut free = Free::all("10.0.0.0/24".parse().unwrap());
        for taken in [
            "9.0.0.0-10.0.0.9",
            "10.0.0.20-10.0.0.29",
            "10.0.0.25-10.0.0.40",
        ] {
            free.take_all(&taken.parse().unwrap());
        }
        let intervals: Vec<_> = free.intervals.iter().map(|(a, b)| (*a, *b)).collect();
        assert_eq!(intervals, [(10, 19), (41, 255)]);
    }

    #[test]
    fn a_range_of_any_size_costs_the_same() {
        let mut free = Free::all("fd00::/16".parse().unwrap());
        for _ in 0..100 {
            let first = free.first(|_| true).unwrap();
            free.take(&first);
        }
        assert_eq!(free.intervals.len(), 1);
    }
}
