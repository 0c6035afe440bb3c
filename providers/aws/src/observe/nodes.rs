//! Nodes: their security groups, and the record of which ones every Service has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::account::{Account, owner};
use crate::action::Named;
use crate::client::{CallError, Caller};
use crate::cloud::{SecurityGroup, TargetGroup};
use crate::observed::{Observed, Want};
use crate::provider::Shared;
use crate::record::{self, TAG_APPLIED, TAG_NODES, Targets, follows_nodes};
use crate::spec::{Target, TargetType};

impl Shared {
    /// The security groups of the nodes behind a Service: of each node one, that with
    /// the cluster's tag, or the first by id. Rules of all its groups add up, so that one
    /// is enough.
    pub(super) async fn node_groups(
        &self,
        caller: Caller<'_>,
        observed: &mut Observed,
        want: &Want,
    ) -> Result<(), CallError> {
        if want.spec.backend_rules.is_none() {
            return Ok(());
        }
        let mut ids = want.nodes.clone();
        for group in &want.spec.target_groups {
            if group.target_type == TargetType::Instance {
                ids.extend(group.targets.iter().map(Target::id));
            }
        }
        let unknown = || -> Vec<String> {
            let account = self.account();
            ids.iter()
                .filter(|id| !account.instances.contains_key(*id))
                .cloned()
                .collect()
        };
        if !unknown().is_empty() {
            let _alone = self.looking.lock().await;
            let unknown = unknown();
            let found = if unknown.is_empty() {
                BTreeMap::new()
            } else {
                self.client.instance_groups(caller, &unknown).await?
            };
            let mut account = self.account();
            for id in unknown {
                let groups = found.get(&id).cloned().unwrap_or_default();
                account.instances.insert(id, groups);
            }
        }
        let unread = || -> BTreeSet<String> {
            let account = self.account();
            ids.iter()
                .filter_map(|id| account.instances.get(id))
                .flatten()
                .filter(|id| account.node_groups.get(id).is_none())
                .cloned()
                .collect()
        };
        if !unread().is_empty() {
            let _alone = self.looking.lock().await;
            let filter = [("group-id", unread().into_iter().collect::<Vec<_>>())];
            let found = if filter[0].1.is_empty() {
                Vec::new()
            } else {
                self.client.security_groups(caller, &filter).await?
            };
            let mut account = self.account();
            // A reading, not a write: the next complete one is as good.
            let long_ago = Instant::now().checked_sub(self.tuning.lag);
            for group in found {
                let at = long_ago.unwrap_or_else(Instant::now);
                account.node_groups.insert(group.id.clone(), group, at);
            }
        }
        let account = self.account();
        let chosen: BTreeSet<&str> = ids
            .iter()
            .filter_map(|id| account.instances.get(id))
            .filter_map(|groups| self.group_of_node(&account, groups))
            .collect();
        observed.node_groups = chosen
            .into_iter()
            .filter_map(|id| account.node_groups.get(id))
            .cloned()
            .collect();
        Ok(())
    }

    pub(super) fn group_of_node<'a>(
        &self,
        account: &Account,
        groups: &'a BTreeSet<String>,
    ) -> Option<&'a str> {
        let tagged = |id: &&String| {
            let name = self.settings.cluster_name.as_deref().unwrap_or_default();
            let tag = format!("kubernetes.io/cluster/{name}");
            let group: Option<&SecurityGroup> = account.node_groups.get(id);
            group.is_some_and(|group| group.tags.contains_key(&tag))
        };
        groups
            .iter()
            .find(tagged)
            .or_else(|| groups.first())
            .map(String::as_str)
    }

    /// The record of the cluster's nodes, where it may be written: every load balancer
    /// whose own record goes by it has those nodes and no others. Those that do not get
    /// there (their Service is refused, or AWS refuses their targets) do not keep it off
    /// for ever: they come with it, to lose their own records first.
    pub(super) fn nodes_record_due(
        &self,
        observed: &Observed,
        want: &Want,
    ) -> Option<(String, Vec<Named>)> {
        let backend = observed.backend.as_ref()?;
        let record = record::nodes(&want.nodes);
        let follows = record::targets(&want.spec, &want.nodes) == Targets::Nodes;
        if !follows || observed.gather.is_some() || backend.tags.get(TAG_NODES) == Some(&record) {
            return None;
        }
        let behind = self.behind(want);
        if behind.is_empty() {
            return Some((record, behind));
        }
        let memory = self.memory();
        let last = memory.registered.or(memory.began)?;
        (last.elapsed() >= self.tuning.stragglers).then_some((record, behind))
    }

    /// Load balancers that go by the record of the nodes and do not have them.
    fn behind(&self, want: &Want) -> Vec<Named> {
        let account = self.account();
        let cluster = &self.settings.cluster_id;
        let has_them = |group: &&TargetGroup| {
            account
                .target_group_details
                .get(&group.arn)
                .and_then(|detail| detail.targets.as_ref())
                .is_some_and(|targets| record::ids(targets) == want.nodes)
        };
        let mut lacking: BTreeSet<&str> = BTreeSet::new();
        for group in account.target_groups.values() {
            if group.name.starts_with("herald-") && !has_them(&group) {
                lacking.extend(group.load_balancers.iter().map(String::as_str));
            }
        }
        account
            .load_balancers
            .values()
            .filter(|is| lacking.contains(is.arn.as_str()))
            .filter(|is| {
                let tags = is.tags.as_ref();
                tags.is_some_and(|tags| owner(tags, cluster).is_some())
            })
            .filter(|is| is.tag(TAG_APPLIED).is_some_and(follows_nodes))
            .map(|is| Named::existing(&is.arn, &is.name))
            .collect()
    }
}
