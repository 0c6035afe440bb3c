//! What is taken over, and which of the Service's load balancers is which.

use std::time::Instant;

use crate::account::owner;
use crate::client::{CallError, Caller};
use crate::cloud::{LoadBalancer, TargetGroup};
use crate::identity::{LBC_TAG_CLUSTER, LBC_TAG_STACK};
use crate::observed::{Adoption, Have, Observed};
use crate::provider::Shared;
use crate::record::TAG_ADOPTED;
use crate::spec::{Adopt, Spec};

impl Shared {
    /// The load balancer that the user wants taken over, unless it is already.
    pub(super) async fn to_adopt(&self, adopt: &Adopt, uid: &str) -> Result<Adoption, CallError> {
        let find = || -> Vec<LoadBalancer> {
            let account = self.account();
            let matches = |is: &&LoadBalancer| match adopt {
                Adopt::Arn(arn) => is.arn == *arn,
                Adopt::Tags(tags) => is
                    .tags
                    .as_ref()
                    .is_some_and(|is| tags.iter().all(|(key, value)| is.get(key) == Some(value))),
            };
            account
                .load_balancers
                .values()
                .filter(matches)
                .cloned()
                .collect()
        };
        let mut found = find();
        if found.is_empty() {
            // It may have been made since the last reading.
            let before = Instant::now().checked_sub(self.tuning.lag);
            self.read_account(before).await?;
            found = find();
        }
        let [is] = &found[..] else {
            return Ok(Adoption::Impossible(format!(
                "{} load balancers of this region are {adopt}; name exactly one",
                found.len()
            )));
        };
        if !is.network || is.vpc_id != self.vpc_id {
            return Ok(Adoption::Impossible(format!(
                "{} is no Network Load Balancer in {}",
                is.arn, self.vpc_id
            )));
        }
        let cluster = &self.settings.cluster_id;
        let tags = is.tags.clone().unwrap_or_default();
        if owner(&tags, cluster) == Some(uid) {
            return Ok(Adoption::Nothing);
        }
        if let Some(other) = tags.get(crate::identity::TAG_SERVICE_UID).or_else(|| {
            tags.get(LBC_TAG_STACK)
                .filter(|_| matches!(adopt, Adopt::Arn(_)))
        }) {
            return Ok(Adoption::Impossible(format!(
                "{} belongs to something else ({other}), by its tags",
                is.arn
            )));
        }
        Ok(Adoption::Given(is.clone()))
    }

    /// What the AWS Load Balancer Controller made for this Service.
    pub(super) async fn of_the_controller(
        &self,
        caller: Caller<'_>,
        service: &herald_core::ServiceRequest,
    ) -> Result<Adoption, CallError> {
        let Some(cluster) = &self.settings.cluster_name else {
            return Ok(Adoption::Nothing);
        };
        let stack = service.key.to_string();
        let theirs = |tags: &crate::spec::Tags| {
            tags.get(LBC_TAG_CLUSTER) == Some(cluster) && tags.get(LBC_TAG_STACK) == Some(&stack)
        };
        let found = {
            let account = self.account();
            let mut all = account.load_balancers.values();
            all.find(|is| is.network && is.tags.as_ref().is_some_and(theirs))
                .cloned()
        };
        let Some(load_balancer) = found else {
            return Ok(Adoption::Nothing);
        };
        let target_groups: Vec<TargetGroup> = {
            let account = self.account();
            let of_it = |group: &&TargetGroup| group.load_balancers.contains(&load_balancer.arn);
            account
                .target_groups
                .values()
                .filter(of_it)
                .cloned()
                .collect()
        };
        let arns: Vec<String> = target_groups
            .iter()
            .map(|group| group.arn.clone())
            .collect();
        let tags = self.client.tags(caller, &arns).await?;
        let target_groups = target_groups
            .into_iter()
            .filter(|group| tags.get(&group.arn).is_some_and(theirs))
            .collect();
        let filters = [
            ("vpc-id", vec![self.vpc_id.clone()]),
            ("tag:elbv2.k8s.aws/cluster", vec![cluster.clone()]),
            ("tag:service.k8s.aws/stack", vec![stack.clone()]),
        ];
        let security_groups = self.client.security_groups(caller, &filters).await?;
        Ok(Adoption::Controller {
            load_balancer,
            target_groups,
            security_groups,
        })
    }

    /// Tells the load balancer that is to become what is wanted from those that it
    /// replaces, and finds who has its name.
    pub(super) fn choose(
        &self,
        observed: &mut Observed,
        spec: &Spec,
        own: Vec<LoadBalancer>,
        adopted: Option<LoadBalancer>,
    ) {
        let is_it = |is: &LoadBalancer| {
            let name = &spec.load_balancer.name;
            let adopted = is.tag(TAG_ADOPTED).is_some()
                && spec.replace.is_none()
                && is.scheme == spec.load_balancer.scheme;
            is.name == *name || adopted
        };
        let mut own = own;
        own.sort_by_key(|is| (is.name != spec.load_balancer.name, !is_it(is)));
        let mut own = own.into_iter().peekable();
        let current = adopted.or_else(|| own.next_if(|is| is_it(is)));
        observed.old = own
            .filter(|is| current.as_ref().is_none_or(|current| current.arn != is.arn))
            .collect();
        if current.is_none() {
            let account = self.account();
            observed.taken_by = account
                .load_balancer_named(&spec.load_balancer.name)
                .cloned();
        }
        observed.current = current.map(|load_balancer| Have {
            load_balancer,
            detail: None,
        });
        if let Adoption::Controller {
            security_groups, ..
        } = &observed.adoption
        {
            observed
                .security_groups
                .extend(security_groups.iter().cloned());
        }
    }
}
