//! What exists for one Service: from the reading that all share, and where that is not
//! enough, by calls of its own.

mod adoption;
mod groups;
mod health;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use herald_provider::{Desired, ProviderError, Warning};

use crate::account::owner;
use crate::annotations::Annotations;
use crate::client::{CallError, Caller};
use crate::cloud::LoadBalancer;
use crate::facts::{Existing, Facts};
use crate::observed::{Adoption, Have, Observed};
use crate::plan::{given, plan};
use crate::provider::Shared;
use crate::record::{TAG_ADOPTED, TAG_RETIRES};
use crate::spec::TargetType;
use crate::want::want;

/// When a Service is looked at again whose background check has to wait for others.
const OVERDUE: Duration = Duration::from_mins(1);

impl Shared {
    pub(crate) async fn observe(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        self.read_account(None).await?;
        match desired {
            Desired::Absent { uid, .. } => self.observe_absent(desired, uid).await,
            Desired::Present { .. } => {
                let observed = self.observe_present(desired).await?;
                if observed.sure || !names_are_taken(&observed) {
                    return Ok(observed);
                }
                // A predecessor may have made it, and AWS not show its tags yet.
                let after = self.sure_after(desired.uid());
                let left = after.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(ProviderError::Waiting {
                        reason: "CloudBusy",
                        message: "AWS may not show yet whose the load balancer of that name is"
                            .to_owned(),
                        recheck: left,
                    });
                }
                self.read_account(Some(after)).await?;
                self.observe_present(desired).await
            }
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
        let sure = self.is_sure(uid);
        let (unweighted, protected) = {
            let memory = self.memory();
            (memory.unweighted.clone(), memory.protected.clone())
        };
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
            owners_groups: Vec::new(),
            security_groups: account.security_groups_of(cluster, uid),
            backend: account.backend_group(cluster).cloned(),
            node_groups: Vec::new(),
            alone: !account.others_have_anything(cluster, uid),
            others_target_pods: false,
            referring: Vec::new(),
            nodes_record_due: None,
            stragglers: Vec::new(),
            gather: None,
            healthy: None,
            group_health: BTreeMap::new(),
            unweighted,
            protected,
            unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            sure,
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
        let lent = |is: &LoadBalancer| given(is.tag(TAG_ADOPTED));
        // What goes back needs a closer look.
        own.sort_by_key(|is| !lent(is));
        let mut own = own.into_iter();
        if let Some(load_balancer) = own.next() {
            if lent(&load_balancer) {
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
            memory.news.remove(uid);
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
        observed.owners_groups = self.owners_groups(&observed);
        observed.gather = self.gather(uid, &observed, &want);
        if let Some((record, stragglers)) = self.nodes_record_due(&observed, &want) {
            observed.nodes_record_due = Some(record);
            observed.stragglers = stragglers;
        }
        observed.group_health = self.group_health(caller, &observed, &want).await?;
        observed.healthy = self.health(caller, &observed, &want).await?;
        self.pods(caller, &mut observed, &want, endpoints).await?;
        if !checked && self.check_is_due(uid) {
            observed.recheck = observed.recheck.min(OVERDUE);
        }
        if checked {
            self.tell_of_drift(&observed);
        }
        Ok(observed)
    }

    /// What the background check found that is not as it was left.
    fn tell_of_drift(&self, observed: &Observed) {
        let Ok(plan) = plan(observed) else {
            return;
        };
        if plan.is_empty() {
            return;
        }
        self.metrics.drifted();
        let mend: Vec<String> = plan
            .iter()
            .filter(|action| !action.step.is_record())
            .map(ToString::to_string)
            .collect();
        let news = Warning {
            reason: "Drift",
            message: format!(
                "something else changed in AWS what Herald keeps there; to put it right: {}",
                mend.join("; ")
            ),
        };
        self.memory().news.insert(observed.uid.clone(), vec![news]);
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
}

/// Whether something that is not the Service's has a name that it wants.
fn names_are_taken(observed: &Observed) -> bool {
    observed.taken_by.is_some() || observed.target_groups.values().any(|have| !have.ours)
}

/// When a Service's details are first read again: at a time of its own within the
/// period, the same after every restart.
pub(crate) fn spread(uid: &str, period: Duration) -> Duration {
    use sha2::{Digest as _, Sha256};

    let digest = Sha256::digest(uid);
    let part = f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX);
    period.mul_f64(part)
}
