//! What steps are about, and what is known of it after they were done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::account::owner;
use crate::action::Named;
use crate::client::{CallError, Caller};
use crate::cloud::{Listener, LoadBalancerDetail, TargetGroupDetail};
use crate::provider::Shared;
use crate::record::TAG_NODES;
use crate::spec::{Attributes, Tags};

use super::Failure;

impl Shared {
    pub(super) fn load_balancer(&self, named: &Named) -> Result<String, Failure> {
        if let Some(id) = &named.id {
            return Ok(id.clone());
        }
        let account = self.account();
        account
            .load_balancer_named(&named.name)
            .map(|is| is.arn.clone())
            .ok_or_else(|| Failure::Replan(format!("load balancer {named} is not there")))
    }

    pub(super) fn target_group(&self, named: &Named) -> Result<String, Failure> {
        find_target_group(&self.account(), named)
            .ok_or_else(|| Failure::Replan(format!("target group {named} is not there")))
    }

    pub(super) fn group(&self, named: &Named) -> Result<String, Failure> {
        if let Some(id) = &named.id {
            return Ok(id.clone());
        }
        let account = self.account();
        let found = account
            .security_groups
            .values()
            .find(|group| group.name == named.name);
        found
            .map(|group| group.id.clone())
            .ok_or_else(|| Failure::Replan(format!("security group {named} is not there")))
    }

    pub(super) fn nodes_record(&self, group: &Named) -> Option<String> {
        let account = self.account();
        let group = account.security_groups.get(group.id.as_deref()?)?;
        group.tags.get(TAG_NODES).cloned()
    }

    pub(super) fn group_ids(&self, groups: &[Named]) -> Result<Vec<String>, Failure> {
        groups.iter().map(|group| self.group(group)).collect()
    }

    /// ARNs of a load balancer and of its listener.
    pub(super) fn listener(
        &self,
        load_balancer: &Named,
        port: u16,
    ) -> Result<(String, String), Failure> {
        let arn = self.load_balancer(load_balancer)?;
        let account = self.account();
        let detail = account.load_balancer_details.get(&arn);
        let listener = detail.and_then(|detail| detail.listeners.get(&port));
        let listener = listener
            .map(|listener| listener.arn.clone())
            .ok_or_else(|| Failure::Replan(format!("listener {port} is not there")))?;
        Ok((arn, listener))
    }

    pub(super) fn detail(&self, arn: &str, change: impl FnOnce(&mut LoadBalancerDetail)) {
        if let Some(detail) = self.account().load_balancer_details.get_mut(arn) {
            change(detail);
        }
    }

    pub(super) fn group_detail(&self, arn: &str, change: impl FnOnce(&mut TargetGroupDetail)) {
        if let Some(detail) = self.account().target_group_details.get_mut(arn) {
            change(detail);
        }
    }

    pub(super) fn known_listener(&self, arn: &str, port: u16, change: impl FnOnce(&mut Listener)) {
        self.detail(arn, |detail| {
            if let Some(listener) = detail.listeners.get_mut(&port) {
                change(listener);
            }
        });
    }

    /// Tags of something that was made just now, by whoever. That it does not bear
    /// Herald's is believed only when AWS must show them.
    pub(super) async fn tags_of(&self, caller: Caller<'_>, arn: &str) -> Result<Tags, Failure> {
        let tags = match self.client.tags(caller, &[arn.to_owned()]).await {
            Ok(mut tags) => tags.remove(arn).unwrap_or_default(),
            Err(error) if error.not_found() => Tags::new(),
            Err(error) => return Err(error.into()),
        };
        let mut memory = self.memory();
        if owner(&tags, &self.settings.cluster_id) == Some(caller.who) {
            memory.untagged.remove(arn);
            return Ok(tags);
        }
        let since = *memory
            .untagged
            .entry(arn.to_owned())
            .or_insert_with(Instant::now);
        let left = self.tuning.lag.saturating_sub(since.elapsed());
        if left.is_zero() {
            memory.untagged.remove(arn);
            return Ok(tags);
        }
        Err(Failure::Held(
            left.min(self.tuning.hold / 5),
            format!("AWS may not show the tags of {arn} yet, which say whose it is"),
        ))
    }

    /// Which target groups a load balancer forwards to follows from its listeners.
    pub(crate) fn forwards(&self, arn: &str) {
        let mut account = self.account();
        let Some(detail) = account.load_balancer_details.get(arn) else {
            return;
        };
        let to: BTreeSet<String> = detail
            .listeners
            .values()
            .flat_map(|listener| listener.forward.iter().map(|(arn, _)| arn.clone()))
            .collect();
        let changed: Vec<String> = account
            .target_groups
            .values()
            .filter(|group| group.load_balancers.contains(arn) != to.contains(&group.arn))
            .map(|group| group.arn.clone())
            .collect();
        let now = Instant::now();
        for group in changed {
            account.target_groups.wrote(&group, now, |is| {
                if to.contains(&group) {
                    is.load_balancers.insert(arn.to_owned());
                } else {
                    is.load_balancers.remove(arn);
                }
            });
        }
    }

    /// An object that AWS does not know any more is forgotten, and the plan made anew.
    pub(super) fn about<T>(&self, arn: &str, result: Result<T, CallError>) -> Result<T, Failure> {
        match result {
            Err(error)
                if error.is(&[
                    "LoadBalancerNotFound",
                    "TargetGroupNotFound",
                    "ListenerNotFound",
                ]) =>
            {
                let now = Instant::now();
                let mut account = self.account();
                account.load_balancer_details.remove(arn);
                account.target_group_details.remove(arn);
                if error.is(&["LoadBalancerNotFound"]) {
                    account.load_balancers.remove(arn, now);
                } else if error.is(&["TargetGroupNotFound"]) {
                    account.target_groups.remove(arn, now);
                }
                Err(Failure::Replan(error.to_string()))
            }
            result => Ok(result?),
        }
    }

    /// A call that names security groups, of which one may be gone or not be seen yet.
    pub(super) async fn about_groups<T>(
        &self,
        caller: Caller<'_>,
        result: Result<T, Failure>,
    ) -> Result<T, Failure> {
        match result {
            Err(Failure::Call(error))
                if error.is(&[
                    "InvalidSecurityGroup",
                    "InvalidGroup.NotFound",
                    "InvalidGroupId.NotFound",
                ]) =>
            {
                let filter = [
                    (
                        "tag:herald.dev/cluster",
                        vec![self.settings.cluster_id.clone()],
                    ),
                    ("vpc-id", vec![self.vpc_id.clone()]),
                ];
                let began = Instant::now();
                let read = self.client.security_groups(caller, &filter).await?;
                let read = read.into_iter().map(|group| (group.id.clone(), group));
                self.account()
                    .security_groups
                    .replace(read, began, self.tuning.lag, |_, _| ());
                Err(Failure::Held(
                    self.tuning.hold / 5,
                    format!("{error}; it is tried again"),
                ))
            }
            result => result,
        }
    }
}

pub(super) fn find_target_group(
    account: &crate::account::Account,
    named: &Named,
) -> Option<String> {
    let by_name = || Some(account.target_group_named(&named.name)?.arn.clone());
    named.id.clone().or_else(by_name)
}

/// What a new object has of the attributes that a specification speaks of.
pub(super) fn defaults(attributes: &Attributes) -> BTreeMap<String, String> {
    let mut is = attributes.reset.clone();
    for key in attributes.set.keys() {
        if let Some(value) = crate::defaults::of(key) {
            is.insert(key.clone(), value.to_owned());
        }
    }
    is
}

pub(super) fn change_tags(tags: &mut Tags, set: &Tags, unset: &BTreeSet<String>) {
    tags.extend(set.clone());
    tags.retain(|key, _| !unset.contains(key) || set.contains_key(key));
}
