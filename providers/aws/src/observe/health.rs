//! How the targets do.

use std::collections::BTreeMap;

use herald_core::Backend;
use herald_provider::PodHealth;

use crate::client::{CallError, Caller};
use crate::cloud::{State, TargetHealth};
use crate::observed::{GroupHealth, Observed, Want};
use crate::plan::handover;
use crate::provider::Shared;
use crate::record::TAG_RETIRES;
use crate::spec::{Target, TargetType};

impl Shared {
    /// Health behind listeners that pass from one target group to another.
    pub(super) async fn group_health(
        &self,
        caller: Caller<'_>,
        observed: &Observed,
        want: &Want,
    ) -> Result<BTreeMap<String, GroupHealth>, CallError> {
        let mut all = BTreeMap::new();
        for arn in handover::involved(observed, &want.spec) {
            let mut health = GroupHealth::default();
            for target in self.client.target_health(caller, &arn).await? {
                if target.state == "draining" {
                    health.draining = true;
                    continue;
                }
                health.healthy |= target.state == "healthy";
                health.initial |= target.state == "initial";
                health.serving.insert(target.target);
            }
            all.insert(arn, health);
        }
        Ok(all)
    }

    /// Whether what is to take another's place would serve: every target group has a
    /// healthy target, and none that AWS has not judged yet.
    pub(super) async fn health(
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
    pub(super) async fn pods(
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
