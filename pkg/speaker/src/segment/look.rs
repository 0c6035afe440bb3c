//! What is looked at now and then: the node's settings, and what others own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use herald_election::{Liveness, NodeId, Unanswered};

use super::Segment;
use crate::duties::Vip;
use crate::port::Question;
use crate::traps::Subject;
use crate::view::SegmentView;

/// Between two looks, as settings tell nobody when they change.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// So many nodes check an address: one alone may be the one that has it on an
/// interface, and does not hear its own kernel.
const CHECKERS: usize = 2;

/// So many hosts are asked for their own addresses while something is in doubt.
const CONTROLS: usize = 3;

impl Segment {
    /// Looks at the node's settings, and at what others own.
    pub(super) fn look_around(&mut self, now: Instant) {
        self.look_at = now + LOOK_AGAIN;
        let Some(view) = self.view.clone() else {
            return;
        };
        self.forget_told(&view);
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
            BTreeMap::new()
        };
        if check != self.check {
            let before = std::mem::replace(&mut self.check, check);
            let same = |address: &IpAddr| before.get(address) == self.check.get(address);
            self.silent.retain(same);
            self.say_unanswered(now);
            let own = self.plan.borrow().own.clone();
            self.publish(&own);
            self.look_at = now + LOOK_AGAIN;
        }
    }

    /// Of what others have they tell.
    fn forget_told(&mut self, view: &SegmentView) {
        let Some(election) = &self.election else {
            return;
        };
        let others = view.groups.iter().filter(|(group, _)| {
            let owner = election.owner(**group);
            owner.is_some_and(|owner| owner != self.me)
        });
        let addresses = others.flat_map(|(_, vips)| vips.iter().map(|vip| vip.0));
        self.told.forget(&addresses.collect());
    }

    /// The addresses of others that this node checks: of each group the live
    /// candidates that follow the owner in the order of their numbers.
    pub(super) fn to_check(&self, view: &SegmentView) -> BTreeMap<IpAddr, NodeId> {
        let Some(election) = &self.election else {
            return BTreeMap::new();
        };
        let checks = |group: &herald_election::Group| {
            let owner = election.owner(group.id).filter(|owner| *owner != self.me)?;
            let up = |node| {
                node == self.me || election.liveness(node, group.profile) == Some(Liveness::Up)
            };
            let others = group.candidates.iter().map(|candidate| candidate.node);
            let mut others: Vec<NodeId> =
                others.filter(|node| *node != owner && up(*node)).collect();
            // Those behind the owner come first.
            others.sort_unstable_by_key(|node| (*node < owner, *node));
            let ours = others.iter().take(CHECKERS).any(|node| *node == self.me);
            ours.then_some((group.id, owner))
        };
        let groups = view.election.groups.iter().filter_map(checks);
        groups
            .flat_map(|(group, owner)| {
                let vips = view.groups.get(&group).into_iter();
                let vips = vips.flat_map(|vips| vips.iter());
                vips.map(move |(address, _)| (*address, owner))
            })
            .collect()
    }

    /// Addresses that other nodes have for their own. Who hears no answer for
    /// these either is deaf, and says nothing of others.
    pub(super) fn controls(&self) -> BTreeSet<IpAddr> {
        let peers = self.view.iter().flat_map(|view| &view.peers);
        peers
            .filter_map(|peer| peer.here.first().copied())
            .take(CONTROLS)
            .collect()
    }

    /// Tells the election who does not answer.
    pub(super) fn say_unanswered(&mut self, now: Instant) {
        let (Some(election), Some(view)) = (&mut self.election, &self.view) else {
            return;
        };
        let all = self.mute.iter().map(|owner| Unanswered {
            owner: *owner,
            group: None,
        });
        let silent = |vips: &[Vip]| {
            vips.iter()
                .any(|(address, _)| self.silent.contains(address))
        };
        let some = view.groups.iter().filter(|(_, vips)| silent(vips));
        let some = some.filter_map(|(group, _)| {
            let owner = election.owner(*group)?;
            let told = owner != self.me && !self.mute.contains(&owner);
            told.then_some(Unanswered {
                owner,
                group: Some(*group),
            })
        });
        let unanswered = all.chain(some).collect();
        election.set_unanswered(unanswered, now);
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
