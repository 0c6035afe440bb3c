//! What AWS tells only of one object at a time: when it is read, and when the record is
//! enough.

use std::time::Instant;

use herald_provider::ProviderError;

use crate::client::{CallError, Caller};
use crate::cloud::{LoadBalancerDetail, TargetGroupDetail};
use crate::observe::spread;
use crate::observed::{Adoption, Observed, Want};
use crate::provider::Shared;
use crate::record::{self, TAG_APPLIED, TAG_NODES, follows_nodes};
use crate::spec::NlbProtocol;

impl Shared {
    /// Sees to it that what the plan needs is known. True if the background check has
    /// read all of it anew.
    pub(crate) async fn details(
        &self,
        observed: &mut Observed,
        want: &Want,
        caller: Caller<'_>,
    ) -> Result<bool, ProviderError> {
        let uid = observed.uid.clone();
        let load_balancers: Vec<_> = observed
            .current
            .iter()
            .map(|have| have.load_balancer.clone())
            .chain(observed.old.iter().cloned())
            .collect();
        let Some(have) = &observed.current else {
            self.read_tags_of_groups(caller, &load_balancers, Some(&want.spec))
                .await?;
            self.read_target_groups(caller, want).await?;
            return Ok(false);
        };
        let arn = have.load_balancer.arn.clone();
        let is = have.load_balancer.tag(TAG_APPLIED);
        let adopting = !matches!(observed.adoption, Adoption::Nothing);
        let trusted = is == Some(want.record.as_str())
            && !adopting
            && observed.old.is_empty()
            && !self.memory().distrusted.contains(&uid);
        let mut checked = false;
        if trusted {
            checked = self.check_if_due(&uid, &arn, want).await?;
            self.trust(observed, want);
            // Nodes changed while nobody looked: what is registered has to be read.
            self.read_targets(caller, want).await?;
        } else {
            self.read_tags_of_groups(caller, &load_balancers, Some(&want.spec))
                .await?;
            self.read_load_balancer(caller, &arn).await?;
            self.read_target_groups(caller, want).await?;
            self.memory().distrusted.remove(&uid);
        }
        let detail = self.account().load_balancer_details.get(&arn).cloned();
        if let Some(have) = &mut observed.current {
            have.detail = detail;
        }
        Ok(checked)
    }

    /// Takes it from the records that the targets are right.
    fn trust(&self, observed: &Observed, want: &Want) {
        let nodes = record::nodes(&want.nodes);
        let written = observed
            .backend
            .as_ref()
            .and_then(|group| group.tags.get(TAG_NODES));
        if follows_nodes(&want.record) && written != Some(&nodes) {
            return;
        }
        let mut account = self.account();
        for group in &want.spec.target_groups {
            let Some(arn) = account
                .target_group_named(&group.name)
                .map(|is| is.arn.clone())
            else {
                continue;
            };
            let detail = account.target_group_details.entry(arn).or_default();
            detail.targets.get_or_insert_with(|| group.targets.clone());
        }
    }

    /// Reads everything anew if its time has come and the budget has something left.
    async fn check_if_due(&self, uid: &str, arn: &str, want: &Want) -> Result<bool, ProviderError> {
        let period = self.tuning.check_every;
        let now = Instant::now();
        let due = {
            let mut account = self.account();
            *account
                .check_due
                .entry(uid.to_owned())
                .or_insert_with(|| now + spread(uid, period))
        };
        if due > now {
            return Ok(false);
        }
        let Ok(_alone) = self.checking.try_lock() else {
            return Ok(false);
        };
        let caller = Caller::background(uid);
        match self.check(caller, arn, want).await {
            Ok(()) => {
                self.account()
                    .check_due
                    .insert(uid.to_owned(), now + period);
                Ok(true)
            }
            // It stays due; what is known stays.
            Err(CallError::Later { .. } | CallError::Throttled { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the background check of a Service is overdue.
    pub(crate) fn check_is_due(&self, uid: &str) -> bool {
        let due = self.account().check_due.get(uid).copied();
        due.is_some_and(|due| due <= Instant::now())
    }

    async fn check(&self, caller: Caller<'_>, arn: &str, want: &Want) -> Result<(), CallError> {
        let detail = self.load_balancer_detail(caller, arn).await?;
        let arns: Vec<String> = {
            let account = self.account();
            want.spec
                .target_groups
                .iter()
                .filter_map(|group| account.target_group_named(&group.name))
                .map(|group| group.arn.clone())
                .collect()
        };
        let mut tags = self.client.tags(caller, &arns).await?;
        let mut groups = Vec::new();
        for arn in arns {
            let attributes = self.client.target_group_attributes(caller, &arn).await?;
            let targets = self.registered(caller, &arn).await?;
            groups.push((arn, attributes, targets));
        }
        self.account()
            .load_balancer_details
            .insert(arn.to_owned(), detail);
        self.forwards(arn);
        let mut account = self.account();
        for (arn, attributes, targets) in groups {
            if let Some(tags) = tags.remove(&arn) {
                account
                    .target_groups
                    .learnt(&arn, |group| group.tags = Some(tags));
            }
            let detail = account.target_group_details.entry(arn).or_default();
            detail.attributes = Some(attributes);
            detail.targets = Some(targets);
        }
        Ok(())
    }

    /// Reads a load balancer's detail unless it is known.
    pub(crate) async fn read_load_balancer(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<(), CallError> {
        if self.account().load_balancer_details.contains_key(arn) {
            return Ok(());
        }
        let detail = self.load_balancer_detail(caller, arn).await?;
        self.account()
            .load_balancer_details
            .insert(arn.to_owned(), detail);
        self.forwards(arn);
        Ok(())
    }

    async fn load_balancer_detail(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<LoadBalancerDetail, CallError> {
        let client = &self.client;
        let attributes = client.load_balancer_attributes(caller, arn).await?;
        let mut listeners = client.listeners(caller, arn).await?;
        for listener in &mut listeners {
            if listener.protocol == NlbProtocol::Tcp.as_str() {
                listener.attributes = client.listener_attributes(caller, &listener.arn).await?;
            }
            if listener.protocol == NlbProtocol::Tls.as_str() {
                listener.more_certificates =
                    client.more_certificates(caller, &listener.arn).await?;
            }
        }
        let capacity_units = client.capacity(caller, arn).await?;
        Ok(LoadBalancerDetail {
            attributes,
            listeners: listeners.into_iter().map(|is| (is.port, is)).collect(),
            capacity_units,
        })
    }

    /// Reads attributes and targets of the wanted target groups that exist, unless they
    /// are known.
    async fn read_target_groups(&self, caller: Caller<'_>, want: &Want) -> Result<(), CallError> {
        let unread = self.unread_target_groups(want, |detail| detail.attributes.is_none());
        for arn in unread {
            let attributes = self.client.target_group_attributes(caller, &arn).await?;
            let mut account = self.account();
            account
                .target_group_details
                .entry(arn)
                .or_default()
                .attributes = Some(attributes);
        }
        self.read_targets(caller, want).await
    }

    /// The wanted target groups that exist, and of which what is asked for is not known.
    fn unread_target_groups(
        &self,
        want: &Want,
        is_unread: impl Fn(&TargetGroupDetail) -> bool,
    ) -> Vec<String> {
        let account = self.account();
        let groups = want.spec.target_groups.iter();
        groups
            .filter_map(|group| account.target_group_named(&group.name))
            .map(|group| group.arn.clone())
            .filter(|arn| {
                let detail = account.target_group_details.get(arn);
                detail.is_none_or(&is_unread)
            })
            .collect()
    }

    async fn read_targets(&self, caller: Caller<'_>, want: &Want) -> Result<(), CallError> {
        let unread = self.unread_target_groups(want, |detail| detail.targets.is_none());
        for arn in unread {
            let targets = self.registered(caller, &arn).await?;
            let mut account = self.account();
            account.target_group_details.entry(arn).or_default().targets = Some(targets);
        }
        Ok(())
    }

    /// What is registered and does not drain.
    async fn registered(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<std::collections::BTreeSet<crate::spec::Target>, CallError> {
        let health = self.client.target_health(caller, arn).await?;
        Ok(health
            .into_iter()
            // `unhealthy.draining` is registered all the same.
            .filter(|target| target.state != "draining")
            .map(|target| target.target)
            .collect())
    }
}
