//! From pool objects to pools, and what is said on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use herald_api::names::CONDITION_VALID;
use herald_api::{Condition, IPAddressPool, ServiceAllocation, any_or_empty, set_condition};
use herald_core::{AddressRange, ServiceRequest};
use herald_ipam::{AddressPools, Admission, Pool, Usage};
use jiff::Timestamp;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;

use crate::metrics::{Metrics, PoolLabel};
use crate::writer::{WriteError, Writer};

/// What is wrong with a pool by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    reason: &'static str,
    message: String,
}

/// The pools that can be understood, and what is wrong with the others.
pub(crate) fn parse(objects: &[Arc<IPAddressPool>]) -> (Vec<Pool>, BTreeMap<String, Problem>) {
    let mut pools = Vec::new();
    let mut problems = BTreeMap::new();
    for object in objects
        .iter()
        .filter(|object| object.metadata.deletion_timestamp.is_none())
    {
        match parse_one(object) {
            Ok(pool) => pools.push(pool),
            Err(problem) => {
                problems.insert(object.name_any(), problem);
            }
        }
    }
    (pools, problems)
}

fn parse_one(object: &IPAddressPool) -> Result<Pool, Problem> {
    let spec = &object.spec;
    let ranges = spec
        .addresses
        .iter()
        .map(|text| text.parse::<AddressRange>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Problem {
            reason: "InvalidAddresses",
            message: format!("{error}; the whole pool is left out until it is mended"),
        })?;
    let allocation = spec.service_allocation.clone();
    for selector in allocation
        .iter()
        .flat_map(|a| a.namespace_selectors.iter().chain(&a.service_selectors))
    {
        selector.validate().map_err(|error| Problem {
            reason: "InvalidSelector",
            message: format!("{error}; the whole pool is left out until it is mended"),
        })?;
    }
    Ok(Pool {
        name: object.name_any(),
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0.to_string())
            .unwrap_or_default(),
        ranges,
        auto_assign: spec.auto_assign,
        avoid_buggy_ips: spec.avoid_buggy_ips,
        priority: allocation
            .as_ref()
            .map(|allocation| u32::try_from(allocation.priority).unwrap_or(0)),
        admission: Admission::new(move |service| {
            allocation
                .as_ref()
                .is_none_or(|allocation| admits(allocation, service))
        }),
    })
}

/// `serviceAllocation`: the namespace by name or by label, and the Service by
/// label.
fn admits(allocation: &ServiceAllocation, service: &ServiceRequest) -> bool {
    let any_namespace =
        allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty();
    let namespace = any_namespace
        || allocation.namespaces.contains(&service.key.namespace)
        || allocation
            .namespace_selectors
            .iter()
            .any(|selector| selector.matches(&service.namespace_labels));
    namespace && any_or_empty(&allocation.service_selectors, &service.labels)
}

/// Keeps the status of pools and the metrics of their use.
#[derive(Clone)]
pub(crate) struct PoolKeeper {
    client: Client,
    namespace: String,
    writer: Writer,
    metrics: Arc<Metrics>,
    problems: BTreeMap<String, Problem>,
}

impl PoolKeeper {
    pub(crate) fn new(
        client: Client,
        namespace: String,
        writer: Writer,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            namespace,
            writer,
            metrics,
            problems: BTreeMap::new(),
        }
    }

    /// Gives the pools to the provider.
    pub(crate) fn feed(&mut self, objects: &[Arc<IPAddressPool>], addresses: &dyn AddressPools) {
        let (pools, problems) = parse(objects);
        addresses.set_pools(pools);
        self.problems = problems;
    }

    /// Writes the status of every pool whose status differs, and says whether
    /// all stand as they should.
    pub(crate) async fn write(
        &self,
        objects: &[Arc<IPAddressPool>],
        addresses: &dyn AddressPools,
    ) -> bool {
        let usage: BTreeMap<String, Usage> = addresses.usage().into_iter().collect();
        self.measure(&usage);
        let mut done = true;
        for object in objects {
            let name = object.name_any();
            let used = usage.get(&name).copied().unwrap_or_default();
            let problem = self.problems.get(&name).cloned().or_else(|| {
                let refusal = addresses.refusal(&name)?;
                Some(Problem {
                    reason: "Overlap",
                    message: refusal.to_string(),
                })
            });
            match self.write_one(object, used, problem).await {
                Ok(()) => {}
                Err(WriteError::Fenced | WriteError::Stale) => done = false,
                Err(WriteError::Api(error)) => {
                    tracing::warn!(pool = name, %error, "writing the status of a pool");
                    done = false;
                }
            }
        }
        done
    }

    async fn write_one(
        &self,
        object: &IPAddressPool,
        usage: Usage,
        problem: Option<Problem>,
    ) -> Result<(), WriteError> {
        let number = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
        let mut status = object.status.clone().unwrap_or_default();
        status.assigned_ipv4 = number(usage.assigned_v4);
        status.assigned_ipv6 = number(usage.assigned_v6);
        status.available_ipv4 = number(usage.available_v4);
        status.available_ipv6 = number(usage.available_v6);
        let condition = Condition {
            type_: CONDITION_VALID.into(),
            status: if problem.is_none() { "True" } else { "False" }.into(),
            observed_generation: object.metadata.generation,
            last_transition_time: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            reason: problem
                .as_ref()
                .map_or("Accepted", |problem| problem.reason)
                .into(),
            message: problem
                .as_ref()
                .map(|problem| problem.message.clone())
                .unwrap_or_default(),
        };
        let before = status
            .conditions
            .iter()
            .find(|c| c.type_ == CONDITION_VALID)
            .cloned();
        set_condition(&mut status.conditions, condition.clone());
        if object.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<IPAddressPool> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = json!({
            "metadata": {"resourceVersion": object.resource_version()},
            "status": status,
        });
        self.writer.status(&api, object, &patch).await?;
        let news = before.is_none_or(|before| {
            before.reason != condition.reason || before.message != condition.message
        });
        if let (true, Some(problem)) = (news, problem) {
            let about = object.object_ref(&());
            self.writer
                .event(&about, true, problem.reason, &problem.message);
        }
        Ok(())
    }

    fn measure(&self, usage: &BTreeMap<String, Usage>) {
        self.metrics.pool_addresses.clear();
        for (pool, usage) in usage {
            for (family, state, count) in [
                ("IPv4", "assigned", usage.assigned_v4),
                ("IPv4", "available", usage.available_v4),
                ("IPv6", "assigned", usage.assigned_v6),
                ("IPv6", "available", usage.available_v6),
            ] {
                let label = PoolLabel {
                    pool: pool.clone(),
                    family,
                    state,
                };
                self.metrics
                    .pool_addresses
                    .get_or_create(&label)
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, addresses: &[&str]) -> Arc<IPAddressPool> {
        let spec = herald_api::IPAddressPoolSpec {
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            auto_assign: true,
            ..Default::default()
        };
        Arc::new(IPAddressPool::new(name, spec))
    }

    #[test]
    fn a_bad_pool_leaves_the_others_alone() {
        let (pools, problems) = parse(&[
            object("good", &["192.0.2.0/24", "fd00::10-fd00::20"]),
            object("bad", &["fd00::20-fd00::10"]),
        ]);
        assert_eq!(pools.len(), 1);
        assert_eq!(problems["bad"].reason, "InvalidAddresses");
        assert!(
            problems["bad"].message.contains("upside down"),
            "{}",
            problems["bad"].message
        );
    }
}
