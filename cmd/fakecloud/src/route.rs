//! Where a frontend sends its traffic now, and what it shares with its
//! connections and flows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use herald_core::IpFamily;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::state::Program;

/// Where a frontend sends its traffic now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Those whose connections may go on.
    pub registered: BTreeSet<IpAddr>,
    /// Those that get new traffic. One that is there twice gets twice as much.
    pub healthy: Vec<SocketAddr>,
}

impl Route {
    /// The route of a frontend of `family` that sends to `target_port`.
    pub fn new(program: &Program, family: IpFamily, target_port: u16) -> Self {
        let targets = || {
            program
                .targets
                .iter()
                .filter(|(address, _)| IpFamily::of(address) == family)
        };
        Self {
            registered: targets().map(|(address, _)| *address).collect(),
            healthy: targets()
                .filter(|(_, healthy)| **healthy)
                .map(|(address, _)| SocketAddr::new(*address, target_port))
                .collect(),
        }
    }

    /// Every healthy target once, beginning with the one whose turn it is.
    pub fn from_turn(&self, turn: usize) -> Vec<SocketAddr> {
        let count = self.healthy.len();
        (0..count)
            .map(|offset| self.healthy[(turn % count + offset) % count])
            .collect()
    }

    /// Whether new traffic may go to `target`.
    pub fn is_healthy(&self, target: SocketAddr) -> bool {
        self.healthy.contains(&target)
    }
}

/// How long things may take and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A target must accept a connection within this time.
    pub connect_timeout: Duration,
    /// How long connections to a removed target or listener may go on.
    pub drain_time: Duration,
    /// A UDP flow ends after this time without a datagram.
    pub flow_idle_time: Duration,
    /// UDP flows of one listener.
    pub flows: usize,
}

/// What a frontend, its connections and its flows share.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// Where to send to.
    pub route: watch::Receiver<Route>,
    /// The listener is gone: nothing new, what is there drains.
    pub closing: CancellationToken,
    /// The load balancer is gone: everything ends.
    pub cut: CancellationToken,
    /// Times and numbers.
    pub limits: Limits,
    /// Where to count.
    pub metrics: Metrics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_round_and_name_every_healthy_target_once() {
        let route = Route {
            healthy: vec![
                ([10, 0, 0, 1], 80).into(),
                ([10, 0, 0, 2], 80).into(),
                ([10, 0, 0, 3], 80).into(),
            ],
            ..Route::default()
        };
        let order = |turn| -> Vec<u8> {
            route
                .from_turn(turn)
                .iter()
                .map(|target| match target.ip() {
                    IpAddr::V4(address) => address.octets()[3],
                    IpAddr::V6(_) => 0,
                })
                .collect()
        };
        assert_eq!(order(0), [1, 2, 3]);
        assert_eq!(order(1), [2, 3, 1]);
        assert_eq!(order(usize::MAX), order(usize::MAX % 3));
        assert!(Route::default().from_turn(5).is_empty());
    }
}
