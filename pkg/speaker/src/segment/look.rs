//! What is looked at now and then: the node's settings, and what others own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use herald_election::{Liveness, NodeId};

use super::Segment;
use crate::port::Question;
use crate::traps::Subject;
use crate::view::SegmentView;

/// Between two looks, as settings tell nobody when they change.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// So many nodes check an address: one alone may be the one that has it on an
/// interface, and does not hear its own kernel.
const CHECKERS: usize = 2;

impl Segment {
    /// Looks at the node's settings, and at what others own.
    pub(super) fn look_around(&mut self, now: Instant) {
        self.look_at = now + LOOK_AGAIN;
        let Some(view) = self.view.clone() else {
            return;
        };
        let subjects = view.groups.iter().flat_map(|(group, vips)| {
            let own = self.holding.contains_key(group);
            vips.iter().flat_map(move |(address, services)| {
                services.iter().map(move |service| Subject {
                    address: *address,
                    service,
                    own,
                })
            })
        });
        let on_host = self.orders.borrow().on_host.clone();
        let notes = self.traps.look(&on_host, subjects, &self.common.metrics);
        for note in notes {
            self.note(note);
        }
        let check = if self.stopping.is_none() && self.common.check {
            self.to_check(&view)
        } else {
            BTreeSet::new()
        };
        if check != self.check {
            self.check = check;
            let own = self.plan.borrow().own.clone();
            self.publish(&own);
            self.look_at = now + LOOK_AGAIN;
        }
    }

    /// The addresses of others that this node checks: of each group the live
    /// candidates that follow the owner in the order of their numbers.
    pub(super) fn to_check(&self, view: &SegmentView) -> BTreeSet<IpAddr> {
        let Some(election) = &self.election else {
            return BTreeSet::new();
        };
        let checks = |group: &&herald_election::Group| {
            let Some(owner) = election.owner(group.id).filter(|owner| *owner != self.me) else {
                return false;
            };
            let up = |node| {
                node == self.me || election.liveness(node, group.profile) == Some(Liveness::Up)
            };
            let others = group.candidates.iter().map(|candidate| candidate.node);
            let mut others: Vec<NodeId> =
                others.filter(|node| *node != owner && up(*node)).collect();
            // Those behind the owner come first.
            others.sort_unstable_by_key(|node| (*node < owner, *node));
            others.iter().take(CHECKERS).any(|node| *node == self.me)
        };
        let groups = view.election.groups.iter().filter(checks);
        groups
            .filter_map(|group| view.groups.get(&group.id))
            .flatten()
            .map(|(address, _)| *address)
            .collect()
    }

    /// Asks whether a node is there. By ARP, so of nodes that are heard by IPv4.
    pub(super) fn ask(&self, node: NodeId) {
        let Some(to) = self.beats.whereabouts(node) else {
            return;
        };
        let from = self.interface.addresses.iter().find_map(|(own, length)| {
            let IpAddr::V4(address) = own else {
                return None;
            };
            let same = herald_net::same_subnet(own, &to.into(), *length);
            same.then_some(*address)
        });
        let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let _ = self.questions.send(Question { from, to });
    }
}
