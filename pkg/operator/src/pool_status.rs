//! What is said on a pool, in its status.

use std::net::IpAddr;
use std::time::SystemTime;

use herald_api::names::{
    CONDITION_CONFLICTS, CONDITION_DRAINED, CONDITION_LIMIT_REACHED, CONDITION_SERVICES_WAITING,
    CONDITION_VALID,
};
use herald_api::{Condition, FreedAddress, IPAddressPool, IPAddressPoolStatus, set_condition};
use herald_ipam::PoolReport;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A status holds at most so many addresses that rest: more say little, and an
/// object must stay small.
const MOST_FREED: usize = 256;
/// Names in a message.
const MOST_NAMES: usize = 20;

/// What is wrong with a pool, so that it is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The status that a pool should have, from the one that it has. A pool that is not
/// in force has no report.
pub(crate) fn status(
    object: &IPAddressPool,
    report: Option<&PoolReport>,
    problem: Option<&Problem>,
) -> IPAddressPoolStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let number = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
    let usage = report.map(|report| report.usage).unwrap_or_default();
    status.assigned_ipv4 = number(usage.assigned_v4);
    status.assigned_ipv6 = number(usage.assigned_v6);
    status.available_ipv4 = number(usage.available_v4);
    status.available_ipv6 = number(usage.available_v6);
    let waiting = report.map_or(0, |report| report.waiting.len());
    status.waiting_services = i64::try_from(waiting).unwrap_or(i64::MAX);
    if let Some(report) = report {
        let newest = report.resting.iter().take(MOST_FREED);
        status.freed = newest.map(|(ip, since)| freed(ip, *since)).collect();
    }
    let valid = match problem {
        None => ("True", "Accepted", String::new()),
        Some(problem) => ("False", problem.reason, problem.message.clone()),
    };
    let mut wanted = vec![(CONDITION_VALID, valid)];
    wanted.extend(report.into_iter().flat_map(said));
    status
        .conditions
        .retain(|condition| wanted.iter().any(|(kind, _)| *kind == condition.type_));
    for (kind, (value, reason, message)) in wanted {
        let condition = Condition {
            type_: kind.into(),
            status: value.into(),
            observed_generation: object.metadata.generation,
            last_transition_time: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            reason: reason.into(),
            message,
        };
        set_condition(&mut status.conditions, condition);
    }
    status
}

type Said = (&'static str, (&'static str, &'static str, String));

/// The conditions that only some pools have.
fn said(report: &PoolReport) -> Vec<Said> {
    let mut said = Vec::new();
    if !report.conflicts.is_empty() {
        let conflicts = report.conflicts.iter();
        let each = conflicts.map(|other| format!("{} of {}", other.range, other.owner));
        let message = format!(
            "the pool's addresses overlap {}; what overlaps is given only to Services that ask for \
             it. Take it out of the pool, or list it in spec.excludedAddresses",
            listed(each)
        );
        said.push((CONDITION_CONFLICTS, ("True", "ClusterAddresses", message)));
    }
    if !report.waiting.is_empty() {
        let message = format!(
            "{} wait for an address of this pool: {}",
            report.waiting.len(),
            listed(report.waiting.iter().map(ToString::to_string))
        );
        said.push((CONDITION_SERVICES_WAITING, ("True", "NoRoom", message)));
    }
    if !report.at_limit.is_empty() {
        let message = format!(
            "namespaces that have as much of this pool as spec.limits allows: {}",
            listed(report.at_limit.iter().cloned())
        );
        said.push((CONDITION_LIMIT_REACHED, ("True", "NamespaceLimit", message)));
    }
    match report.to_move {
        None => {}
        Some(0) => {
            let message = "no Service has an address of this pool".to_owned();
            said.push((CONDITION_DRAINED, ("True", "Empty", message)));
        }
        Some(left) => {
            let message = format!("{left} Services still have addresses of this pool");
            said.push((CONDITION_DRAINED, ("False", "Draining", message)));
        }
    }
    said
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(MOST_NAMES);
    let mut text = names[..names.len() - more].join(", ");
    if more > 0 {
        text = format!("{text} and {more} more");
    }
    text
}

fn freed(address: &IpAddr, since: SystemTime) -> FreedAddress {
    let since = Timestamp::try_from(since).unwrap_or_default();
    FreedAddress {
        address: address.to_string(),
        since: since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

/// The addresses that rest, as a status says.
pub(crate) fn resting(status: &IPAddressPoolStatus) -> Vec<(IpAddr, SystemTime)> {
    let now = SystemTime::now();
    let read = |freed: &FreedAddress| {
        let since: Timestamp = freed.since.parse().ok()?;
        // Another clock may be ahead; nothing rests for longer because of that.
        let since = SystemTime::from(since).min(now);
        Some((freed.address.parse().ok()?, since))
    };
    status.freed.iter().filter_map(read).collect()
}

/// The patch that gives a pool this status. A list that is empty must be said, or
/// what was there stays.
pub(crate) fn patch(resource_version: Option<&str>, status: &IPAddressPoolStatus) -> Value {
    let mut value = json!(status);
    if status.freed.is_empty() {
        value["freed"] = Value::Null;
    }
    json!({"metadata": {"resourceVersion": resource_version}, "status": value})
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use herald_core::ServiceKey;
    use herald_ipam::{Obstacle, Usage};

    use super::*;

    fn report() -> PoolReport {
        PoolReport {
            pool: "lan".into(),
            usage: Usage::default(),
            conflicts: Vec::new(),
            waiting: Vec::new(),
            at_limit: Vec::new(),
            resting: Vec::new(),
            to_move: None,
        }
    }

    fn conditions(status: &IPAddressPoolStatus) -> Vec<&str> {
        let conditions = status.conditions.iter();
        conditions.map(|c| c.type_.as_str()).collect()
    }

    #[test]
    fn what_is_odd_is_said_and_taken_back() {
        let mut object = IPAddressPool::new("lan", herald_api::IPAddressPoolSpec::default());
        let odd = PoolReport {
            conflicts: vec![Obstacle {
                range: "192.0.2.1-192.0.2.1".parse().unwrap(),
                owner: "node \"n1\"".into(),
            }],
            waiting: (0..22)
                .map(|n| ServiceKey::new("default", format!("s{n}")))
                .collect(),
            at_limit: vec!["shop".into()],
            to_move: Some(3),
            ..report()
        };
        object.status = Some(status(&object, Some(&odd), None));
        let said = object.status.as_ref().unwrap();
        assert_eq!(
            conditions(said),
            [
                "Valid",
                "Conflicts",
                "ServicesWaiting",
                "LimitReached",
                "Drained"
            ]
        );
        assert_eq!(said.waiting_services, 22);
        assert!(said.conditions[2].message.ends_with("and 2 more"));
        // Nothing new, nothing different: nothing to write.
        assert_eq!(&status(&object, Some(&odd), None), said);
        let mended = status(&object, Some(&report()), None);
        assert_eq!(conditions(&mended), ["Valid"]);
    }

    #[test]
    fn what_rests_is_written_and_read_again() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let rests = PoolReport {
            resting: vec![(address, since)],
            ..report()
        };
        let object = IPAddressPool::new("lan", herald_api::IPAddressPoolSpec::default());
        let written = status(&object, Some(&rests), None);
        assert_eq!(resting(&written), [(address, since)]);
        let patch = patch(None, &status(&object, Some(&report()), None));
        assert!(patch["status"]["freed"].is_null());
    }
}
