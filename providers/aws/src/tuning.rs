//! Times that are the same for all users; tests have others.

use std::time::Duration;

/// How long the provider waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The account is read anew when what is known is older (10 min).
    pub reading_age: Duration,
    /// Reads may not know of a write for this long (10 s).
    pub lag: Duration,
    /// Between two looks at load balancers that AWS makes (4 s); one call for 20 of them.
    pub poll: Duration,
    /// Details of each Service are read again in the background after this long (1 h).
    pub check_every: Duration,
    /// A load balancer that does not get the cluster's nodes keeps their record off until
    /// nobody has changed any targets for this long (2 min).
    pub stragglers: Duration,
    /// Changes of nodes and endpoints are gathered until none came for this long (2 s),
    pub gather: Duration,
    /// but at most for this long (6 s).
    pub gather_at_most: Duration,
    /// The first wait while AWS still uses what is to be deleted (10 s); twice as long
    /// each time,
    pub hold: Duration,
    /// up to this (1 min).
    pub hold_at_most: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            reading_age: Duration::from_mins(10),
            lag: Duration::from_secs(10),
            poll: crate::status::POLL,
            check_every: Duration::from_hours(1),
            stragglers: Duration::from_mins(2),
            gather: Duration::from_secs(2),
            gather_at_most: Duration::from_secs(6),
            hold: Duration::from_secs(10),
            hold_at_most: Duration::from_mins(1),
        }
    }
}
