//! AWS's defaults of the attributes that Herald knows.

use std::collections::BTreeMap;

use crate::spec::{Attributes, NlbProtocol, TargetType};

const LOAD_BALANCER: &[(&str, &str)] = &[
    ("access_logs.s3.enabled", "false"),
    ("deletion_protection.enabled", "false"),
    ("dns_record.client_routing_policy", "any_availability_zone"),
    ("load_balancing.cross_zone.enabled", "false"),
    ("zonal_shift.config.enabled", "false"),
];

const TARGET_GROUP: &[(&str, &str)] = &[
    ("deregistration_delay.timeout_seconds", "300"),
    (
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
    ),
    ("proxy_protocol_v2.enabled", "false"),
    ("stickiness.enabled", "false"),
    (
        "target_group_health.dns_failover.minimum_healthy_targets.count",
        "1",
    ),
    (
        "target_group_health.dns_failover.minimum_healthy_targets.percentage",
        "off",
    ),
    (
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
        "1",
    ),
    (
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
        "off",
    ),
];

/// Of target groups that carry connections only.
const TCP_TARGET_GROUP: &[(&str, &str)] = &[
    (
        "target_health_state.unhealthy.connection_termination.enabled",
        "true",
    ),
    (
        "target_health_state.unhealthy.draining_interval_seconds",
        "0",
    ),
];

pub(super) const PRESERVE_CLIENT_IP: &str = "preserve_client_ip.enabled";
pub(super) const PROXY_PROTOCOL: &str = "proxy_protocol_v2.enabled";
const CONNECTION_TERMINATION: &str = "deregistration_delay.connection_termination.enabled";
const TCP_IDLE_TIMEOUT: (&str, &str) = ("tcp.idle_timeout.seconds", "350");

/// Attributes of a load balancer where `set` is asked for.
pub(super) fn of_load_balancer(set: &BTreeMap<String, String>) -> Attributes {
    attributes(set, LOAD_BALANCER.iter().copied())
}

/// Attributes of a listener where `set` is asked for. AWS has some for TCP only.
pub(super) fn of_listener(protocol: NlbProtocol, set: &BTreeMap<String, String>) -> Attributes {
    attributes(
        set,
        (protocol == NlbProtocol::Tcp).then_some(TCP_IDLE_TIMEOUT),
    )
}

/// Attributes of a target group where `set` is asked for.
pub(super) fn of_target_group(
    protocol: NlbProtocol,
    target_type: TargetType,
    set: &BTreeMap<String, String>,
) -> Attributes {
    let tcp_only = matches!(protocol, NlbProtocol::Tcp | NlbProtocol::Tls);
    let of_tcp = if tcp_only { TCP_TARGET_GROUP } else { &[] };
    // Off for pods by TCP and TLS, on for all else.
    let preserve = if tcp_only && target_type == TargetType::Ip {
        "false"
    } else {
        "true"
    };
    let terminate = match protocol {
        NlbProtocol::Tcp | NlbProtocol::Tls => Some("false"),
        NlbProtocol::Udp | NlbProtocol::TcpUdp => Some("true"),
        NlbProtocol::Quic | NlbProtocol::TcpQuic => None,
    };
    let defaults = TARGET_GROUP
        .iter()
        .chain(of_tcp)
        .copied()
        .chain([(PRESERVE_CLIENT_IP, preserve)])
        .chain(terminate.map(|default| (CONNECTION_TERMINATION, default)));
    attributes(set, defaults)
}

fn attributes(
    set: &BTreeMap<String, String>,
    defaults: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> Attributes {
    let reset = defaults
        .into_iter()
        .filter(|(key, _)| !set.contains_key(*key))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Attributes {
        set: set.clone(),
        reset,
    }
}
