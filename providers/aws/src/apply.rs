//! One step at a time: a call, and what is known of the account after it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use herald_provider::ProviderError;

use crate::action::{Action, Named, Step};
use crate::client::{CallError, Caller, ListenerSettings};
use crate::cloud::{
    HealthCheck, Ingress, IngressSource, LoadBalancerDetail, SecurityGroup, TargetGroupDetail,
};
use crate::provider::Shared;
use crate::record::{TAG_APPLIED, TAG_NODES, TAG_RETIRES};
use crate::spec::{self, Attributes, Listener, Tags, Target};

/// What rules of Herald's say of themselves in the console.
const RULE: &str = "herald.dev";
/// Value of the nodes' record while targets are being changed.
const CHANGING: &str = "changing";

/// What became of a step.
type Done = Result<(), Failure>;

enum Failure {
    Call(CallError),
    /// Plan anew: the world is not what the plan thought.
    Replan(String),
    /// AWS still uses it.
    Held(Duration, String),
    Failed(&'static str, String),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Shared {
    pub(crate) async fn apply(&self, action: &Action) -> Result<(), ProviderError> {
        let uid = action.uid.as_str();
        let done = self.step(Caller::service(uid), uid, &action.step).await;
        match done {
            Ok(()) => Ok(()),
            Err(Failure::Replan(why)) => Err(ProviderError::Conflict(why)),
            Err(Failure::Held(recheck, message)) => Err(ProviderError::Waiting {
                reason: "CloudBusy",
                message,
                recheck,
            }),
            Err(Failure::Failed(reason, message)) => Err(ProviderError::Failed { reason, message }),
            Err(Failure::Call(error)) => {
                if error.may_be_done() {
                    self.unsure(uid, &action.step);
                }
                Err(error.into())
            }
        }
    }

    /// A call may have been done: what it changed is to be read before it is believed.
    fn unsure(&self, uid: &str, step: &Step) {
        let mut account = self.account();
        account.unsure.insert(uid.to_owned(), Instant::now());
        let cluster = &self.settings.cluster_id;
        let arns: Vec<String> = account
            .load_balancers_of(cluster, uid)
            .into_iter()
            .map(|is| is.arn)
            .collect();
        for arn in &arns {
            account.load_balancer_details.remove(arn);
        }
        let groups: Vec<String> = account
            .target_groups
            .values()
            .filter(|group| group.load_balancers.iter().any(|arn| arns.contains(arn)))
            .map(|group| group.arn.clone())
            .collect();
        for arn in groups {
            account.target_group_details.remove(&arn);
        }
        let target_group = match step {
            Step::SetTargetGroupAttributes { group, .. }
            | Step::Register { group, .. }
            | Step::Deregister { group, .. } => find_target_group(&account, group),
            _ => None,
        };
        if let Some(arn) = target_group {
            account.target_group_details.remove(&arn);
        }
        drop(account);
        self.memory().distrusted.insert(uid.to_owned());
    }

    async fn step(&self, caller: Caller<'_>, uid: &str, step: &Step) -> Done {
        match step {
            Step::CreateBackendGroup { vpc_id, name, tags } => {
                // Of many Services that begin together one makes it.
                let _alone = self.looking.lock().await;
                if self
                    .account()
                    .backend_group(&self.settings.cluster_id)
                    .is_some()
                {
                    return Ok(());
                }
                let description = "Herald: lets load balancers reach nodes and pods";
                self.create_group(caller, vpc_id, name, description, tags)
                    .await
            }
            Step::CreateSecurityGroup { vpc_id, group } => {
                self.create_group(caller, vpc_id, &group.name, &group.description, &group.tags)
                    .await
            }
            Step::Authorize { group, rules } => self.authorize(caller, group, rules).await,
            Step::AuthorizeBackend { group, ranges } => {
                let backend = {
                    let account = self.account();
                    let backend = account.backend_group(&self.settings.cluster_id);
                    backend.map(|backend| backend.id.clone())
                };
                let Some(backend) = backend else {
                    return Err(Failure::Replan("the shared security group is gone".into()));
                };
                let rules = ranges
                    .iter()
                    .map(|(protocol, from, to)| Ingress {
                        protocol: protocol.clone(),
                        from: *from,
                        to: *to,
                        source: IngressSource::Group(backend.clone()),
                    })
                    .collect();
                self.authorize(caller, group, &rules).await
            }
            Step::Revoke { group, rules } => self.revoke(caller, group, rules).await,
            Step::TagSecurityGroup { group, set, unset } => {
                self.tag_group(caller, group, set, unset).await
            }
            Step::DeleteSecurityGroup { group } => self.delete_group(caller, group).await,
            Step::CreateLoadBalancer { spec, groups } => {
                self.create_load_balancer(caller, uid, spec, groups.as_deref())
                    .await
            }
            Step::SetSecurityGroups {
                load_balancer,
                groups,
                enforce_on_private_link,
            } => {
                let arn = self.load_balancer(load_balancer)?;
                let ids = self.group_ids(groups)?;
                let result = self
                    .client
                    .set_security_groups(caller, &arn, &ids, *enforce_on_private_link)
                    .await;
                self.about_groups(caller, self.about(&arn, result)).await?;
                self.account()
                    .load_balancers
                    .wrote(&arn, Instant::now(), |is| {
                        is.security_groups = ids.into_iter().collect();
                        if enforce_on_private_link.is_some() {
                            is.enforce_on_private_link = *enforce_on_private_link;
                        }
                    });
                Ok(())
            }
            Step::SetSubnets {
                load_balancer,
                spec,
            } => {
                let arn = self.load_balancer(load_balancer)?;
                let result = self.client.set_subnets(caller, &arn, spec).await;
                self.about(&arn, result)?;
                self.account()
                    .load_balancers
                    .wrote(&arn, Instant::now(), |is| {
                        is.subnets.clone_from(&spec.subnets);
                        is.ip_address_type = spec.ip_address_type;
                        is.ipv6_source_nat = spec.ipv6_source_nat.or(is.ipv6_source_nat);
                    });
                Ok(())
            }
            Step::SetIpAddressType {
                load_balancer,
                value,
            } => {
                let arn = self.load_balancer(load_balancer)?;
                let result = self.client.set_ip_address_type(caller, &arn, *value).await;
                self.about(&arn, result)?;
                self.account()
                    .load_balancers
                    .wrote(&arn, Instant::now(), |is| is.ip_address_type = *value);
                Ok(())
            }
            Step::SetLoadBalancerAttributes {
                load_balancer,
                attributes,
            } => {
                let arn = self.load_balancer(load_balancer)?;
                let result = self
                    .client
                    .modify_load_balancer_attributes(caller, &arn, attributes)
                    .await;
                self.about(&arn, result)?;
                self.memory().protected.remove(&arn);
                self.detail(&arn, |detail| detail.attributes.extend(attributes.clone()));
                Ok(())
            }
            Step::SetCapacity {
                load_balancer,
                units,
            } => {
                let arn = self.load_balancer(load_balancer)?;
                let result = self.client.modify_capacity(caller, &arn, *units).await;
                self.about(&arn, result)?;
                self.detail(&arn, |detail| detail.capacity_units = *units);
                Ok(())
            }
            Step::DeleteLoadBalancer { load_balancer } => {
                self.delete_load_balancer(caller, load_balancer).await
            }
            Step::Retire {
                load_balancer,
                after,
            } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let at = now.unwrap_or_default().as_secs() + after.as_secs();
                let set = Tags::from([(TAG_RETIRES.to_owned(), at.to_string())]);
                self.tag_load_balancer(caller, load_balancer, &set, &BTreeSet::new())
                    .await
            }
            Step::Adopt {
                load_balancer,
                set,
                unset,
            } => {
                self.tag_load_balancer(caller, load_balancer, set, unset)
                    .await
            }
            Step::GiveBack {
                load_balancer,
                unset,
            } => {
                self.tag_load_balancer(caller, load_balancer, &Tags::new(), unset)
                    .await
            }
            Step::AdoptTargetGroup { group, set, unset } => {
                self.tag_target_group(caller, group, set, unset).await
            }
            Step::Tag {
                kind,
                object,
                set,
                unset,
            } => {
                if *kind == crate::action::LOAD_BALANCER {
                    self.tag_load_balancer(caller, object, set, unset).await
                } else {
                    self.tag_target_group(caller, object, set, unset).await
                }
            }
            Step::ClearRecord { load_balancer } => {
                let unset = BTreeSet::from([TAG_APPLIED.to_owned()]);
                self.tag_load_balancer(caller, load_balancer, &Tags::new(), &unset)
                    .await
            }
            Step::WriteRecord {
                load_balancer,
                record,
            } => {
                let set = Tags::from([(TAG_APPLIED.to_owned(), record.clone())]);
                self.tag_load_balancer(caller, load_balancer, &set, &BTreeSet::new())
                    .await
            }
            Step::ClearNodes { group } => {
                // Of many Services that see the same change one writes it.
                let _alone = self.looking.lock().await;
                if self.nodes_record(group).as_deref() == Some(CHANGING) {
                    return Ok(());
                }
                let set = Tags::from([(TAG_NODES.to_owned(), CHANGING.to_owned())]);
                self.tag_group(caller, group, &set, &BTreeSet::new()).await
            }
            Step::WriteNodes { group, record } => {
                let _alone = self.looking.lock().await;
                if self.nodes_record(group).as_deref() == Some(record) {
                    return Ok(());
                }
                let set = Tags::from([(TAG_NODES.to_owned(), record.clone())]);
                self.tag_group(caller, group, &set, &BTreeSet::new()).await
            }
            Step::CreateTargetGroup { vpc_id, spec } => {
                self.create_target_group(caller, uid, vpc_id, spec).await
            }
            Step::SetHealthCheck { group, check } => {
                let arn = self.target_group(group)?;
                let result = self.client.modify_target_group(caller, &arn, check).await;
                self.about(&arn, result)?;
                self.account()
                    .target_groups
                    .wrote(&arn, Instant::now(), |is| is.health_check = check.clone());
                Ok(())
            }
            Step::SetTargetGroupAttributes { group, attributes } => {
                let arn = self.target_group(group)?;
                let result = self
                    .client
                    .modify_target_group_attributes(caller, &arn, attributes)
                    .await;
                self.about(&arn, result)?;
                self.group_detail(&arn, |detail| {
                    if let Some(known) = &mut detail.attributes {
                        known.extend(attributes.clone());
                    }
                });
                Ok(())
            }
            Step::Register { group, targets } => {
                let arn = self.target_group(group)?;
                let result = self.client.register_targets(caller, &arn, targets).await;
                self.about(&arn, result)?;
                self.memory()
                    .registered
                    .entry(arn.clone())
                    .or_default()
                    .extend(targets.iter().cloned());
                self.group_detail(&arn, |detail| {
                    if let Some(known) = &mut detail.targets {
                        known.extend(targets.iter().cloned());
                    }
                });
                Ok(())
            }
            Step::Deregister { group, targets } => self.deregister(caller, group, targets).await,
            Step::DeleteTargetGroup { group } => self.delete_target_group(caller, group).await,
            Step::CreateListener {
                load_balancer,
                spec,
                groups,
            } => {
                self.create_listener(caller, load_balancer, spec, groups)
                    .await
            }
            Step::ModifyListener {
                load_balancer,
                arn,
                spec,
                groups,
            } => {
                self.modify_listener(caller, load_balancer, arn, spec, groups)
                    .await
            }
            Step::SetListenerAttributes {
                load_balancer,
                port,
                attributes,
            } => {
                let (arn, listener) = self.listener(load_balancer, *port)?;
                let result = self
                    .client
                    .modify_listener_attributes(caller, &listener, attributes)
                    .await;
                self.about(&arn, result)?;
                self.known_listener(&arn, *port, |is| is.attributes.extend(attributes.clone()));
                Ok(())
            }
            Step::AddCertificates {
                load_balancer,
                port,
                certificates,
            } => {
                let (arn, listener) = self.listener(load_balancer, *port)?;
                let result = self
                    .client
                    .add_certificates(caller, &listener, certificates)
                    .await;
                self.about(&arn, result)?;
                self.known_listener(&arn, *port, |is| {
                    is.more_certificates.extend(certificates.iter().cloned());
                });
                Ok(())
            }
            Step::RemoveCertificates {
                load_balancer,
                port,
                certificates,
            } => {
                let (arn, listener) = self.listener(load_balancer, *port)?;
                let result = self
                    .client
                    .remove_certificates(caller, &listener, certificates)
                    .await;
                self.about(&arn, result)?;
                self.known_listener(&arn, *port, |is| {
                    is.more_certificates
                        .retain(|arn| !certificates.contains(arn));
                });
                Ok(())
            }
            Step::DeleteListener {
                load_balancer,
                arn,
                port,
            } => {
                let of = self.load_balancer(load_balancer)?;
                gone(self.client.delete_listener(caller, arn).await)?;
                self.detail(&of, |detail| {
                    detail.listeners.remove(port);
                });
                self.forwards(&of);
                Ok(())
            }
            Step::Confirm => {
                let after = self.sure_after(uid);
                let left = after.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(Failure::Held(
                        left,
                        "AWS's lists may not show yet what was made last; they are read again \
                         before this is over"
                            .to_owned(),
                    ));
                }
                self.read_account(Some(after)).await?;
                Ok(())
            }
        }
    }

    // --- Finding what a step is about.

    fn load_balancer(&self, named: &Named) -> Result<String, Failure> {
        if let Some(id) = &named.id {
            return Ok(id.clone());
        }
        let account = self.account();
        account
            .load_balancer_named(&named.name)
            .map(|is| is.arn.clone())
            .ok_or_else(|| Failure::Replan(format!("load balancer {named} is not there")))
    }

    fn target_group(&self, named: &Named) -> Result<String, Failure> {
        find_target_group(&self.account(), named)
            .ok_or_else(|| Failure::Replan(format!("target group {named} is not there")))
    }

    fn group(&self, named: &Named) -> Result<String, Failure> {
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

    fn nodes_record(&self, group: &Named) -> Option<String> {
        let account = self.account();
        let group = account.security_groups.get(group.id.as_deref()?)?;
        group.tags.get(TAG_NODES).cloned()
    }

    fn group_ids(&self, groups: &[Named]) -> Result<Vec<String>, Failure> {
        groups.iter().map(|group| self.group(group)).collect()
    }

    /// ARNs of a load balancer and of its listener.
    fn listener(&self, load_balancer: &Named, port: u16) -> Result<(String, String), Failure> {
        let arn = self.load_balancer(load_balancer)?;
        let account = self.account();
        let detail = account.load_balancer_details.get(&arn);
        let listener = detail.and_then(|detail| detail.listeners.get(&port));
        let listener = listener
            .map(|listener| listener.arn.clone())
            .ok_or_else(|| Failure::Replan(format!("listener {port} is not there")))?;
        Ok((arn, listener))
    }

    // --- Noting what was done.

    fn detail(&self, arn: &str, change: impl FnOnce(&mut LoadBalancerDetail)) {
        if let Some(detail) = self.account().load_balancer_details.get_mut(arn) {
            change(detail);
        }
    }

    fn group_detail(&self, arn: &str, change: impl FnOnce(&mut TargetGroupDetail)) {
        if let Some(detail) = self.account().target_group_details.get_mut(arn) {
            change(detail);
        }
    }

    fn known_listener(
        &self,
        arn: &str,
        port: u16,
        change: impl FnOnce(&mut crate::cloud::Listener),
    ) {
        self.detail(arn, |detail| {
            if let Some(listener) = detail.listeners.get_mut(&port) {
                change(listener);
            }
        });
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
    fn about<T>(&self, arn: &str, result: Result<T, CallError>) -> Result<T, Failure> {
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
    async fn about_groups<T>(
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

    // --- Security groups.

    async fn create_group(
        &self,
        caller: Caller<'_>,
        vpc_id: &str,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> Done {
        let made = self
            .client
            .create_security_group(caller, vpc_id, name, description, tags)
            .await;
        let group = match made {
            Ok(id) => SecurityGroup {
                id,
                name: name.to_owned(),
                vpc_id: vpc_id.to_owned(),
                tags: tags.clone(),
                ingress: BTreeSet::new(),
            },
            Err(error) if error.is(&["InvalidGroup.Duplicate"]) => {
                let filter = [
                    ("group-name", vec![name.to_owned()]),
                    ("vpc-id", vec![vpc_id.to_owned()]),
                ];
                let found = self.client.security_groups(caller, &filter).await?;
                let Some(found) = found.into_iter().next() else {
                    return Err(Failure::Held(
                        self.tuning.hold / 5,
                        format!("AWS has security group {name:?} but does not show it yet"),
                    ));
                };
                let ours = ["herald.dev/cluster", "herald.dev/service-uid"]
                    .iter()
                    .all(|tag| found.tags.get(*tag) == tags.get(*tag));
                if !ours {
                    return Err(Failure::Failed(
                        "NameTaken",
                        format!(
                            "name {name:?} is taken by security group {}, which does not bear \
                             this Service's tags and is left alone; delete it in AWS",
                            found.id
                        ),
                    ));
                }
                found
            }
            Err(error) => return Err(error.into()),
        };
        self.account()
            .security_groups
            .insert(group.id.clone(), group, Instant::now());
        Ok(())
    }

    /// Adds rules; those that are there already are as good as new.
    async fn authorize(
        &self,
        caller: Caller<'_>,
        group: &Named,
        rules: &BTreeSet<Ingress>,
    ) -> Done {
        let id = self.group(group)?;
        let result = self.client.authorize(caller, &id, rules, RULE).await;
        let result = match result {
            Err(error) if error.is(&["InvalidPermission.Duplicate"]) => {
                for rule in rules {
                    let one = BTreeSet::from([rule.clone()]);
                    match self.client.authorize(caller, &id, &one, RULE).await {
                        Err(error) if error.is(&["InvalidPermission.Duplicate"]) => {}
                        result => result?,
                    }
                }
                Ok(())
            }
            result => result,
        };
        self.group_gone(&id, result)?;
        self.rules(&id, |known| known.extend(rules.iter().cloned()));
        Ok(())
    }

    /// Takes rules away; those that are gone already are as good.
    async fn revoke(&self, caller: Caller<'_>, group: &Named, rules: &BTreeSet<Ingress>) -> Done {
        let id = self.group(group)?;
        match self.client.revoke(caller, &id, rules).await {
            Err(error) if error.is(&["InvalidPermission.NotFound"]) => {
                for rule in rules {
                    let one = BTreeSet::from([rule.clone()]);
                    match self.client.revoke(caller, &id, &one).await {
                        Err(error) if error.is(&["InvalidPermission.NotFound"]) => {}
                        result => result?,
                    }
                }
            }
            Err(error) if error.not_found() => {}
            result => result?,
        }
        self.rules(&id, |known| known.retain(|rule| !rules.contains(rule)));
        Ok(())
    }

    fn group_gone<T>(&self, id: &str, result: Result<T, CallError>) -> Result<T, Failure> {
        match result {
            Err(error) if error.is(&["InvalidGroup.NotFound", "InvalidGroupId.NotFound"]) => {
                let now = Instant::now();
                let mut account = self.account();
                account.security_groups.remove(id, now);
                account.node_groups.remove(id, now);
                Err(Failure::Replan(error.to_string()))
            }
            result => Ok(result?),
        }
    }

    fn rules(&self, id: &str, change: impl Fn(&mut BTreeSet<Ingress>)) {
        let now = Instant::now();
        let mut account = self.account();
        account
            .security_groups
            .wrote(id, now, |group| change(&mut group.ingress));
        account
            .node_groups
            .wrote(id, now, |group| change(&mut group.ingress));
    }

    async fn tag_group(
        &self,
        caller: Caller<'_>,
        group: &Named,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        let id = self.group(group)?;
        if !set.is_empty() {
            let result = self.client.tag_group(caller, &id, set).await;
            self.group_gone(&id, result)?;
        }
        if !unset.is_empty() {
            let keys: Vec<String> = unset.iter().cloned().collect();
            let result = self.client.untag_group(caller, &id, &keys).await;
            self.group_gone(&id, result)?;
        }
        let now = Instant::now();
        let known = self.account().security_groups.get(&id).is_some();
        if known {
            self.account()
                .security_groups
                .wrote(&id, now, |group| change_tags(&mut group.tags, set, unset));
        } else {
            // It has just become the Service's.
            let filter = [("group-id", vec![id.clone()])];
            let found = self.client.security_groups(caller, &filter).await?;
            for mut group in found {
                change_tags(&mut group.tags, set, unset);
                self.account()
                    .security_groups
                    .insert(group.id.clone(), group, now);
            }
        }
        Ok(())
    }

    /// AWS keeps a load balancer's network interfaces for a while after it is gone, and
    /// its groups with them. That is waited for, longer each time.
    async fn delete_group(&self, caller: Caller<'_>, group: &Named) -> Done {
        let id = self.group(group)?;
        let what = format!("security group {group}");
        self.held(&id, &what)?;
        match gone(self.client.delete_security_group(caller, &id).await) {
            Ok(()) => {
                self.memory().held.remove(&id);
                self.account().security_groups.remove(&id, Instant::now());
                Ok(())
            }
            Err(error) if error.is(&["DependencyViolation", "ResourceInUse"]) => {
                Err(self.hold(&id, &what, self.tuning.hold))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is too early to try again.
    fn held(&self, id: &str, what: &str) -> Done {
        let memory = self.memory();
        let Some((next, _)) = memory.held.get(id) else {
            return Ok(());
        };
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        Err(Failure::Held(left, waits_for(what)))
    }

    fn hold(&self, id: &str, what: &str, first: Duration) -> Failure {
        let mut memory = self.memory();
        let wait = memory
            .held
            .get(id)
            .map_or(first, |(_, last)| (*last * 2).min(self.tuning.hold_at_most));
        memory
            .held
            .insert(id.to_owned(), (Instant::now() + wait, wait));
        Failure::Held(wait, waits_for(what))
    }

    // --- Load balancers.

    async fn create_load_balancer(
        &self,
        caller: Caller<'_>,
        uid: &str,
        spec: &spec::LoadBalancer,
        groups: Option<&[Named]>,
    ) -> Done {
        let what = format!("name {:?}", spec.name);
        self.held(&spec.name, &what)?;
        let ids = groups.map(|groups| self.group_ids(groups)).transpose()?;
        let began = Instant::now();
        let made = self
            .client
            .create_load_balancer(caller, spec, ids.as_deref())
            .await;
        let made = match made {
            Err(error) if error.is(&["DuplicateLoadBalancerName"]) => {
                return Err(self.named_by_another(caller, &spec.name, &what).await?);
            }
            made => {
                self.about_groups(caller, made.map_err(Failure::from))
                    .await?
            }
        };
        // With a name and settings like these AWS returns what is there already, whoever
        // made it: its tags tell.
        let tags = self
            .client
            .tags(caller, std::slice::from_ref(&made.arn))
            .await?;
        let tags = tags.get(&made.arn).cloned().unwrap_or_default();
        let new = !tags.contains_key(TAG_APPLIED) && began >= self.sure_after(uid);
        let mut account = self.account();
        if new {
            account.load_balancer_details.insert(
                made.arn.clone(),
                LoadBalancerDetail {
                    attributes: defaults(&spec.attributes),
                    ..LoadBalancerDetail::default()
                },
            );
        }
        account.polled = Some(Instant::now());
        let mut made = made;
        made.tags = Some(tags);
        account
            .load_balancers
            .insert(made.arn.clone(), made, Instant::now());
        self.count(&account);
        drop(account);
        self.memory().held.remove(&spec.name);
        Ok(())
    }

    /// Another load balancer has the name: found, it is planned with; else AWS is still
    /// at work on one that was deleted.
    async fn named_by_another(
        &self,
        caller: Caller<'_>,
        name: &str,
        what: &str,
    ) -> Result<Failure, Failure> {
        let found = match self.client.load_balancers(caller, &[], Some(name)).await {
            Err(error) if error.not_found() => Vec::new(),
            found => found?,
        };
        let Some(mut is) = found.into_iter().next() else {
            return Ok(self.hold(name, what, self.tuning.hold / 5));
        };
        let tags = self
            .client
            .tags(caller, std::slice::from_ref(&is.arn))
            .await?;
        is.tags = tags.get(&is.arn).cloned();
        let mut account = self.account();
        account
            .load_balancers
            .insert(is.arn.clone(), is, Instant::now());
        Ok(Failure::Replan(format!("{what} is taken")))
    }

    async fn delete_load_balancer(&self, caller: Caller<'_>, named: &Named) -> Done {
        let arn = self.load_balancer(named)?;
        match gone(self.client.delete_load_balancer(caller, &arn).await) {
            Ok(()) => {}
            Err(error) if error.is(&["OperationNotPermitted"]) => {
                self.memory().protected.insert(arn);
                return Err(Failure::Failed(
                    "DeletionProtected",
                    format!(
                        "{error}; load balancer {named} is protected: set its attribute \
                         deletion_protection.enabled to false"
                    ),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        self.memory().protected.remove(&arn);
        let now = Instant::now();
        let mut account = self.account();
        account.load_balancers.remove(&arn, now);
        account.load_balancer_details.remove(&arn);
        let freed: Vec<String> = account
            .target_groups
            .values()
            .filter(|group| group.load_balancers.contains(&arn))
            .map(|group| group.arn.clone())
            .collect();
        for group in freed {
            account.target_groups.wrote(&group, now, |is| {
                is.load_balancers.remove(&arn);
            });
        }
        self.count(&account);
        Ok(())
    }

    async fn tag_load_balancer(
        &self,
        caller: Caller<'_>,
        named: &Named,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        let arn = self.load_balancer(named)?;
        self.write_tags(caller, &arn, set, unset).await?;
        self.account()
            .load_balancers
            .wrote(&arn, Instant::now(), |is| {
                change_tags(is.tags.get_or_insert_default(), set, unset);
            });
        Ok(())
    }

    /// Sets and removes tags of a load balancer or target group in AWS.
    async fn write_tags(
        &self,
        caller: Caller<'_>,
        arn: &str,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        if !set.is_empty() {
            self.about(arn, self.client.add_tags(caller, arn, set).await)?;
        }
        if !unset.is_empty() {
            let keys: Vec<String> = unset.iter().cloned().collect();
            self.about(arn, self.client.remove_tags(caller, arn, &keys).await)?;
        }
        Ok(())
    }

    // --- Target groups.

    async fn create_target_group(
        &self,
        caller: Caller<'_>,
        uid: &str,
        vpc_id: &str,
        spec: &spec::TargetGroup,
    ) -> Done {
        let began = Instant::now();
        let made = match self.client.create_target_group(caller, vpc_id, spec).await {
            Err(error) if error.is(&["DuplicateTargetGroupName"]) => {
                let found = self
                    .client
                    .target_groups(caller, None, Some(&spec.name))
                    .await?;
                let Some(mut group) = found.into_iter().next() else {
                    return Err(Failure::Held(
                        self.tuning.hold / 5,
                        format!(
                            "AWS has target group {:?} but does not show it yet",
                            spec.name
                        ),
                    ));
                };
                let tags = self
                    .client
                    .tags(caller, std::slice::from_ref(&group.arn))
                    .await?;
                group.tags = tags.get(&group.arn).cloned();
                self.account()
                    .target_groups
                    .insert(group.arn.clone(), group, Instant::now());
                return Err(Failure::Replan(format!("name {:?} is taken", spec.name)));
            }
            made => made?,
        };
        let new = made.load_balancers.is_empty() && began >= self.sure_after(uid);
        let mut made = made;
        let tags = if new {
            spec.tags.clone()
        } else {
            // It may have been there.
            let tags = self
                .client
                .tags(caller, std::slice::from_ref(&made.arn))
                .await?;
            tags.get(&made.arn).cloned().unwrap_or_default()
        };
        made.tags = Some(tags);
        made.health_check = HealthCheck::from(&spec.health_check);
        let mut account = self.account();
        if new {
            account.target_group_details.insert(
                made.arn.clone(),
                TargetGroupDetail {
                    attributes: Some(defaults(&spec.attributes)),
                    targets: Some(BTreeSet::new()),
                },
            );
        }
        account
            .target_groups
            .insert(made.arn.clone(), made, Instant::now());
        Ok(())
    }

    async fn tag_target_group(
        &self,
        caller: Caller<'_>,
        named: &Named,
        set: &Tags,
        unset: &BTreeSet<String>,
    ) -> Done {
        let arn = self.target_group(named)?;
        self.write_tags(caller, &arn, set, unset).await?;
        self.account()
            .target_groups
            .wrote(&arn, Instant::now(), |is| {
                change_tags(is.tags.get_or_insert_default(), set, unset);
            });
        Ok(())
    }

    async fn deregister(&self, caller: Caller<'_>, group: &Named, targets: &[Target]) -> Done {
        let arn = self.target_group(group)?;
        match self.client.deregister_targets(caller, &arn, targets).await {
            // An instance that is gone is registered no more.
            Err(error) if error.is(&["InvalidTarget"]) => {}
            result => self.about(&arn, result)?,
        }
        if let Some(own) = self.memory().registered.get_mut(&arn) {
            own.retain(|target| !targets.contains(target));
        }
        self.group_detail(&arn, |detail| {
            if let Some(known) = &mut detail.targets {
                known.retain(|target| !targets.contains(target));
            }
        });
        Ok(())
    }

    async fn delete_target_group(&self, caller: Caller<'_>, group: &Named) -> Done {
        let arn = self.target_group(group)?;
        let what = format!("target group {group}");
        self.held(&arn, &what)?;
        match gone(self.client.delete_target_group(caller, &arn).await) {
            Ok(()) => {
                self.memory().held.remove(&arn);
                self.memory().registered.remove(&arn);
                let mut account = self.account();
                account.target_groups.remove(&arn, Instant::now());
                account.target_group_details.remove(&arn);
                Ok(())
            }
            Err(error) if error.is(&["ResourceInUse"]) => {
                Err(self.hold(&arn, &what, self.tuning.hold / 5))
            }
            Err(error) => Err(error.into()),
        }
    }

    // --- Listeners.

    fn settings(&self, spec: &Listener, groups: &[Named]) -> Result<ListenerSettings, Failure> {
        let arns = groups.iter().map(|group| self.target_group(group));
        let arns: Vec<String> = arns.collect::<Result<_, _>>()?;
        let weights = spec.forward.targets.iter().map(|target| target.weight);
        Ok(ListenerSettings {
            port: spec.port,
            protocol: spec.protocol.as_str().to_owned(),
            certificate: spec.certificates.first().cloned(),
            ssl_policy: spec.ssl_policy.clone(),
            alpn_policy: spec.alpn_policy.clone(),
            forward: arns.into_iter().zip(weights).collect(),
            sticky: spec.forward.sticky,
        })
    }

    async fn create_listener(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        spec: &Listener,
        groups: &[Named],
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let settings = self.settings(spec, groups)?;
        let made = self
            .client
            .create_listener(caller, &arn, &settings, &spec.tags)
            .await;
        let mut made = match made {
            Err(error) if error.is(&["DuplicateListener"]) => {
                self.account().load_balancer_details.remove(&arn);
                return Err(Failure::Replan(error.to_string()));
            }
            made => self.about(&arn, made)?,
        };
        made.attributes = defaults(&spec.attributes);
        fill(&mut made, &settings);
        self.detail(&arn, |detail| {
            detail.listeners.insert(spec.port, made);
        });
        self.forwards(&arn);
        Ok(())
    }

    async fn modify_listener(
        &self,
        caller: Caller<'_>,
        load_balancer: &Named,
        listener: &str,
        spec: &Listener,
        groups: &[Named],
    ) -> Done {
        let arn = self.load_balancer(load_balancer)?;
        let settings = self.settings(spec, groups)?;
        let result = self
            .client
            .modify_listener(caller, listener, &settings)
            .await;
        self.about(&arn, result)?;
        self.known_listener(&arn, spec.port, |is| {
            if is.protocol != settings.protocol {
                is.attributes = defaults(&spec.attributes);
            }
            is.protocol.clone_from(&settings.protocol);
            is.forward.clear();
            fill(is, &settings);
        });
        self.forwards(&arn);
        Ok(())
    }
}

fn find_target_group(account: &crate::account::Account, named: &Named) -> Option<String> {
    let by_name = || Some(account.target_group_named(&named.name)?.arn.clone());
    named.id.clone().or_else(by_name)
}

/// What a listener has after it was told `settings`.
fn fill(is: &mut crate::cloud::Listener, settings: &ListenerSettings) {
    is.certificate.clone_from(&settings.certificate);
    is.ssl_policy.clone_from(&settings.ssl_policy);
    is.alpn_policy.clone_from(&settings.alpn_policy);
    is.sticky = settings.sticky;
    let many = settings.forward.len() > 1;
    is.forward = settings
        .forward
        .iter()
        .map(|(arn, weight)| (arn.clone(), many.then(|| i32::from(weight.unwrap_or(1)))))
        .collect();
}

/// What a new object has of the attributes that a specification speaks of.
fn defaults(attributes: &Attributes) -> BTreeMap<String, String> {
    let mut is = attributes.reset.clone();
    for key in attributes.set.keys() {
        if let Some(value) = crate::defaults::of(key) {
            is.insert(key.clone(), value.to_owned());
        }
    }
    is
}

fn change_tags(tags: &mut Tags, set: &Tags, unset: &BTreeSet<String>) {
    tags.extend(set.clone());
    tags.retain(|key, _| !unset.contains(key) || set.contains_key(key));
}

/// What is not there is deleted.
fn gone(result: Result<(), CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.not_found() => Ok(()),
        result => result,
    }
}

fn waits_for(what: &str) -> String {
    format!(
        "AWS still uses {what}, which takes some minutes after a load balancer is gone; it is tried again"
    )
}
