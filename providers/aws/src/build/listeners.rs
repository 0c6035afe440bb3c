//! Listeners and target groups.

use std::collections::BTreeMap;

use herald_core::{
    Backend, IpFamily, Protocol, ServicePort, ServiceReference, TargetPort, TrafficPolicy,
};

use super::ports::{Front, fronts};
use super::targets::{self, Behind};
use super::{Context, InvalidSpec, attributes};
use crate::annotations::{Action, ActionTarget, PortName, PortParameter, table};
use crate::spec::{
    CheckPort, CheckProtocol, Forward, GroupRef, HealthCheck, IpAddressType, Listener, NlbProtocol,
    TargetFamily, TargetGroup, TargetType, WeightedGroup,
};

/// Where kube-proxy says whether it works, and that is all that can be asked of a node
/// that serves only UDP.
const KUBE_PROXY_HEALTH_PORT: u16 = 10256;
/// Path of kube-proxy's health, of the node and of a Service's local endpoints.
const KUBE_PROXY_HEALTH_PATH: &str = "/healthz";

/// Port of a target group whose targets resolve a name, each for itself: every target
/// comes with its own port, and AWS wants some number.
pub(super) const NAMED_PORT: u16 = 1;

/// A Service whose ports are target groups: the one that asks, or one of a weighted
/// action.
struct Service<'a> {
    ports: &'a [ServicePort],
    traffic_policy: TrafficPolicy,
    health_check_node_port: Option<u16>,
    endpoints: &'a [Backend],
    /// For messages, where it is not the one that asks.
    name: Option<&'a str>,
}

/// All listeners, by port, and all target groups, by key.
pub(super) fn build(
    context: &Context<'_>,
) -> Result<(Vec<Listener>, Vec<TargetGroup>), InvalidSpec> {
    family(context)?;
    let service = context.request.service;
    let own = Service {
        ports: &service.ports,
        traffic_policy: service.traffic_policy,
        health_check_node_port: service.health_check_node_port,
        endpoints: context.request.endpoints,
        name: None,
    };
    let mut listeners = Vec::new();
    let mut groups = BTreeMap::new();
    for front in fronts(context)? {
        let group = group(context, &front, front.key(), front.main, front.second, &own)?;
        let forward = forward(context, &front, &group.key, &mut groups)?;
        groups.insert(group.key.clone(), group);
        listeners.push(listener(context, &front, forward));
    }
    Ok((listeners, groups.into_values().collect()))
}

fn listener(context: &Context<'_>, front: &Front<'_>, forward: Forward) -> Listener {
    let annotations = context.annotations;
    let tls = front.listener == NlbProtocol::Tls;
    let parameter = PortParameter {
        protocol: front.listener.as_str().to_owned(),
        port: front.port,
    };
    let none = BTreeMap::new();
    let set = annotations
        .listener_attributes
        .get(&parameter)
        .unwrap_or(&none);
    Listener {
        port: front.port,
        protocol: front.listener,
        certificates: if tls {
            annotations.certificates.clone()
        } else {
            Vec::new()
        },
        ssl_policy: tls.then(|| {
            annotations
                .ssl_policy
                .clone()
                .unwrap_or_else(|| context.settings.default_ssl_policy.clone())
        }),
        alpn_policy: annotations.alpn_policy.clone().filter(|_| tls),
        attributes: attributes::of_listener(front.listener, set),
        forward,
        tags: context.tags(&format!("listener/{}", front.port)),
    }
}

fn forward(
    context: &Context<'_>,
    front: &Front<'_>,
    own: &str,
    groups: &mut BTreeMap<String, TargetGroup>,
) -> Result<Forward, InvalidSpec> {
    let parameter = PortParameter {
        protocol: front.listener.as_str().to_owned(),
        port: front.port,
    };
    let own = GroupRef::Key(own.to_owned());
    let Some(action) = context.annotations.actions.get(&parameter) else {
        return Ok(Forward {
            targets: vec![WeightedGroup {
                group: own,
                weight: None,
            }],
            sticky: false,
        });
    };
    let name = format!(
        "{}.{}-{}",
        table::ACTIONS.suffix,
        front.listener,
        front.port
    );
    if action.sticky && front.listener == NlbProtocol::Tls {
        return Err(InvalidSpec::Request(format!(
            "annotation {name}: AWS has no stickiness between target groups with TLS; take \
             targetGroupStickinessConfig out"
        )));
    }
    shared(context, front, action, own, &name, groups)
}

fn shared(
    context: &Context<'_>,
    front: &Front<'_>,
    action: &Action,
    own: GroupRef,
    name: &str,
    groups: &mut BTreeMap<String, TargetGroup>,
) -> Result<Forward, InvalidSpec> {
    let mut targets = vec![WeightedGroup {
        group: own,
        weight: action.own_weight,
    }];
    for (target, weight) in &action.targets {
        let reference = match target {
            ActionTarget::Arn(arn) => GroupRef::Arn(arn.clone()),
            ActionTarget::Service { name: other, port } => {
                let group = other_group(context, front, other, port, name)?;
                let key = group.key.clone();
                groups.insert(key.clone(), group);
                GroupRef::Key(key)
            }
        };
        if targets.iter().any(|target| target.group == reference) {
            return Err(InvalidSpec::Request(format!(
                "annotation {name} names {reference} twice"
            )));
        }
        targets.push(WeightedGroup {
            group: reference,
            weight: *weight,
        });
    }
    Ok(Forward {
        targets,
        sticky: action.sticky,
    })
}

/// The target group of another Service's port.
fn other_group(
    context: &Context<'_>,
    front: &Front<'_>,
    name: &str,
    port: &PortName,
    annotation: &str,
) -> Result<TargetGroup, InvalidSpec> {
    let namespace = &context.request.service.key.namespace;
    let other: &ServiceReference = context
        .request
        .references
        .iter()
        .find(|reference| reference.name == name)
        .ok_or_else(|| {
            InvalidSpec::Request(format!(
                "annotation {annotation} names Service {namespace}/{name}, which does not exist"
            ))
        })?;
    let of = |protocol| {
        other
            .ports
            .iter()
            .find(|own| port.is(own) && own.protocol == protocol)
    };
    let (main, second) = if front.second.is_some() {
        (of(Protocol::Tcp), of(Protocol::Udp))
    } else {
        (of(front.main.protocol), None)
    };
    let complete = main.filter(|_| front.second.is_none() || second.is_some());
    let main = complete.ok_or_else(|| {
        InvalidSpec::Request(format!(
            "annotation {annotation} names port {port} of Service {namespace}/{name}, which has \
             no such port of the listener's protocol {}",
            front.listener
        ))
    })?;
    let service = Service {
        ports: &other.ports,
        traffic_policy: other.traffic_policy,
        health_check_node_port: other.health_check_node_port,
        endpoints: &other.endpoints,
        name: Some(name),
    };
    let key = format!("{}@{name}:{}", front.key(), main.port);
    group(context, front, key, main, second, &service)
}

fn group(
    context: &Context<'_>,
    front: &Front<'_>,
    key: String,
    port: &ServicePort,
    second: Option<&ServicePort>,
    service: &Service<'_>,
) -> Result<TargetGroup, InvalidSpec> {
    let behind = Behind {
        port,
        second,
        traffic_policy: service.traffic_policy,
        endpoints: service.endpoints,
    };
    let (number, targets) = match context.target_type {
        TargetType::Instance => {
            let node_port = node_port(port, service)?;
            (node_port, targets::instances(context, &behind, node_port))
        }
        TargetType::Ip => {
            let number = match port.target_port {
                TargetPort::Number(number) => number,
                TargetPort::Name(_) => NAMED_PORT,
            };
            (number, targets::pods(context, &behind))
        }
    };
    Ok(TargetGroup {
        port: number,
        protocol: front.group,
        target_type: context.target_type,
        family: family(context)?,
        health_check: health_check(context, front, service)?,
        attributes: attributes::of_target_group(
            front.group,
            context.target_type,
            &group_attributes(context, front)?,
        ),
        tags: context.tags(&format!("target-group/{key}")),
        targets,
        shared: context.annotations.multi_cluster,
        // It follows from all the rest: Spec::renamed.
        name: String::new(),
        key,
    })
}

fn node_port(port: &ServicePort, service: &Service<'_>) -> Result<u16, InvalidSpec> {
    port.node_port.ok_or_else(|| {
        let of = service
            .name
            .map_or_else(String::new, |name| format!(" of Service {name}"));
        InvalidSpec::Request(format!(
            "port {}{of} has no node port, which target type \"instance\" needs; set \
             spec.allocateLoadBalancerNodePorts to true, or annotation {} to \"ip\"",
            port.port,
            table::TARGET_TYPE.suffix
        ))
    })
}

/// Attributes of the group as asked for: those of all, over them those of the port, over
/// them what the annotations of PROXY protocol say.
fn group_attributes(
    context: &Context<'_>,
    front: &Front<'_>,
) -> Result<BTreeMap<String, String>, InvalidSpec> {
    let annotations = context.annotations;
    let mut set = annotations.target_group_attributes.clone();
    if let Some(of_port) = annotations.target_group_attributes_of_port.get(&front.port) {
        let said = of_port.iter().filter(|(_, value)| !value.is_empty());
        set.extend(said.map(|(key, value)| (key.clone(), value.clone())));
    }
    if annotations.proxy_protocol || annotations.proxy_protocol_ports.contains(&front.port) {
        set.insert(attributes::PROXY_PROTOCOL.to_owned(), "true".to_owned());
    }
    let Some(preserve) = set.get(attributes::PRESERVE_CLIENT_IP) else {
        return Ok(set);
    };
    let problem = match preserve.as_str() {
        "false" if front.group.carries_udp() => {
            format!("can't be false: port {} carries UDP", front.port)
        }
        "true" | "false" => return Ok(set),
        _ => "must be true or false".to_owned(),
    };
    Err(InvalidSpec::Request(format!(
        "target group attribute {} {problem}",
        attributes::PRESERVE_CLIENT_IP
    )))
}

/// The family of targets is the Service's primary one.
fn family(context: &Context<'_>) -> Result<TargetFamily, InvalidSpec> {
    match context.request.service.ip_families.first() {
        Some(IpFamily::V6) if context.ip_address_type == IpAddressType::Ipv4 => {
            Err(InvalidSpec::Request(format!(
                "the Service's first family is IPv6, and targets of IPv6 need a load balancer \
                 with both; set annotation {} to \"dualstack\"",
                table::IP_ADDRESS_TYPE.suffix
            )))
        }
        Some(IpFamily::V6) => Ok(TargetFamily::Ipv6),
        Some(IpFamily::V4) | None => Ok(TargetFamily::Ipv4),
    }
}

/// How targets are checked where nothing is said.
struct Defaults {
    protocol: CheckProtocol,
    port: CheckPort,
    path: &'static str,
    timeout: u32,
    threshold: u32,
}

fn health_check(
    context: &Context<'_>,
    front: &Front<'_>,
    service: &Service<'_>,
) -> Result<HealthCheck, InvalidSpec> {
    let said = &context.annotations.check;
    let defaults = defaults(context, front, service)?;
    let protocol = said.protocol.unwrap_or(defaults.protocol);
    let http = protocol != CheckProtocol::Tcp;
    let interval = said.interval.unwrap_or(10);
    Ok(HealthCheck {
        protocol,
        port: match &said.port {
            Some(port) => check_port(context, port, service)?,
            None => defaults.port,
        },
        path: http.then(|| {
            said.path
                .clone()
                .unwrap_or_else(|| defaults.path.to_owned())
        }),
        success_codes: http.then(|| {
            said.success_codes
                .clone()
                .unwrap_or_else(|| "200-399".to_owned())
        }),
        interval_seconds: interval,
        // AWS wants it no longer than the interval.
        timeout_seconds: said
            .timeout
            .unwrap_or_else(|| defaults.timeout.min(interval)),
        healthy_threshold: said.healthy.unwrap_or(defaults.threshold),
        unhealthy_threshold: said.unhealthy.unwrap_or(defaults.threshold),
    })
}

fn defaults(
    context: &Context<'_>,
    front: &Front<'_>,
    service: &Service<'_>,
) -> Result<Defaults, InvalidSpec> {
    let instance = context.target_type == TargetType::Instance;
    if instance && service.traffic_policy == TrafficPolicy::Local {
        let port = service.health_check_node_port.ok_or_else(|| {
            InvalidSpec::Request(
                "externalTrafficPolicy is Local but spec.healthCheckNodePort is not set; it is \
                 how the load balancer learns which nodes have an endpoint"
                    .to_owned(),
            )
        })?;
        return Ok(Defaults {
            protocol: CheckProtocol::Http,
            port: CheckPort::Number(port),
            path: KUBE_PROXY_HEALTH_PATH,
            timeout: 6,
            threshold: 2,
        });
    }
    let at_traffic_port = Defaults {
        protocol: CheckProtocol::Tcp,
        port: CheckPort::Traffic,
        path: "/",
        timeout: 10,
        threshold: 3,
    };
    let said = &context.annotations.check;
    if front.group.carries_tcp() || said.protocol.is_some() || said.port.is_some() {
        return Ok(at_traffic_port);
    }
    let tcp = service
        .ports
        .iter()
        .find(|port| port.protocol == Protocol::Tcp);
    let tcp_port = tcp.and_then(|port| match (context.target_type, &port.target_port) {
        (TargetType::Instance, _) => port.node_port,
        (TargetType::Ip, TargetPort::Number(number)) => Some(*number),
        (TargetType::Ip, TargetPort::Name(_)) => None,
    });
    Ok(match tcp_port {
        Some(port) => Defaults {
            port: CheckPort::Number(port),
            ..at_traffic_port
        },
        None if instance => Defaults {
            protocol: CheckProtocol::Http,
            port: CheckPort::Number(KUBE_PROXY_HEALTH_PORT),
            path: KUBE_PROXY_HEALTH_PATH,
            ..at_traffic_port
        },
        None => at_traffic_port,
    })
}

fn check_port(
    context: &Context<'_>,
    text: &str,
    service: &Service<'_>,
) -> Result<CheckPort, InvalidSpec> {
    if text == "traffic-port" {
        return Ok(CheckPort::Traffic);
    }
    let refuse = |problem: &str| {
        let shown: String = text.chars().take(80).collect();
        Err(InvalidSpec::Request(format!(
            "annotation {} is {shown:?}, {problem}",
            table::CHECK_PORT.suffix
        )))
    };
    let port = match PortName::parse(text) {
        Some(PortName::Number(number)) => return Ok(CheckPort::Number(number)),
        Some(PortName::Name(name)) => service.ports.iter().find(|port| port.name == name),
        None => None,
    };
    let Some(port) = port else {
        return refuse("which is neither \"traffic-port\", nor a number, nor the name of a port");
    };
    match (context.target_type, &port.target_port) {
        (TargetType::Instance, _) => node_port(port, service).map(CheckPort::Number),
        (TargetType::Ip, TargetPort::Number(number)) => Ok(CheckPort::Number(*number)),
        (TargetType::Ip, TargetPort::Name(_)) => {
            refuse("a port whose targetPort is a name, which AWS can't resolve; give a number")
        }
    }
}
