//! What a node says that it owns, and how others come to know all of it.
//!
//! A node numbers every change of its claims. Heartbeats carry the claims that
//! changed after what the slowest listener has, in pages of a datagram; a
//! listener takes the pages in order and says in its own heartbeats how far it
//! has come. So 10,000 claims cost nothing while nothing changes, a change is
//! told at once, and what was lost is sent again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::id::{GroupId, NodeId};
use crate::profile::Profile;

/// What a node has to do with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It had it and gave it up.
    Released,
    /// It asks the others to let it have the group (policy `strict`).
    Acquiring,
    /// It owns it.
    Holding,
}

/// A node's word about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Which group.
    pub group: GroupId,
    /// Grows with each owner of the group.
    pub epoch: u32,
    /// How much the node is wanted as its owner; settles equal epochs.
    pub priority: u8,
    /// What the node has to do with it.
    pub standing: Standing,
    /// By whose timers the node may be taken for dead.
    pub profile: Profile,
    /// Whether the group is under the policy `strict`.
    pub strict: bool,
    /// Whether it moved so often lately that nobody should take it while its
    /// owner is well. Who has started again could not know.
    pub damped: bool,
    /// Whether the node had it lately, did not answer for it, and takes it only
    /// where nobody else can. Who has started since could not know.
    pub unanswered: bool,
}

impl Claim {
    /// Of two owners the one with the greater key keeps the group.
    pub(crate) const fn key(&self, node: NodeId) -> (u32, u8, NodeId) {
        (self.epoch, self.priority, node)
    }
}

/// Claims that changed after version `from`, up to version `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What a listener must have for the page to be of use.
    pub from: u64,
    /// What it has afterwards.
    pub to: u64,
    /// The claims as they are now.
    pub claims: Vec<Claim>,
}

/// A node's own claims.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    claims: HashMap<GroupId, (Claim, u64)>,
    changes: BTreeMap<u64, GroupId>,
    version: u64,
    floor: u64,
    /// Groups that there are no more, to be forgotten when everybody knows.
    gone: BTreeSet<GroupId>,
}

impl Ledger {
    /// How many changes there were.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// Who has less than this may have missed that a group was forgotten.
    pub(crate) const fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<&Claim> {
        self.claims.get(&group).map(|(claim, _)| claim)
    }

    /// The version at which a claim took its present form.
    pub(crate) fn version_of(&self, group: GroupId) -> Option<u64> {
        self.claims.get(&group).map(|(_, version)| *version)
    }

    /// Sets a claim; nothing happens where nothing is different.
    pub(crate) fn set(&mut self, claim: Claim) {
        if self.get(claim.group) == Some(&claim) {
            return;
        }
        self.version += 1;
        if let Some((_, before)) = self.claims.insert(claim.group, (claim, self.version)) {
            self.changes.remove(&before);
        }
        self.changes.insert(self.version, claim.group);
    }

    /// The page of at most `limit` claims for one who has `from`; none where
    /// that is all.
    pub(crate) fn page(&self, from: u64, limit: usize) -> Option<Page> {
        if from >= self.version {
            return None;
        }
        let mut claims = Vec::new();
        let mut to = self.version;
        for (version, group) in self.changes.range(from + 1..) {
            if claims.len() == limit {
                break;
            }
            claims.extend(self.get(*group));
            to = *version;
        }
        // A page that holds the last change says so.
        if self.changes.range(to + 1..).next().is_none() {
            to = self.version;
        }
        Some(Page { from, to, claims })
    }

    /// A group is needed no more.
    pub(crate) fn abandon(&mut self, group: GroupId) {
        self.gone.insert(group);
    }

    /// Forgets groups that are needed no more, that were given up, and that everybody
    /// knows of (who listens has version `known`). `needed` are some all the same: they
    /// are there again.
    pub(crate) fn forget(&mut self, known: u64, needed: impl Fn(GroupId) -> bool) {
        self.gone.retain(|group| {
            let Some((claim, version)) = self.claims.get(group).copied() else {
                return false;
            };
            if needed(*group) {
                return false;
            }
            if claim.standing != Standing::Released || version > known {
                return true;
            }
            self.changes.remove(&version);
            self.claims.remove(group);
            self.floor = self.floor.max(version);
            false
        });
    }
}

/// What we know of another node's claims.
#[derive(Debug, Default)]
pub(crate) struct Copy {
    claims: HashMap<GroupId, Claim>,
    have: u64,
    /// The greatest floor that was heeded.
    base: u64,
}

impl Copy {
    /// Up to which version they are known.
    pub(crate) const fn have(&self) -> u64 {
        self.have
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<&Claim> {
        self.claims.get(&group)
    }

    /// Begins anew if groups may have been forgotten that we do not know of,
    /// and names those that we knew.
    pub(crate) fn rebase(&mut self, floor: u64) -> Vec<GroupId> {
        if floor <= self.base {
            return Vec::new();
        }
        self.base = floor;
        if self.have >= floor {
            return Vec::new();
        }
        self.have = 0;
        self.claims.drain().map(|(group, _)| group).collect()
    }

    /// Takes a page in, and names the groups that it changed. One that begins
    /// after what we have is of no use.
    pub(crate) fn apply(&mut self, page: &Page) -> Vec<GroupId> {
        let mut changed = Vec::new();
        if page.from > self.have || page.to <= self.have {
            return changed;
        }
        for claim in &page.claims {
            if self.claims.insert(claim.group, *claim) != Some(*claim) {
                changed.push(claim.group);
            }
        }
        self.have = page.to;
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(group: u64, epoch: u32, standing: Standing) -> Claim {
        Claim {
            group: GroupId(group),
            epoch,
            priority: 1,
            standing,
            profile: Profile::Default,
            strict: false,
            damped: false,
            unanswered: false,
        }
    }

    fn holding(ledger: &Ledger) -> BTreeMap<u64, u32> {
        let claims = ledger.claims.values();
        claims
            .filter(|(claim, _)| claim.standing == Standing::Holding)
            .map(|(claim, _)| (claim.group.0, claim.epoch))
            .collect()
    }

    fn known(copy: &Copy) -> BTreeMap<u64, u32> {
        let claims = copy.claims.values();
        claims
            .filter(|claim| claim.standing == Standing::Holding)
            .map(|claim| (claim.group.0, claim.epoch))
            .collect()
    }

    proptest! {
        /// Whatever is claimed, given up and forgotten, and whichever pages are
        /// lost: in the end a listener knows what is held.
        #[test]
        fn a_listener_catches_up(
            steps in proptest::collection::vec((0_u64..12, 0_u8..4, any::<bool>()), 1..80),
            limit in 1_usize..6,
        ) {
            let mut ledger = Ledger::default();
            let mut copies = [Copy::default(), Copy::default()];
            for (epoch, (group, action, lost)) in (1_u32..).zip(steps) {
                match action {
                    0 | 1 => ledger.set(claim(group, epoch, Standing::Holding)),
                    2 => ledger.set(claim(group, epoch, Standing::Released)),
                    _ => {
                        // The second one is away and is not waited for.
                        let have = copies[0].have();
                        (0..12).for_each(|i| ledger.abandon(GroupId(i)));
                        ledger.forget(have, |other| other.0 == group);
                    }
                }
                if !lost && let Some(page) = ledger.page(copies[0].have(), limit) {
                    for copy in &mut copies {
                        copy.rebase(ledger.floor());
                        copy.apply(&page);
                    }
                }
            }
            for copy in &mut copies {
                copy.rebase(ledger.floor());
                for _ in 0..200 {
                    if let Some(page) = ledger.page(copy.have(), limit) {
                        copy.apply(&page);
                    }
                }
                prop_assert_eq!(copy.have(), ledger.version());
                prop_assert_eq!(known(copy), holding(&ledger));
            }
        }
    }

    #[test]
    fn nothing_is_sent_while_nothing_changes() {
        let mut ledger = Ledger::default();
        ledger.set(claim(1, 1, Standing::Holding));
        ledger.set(claim(1, 1, Standing::Holding));
        assert_eq!(ledger.version(), 1);
        assert_eq!(ledger.page(1, 10), None);
    }
}
