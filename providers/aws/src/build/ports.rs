//! From a Service's ports to the protocols of listeners and target groups.

use std::collections::BTreeMap;

use herald_core::{Protocol, ServicePort, TargetPort};

use super::{Context, InvalidSpec};
use crate::annotations::{PortName, table};
use crate::spec::{NlbProtocol, TargetType};

/// One listener's port, with the one or two ports of the Service that it serves.
pub(super) struct Front<'a> {
    /// What clients dial.
    pub port: u16,
    /// The Service's port whose targets it has: the TCP one where there are two.
    pub main: &'a ServicePort,
    /// The UDP port of the same number, where TCP and UDP are one listener.
    pub second: Option<&'a ServicePort>,
    /// Protocol of the listener.
    pub listener: NlbProtocol,
    /// Protocol of the target group.
    pub group: NlbProtocol,
}

impl Front<'_> {
    /// What the target group is for, the same whatever else changes.
    pub(super) fn key(&self) -> String {
        let protocol = match self.second {
            Some(_) => NlbProtocol::TcpUdp.as_str().to_owned(),
            None => self.main.protocol.to_string(),
        };
        format!("{}/{protocol}", self.port)
    }
}

/// One front for each port number of the Service, by number.
pub(super) fn fronts<'a>(context: &Context<'a>) -> Result<Vec<Front<'a>>, InvalidSpec> {
    let ports = &context.request.service.ports;
    named_ports_exist(context)?;
    let mut by_number: BTreeMap<u16, Vec<&ServicePort>> = BTreeMap::new();
    for port in ports {
        by_number.entry(port.port).or_default().push(port);
    }
    by_number
        .into_iter()
        .map(|(number, ports)| front(context, number, &ports))
        .collect()
}

fn front<'a>(
    context: &Context<'_>,
    number: u16,
    ports: &[&'a ServicePort],
) -> Result<Front<'a>, InvalidSpec> {
    let of = |protocol| ports.iter().copied().find(|port| port.protocol == protocol);
    if of(Protocol::Sctp).is_some() {
        return Err(InvalidSpec::Request(format!(
            "port {number} is SCTP, which Network Load Balancers do not carry; they carry TCP and \
             UDP"
        )));
    }
    let quic = ports
        .iter()
        .any(|port| names(&context.annotations.quic_ports, port));
    let (main, second, listener, group) = match (of(Protocol::Tcp), of(Protocol::Udp)) {
        (Some(tcp), Some(udp)) => {
            merge(context, tcp, udp)?;
            let protocol = if quic {
                NlbProtocol::TcpQuic
            } else {
                NlbProtocol::TcpUdp
            };
            (tcp, Some(udp), protocol, protocol)
        }
        (Some(tcp), None) if is_tls(context, tcp) => {
            let group = if context.annotations.tls_to_targets {
                NlbProtocol::Tls
            } else {
                NlbProtocol::Tcp
            };
            (tcp, None, NlbProtocol::Tls, group)
        }
        (Some(tcp), None) => (tcp, None, NlbProtocol::Tcp, NlbProtocol::Tcp),
        (None, Some(udp)) => {
            let protocol = if quic {
                NlbProtocol::Quic
            } else {
                NlbProtocol::Udp
            };
            (udp, None, protocol, protocol)
        }
        (None, None) => {
            return Err(InvalidSpec::Request(format!(
                "port {number} is neither TCP nor UDP"
            )));
        }
    };
    if quic && !listener.is_quic() {
        return Err(InvalidSpec::Request(format!(
            "{} names port {number}, which is not UDP; QUIC runs over UDP",
            table::QUIC_PORTS.suffix
        )));
    }
    if quic && context.target_type != TargetType::Ip {
        return Err(InvalidSpec::Request(format!(
            "port {number} is QUIC, which only pods can be targets of; set {} to \"ip\"",
            table::TARGET_TYPE.suffix
        )));
    }
    Ok(Front {
        port: number,
        main,
        second,
        listener,
        group,
    })
}

/// TCP and UDP on one port become one listener with one target group, whose targets
/// have one port each: AWS has one listener a port.
fn merge(context: &Context<'_>, tcp: &ServicePort, udp: &ServicePort) -> Result<(), InvalidSpec> {
    let number = tcp.port;
    let refuse = |why: String| Err(InvalidSpec::Request(why));
    if context.annotations.tcp_udp == Some(false) {
        return refuse(format!(
            "port {number} is both TCP and UDP, and AWS has one listener a port; let {} be \
             \"true\" for one of TCP_UDP, or give one of them another port",
            table::TCP_UDP.suffix
        ));
    }
    if is_tls(context, tcp) {
        return refuse(format!(
            "port {number} is both TLS and UDP, and AWS has one listener a port; give one of them \
             another port, or leave {number} out of {}",
            table::SSL_PORTS.suffix
        ));
    }
    match context.target_type {
        TargetType::Instance if tcp.node_port != udp.node_port => refuse(format!(
            "port {number} is both TCP and UDP, and the targets of a TCP_UDP listener have one \
             port for both; the node ports are {} and {}: set both to the same number, or use \
             target type \"ip\"",
            shown(tcp.node_port),
            shown(udp.node_port),
        )),
        TargetType::Ip if tcp.target_port != udp.target_port => refuse(format!(
            "port {number} is both TCP and UDP, and the targets of a TCP_UDP listener have one \
             port for both; the target ports are {} and {}: let the pods listen on one number",
            target(&tcp.target_port),
            target(&udp.target_port),
        )),
        TargetType::Instance | TargetType::Ip => Ok(()),
    }
}

fn shown(port: Option<u16>) -> String {
    port.map_or_else(|| "none".to_owned(), |port| port.to_string())
}

fn target(port: &TargetPort) -> String {
    match port {
        TargetPort::Number(number) => number.to_string(),
        TargetPort::Name(name) => format!("{name:?}"),
    }
}

fn is_tls(context: &Context<'_>, port: &ServicePort) -> bool {
    let annotations = context.annotations;
    !annotations.certificates.is_empty()
        && (annotations.ssl_ports.is_empty() || names(&annotations.ssl_ports, port))
}

fn names(names: &[PortName], port: &ServicePort) -> bool {
    names.iter().any(|name| name.is(port))
}

/// A port that is named for TLS or QUIC and is not there is a mistake that would
/// leave another one in the clear.
fn named_ports_exist(context: &Context<'_>) -> Result<(), InvalidSpec> {
    let annotations = context.annotations;
    let ports = &context.request.service.ports;
    for (annotation, named) in [
        (&table::SSL_PORTS, &annotations.ssl_ports),
        (&table::QUIC_PORTS, &annotations.quic_ports),
    ] {
        if let Some(name) = named
            .iter()
            .find(|name| !ports.iter().any(|port| name.is(port)))
        {
            return Err(InvalidSpec::Request(format!(
                "{} names port {name}, which the Service does not have",
                annotation.suffix
            )));
        }
    }
    for port in &annotations.proxy_protocol_ports {
        if !ports.iter().any(|own| own.port == *port) {
            return Err(InvalidSpec::Request(format!(
                "{} names port {port}, which the Service does not have",
                table::PROXY_PROTOCOL_PORTS.suffix
            )));
        }
    }
    Ok(())
}
