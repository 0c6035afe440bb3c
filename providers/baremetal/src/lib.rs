//! Addresses from pools.
