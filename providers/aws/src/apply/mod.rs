//! One step at a time: a call, and what is known of the account after it.

mod known;
mod listeners;
mod load_balancers;
mod security_groups;
mod target_groups;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use herald_provider::ProviderError;

use crate::action::{Action, Step};
use crate::client::{CallError, Caller};
use crate::provider::Shared;
use crate::record::TAG_APPLIED;
use crate::spec::Tags;
use known::find_target_group;
use security_groups::CHANGING;

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
                self.create_backend_group(caller, vpc_id, name, tags).await
            }
            Step::CreateSecurityGroup { vpc_id, group } => {
                self.create_group(caller, vpc_id, &group.name, &group.description, &group.tags)
                    .await
            }
            Step::Authorize { group, rules } => self.authorize(caller, group, rules).await,
            Step::AuthorizeBackend { group, ranges } => {
                self.authorize_backend(caller, group, ranges).await
            }
            Step::Revoke { group, rules } => self.revoke(caller, group, rules).await,
            Step::TagSecurityGroup { group, set, unset } => {
                self.tag_group(caller, group, set, unset).await
            }
            Step::DeleteSecurityGroup { group } => self.delete_group(caller, group).await,
            Step::ClearNodes { group } => self.write_nodes(caller, group, CHANGING).await,
            Step::WriteNodes { group, record } => self.write_nodes(caller, group, record).await,
            Step::CreateLoadBalancer { spec, groups } => {
                self.create_load_balancer(caller, uid, spec, groups.as_deref())
                    .await
            }
            Step::SetSecurityGroups {
                load_balancer,
                groups,
                enforce_on_private_link,
            } => {
                self.set_security_groups(caller, load_balancer, groups, *enforce_on_private_link)
                    .await
            }
            Step::SetSubnets {
                load_balancer,
                spec,
            } => self.set_subnets(caller, load_balancer, spec).await,
            Step::SetIpAddressType {
                load_balancer,
                value,
            } => {
                self.set_ip_address_type(caller, load_balancer, *value)
                    .await
            }
            Step::SetLoadBalancerAttributes {
                load_balancer,
                attributes,
            } => {
                self.set_load_balancer_attributes(caller, load_balancer, attributes)
                    .await
            }
            Step::SetCapacity {
                load_balancer,
                units,
            } => self.set_capacity(caller, load_balancer, *units).await,
            Step::DeleteLoadBalancer { load_balancer } => {
                self.delete_load_balancer(caller, load_balancer).await
            }
            Step::Retire {
                load_balancer,
                after,
            } => self.retire(caller, load_balancer, *after).await,
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
            Step::Tag {
                kind,
                object,
                set,
                unset,
            } if *kind == crate::action::LOAD_BALANCER => {
                self.tag_load_balancer(caller, object, set, unset).await
            }
            Step::AdoptTargetGroup {
                group: object,
                set,
                unset,
            }
            | Step::Tag {
                object, set, unset, ..
            } => self.tag_target_group(caller, object, set, unset).await,
            Step::CreateTargetGroup { vpc_id, spec } => {
                self.create_target_group(caller, uid, vpc_id, spec).await
            }
            Step::SetHealthCheck { group, check } => {
                self.set_health_check(caller, group, check).await
            }
            Step::SetTargetGroupAttributes { group, attributes } => {
                self.set_target_group_attributes(caller, group, attributes)
                    .await
            }
            Step::Register { group, targets } => self.register(caller, group, targets).await,
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
            Step::HandOver {
                load_balancer,
                arn,
                spec,
                groups,
            } => {
                self.hand_over(caller, load_balancer, arn, spec, groups)
                    .await
            }
            Step::SetListenerAttributes {
                load_balancer,
                port,
                attributes,
            } => {
                self.set_listener_attributes(caller, load_balancer, *port, attributes)
                    .await
            }
            Step::AddCertificates {
                load_balancer,
                port,
                certificates,
            } => {
                self.add_certificates(caller, load_balancer, *port, certificates)
                    .await
            }
            Step::RemoveCertificates {
                load_balancer,
                port,
                certificates,
            } => {
                self.remove_certificates(caller, load_balancer, *port, certificates)
                    .await
            }
            Step::DeleteListener {
                load_balancer,
                arn,
                port,
            } => {
                self.delete_listener(caller, load_balancer, arn, *port)
                    .await
            }
            Step::Confirm => self.confirm(uid).await,
        }
    }

    /// Reads the account anew when every write must be visible.
    async fn confirm(&self, uid: &str) -> Done {
        let after = self.sure_after(uid);
        let left = after.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Err(Failure::Held(
                left,
                "AWS's lists may not show yet what was made last; they are read again before \
                 this is over"
                    .to_owned(),
            ));
        }
        self.read_account(Some(after)).await?;
        Ok(())
    }

    // --- What AWS still uses.

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
