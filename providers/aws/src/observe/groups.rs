//! The Service's target groups, and what is registered in them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::account::owner;
use crate::client::{CallError, Caller};
use crate::cloud::{LoadBalancer, TargetGroup};
use crate::observed::{Adoption, HaveGroup, Observed, Want};
use crate::plan::lent;
use crate::provider::{Gathering, Shared};
use crate::record;
use crate::spec::{Spec, Target};

impl Shared {
    /// Target groups of the Service (by tags, or forwarded to by its load balancers) and
    /// those that have the names it wants, with their details.
    pub(super) fn groups_of(
        &self,
        observed: &Observed,
        want: Option<&Want>,
        present: bool,
    ) -> BTreeMap<String, HaveGroup> {
        let cluster = &self.settings.cluster_id;
        let adopted: BTreeSet<&str> = match &observed.adoption {
            Adoption::Controller { target_groups, .. } => target_groups
                .iter()
                .map(|group| group.arn.as_str())
                .collect(),
            _ => BTreeSet::new(),
        };
        let current = observed
            .current
            .as_ref()
            .map(|have| have.load_balancer.arn.as_str());
        let account = self.account();
        let mut found = BTreeMap::new();
        for group in account.target_groups.values() {
            let wanted = want
                .is_some_and(|want| want.spec.target_groups.iter().any(|w| w.name == group.name));
            let ours = match &group.tags {
                Some(tags) => owner(tags, cluster) == Some(observed.uid.as_str()),
                // Ours by name, and our load balancer forwards to it.
                None => {
                    present
                        && wanted
                        && group
                            .load_balancers
                            .iter()
                            .any(|arn| Some(arn.as_str()) == current)
                }
            } || adopted.contains(group.arn.as_str());
            if !ours && !wanted {
                continue;
            }
            let detail = account
                .target_group_details
                .get(&group.arn)
                .cloned()
                .unwrap_or_default();
            let mut have = HaveGroup {
                group: group.clone(),
                detail,
                ours,
                listed: listed(group),
            };
            let shared = want.is_some_and(|want| {
                want.spec
                    .target_groups
                    .iter()
                    .any(|w| w.name == group.name && w.shared)
            });
            if shared {
                leave_others(&mut have, want);
            }
            found.insert(group.name.clone(), have);
        }
        found
    }

    /// Target groups that came with a load balancer that was lent. Nothing in them is
    /// this cluster's to take out.
    pub(super) fn owners_groups(&self, observed: &Observed) -> Vec<HaveGroup> {
        let Some(have) = observed.current.as_ref().filter(|_| lent(observed)) else {
            return Vec::new();
        };
        let ours = |arn: &str| {
            let mut all = observed.target_groups.values();
            all.any(|have| have.ours && have.group.arn == arn)
        };
        let account = self.account();
        let of_it = account.target_groups.values().filter(|group| {
            group.load_balancers.contains(&have.load_balancer.arn) && !ours(&group.arn)
        });
        of_it
            .map(|group| HaveGroup {
                group: group.clone(),
                detail: crate::cloud::TargetGroupDetail::default(),
                ours: false,
                listed: Some(BTreeSet::new()),
            })
            .collect()
    }

    /// How long changes of targets are still gathered; none where they are due, or
    /// where there are none.
    pub(super) fn gather(&self, uid: &str, observed: &Observed, want: &Want) -> Option<Duration> {
        let now = Instant::now();
        let mut memory = self.memory();
        let changed = want.spec.target_groups.iter().any(|group| {
            let is = observed
                .target_groups
                .get(&group.name)
                .and_then(|have| have.detail.targets.as_ref());
            // The first targets do not wait.
            is.is_some_and(|is| !is.is_empty() && *is != group.targets)
        });
        if !changed {
            memory.gathering.remove(uid);
            return None;
        }
        let to: Vec<BTreeSet<Target>> = want
            .spec
            .target_groups
            .iter()
            .map(|group| group.targets.clone())
            .collect();
        let gathering = memory
            .gathering
            .entry(uid.to_owned())
            .or_insert_with(|| Gathering {
                first: now,
                last: now,
                to: to.clone(),
            });
        if gathering.to != to {
            gathering.last = now;
            gathering.to = to;
        }
        let due =
            (gathering.last + self.tuning.gather).min(gathering.first + self.tuning.gather_at_most);
        let left = due.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Tags of target groups that the Service's load balancers forward to and that
    /// nobody has read yet: what is not the Service's is not to be deleted with it.
    pub(crate) async fn read_tags_of_groups(
        &self,
        caller: Caller<'_>,
        load_balancers: &[LoadBalancer],
        wanted: Option<&Spec>,
    ) -> Result<(), CallError> {
        let arns: Vec<String> = {
            let account = self.account();
            account
                .target_groups
                .values()
                .filter(|group| group.tags.is_none())
                .filter(|group| {
                    let forwarded = load_balancers
                        .iter()
                        .any(|is| group.load_balancers.contains(&is.arn));
                    let named = wanted.is_some_and(|spec| {
                        spec.target_groups.iter().any(|w| w.name == group.name)
                    });
                    forwarded || named
                })
                .map(|group| group.arn.clone())
                .collect()
        };
        if arns.is_empty() {
            return Ok(());
        }
        let tags = self.client.tags(caller, &arns).await?;
        let sure = self.is_sure(caller.who);
        let mut account = self.account();
        for (arn, tags) in tags {
            if !sure && owner(&tags, &self.settings.cluster_id).is_none() {
                // They may not show yet: they are read again.
                continue;
            }
            account
                .target_groups
                .learnt(&arn, |group| group.tags = Some(tags));
        }
        Ok(())
    }
}

/// What tags list of a group's targets; none where they list nothing.
fn listed(group: &TargetGroup) -> Option<BTreeSet<String>> {
    let tags = group.tags.as_ref()?;
    let lists = tags.keys().any(|key| key.starts_with(record::TAG_TARGETS));
    lists.then(|| record::listed(tags))
}

/// Of a group that other clusters use too, only what this one registered is taken out
/// again.
fn leave_others(have: &mut HaveGroup, want: Option<&Want>) {
    let listed = have.listed.get_or_insert_default();
    let wanted = want.and_then(|want| {
        let mut groups = want.spec.target_groups.iter();
        groups
            .find(|w| w.name == have.group.name)
            .map(|w| &w.targets)
    });
    if let Some(targets) = &mut have.detail.targets {
        targets.retain(|target| {
            listed.contains(&target.id()) || wanted.is_some_and(|wanted| wanted.contains(target))
        });
    }
}
