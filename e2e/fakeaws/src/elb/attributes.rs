//! Attributes of load balancers, target groups and listeners: what there is,
//! what it is at first, and what it may be.

use std::collections::{BTreeMap, BTreeSet};

use super::common::{Done, has_udp, listener, listener_mut, load_balancer, load_balancer_mut};
use super::common::{target_group, target_group_mut};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{Listener, LoadBalancer, Region, TargetGroup};
use crate::params::Params;
use crate::xml::Xml;

/// Attributes by key.
pub type Attributes = BTreeMap<String, String>;

/// What a value may be.
#[derive(Clone, Copy)]
enum Allowed {
    Bool,
    Text,
    Number(u32, u32),
    /// A number, or `off`.
    NumberOrOff(u32, u32),
    OneOf(&'static [&'static str]),
}

impl Allowed {
    fn takes(self, value: &str) -> bool {
        let number = |least, most| value.parse().is_ok_and(|n| (least..=most).contains(&n));
        match self {
            Self::Bool => matches!(value, "true" | "false"),
            Self::Text => value.len() <= 1024,
            Self::Number(least, most) => number(least, most),
            Self::NumberOrOff(least, most) => value == "off" || number(least, most),
            Self::OneOf(words) => words.contains(&value),
        }
    }
}

type Spec = (&'static str, &'static str, Allowed);

const LOAD_BALANCER: &[Spec] = &[
    ("access_logs.s3.enabled", "false", Allowed::Bool),
    ("access_logs.s3.bucket", "", Allowed::Text),
    ("access_logs.s3.prefix", "", Allowed::Text),
    ("deletion_protection.enabled", "false", Allowed::Bool),
    ("ipv6.deny_all_igw_traffic", "false", Allowed::Bool),
    ("load_balancing.cross_zone.enabled", "false", Allowed::Bool),
    (
        "dns_record.client_routing_policy",
        "any_availability_zone",
        Allowed::OneOf(&[
            "any_availability_zone",
            "partial_availability_zone_affinity",
            "availability_zone_affinity",
        ]),
    ),
    (
        "secondary_ips.auto_assigned.per_subnet",
        "0",
        Allowed::Number(0, 7),
    ),
    ("zonal_shift.config.enabled", "false", Allowed::Bool),
];

const TARGET_GROUP: &[Spec] = &[
    (
        "deregistration_delay.timeout_seconds",
        "300",
        Allowed::Number(0, 3600),
    ),
    (
        "deregistration_delay.connection_termination.enabled",
        "false",
        Allowed::Bool,
    ),
    ("stickiness.enabled", "false", Allowed::Bool),
    (
        "stickiness.type",
        "source_ip",
        Allowed::OneOf(&["source_ip"]),
    ),
    (
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
        Allowed::OneOf(&["true", "false", "use_load_balancer_configuration"]),
    ),
    ("preserve_client_ip.enabled", "true", Allowed::Bool),
    ("proxy_protocol_v2.enabled", "false", Allowed::Bool),
    (
        "target_group_health.dns_failover.minimum_healthy_targets.count",
        "1",
        Allowed::NumberOrOff(1, 1000),
    ),
    (
        "target_group_health.dns_failover.minimum_healthy_targets.percentage",
        "off",
        Allowed::NumberOrOff(1, 100),
    ),
    (
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
        "1",
        Allowed::Number(1, 1000),
    ),
    (
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
        "off",
        Allowed::NumberOrOff(1, 100),
    ),
    (
        "target_health_state.unhealthy.connection_termination.enabled",
        "true",
        Allowed::Bool,
    ),
    (
        "target_health_state.unhealthy.draining_interval_seconds",
        "0",
        Allowed::Number(0, 360_000),
    ),
];

/// The one attribute of listeners that carry TCP as it is.
const IDLE_TIMEOUT: Spec = ("tcp.idle_timeout.seconds", "350", Allowed::Number(60, 6000));

fn defaults(specs: &[Spec]) -> Attributes {
    specs
        .iter()
        .map(|(key, value, _)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// What a new load balancer has.
pub fn of_load_balancer(scheme: &str) -> Attributes {
    let mut all = defaults(LOAD_BALANCER);
    if scheme == "internal" {
        all.insert("ipv6.deny_all_igw_traffic".into(), "true".into());
    }
    all
}

/// What a new target group has.
pub fn of_target_group(protocol: &str, target_type: &str) -> Attributes {
    let mut all = defaults(TARGET_GROUP);
    if matches!(protocol, "UDP" | "TCP_UDP") {
        all.insert(
            "deregistration_delay.connection_termination.enabled".into(),
            "true".into(),
        );
        all.insert(
            "target_health_state.unhealthy.connection_termination.enabled".into(),
            "false".into(),
        );
    }
    if target_type == "ip" && matches!(protocol, "TCP" | "TLS") {
        all.insert("preserve_client_ip.enabled".into(), "false".into());
    }
    all
}

/// What a listener of that protocol has.
pub fn of_listener(protocol: &str) -> Attributes {
    if carries_tcp(protocol) {
        defaults(&[IDLE_TIMEOUT])
    } else {
        Attributes::new()
    }
}

fn carries_tcp(protocol: &str) -> bool {
    matches!(protocol, "TCP" | "TCP_UDP" | "TCP_QUIC")
}

/// Reads `Attributes.member.N` against what there is.
fn read(p: &Params<'_>, what: &str, specs: &[Spec]) -> Result<Attributes, ApiError> {
    let mut asked = Attributes::new();
    let mut seen = BTreeSet::new();
    for attribute in p.list("Attributes") {
        let key = attribute.required("Key")?;
        let value = attribute.text("Value").unwrap_or_default();
        if !seen.insert(key) {
            return Err(ApiError::validation(format!(
                "The attribute key '{key}' is specified more than once"
            )));
        }
        let Some((_, _, allowed)) = specs.iter().find(|(known, ..)| *known == key) else {
            return Err(ApiError::validation(format!(
                "{what} attribute key '{key}' is not recognized"
            )));
        };
        if !allowed.takes(value) {
            return Err(ApiError::validation(format!(
                "{what} attribute value '{value}' for key '{key}' is not valid"
            )));
        }
        asked.insert(key.to_owned(), value.to_owned());
    }
    if asked.is_empty() {
        return Err(p.missing("Attributes"));
    }
    Ok(asked)
}

fn write(xml: &mut Xml, attributes: &Attributes) {
    xml.members("Attributes", attributes, |x, (key, value)| {
        x.text("Key", key).text("Value", value);
    });
}

/// `DescribeLoadBalancerAttributes`.
pub fn describe_load_balancer(
    region: &mut Region,
    _: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    p.finish()?;
    write(xml, &load_balancer(region, arn)?.attributes);
    Ok(())
}

/// `ModifyLoadBalancerAttributes`.
pub fn modify_load_balancer(
    region: &mut Region,
    _: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    let asked = read(p, "Load balancer", LOAD_BALANCER)?;
    p.finish()?;
    let lb = load_balancer(region, arn)?;
    check_load_balancer(region, lb, &asked)?;
    let lb = load_balancer_mut(region, arn)?;
    lb.attributes.extend(asked);
    write(xml, &lb.attributes);
    Ok(())
}

fn check_load_balancer(region: &Region, lb: &LoadBalancer, asked: &Attributes) -> Done {
    let mut all = lb.attributes.clone();
    all.extend(asked.clone());
    if all["access_logs.s3.enabled"] == "true" {
        let bucket = &all["access_logs.s3.bucket"];
        if bucket.is_empty() {
            return Err(ApiError::validation(
                "The value of 'access_logs.s3.bucket' cannot be empty",
            ));
        }
        if !region.buckets.contains(bucket) {
            return Err(ApiError::new(
                "InvalidConfigurationRequest",
                format!("Access Denied for bucket: {bucket}. Please check S3bucket permission"),
            ));
        }
    }
    let addresses = "secondary_ips.auto_assigned.per_subnet";
    let count = |attributes: &Attributes| attributes[addresses].parse::<u32>().unwrap_or(0);
    if count(&all) < count(&lb.attributes) {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            format!("The value of '{addresses}' cannot be decreased"),
        ));
    }
    Ok(())
}

/// `DescribeTargetGroupAttributes`.
pub fn describe_target_group(
    region: &mut Region,
    _: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("TargetGroupArn")?;
    p.finish()?;
    write(xml, &target_group(region, arn)?.attributes);
    Ok(())
}

/// `ModifyTargetGroupAttributes`.
pub fn modify_target_group(
    region: &mut Region,
    _: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("TargetGroupArn")?;
    let asked = read(p, "Target group", TARGET_GROUP)?;
    p.finish()?;
    check_target_group(target_group(region, arn)?, &asked)?;
    let group = target_group_mut(region, arn)?;
    group.attributes.extend(asked);
    write(xml, &group.attributes);
    Ok(())
}

fn check_target_group(group: &TargetGroup, asked: &Attributes) -> Done {
    let is = |key: &str, value: &str| asked.get(key).is_some_and(|other| other == value);
    let refuse = |key: &str, why: &str| {
        Err(ApiError::new(
            "InvalidConfigurationRequest",
            format!(
                "The attribute '{key}' {why} for target groups with the {} protocol",
                group.protocol
            ),
        ))
    };
    let key = "preserve_client_ip.enabled";
    if is(key, "false") && has_udp(&group.protocol) {
        return refuse(key, "cannot be disabled");
    }
    let key = "target_health_state.unhealthy.connection_termination.enabled";
    if is(key, "true") && matches!(&*group.protocol, "UDP" | "TCP_UDP") {
        return refuse(key, "cannot be enabled");
    }
    let terminates = asked.get(key).or_else(|| group.attributes.get(key));
    let interval = "target_health_state.unhealthy.draining_interval_seconds";
    if asked.get(interval).is_some_and(|seconds| seconds != "0")
        && terminates.is_some_and(|value| value == "true")
    {
        return refuse(interval, "needs connection termination to be disabled");
    }
    let key = "proxy_protocol_v2.enabled";
    if is(key, "true") && matches!(&*group.protocol, "QUIC" | "TCP_QUIC") {
        return refuse(key, "cannot be enabled");
    }
    Ok(())
}

/// `DescribeListenerAttributes`.
pub fn describe_listener(
    region: &mut Region,
    _: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("ListenerArn")?;
    p.finish()?;
    write(xml, &listener(region, arn)?.attributes);
    Ok(())
}

/// `ModifyListenerAttributes`.
pub fn modify_listener(
    region: &mut Region,
    _: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("ListenerArn")?;
    let asked = read(p, "Listener", &[IDLE_TIMEOUT])?;
    p.finish()?;
    let Listener { protocol, .. } = listener(region, arn)?;
    if !carries_tcp(protocol) {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            format!(
                "The attribute '{}' is not supported on {protocol} listeners",
                IDLE_TIMEOUT.0
            ),
        ));
    }
    let listener = listener_mut(region, arn)?;
    listener.attributes.extend(asked);
    write(xml, &listener.attributes);
    Ok(())
}
