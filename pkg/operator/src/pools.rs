//! From pool objects to pools, and what is said on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use herald_api::names::FINALIZER;
use herald_api::{
    IPAddressPool, IPAddressPoolSpec, PoolSelection, ServiceAllocation, any_or_empty, period,
};
use herald_core::{AddressRange, ServiceKey, ServiceRequest};
use herald_ipam::{
    AddressPools, Admission, Limits, Pool, PoolReport, PoolState, Reservation, Selection, Sourced,
};
use kube::{Api, Client, Resource, ResourceExt as _};

use crate::metrics::{Metrics, PoolLabel, PoolName};
use crate::pool_status::{self, Problem};
use crate::writer::{WriteError, Writer};

/// `spec.reuseAfter`, where it is not said.
const REUSE_AFTER: Duration = Duration::from_mins(5);
/// `spec.drain.interval`, where it is not said.
const DRAIN_INTERVAL: Duration = Duration::from_secs(10);
/// `spec.drain.overlap`, where it is not said.
const DRAIN_OVERLAP: Duration = Duration::from_mins(1);

/// The pools that can be understood, and what is wrong with the others.
pub(crate) fn parse(
    objects: &[Arc<IPAddressPool>],
    has_source: impl Fn(&str) -> bool,
) -> (Vec<Pool>, BTreeMap<String, Problem>) {
    let mut pools = Vec::new();
    let mut problems = BTreeMap::new();
    for object in objects {
        let parsed = match &object.spec.source {
            Some(source) if !has_source(source) => Err(unknown_source(source)),
            Some(source) if is_leaving(object) => Err(closing(source)),
            None if is_leaving(object) => continue,
            _ => parse_one(object),
        };
        match parsed {
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
    let allocation = spec.service_allocation.clone();
    for selector in allocation
        .iter()
        .flat_map(|a| a.namespace_selectors.iter().chain(&a.service_selectors))
    {
        selector
            .validate()
            .map_err(|error| left_out("InvalidSelector", error))?;
    }
    Ok(Pool {
        name: object.name_any(),
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0.to_string())
            .unwrap_or_default(),
        ranges: ranges(&spec.addresses)?,
        excluded: ranges(&spec.excluded_addresses)?,
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
        selection: match spec.selection {
            PoolSelection::FirstFit => Selection::FirstFit,
            PoolSelection::Random => Selection::Random,
            PoolSelection::LeastRecentlyUsed => Selection::LeastRecentlyUsed,
        },
        reuse_after: length(spec.reuse_after.as_deref(), REUSE_AFTER)?,
        state: state(object)?,
        limits: spec
            .limits
            .as_ref()
            .map_or_else(Limits::default, |limits| Limits {
                addresses: limits.addresses_per_namespace,
                services: limits.services_per_namespace,
            }),
        reservations: reservations(spec)?,
        external: spec.source.is_some(),
    })
}

fn is_leaving(object: &IPAddressPool) -> bool {
    object.metadata.deletion_timestamp.is_some()
}

/// Whether it stays until its source has nothing of it.
fn is_marked(object: &IPAddressPool) -> bool {
    let mut finalizers = object.finalizers().iter();
    finalizers.any(|finalizer| finalizer == FINALIZER)
}

fn unknown_source(source: &str) -> Problem {
    let error = format!(
        "this operator has no source {source:?}; name it with --source name={source},url=…"
    );
    left_out("UnknownSource", error)
}

fn closing(source: &str) -> Problem {
    Problem {
        reason: "Deleted",
        message: format!(
            "the pool is deleted and gives nothing any more; it is gone when no Service has an \
             address of it and source {source:?} has taken all of them back"
        ),
    }
}

/// Pools that take their addresses from a source, also those that are on their way
/// out.
fn sourced(objects: &[Arc<IPAddressPool>]) -> BTreeMap<String, Sourced> {
    let one = |object: &Arc<IPAddressPool>| {
        let sourced = Sourced {
            source: object.spec.source.clone()?,
            closing: is_leaving(object),
        };
        Some((object.name_any(), sourced))
    };
    objects.iter().filter_map(one).collect()
}

fn left_out(reason: &'static str, error: impl std::fmt::Display) -> Problem {
    Problem {
        reason,
        message: format!("{error}; the whole pool is left out until it is mended"),
    }
}

/// CIDRs, ranges, single addresses.
fn ranges(texts: &[String]) -> Result<Vec<AddressRange>, Problem> {
    let range = |text: &String| match text.trim().parse::<IpAddr>() {
        Ok(address) => Ok(AddressRange::new(address, address).into_iter()),
        Err(_) => text.parse().map(|range| Some(range).into_iter()),
    };
    let ranges: Result<Vec<_>, _> = texts.iter().map(range).collect();
    ranges
        .map(|ranges| ranges.into_iter().flatten().collect())
        .map_err(|error| left_out("InvalidAddresses", error))
}

fn length(text: Option<&str>, default: Duration) -> Result<Duration, Problem> {
    text.map_or(Ok(default), period)
        .map_err(|error| left_out("InvalidPeriod", error))
}

fn state(object: &IPAddressPool) -> Result<PoolState, Problem> {
    let spec = &object.spec;
    let drain = spec.drain.clone().unwrap_or_default();
    Ok(match spec.state {
        // Nothing is asked of a source before it is certain that it is given back.
        herald_api::PoolState::Active if spec.source.is_some() && !is_marked(object) => {
            PoolState::Disabled
        }
        herald_api::PoolState::Active => PoolState::Active,
        herald_api::PoolState::Disabled => PoolState::Disabled,
        herald_api::PoolState::Draining => PoolState::Draining {
            interval: length(drain.interval.as_deref(), DRAIN_INTERVAL)?,
            overlap: length(drain.overlap.as_deref(), DRAIN_OVERLAP)?,
        },
    })
}

fn reservations(spec: &IPAddressPoolSpec) -> Result<Vec<Reservation>, Problem> {
    let mut all = Vec::new();
    for reservation in &spec.reservations {
        for text in &reservation.addresses {
            let address = text.parse().map_err(|_| {
                let error = format!("{text:?} in spec.reservations is no IP address");
                left_out("InvalidReservation", error)
            })?;
            all.push(Reservation {
                address,
                service: ServiceKey::new(&reservation.namespace, &reservation.name),
            });
        }
    }
    Ok(all)
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

/// What of a pool's object matters to the provider: uid, generation, whether it is
/// on its way out, and whether it stays until it is emptied.
type Version = (Option<String>, Option<i64>, bool, bool);

/// Keeps the status of pools and the metrics of their use.
#[derive(Clone)]
pub(crate) struct PoolKeeper {
    client: Client,
    namespace: String,
    writer: Writer,
    metrics: Arc<Metrics>,
    problems: BTreeMap<String, Problem>,
    /// What was given to the provider last, by name.
    fed: BTreeMap<String, Version>,
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
            fed: BTreeMap::new(),
        }
    }

    /// Gives the pools to the provider, if they are others than before: a pool's
    /// status, which we write ourselves, changes nothing. Says whether they are.
    pub(crate) fn feed(
        &mut self,
        objects: &[Arc<IPAddressPool>],
        addresses: &dyn AddressPools,
    ) -> bool {
        let version = |object: &Arc<IPAddressPool>| {
            let (leaving, marked) = (is_leaving(object), is_marked(object));
            let version = (object.uid(), object.metadata.generation, leaving, marked);
            (object.name_any(), version)
        };
        let fed: BTreeMap<_, _> = objects.iter().map(version).collect();
        if fed == self.fed {
            return false;
        }
        self.fed = fed;
        let (pools, problems) = parse(objects, |name| addresses.has_source(name));
        addresses.set_pools(pools);
        addresses.set_sourced(sourced(objects));
        self.problems = problems;
        true
    }

    /// Tells the provider which addresses were given back not long ago, as the
    /// statuses of pools say.
    pub(crate) fn restore(objects: &[Arc<IPAddressPool>], addresses: &dyn AddressPools) {
        let statuses = objects.iter().filter_map(|object| object.status.as_ref());
        let resting: Vec<(IpAddr, SystemTime)> = statuses.flat_map(pool_status::resting).collect();
        addresses.restore(&resting);
    }

    /// Writes the status of every pool whose status differs, and says whether
    /// all stand as they should.
    pub(crate) async fn write(
        &self,
        objects: &[Arc<IPAddressPool>],
        addresses: &dyn AddressPools,
    ) -> bool {
        let reports: BTreeMap<String, PoolReport> = addresses
            .reports()
            .into_iter()
            .map(|report| (report.pool.clone(), report))
            .collect();
        self.measure(&reports);
        let mut done = true;
        for object in objects {
            let name = object.name_any();
            let problem = self.problems.get(&name).cloned().or_else(|| {
                let refusal = addresses.refusal(&name)?;
                Some(Problem {
                    reason: refusal.reason(),
                    message: refusal.to_string(),
                })
            });
            let written = match self.mark(object, addresses).await {
                Ok(true) => self.write_one(object, reports.get(&name), problem).await,
                Ok(false) => {
                    done = false;
                    continue;
                }
                Err(error) => Err(error),
            };
            // No event tells that a source has taken back all.
            done &= !(is_leaving(object) && is_marked(object));
            match written {
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

    /// Keeps a pool that takes its addresses from a source until that has all of them
    /// back. Returns whether the object is as before.
    async fn mark(
        &self,
        object: &IPAddressPool,
        addresses: &dyn AddressPools,
    ) -> Result<bool, WriteError> {
        let known = object.spec.source.as_deref();
        if !known.is_some_and(|source| addresses.has_source(source)) {
            return Ok(true);
        }
        let marked = match (is_leaving(object), is_marked(object)) {
            (false, false) => true,
            (true, true) if addresses.is_emptied(&object.name_any()) => false,
            _ => return Ok(true),
        };
        let api: Api<IPAddressPool> = Api::namespaced(self.client.clone(), &self.namespace);
        self.writer.mark_pool(&api, object, marked).await?;
        Ok(false)
    }

    async fn write_one(
        &self,
        object: &IPAddressPool,
        report: Option<&PoolReport>,
        problem: Option<Problem>,
    ) -> Result<(), WriteError> {
        let status = pool_status::status(object, report, problem.as_ref());
        let before = object.status.as_ref();
        if before == Some(&status) {
            return Ok(());
        }
        let api: Api<IPAddressPool> = Api::namespaced(self.client.clone(), &self.namespace);
        let version = object.resource_version();
        let patch = pool_status::patch(version.as_deref(), &status);
        self.writer.status(&api, object, &patch).await?;
        // What is wrong is worth an event when it is new.
        if let Some(problem) = problem
            && !before.is_some_and(|before| {
                let mut conditions = before.conditions.iter();
                conditions.any(|c| c.reason == problem.reason && c.message == problem.message)
            })
        {
            let about = object.object_ref(&());
            self.writer
                .event(&about, true, problem.reason, &problem.message);
        }
        Ok(())
    }

    fn measure(&self, reports: &BTreeMap<String, PoolReport>) {
        self.metrics.pool_addresses.clear();
        self.metrics.pool_waiting.clear();
        for (pool, report) in reports {
            let usage = report.usage;
            let name = PoolName { pool: pool.clone() };
            self.metrics
                .pool_waiting
                .get_or_create(&name)
                .set(i64::try_from(report.waiting.len()).unwrap_or(i64::MAX));
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
        let spec = IPAddressPoolSpec {
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            auto_assign: true,
            ..Default::default()
        };
        Arc::new(IPAddressPool::new(name, spec))
    }

    #[test]
    fn a_bad_pool_leaves_the_others_alone() {
        let objects = [
            object("good", &["192.0.2.0/24", "fd00::10-fd00::20"]),
            object("bad", &["fd00::20-fd00::10"]),
        ];
        let (pools, problems) = parse(&objects, |_| false);
        assert_eq!(pools.len(), 1);
        assert_eq!(problems["bad"].reason, "InvalidAddresses");
        assert!(
            problems["bad"].message.contains("upside down"),
            "{}",
            problems["bad"].message
        );
    }

    #[test]
    fn every_field_of_a_pool_is_read() {
        let mut odd = object("odd", &["192.0.2.0/24"]);
        let spec = &mut Arc::make_mut(&mut odd).spec;
        spec.excluded_addresses = vec!["192.0.2.7".into(), "192.0.2.64/26".into()];
        spec.selection = PoolSelection::Random;
        spec.reuse_after = Some("1h".into());
        spec.state = herald_api::PoolState::Draining;
        spec.drain = Some(herald_api::PoolDrain {
            interval: Some("1s".into()),
            overlap: None,
        });
        spec.limits = Some(herald_api::PoolLimits {
            addresses_per_namespace: Some(2),
            services_per_namespace: None,
        });
        spec.reservations = vec![herald_api::PoolReservation {
            namespace: "shop".into(),
            name: "web".into(),
            addresses: vec!["192.0.2.9".into()],
        }];
        let (pools, problems) = parse(&[odd.clone()], |_| false);
        assert!(problems.is_empty(), "{problems:?}");
        let pool = &pools[0];
        assert_eq!(pool.excluded.len(), 2);
        assert_eq!(pool.selection, Selection::Random);
        assert_eq!(pool.reuse_after, Duration::from_hours(1));
        assert_eq!(
            pool.state,
            PoolState::Draining {
                interval: Duration::from_secs(1),
                overlap: DRAIN_OVERLAP
            }
        );
        assert_eq!(pool.limits.addresses, Some(2));
        assert_eq!(pool.reservations[0].service, ServiceKey::new("shop", "web"));
        let spec = &mut Arc::make_mut(&mut odd).spec;
        spec.reuse_after = Some("soon".into());
        let (_, problems) = parse(&[odd], |_| false);
        assert_eq!(problems["odd"].reason, "InvalidPeriod");
    }
    #[test]
    fn a_source_is_asked_only_for_pools_that_wait_for_it() {
        let mut object = object("outside", &["192.0.2.0/24"]);
        let pool = Arc::make_mut(&mut object);
        pool.spec.source = Some("campus".into());
        let (_, problems) = parse(&[object.clone()], |_| false);
        assert_eq!(problems["outside"].reason, "UnknownSource");
        let (pools, _) = parse(&[object.clone()], |name| name == "campus");
        assert!(pools[0].external);
        assert_eq!(pools[0].state, PoolState::Disabled);
        let pool = Arc::make_mut(&mut object);
        pool.metadata.finalizers = Some(vec![FINALIZER.into()]);
        let (pools, _) = parse(&[object.clone()], |_| true);
        assert_eq!(pools[0].state, PoolState::Active);
        let pool = Arc::make_mut(&mut object);
        pool.metadata.deletion_timestamp =
            serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
        let (pools, problems) = parse(&[object.clone()], |_| true);
        assert!(pools.is_empty());
        assert_eq!(problems["outside"].reason, "Deleted");
        assert!(sourced(&[object])["outside"].closing);
    }
}
