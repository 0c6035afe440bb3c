//! A range of addresses that are given out in turn.

use std::collections::BTreeSet;
use std::net::IpAddr;

use herald_core::{AddressRange, IpFamily};

/// A range of addresses.
#[derive(Debug)]
pub struct Pool {
    range: AddressRange,
    /// Where the search for a free address goes on, so that an address just
    /// freed is not given to another at once.
    next: u128,
}

impl Pool {
    /// A pool that has given nothing yet.
    pub const fn new(range: AddressRange) -> Self {
        Self { range, next: 0 }
    }

    /// Of which family its addresses are.
    pub const fn family(&self) -> IpFamily {
        self.range.family()
    }

    /// The next address that is not `taken`. Where the pool has a choice, its
    /// lowest address (a network's own, RFC 4291 section 2.6.1 for IPv6) is
    /// left out.
    pub fn take(&mut self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let size = self.range.size();
        let skipped = u128::from(size > 1);
        let usable = size - skipped;
        // Among one address more than are taken, one is free.
        let tries = usable.min(taken.len() as u128 + 1);
        for _ in 0..tries {
            let address = self.range.nth(skipped + self.next % usable)?;
            self.next = (self.next + 1) % usable;
            if !taken.contains(&address) {
                return Some(address);
            }
        }
        None
    }
}
