//! What the port has to say: how others see addresses, and who claims ours.

use std::net::IpAddr;
use std::time::Instant;

use herald_election::NodeId;
use herald_l2::Verdict;

use super::Segment;
use crate::port::PortEvent;

impl Segment {
    /// What the port has to say.
    pub(super) fn heard(&mut self, event: PortEvent) {
        match event {
            PortEvent::Answered(host) => {
                if let (Some(node), Some(election)) = (self.beats.node_at(host), &mut self.election)
                {
                    election.node_answered(node, Instant::now());
                }
            }
            PortEvent::Announcer(herald_l2::Event::Succeeded { address, mac }) => {
                tracing::info!(%address, %mac, "handed over");
                self.yielding.remove(&address);
            }
            PortEvent::Announcer(herald_l2::Event::Unclaimed { address }) => {
                tracing::warn!(%address, "given up, but its new owner was not heard here");
                self.yielding.remove(&address);
            }
            PortEvent::Announcer(event) => self.heard_claim(event),
            PortEvent::Mute(owner, mute) => {
                let owner = NodeId(owner);
                let node = self.name_of(owner);
                if mute {
                    tracing::error!(node, "answers none of our questions about its addresses");
                    self.mute.insert(owner);
                } else {
                    tracing::info!(node, "is not unanswered any more");
                    self.mute.remove(&owner);
                }
                self.say_unanswered(Instant::now());
            }
            PortEvent::Verdict(address, verdict) => self.heard_verdict(address, verdict),
        }
    }

    /// Another host says something of an address that is ours.
    pub(super) fn heard_claim(&self, event: herald_l2::Event) {
        use herald_l2::Event as Claim;
        match event {
            Claim::Conflict { address, mac } => self.warn(
                address,
                "AddressConflict",
                &format!(
                    "a host with hardware address {mac} also claims {address}, which node {} announces; \
                     find it and take the address off it, or take the address out of the pool",
                    self.common.node
                ),
            ),
            Claim::InUse { address, mac } => self.warn(
                address,
                "AddressInUse",
                &format!(
                    "{address} is not announced: a host with hardware address {mac} has it already; \
                     find it and take the address off it, or take the address out of the pool"
                ),
            ),
            Claim::ConflictEnded { address } => {
                tracing::info!(%address, "no other host claims the address any more");
            }
            Claim::Contested { address, mac } => {
                tracing::warn!(%address, %mac, "another speaker announces the address too");
            }
            Claim::Succeeded { .. } | Claim::Unclaimed { .. } => {}
        }
    }

    /// How an address is answered for that another node has.
    pub(super) fn heard_verdict(&mut self, address: IpAddr, verdict: Verdict) {
        if verdict == Verdict::Silent {
            self.silent.insert(address);
        } else {
            self.silent.remove(&address);
        }
        self.say_unanswered(Instant::now());
        let node = &self.common.node;
        match verdict {
            Verdict::Answered(mac) => tracing::debug!(%address, %mac, "answered for"),
            Verdict::Silent => self.warn(
                address,
                "AddressUnanswered",
                &format!(
                    "nobody answers for {address} when node {node} asks, though another node has it; \
                     see whether that node's speaker is well and what the switch filters"
                ),
            ),
            Verdict::Unheard => self.warn(
                address,
                "AddressUnanswered",
                &format!(
                    "nobody answers for {address} when node {node} asks, nor for the addresses of other \
                     nodes; see whether {node} is cut off and what the switch filters"
                ),
            ),
            Verdict::Several(one, other) => self.warn(
                address,
                "AddressAnsweredTwice",
                &format!(
                    "hosts with hardware addresses {one} and {other} both answer for {address} when \
                     node {node} asks; only one node should"
                ),
            ),
        }
    }

    /// Warns the owners of the Services that have an address.
    pub(super) fn warn(&self, address: IpAddr, reason: &'static str, text: &str) {
        tracing::error!(%address, "{text}");
        let vips = self.view.iter().flat_map(|view| view.vips());
        for vip in vips.filter(|vip| vip.0 == address) {
            self.tell(std::slice::from_ref(vip), true, reason, text);
        }
    }
}
