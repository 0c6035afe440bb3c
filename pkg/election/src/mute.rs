//! Owners that live and do not answer: their speakers are heard, and who asks
//! for their addresses hears nothing.
//!
//! Candidates ask, as clients would, and say in their heartbeats of whom they
//! got no answer ([`Unanswered`]). What two of them say, or the only one there
//! is, counts: the group is to move. Whoever did not answer for it holds itself back
//! for [`DAMPING`](crate::DAMPING), and says so in its claim: it takes the group only
//! where nobody else can, and nobody takes it for this reason twice, so that a network
//! in which nobody's answers get through is not made to move everything round and round.

use std::time::Instant;

use crate::election::Election;
use crate::group::Entry;
use crate::id::NodeId;
use crate::peers::Liveness;
use crate::wire::Unanswered;

/// So many that ask in vain are believed, if there are as many.
const WITNESSES: usize = 2;

impl Election {
    /// What this node asked for and got no answer to, all of it, whenever that
    /// changes. Only who hears answers to other questions may say so; who hears
    /// none at all is deaf itself.
    pub fn set_unanswered(&mut self, unanswered: Vec<Unanswered>, now: Instant) {
        if self.unanswered == unanswered {
            return;
        }
        self.unanswered = unanswered;
        self.urgent();
        self.all_dirty();
        self.handle_timeout(now);
    }

    /// Whether those who could have the group in a holder's place say that it
    /// does not answer.
    pub(crate) fn is_mute(&self, entry: &Entry, holder: NodeId) -> bool {
        let says = |said: &[Unanswered]| {
            let mut said = said.iter();
            said.any(|it| it.owner == holder && it.group.is_none_or(|group| group == entry.spec.id))
        };
        let (mut others, mut witnesses) = (0, 0);
        for candidate in entry.spec.candidates.iter().map(|c| c.node) {
            let said = if candidate == holder {
                continue;
            } else if candidate == self.config.node {
                &self.unanswered
            } else if let Some(peer) = self.peers.get(candidate)
                && peer.liveness(entry.spec.profile) == Liveness::Up
                && !peer.draining
            {
                &peer.unanswered
            } else {
                continue;
            };
            others += 1;
            witnesses += usize::from(says(said));
        }
        witnesses > 0 && witnesses >= WITNESSES.min(others)
    }
}
