//! What exists for one Service: from the reading that all share, and where that is not
//! enough, by calls of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use herald_core::Backend;
use herald_provider::{Desired, PodHealth, ProviderError};

use crate::account::{Account, owner};
use crate::annotations::Annotations;
use crate::client::{CallError, Caller};
use crate::cloud::{LoadBalancer, SecurityGroup, State, TargetGroup, TargetHealth};
use crate::facts::{Existing, Facts};
use crate::identity::{LBC_TAG_CLUSTER, LBC_TAG_STACK};
use crate::observed::{Adoption, Have, HaveGroup, Observed, Want};
use crate::plan::plan;
use crate::provider::{Gathering, Shared};
use crate::record::{
    self, TAG_ADOPTED, TAG_APPLIED, TAG_NODES, TAG_RETIRES, Targets, follows_nodes,
};
use crate::spec::{Adopt, Spec, Target, TargetType};
use crate::want::want;

/// When a Service is looked at again whose background check has to wait for others.
const OVERDUE: Duration = Duration::from_mins(1);

impl Shared {
    pub(crate) async fn observe(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        self.read_account(None).await?;
        match desired {
            Desired::Absent { uid, .. } => self.observe_absent(desired, uid).await,
            Desired::Present { .. } => self.observe_present(desired).await,
        }
    }

    /// What is the same for both.
    fn blank(&self, desired: &Desired) -> Observed {
        let uid = desired.uid();
        let cluster = &self.settings.cluster_id;
        let published = match desired {
            Desired::Present { service, .. } => service.ingress.clone(),
            Desired::Absent { .. } => Vec::new(),
        };
        let sure_after = self.sure_after(uid);
        let account = self.account();
        Observed {
            uid: uid.to_owned(),
            cluster_id: cluster.clone(),
            want: None,
            current: None,
            old: Vec::new(),
            taken_by: None,
            adoption: Adoption::Nothing,
            target_groups: BTreeMap::new(),
            security_groups: account.security_groups_of(cluster, uid),
            backend: account.backend_group(cluster).cloned(),
            node_groups: Vec::new(),
            alone: !account.others_have_anything(cluster, uid),
            others_target_pods: false,
            referring: Vec::new(),
            nodes_record_due: None,
            gather: None,
            healthy: None,
            protected: self.memory().protected.clone(),
            unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            sure: account.read.is_some_and(|read| read >= sure_after),
            recheck: self.tuning.reading_age,
            pods: Vec::new(),
            published,
        }
    }

    async fn observe_absent(
        &self,
        desired: &Desired,
        uid: &str,
    ) -> Result<Observed, ProviderError> {
        let caller = Caller::service(uid);
        let mut observed = self.blank(desired);
        let mut own = self
            .account()
            .load_balancers_of(&self.settings.cluster_id, uid);
        self.read_tags_of_groups(caller, &own, None).await?;
        let given = |is: &LoadBalancer| {
            is.tag(TAG_ADOPTED)
                .is_some_and(|how| how.starts_with("given"))
        };
        // What goes back needs a closer look.
        own.sort_by_key(|is| !given(is));
        let mut own = own.into_iter();
        if let Some(load_balancer) = own.next() {
            if given(&load_balancer) {
                self.read_load_balancer(caller, &load_balancer.arn).await?;
            }
            let detail = self
                .account()
                .load_balancer_details
                .get(&load_balancer.arn)
                .cloned();
            observed.current = Some(Have {
                load_balancer,
                detail,
            });
        }
        observed.old = own.collect();
        observed.target_groups = self.groups_of(&observed, None, false);
        let left = observed.current.is_some()
            || observed.target_groups.values().any(|have| have.ours)
            || !observed.security_groups.is_empty();
        if let (Some(backend), true, false) = (&observed.backend, observed.alone, left) {
            let filter = [("ip-permission.group-id", vec![backend.id.clone()])];
            observed.referring = self.client.security_groups(caller, &filter).await?;
        }
        if !left {
            let mut memory = self.memory();
            memory.gathering.remove(uid);
            memory.distrusted.remove(uid);
            drop(memory);
            self.account().check_due.remove(uid);
        }
        Ok(observed)
    }

    async fn observe_present(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        let Desired::Present {
            service, endpoints, ..
        } = desired
        else {
            return Err(ProviderError::Conflict("it should not exist".to_owned()));
        };
        let uid = desired.uid();
        let caller = Caller::service(uid);
        self.poll().await?;
        let mut observed = self.blank(desired);
        let annotations = Annotations::parse(&service.annotations).ok();
        let own = self
            .account()
            .load_balancers_of(&self.settings.cluster_id, uid);
        observed.adoption = match annotations.as_ref().and_then(|a| a.adopt.as_ref()) {
            Some(adopt) => self.to_adopt(adopt, uid).await?,
            None if own.is_empty() => self.of_the_controller(caller, service).await?,
            None => Adoption::Nothing,
        };
        let adopted = match &observed.adoption {
            Adoption::Given(is) => Some(is.clone()),
            Adoption::Controller { load_balancer, .. } => Some(load_balancer.clone()),
            Adoption::Nothing | Adoption::Impossible(_) => None,
        };
        let existing = adopted.as_ref().or_else(|| {
            own.iter()
                .find(|is| is.tag(TAG_RETIRES).is_none())
                .or(own.first())
        });
        let named = annotations.is_some_and(|a| !a.security_groups.is_empty());
        let facts = self.facts(caller, existing, named).await?;
        observed.want = want(&self.settings, &facts, desired);
        let Some(Ok(mut want)) = observed.want.clone() else {
            // What it has is told as it stands.
            let mut own = own.into_iter();
            observed.current = own.next().map(|load_balancer| Have {
                load_balancer,
                detail: None,
            });
            observed.old = own.collect();
            return Ok(observed);
        };
        self.choose(&mut observed, &want.spec, own, adopted);
        if let Some(have) = &observed.current {
            // One that was taken over keeps its name.
            want.spec
                .load_balancer
                .name
                .clone_from(&have.load_balancer.name);
        }
        observed.want = Some(Ok(want.clone()));
        self.others(&mut observed);
        self.node_groups(caller, &mut observed, &want).await?;
        let checked = self.details(&mut observed, &want, caller).await?;
        observed.target_groups = self.groups_of(&observed, Some(&want), true);
        observed.gather = self.gather(uid, &observed, &want);
        observed.nodes_record_due = self.nodes_record_due(&observed, &want);
        observed.healthy = self.health(caller, &observed, &want).await?;
        self.pods(caller, &mut observed, &want, endpoints).await?;
        if !checked && self.check_is_due(uid) {
            observed.recheck = observed.recheck.min(OVERDUE);
        }
        if checked && plan(&observed).is_ok_and(|plan| !plan.is_empty()) {
            self.metrics.drifted();
        }
        Ok(observed)
    }

    async fn facts(
        &self,
        caller: Caller<'_>,
        existing: Option<&LoadBalancer>,
        names_groups: bool,
    ) -> Result<Facts, CallError> {
        if names_groups && self.account().vpc_groups.is_none() {
            let _alone = self.looking.lock().await;
            let filter = [("vpc-id", vec![self.vpc_id.clone()])];
            let groups = self.client.security_groups(caller, &filter).await?;
            let groups = groups.into_iter().map(|group| crate::facts::SecurityGroup {
                id: group.id,
                name: group.name,
                tags: group.tags,
            });
            self.account().vpc_groups = Some(groups.collect());
        }
        let account = self.account();
        let network = account.network.clone().unwrap_or_default();
        Ok(Facts {
            vpc_id: self.vpc_id.clone(),
            vpc_cidrs: network.vpc_cidrs,
            subnets: network.subnets,
            route_tables: network.route_tables,
            zones: network.zones,
            security_groups: account.vpc_groups.clone().unwrap_or_default(),
            existing: existing.map(|is| Existing {
                arn: is.arn.clone(),
                name: is.name.clone(),
                scheme: is.scheme,
                ip_address_type: is.ip_address_type,
                subnets: is.subnets.clone(),
                security_groups: is.security_groups.iter().cloned().collect(),
            }),
        })
    }

    /// The load balancer that the user wants taken over, unless it is already.
    async fn to_adopt(&self, adopt: &Adopt, uid: &str) -> Result<Adoption, CallError> {
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
    async fn of_the_controller(
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
    fn choose(
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

    fn others(&self, observed: &mut Observed) {
        let account = self.account();
        let cluster = &self.settings.cluster_id;
        let mut mine: BTreeSet<&str> = observed.old.iter().map(|is| is.arn.as_str()).collect();
        mine.extend(
            observed
                .current
                .iter()
                .map(|have| have.load_balancer.arn.as_str()),
        );
        let of_cluster = |arn: &String| {
            account.load_balancers.get(arn).is_some_and(|is| {
                is.tags
                    .as_ref()
                    .is_some_and(|tags| owner(tags, cluster).is_some())
            })
        };
        observed.others_target_pods = account
            .target_groups
            .values()
            .filter(|group| group.target_type == TargetType::Ip.as_str())
            .filter(|group| {
                !group
                    .load_balancers
                    .iter()
                    .any(|arn| mine.contains(arn.as_str()))
            })
            .any(|group| {
                group.load_balancers.iter().any(of_cluster)
                    || group.tags.as_ref().is_some_and(|tags| {
                        owner(tags, cluster).is_some_and(|owner| owner != observed.uid)
                    })
            });
    }

    /// The security groups of the nodes behind a Service: of each node one, that with
    /// the cluster's tag, or the first by id. Rules of all its groups add up, so that one
    /// is enough.
    async fn node_groups(
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

    fn group_of_node<'a>(
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

    /// Target groups of the Service (by tags, or forwarded to by its load balancers) and
    /// those that have the names it wants, with their details.
    fn groups_of(
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
            };
            let shared = want.is_some_and(|want| {
                want.spec
                    .target_groups
                    .iter()
                    .any(|w| w.name == group.name && w.shared)
            });
            if shared {
                self.leave_others(&mut have, want);
            }
            found.insert(group.name.clone(), have);
        }
        found
    }

    /// Of a group that other clusters use too, only what this process registered is
    /// taken out again.
    fn leave_others(&self, have: &mut HaveGroup, want: Option<&Want>) {
        let memory = self.memory();
        let own = memory.registered.get(&have.group.arn);
        let wanted = want.and_then(|want| {
            let mut groups = want.spec.target_groups.iter();
            groups
                .find(|w| w.name == have.group.name)
                .map(|w| &w.targets)
        });
        if let Some(targets) = &mut have.detail.targets {
            targets.retain(|target| {
                own.is_some_and(|own| own.contains(target))
                    || wanted.is_some_and(|wanted| wanted.contains(target))
            });
        }
    }

    /// How long changes of targets are still gathered; none where they are due, or
    /// where there are none.
    fn gather(&self, uid: &str, observed: &Observed, want: &Want) -> Option<Duration> {
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

    /// The record of the cluster's nodes, where it may be written: every load balancer
    /// whose own record goes by it has those nodes and no others.
    fn nodes_record_due(&self, observed: &Observed, want: &Want) -> Option<String> {
        let backend = observed.backend.as_ref()?;
        let record = record::nodes(&want.nodes);
        let follows = record::targets(&want.spec, &want.nodes) == Targets::Nodes;
        if !follows || observed.gather.is_some() || backend.tags.get(TAG_NODES) == Some(&record) {
            return None;
        }
        let account = self.account();
        let cluster = &self.settings.cluster_id;
        let following: BTreeSet<&str> = account
            .load_balancers
            .values()
            .filter(|is| {
                is.tags
                    .as_ref()
                    .is_some_and(|tags| owner(tags, cluster).is_some())
            })
            .filter(|is| is.tag(TAG_APPLIED).is_some_and(follows_nodes))
            .map(|is| is.arn.as_str())
            .collect();
        let have_them = account
            .target_groups
            .values()
            .filter(|group| group.name.starts_with("herald-"))
            .filter(|group| {
                group
                    .load_balancers
                    .iter()
                    .any(|arn| following.contains(arn.as_str()))
            })
            .all(|group| {
                account
                    .target_group_details
                    .get(&group.arn)
                    .and_then(|detail| detail.targets.as_ref())
                    .is_some_and(|targets| {
                        targets.len() == want.nodes.len()
                            && targets
                                .iter()
                                .all(|target| want.nodes.contains(&target.id()))
                    })
            });
        have_them.then_some(record)
    }

    /// Whether what is to take another's place would serve: every target group has a
    /// healthy target, and none that AWS has not judged yet.
    async fn health(
        &self,
        caller: Caller<'_>,
        observed: &Observed,
        want: &Want,
    ) -> Result<Option<bool>, CallError> {
        let waiting = observed
            .old
            .iter()
            .any(|old| old.tag(TAG_RETIRES).is_none());
        let active = observed.current.as_ref().is_some_and(|have| {
            matches!(have.load_balancer.state, State::Active | State::Impaired(_))
        });
        if !waiting || !active {
            return Ok(None);
        }
        for group in &want.spec.target_groups {
            if group.targets.is_empty() {
                continue;
            }
            let Some(have) = observed.target_groups.get(&group.name) else {
                return Ok(Some(false));
            };
            let health = self.client.target_health(caller, &have.group.arn).await?;
            let is = |state: &str| health.iter().any(|target| target.state == state);
            if !is("healthy") || is("initial") {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    /// Health of pods that wait to be told of it.
    async fn pods(
        &self,
        caller: Caller<'_>,
        observed: &mut Observed,
        want: &Want,
        endpoints: &[Backend],
    ) -> Result<(), CallError> {
        let gated: BTreeMap<std::net::IpAddr, &str> = endpoints
            .iter()
            .filter(|backend| backend.awaits_gate)
            .filter_map(|backend| Some((backend.endpoint.address, backend.pod.as_deref()?)))
            .collect();
        if gated.is_empty() {
            return Ok(());
        }
        let mut verdicts: BTreeMap<&str, PodHealth> = BTreeMap::new();
        for group in &want.spec.target_groups {
            let Some(have) = observed.target_groups.get(&group.name) else {
                continue;
            };
            if group.target_type != TargetType::Ip {
                continue;
            }
            for health in self.client.target_health(caller, &have.group.arn).await? {
                let Target::Ip { address, .. } = &health.target else {
                    continue;
                };
                if let Some(pod) = gated.get(address) {
                    let verdict = verdict(pod, &health);
                    // It is in service when it is in all of its groups.
                    let known = verdicts.entry(pod).or_insert_with(|| verdict.clone());
                    if known.healthy {
                        *known = verdict;
                    }
                }
            }
        }
        for pod in gated.values() {
            verdicts.entry(pod).or_insert_with(|| PodHealth {
                pod: (*pod).to_owned(),
                healthy: false,
                reason: "NotRegistered".to_owned(),
                message: "it is not registered yet".to_owned(),
            });
        }
        observed.pods = verdicts.into_values().collect();
        if observed.pods.iter().any(|pod| !pod.healthy) {
            observed.recheck = self.tuning.poll;
        }
        Ok(())
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
        let mut account = self.account();
        for (arn, tags) in tags {
            account
                .target_groups
                .learnt(&arn, |group| group.tags = Some(tags));
        }
        Ok(())
    }
}

fn verdict(pod: &str, health: &TargetHealth) -> PodHealth {
    let healthy = health.state == "healthy";
    PodHealth {
        pod: pod.to_owned(),
        healthy,
        reason: if healthy { "Healthy" } else { "NotHealthy" }.to_owned(),
        message: format!("the load balancer says: {}", health.state),
    }
}

/// When a Service's details are first read again: at a time of its own within the
/// period, the same after every restart.
pub(crate) fn spread(uid: &str, period: Duration) -> Duration {
    use sha2::{Digest as _, Sha256};

    let digest = Sha256::digest(uid);
    let part = f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX);
    period.mul_f64(part)
}
