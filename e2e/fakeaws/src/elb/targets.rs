//! Targets: registration and health.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::common::{Done, port, target_group, target_group_mut};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::network::vpc_contains;
use crate::model::region::Health;
use crate::model::{InstanceState, Region, Target, TargetGroup, TargetKey};
use crate::params::Params;
use crate::xml::Xml;

/// A target as a call names it.
#[derive(Debug)]
struct Named {
    key: TargetKey,
    zone: Option<String>,
    quic_server: Option<String>,
}

/// Reads `Targets.member.N`; those without a port have the group's.
fn read(p: &Params<'_>, group: &TargetGroup) -> Result<Vec<Named>, ApiError> {
    let mut targets = Vec::new();
    for target in p.list("Targets") {
        let key = TargetKey {
            id: target.required("Id")?.to_owned(),
            port: port(&target, "Port")?.unwrap_or(group.port),
        };
        targets.push(Named {
            key,
            zone: target.text("AvailabilityZone").map(str::to_owned),
            quic_server: target.text("QuicServerId").map(str::to_owned),
        });
    }
    Ok(targets)
}

/// `RegisterTargets`: all or none. Those that are there stay as they are;
/// those that drain come back.
pub fn register(region: &mut Region, c: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arn = p.required("TargetGroupArn")?;
    let group = target_group(region, arn)?;
    let mut named = read(p, group)?;
    p.finish()?;
    if named.is_empty() {
        return Err(p.missing("Targets"));
    }
    for target in &mut named {
        match &*group.target_type {
            "instance" => check_instance(region, group, target)?,
            _ => check_address(region, group, target)?,
        }
        check_quic(group, target)?;
    }
    check_running(region, &named)?;
    let kept = group
        .targets
        .iter()
        .filter(|(_, target)| target.deregistered_at.is_none())
        .map(|(key, _)| key);
    let all: BTreeSet<&TargetKey> = kept.chain(named.iter().map(|target| &target.key)).collect();
    if all.len() > c.quotas.targets_per_group {
        return Err(too_many(format!(
            "The maximum number of targets in a target group is {}",
            c.quotas.targets_per_group
        )));
    }
    check_load_balancers(region, c, group, &named)?;
    let group = target_group_mut(region, arn)?;
    for Named {
        key,
        zone,
        quic_server,
    } in named
    {
        let is_there = group
            .targets
            .get(&key)
            .is_some_and(|target| target.deregistered_at.is_none());
        if !is_there {
            let target = Target {
                zone,
                quic_server,
                registered_at: c.now,
                deregistered_at: None,
                verdict: None,
            };
            group.targets.insert(key, target);
        }
    }
    Ok(())
}

fn invalid(message: String) -> ApiError {
    ApiError::new("InvalidTarget", message)
}

fn too_many(message: String) -> ApiError {
    ApiError::new("TooManyTargets", message)
}

fn check_instance(region: &Region, group: &TargetGroup, target: &Named) -> Done {
    let id = &target.key.id;
    if target.zone.is_some() {
        return Err(ApiError::validation(
            "Availability Zone is not supported for target groups with target type 'instance'",
        ));
    }
    let instance = region.instances.get(id);
    let in_vpc = |subnet: &String| {
        region
            .subnets
            .get(subnet)
            .is_some_and(|s| s.vpc == group.vpc)
    };
    match instance {
        Some(instance) if in_vpc(&instance.subnet) => {}
        Some(_) => {
            return Err(invalid(format!(
                "The following targets are not in the target group VPC '{}': '{id}'",
                group.vpc
            )));
        }
        None => {
            return Err(invalid(format!(
                "The following targets are not valid instances: '{id}'"
            )));
        }
    }
    if group.ip_address_type == "ipv6" && instance.is_some_and(|i| i.ipv6.is_none()) {
        return Err(invalid(format!(
            "The following targets do not have a primary IPv6 address: '{id}'"
        )));
    }
    Ok(())
}

fn check_running(region: &Region, named: &[Named]) -> Done {
    let stopped: Vec<&str> = named
        .iter()
        .map(|target| target.key.id.as_str())
        .filter(|id| {
            region
                .instances
                .get(*id)
                .is_some_and(|i| i.state != InstanceState::Running)
        })
        .collect();
    if stopped.is_empty() {
        return Ok(());
    }
    Err(invalid(format!(
        "The following targets are not in a running state and cannot be registered: '{}'",
        stopped.join(", ")
    )))
}

/// An address: of the group's family, and of its VPC or with zone `all`.
fn check_address(region: &Region, group: &TargetGroup, target: &mut Named) -> Done {
    let id = &target.key.id;
    let address: IpAddr = id.parse().map_err(|_| {
        ApiError::validation(format!("The IP address '{id}' is not a valid IP address"))
    })?;
    if address.is_ipv4() != (group.ip_address_type == "ipv4") {
        return Err(invalid(format!(
            "The IP address '{id}' is not valid for target group with address type {}",
            group.ip_address_type
        )));
    }
    let reserved = match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_multicast() || address.is_unspecified()
        }
    };
    if reserved {
        return Err(invalid(format!(
            "The IP address '{id}' is reserved and cannot be a target"
        )));
    }
    if region
        .vpcs
        .get(&group.vpc)
        .is_some_and(|vpc| vpc_contains(vpc, address))
    {
        let zone = region
            .subnet_of(&group.vpc, address)
            .map(|subnet| subnet.zone.clone());
        if let (Some(said), Some(zone)) = (&target.zone, &zone)
            && said != zone
            && said != "all"
        {
            return Err(invalid(format!(
                "The IP address '{id}' is in Availability Zone '{zone}', not in '{said}'"
            )));
        }
        target.zone = target.zone.take().filter(|said| said == "all").or(zone);
        return Ok(());
    }
    match target.zone.as_deref() {
        None => Err(ApiError::validation(format!(
            "You must specify an Availability Zone for the following IP addresses, which are not in VPC '{}': '{id}'",
            group.vpc
        ))),
        Some("all") => Ok(()),
        Some(zone) if region.zones.contains_key(zone) => Ok(()),
        Some(zone) => Err(invalid(format!(
            "The Availability Zone '{zone}' is not valid"
        ))),
    }
}

/// With QUIC every target has a server id, `0x` and 16 digits, unique in its
/// group and never changed.
fn check_quic(group: &TargetGroup, target: &Named) -> Done {
    let needs_one = matches!(&*group.protocol, "QUIC" | "TCP_QUIC");
    let Some(server) = &target.quic_server else {
        if needs_one {
            return Err(ApiError::validation(format!(
                "QuicServerId must be specified for the following target: '{}'",
                target.key.id
            )));
        }
        return Ok(());
    };
    if !needs_one {
        return Err(ApiError::validation(
            "QuicServerId is supported for target groups with the QUIC or TCP_QUIC protocol only",
        ));
    }
    let digits = server.strip_prefix("0x").unwrap_or_default();
    if digits.len() != 16
        || !digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(ApiError::validation(format!(
            "QuicServerId '{server}' must be 0x and 16 lowercase hexadecimal characters"
        )));
    }
    for (key, other) in &group.targets {
        let same_server = other.quic_server.as_ref() == Some(server);
        if (*key == target.key) != same_server {
            return Err(invalid(format!(
                "QuicServerId '{server}' is in use, or '{}' is registered with another one",
                target.key.id
            )));
        }
    }
    Ok(())
}

/// What the load balancers that use the group may have.
fn check_load_balancers(
    region: &Region,
    c: &Context<'_>,
    group: &TargetGroup,
    named: &[Named],
) -> Done {
    let quotas = c.quotas;
    for arn in region.users_of(&group.arn) {
        let Some(lb) = region.load_balancers.get(arn) else {
            continue;
        };
        let mut by_zone: BTreeMap<Option<String>, BTreeSet<(&str, &TargetKey)>> = BTreeMap::new();
        for other in region.groups_of(arn) {
            for (key, target) in &other.targets {
                if target.deregistered_at.is_none() {
                    let zone = region.zone_of(key, target);
                    by_zone.entry(zone).or_default().insert((&other.arn, key));
                }
            }
        }
        for target in named {
            let zone = match region.instances.get(&target.key.id) {
                Some(instance) => region.subnets.get(&instance.subnet).map(|s| s.zone.clone()),
                None => target.zone.clone().filter(|zone| zone != "all"),
            };
            by_zone
                .entry(zone)
                .or_default()
                .insert((&group.arn, &target.key));
        }
        let total: usize = by_zone.values().map(BTreeSet::len).sum();
        let crosses = lb.is_set("load_balancing.cross_zone.enabled");
        let most = if crosses {
            quotas.targets_cross_zone
        } else {
            quotas.targets
        };
        if total > most {
            return Err(too_many(format!(
                "The maximum number of targets for load balancer '{arn}' is {most}"
            )));
        }
        let most = quotas.targets_per_zone;
        if by_zone
            .iter()
            .any(|(zone, targets)| zone.is_some() && targets.len() > most)
        {
            return Err(too_many(format!(
                "The maximum number of targets in an Availability Zone for load balancer '{arn}' is {most}"
            )));
        }
    }
    Ok(())
}

/// `DeregisterTargets`: those that are not there do not matter. Without a port,
/// a target goes on all its ports.
pub fn deregister(region: &mut Region, c: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arn = p.required("TargetGroupArn")?;
    target_group(region, arn)?;
    let mut doomed = Vec::new();
    for target in p.list("Targets") {
        let id = target.required("Id")?.to_owned();
        let port = port(&target, "Port")?;
        let _ = (target.text("AvailabilityZone"), target.text("QuicServerId"));
        doomed.push((id, port));
    }
    p.finish()?;
    if doomed.is_empty() {
        return Err(p.missing("Targets"));
    }
    let group = target_group(region, arn)?;
    let keys: Vec<TargetKey> = group
        .targets
        .iter()
        .filter(|(_, target)| target.deregistered_at.is_none())
        .map(|(key, _)| key)
        .filter(|key| {
            doomed
                .iter()
                .any(|(id, port)| *id == key.id && port.is_none_or(|port| port == key.port))
        })
        .cloned()
        .collect();
    // Only what has traffic has something to drain.
    let drains = |key: &TargetKey| {
        let health = region.health(group, key, &group.targets[key], c.now, c.timing);
        matches!(health.state, "healthy" | "unhealthy")
    };
    let (draining, gone): (Vec<_>, Vec<_>) = keys.into_iter().partition(drains);
    let group = target_group_mut(region, arn)?;
    for key in draining {
        if let Some(target) = group.targets.get_mut(&key) {
            target.deregistered_at = Some(c.now);
        }
    }
    for key in gone {
        group.targets.remove(&key);
    }
    region.settle(c.now);
    Ok(())
}

/// `DescribeTargetHealth`: of all, or of those asked for.
pub fn describe_health(
    region: &mut Region,
    c: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("TargetGroupArn")?;
    let group = target_group(region, arn)?;
    let asked = read(p, group)?;
    let include = p.texts("Include");
    p.finish()?;
    if let Some(other) = include
        .iter()
        .find(|word| !matches!(&***word, "All" | "AnomalyDetection"))
    {
        return Err(ApiError::validation(format!(
            "Include '{other}' is not valid"
        )));
    }
    let keys: Vec<TargetKey> = if asked.is_empty() {
        group.targets.keys().cloned().collect()
    } else {
        asked.into_iter().map(|named| named.key).collect()
    };
    xml.members("TargetHealthDescriptions", keys, |x, key| {
        let target = group.targets.get(&key);
        let health = target.map_or(Health::NOT_REGISTERED, |target| {
            region.health(group, &key, target, c.now, c.timing)
        });
        x.node("Target", |x| {
            x.text("Id", &key.id)
                .text("Port", key.port)
                .maybe(
                    "AvailabilityZone",
                    target.and_then(|target| target.zone.as_deref()),
                )
                .maybe(
                    "QuicServerId",
                    target.and_then(|target| target.quic_server.as_deref()),
                );
        })
        .text("HealthCheckPort", check_port(group, &key))
        .node("TargetHealth", |x| {
            x.text("State", health.state)
                .maybe("Reason", health.reason)
                .maybe("Description", health.description);
        });
    });
    Ok(())
}

fn check_port(group: &TargetGroup, key: &TargetKey) -> String {
    match &*group.health_check.port {
        "traffic-port" => key.port.to_string(),
        port => port.to_owned(),
    }
}
