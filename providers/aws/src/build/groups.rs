//! Security groups: the load balancer's own, and what its backends must let in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::listeners::NAMED_PORT;
use super::{Context, InvalidSpec};
use crate::annotations::{source_range, table};
use crate::identity::SECURITY_GROUP;
use crate::spec::{
    BackendRules, CheckPort, IngressRule, IpAddressType, Listener, ManagedGroup, SecurityGroups,
    Source, Target, TargetGroup, TargetType, Traffic,
};

/// Clients' side.
pub(super) fn frontend(
    context: &Context<'_>,
    listeners: &[Listener],
) -> Result<SecurityGroups, InvalidSpec> {
    let annotations = context.annotations;
    if annotations.without_security_group {
        return Ok(SecurityGroups::None);
    }
    if !annotations.security_groups.is_empty() {
        return Ok(SecurityGroups::Given {
            ids: given(context)?,
            enforce_on_private_link: annotations.private_link_rules,
        });
    }
    let key = &context.request.service.key;
    Ok(SecurityGroups::Managed(ManagedGroup {
        name: context.identity.security_group_name(),
        description: format!("Clients of the load balancer of Service {key}")
            .chars()
            .take(255)
            .collect(),
        rules: rules(context, listeners)?,
        enforce_on_private_link: annotations.private_link_rules,
        tags: context.tags(SECURITY_GROUP),
    }))
}

/// Ids of the groups that the Service names, in its order.
fn given(context: &Context<'_>) -> Result<Vec<String>, InvalidSpec> {
    let mut ids = Vec::new();
    for name in &context.annotations.security_groups {
        let id = if name.starts_with("sg-") {
            name.clone()
        } else {
            by_name(context, name)?
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn by_name(context: &Context<'_>, name: &str) -> Result<String, InvalidSpec> {
    let mut found = context
        .facts
        .security_groups
        .iter()
        .filter(|group| group.tags.get("Name").is_some_and(|tag| tag == name));
    match (found.next(), found.next()) {
        (Some(group), None) => Ok(group.id.clone()),
        (None, _) => Err(InvalidSpec::SecurityGroups(format!(
            "no security group of {} has the tag Name={name}, which {} asks for",
            context.facts.vpc_id,
            table::SECURITY_GROUPS.suffix
        ))),
        (Some(one), Some(other)) => Err(InvalidSpec::SecurityGroups(format!(
            "several security groups of {} have the tag Name={name}: {}, {}; name one by its id \
             in {}",
            context.facts.vpc_id,
            one.id,
            other.id,
            table::SECURITY_GROUPS.suffix
        ))),
    }
}

fn rules(
    context: &Context<'_>,
    listeners: &[Listener],
) -> Result<BTreeSet<IngressRule>, InvalidSpec> {
    let sources = sources(context)?;
    let mut rules = BTreeSet::new();
    for source in &sources {
        for listener in listeners {
            let port = listener.port;
            let tcp = listener
                .protocol
                .carries_tcp()
                .then_some(Traffic::Tcp(port, port));
            let udp = listener
                .protocol
                .carries_udp()
                .then_some(Traffic::Udp(port, port));
            for traffic in tcp.into_iter().chain(udp) {
                rules.insert(IngressRule {
                    traffic,
                    source: source.clone(),
                });
            }
        }
        if context.annotations.path_mtu_discovery
            && let Source::Cidr(net) = source
        {
            rules.insert(IngressRule {
                traffic: match net {
                    IpNet::V4(_) => Traffic::IcmpFragmentationNeeded,
                    IpNet::V6(_) => Traffic::Icmpv6PacketTooBig,
                },
                source: source.clone(),
            });
        }
    }
    Ok(rules)
}

fn sources(context: &Context<'_>) -> Result<BTreeSet<Source>, InvalidSpec> {
    let annotations = context.annotations;
    let field = &context.request.service.source_ranges;
    let dual = context.ip_address_type == IpAddressType::Dualstack;
    let mut ranges = if field.is_empty() {
        annotations.source_ranges.clone()
    } else {
        field
            .iter()
            .map(|range| {
                source_range(range.trim()).ok_or_else(|| {
                    InvalidSpec::Request(format!(
                        "spec.loadBalancerSourceRanges has {range:?}, which is no network such as \
                         10.0.0.0/8"
                    ))
                })
            })
            .collect::<Result<_, _>>()?
    };
    if let Some(v6) = ranges.iter().find(|net| matches!(net, IpNet::V6(_)))
        && !dual
    {
        return Err(InvalidSpec::Request(format!(
            "source range {v6} is IPv6, and the load balancer has IPv4 only; set annotation {} to \
             \"dualstack\", or take the range out",
            table::IP_ADDRESS_TYPE.suffix
        )));
    }
    if ranges.is_empty() && annotations.prefix_lists.is_empty() {
        ranges.push(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into());
        if dual {
            ranges.push(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into());
        }
    }
    let lists = annotations.prefix_lists.iter().cloned();
    Ok(ranges
        .into_iter()
        .map(Source::Cidr)
        .chain(lists.map(Source::PrefixList))
        .collect())
}

/// Backends' side.
pub(super) fn backend(
    context: &Context<'_>,
    groups: &SecurityGroups,
    target_groups: &[TargetGroup],
) -> Result<Option<BackendRules>, InvalidSpec> {
    let said = context.annotations.manage_backend_rules;
    let manage = match groups {
        SecurityGroups::Managed(_) => said.unwrap_or(context.settings.manage_backend_rules),
        SecurityGroups::Given { .. } => said.unwrap_or(false),
        SecurityGroups::None if said == Some(true) => {
            return Err(InvalidSpec::Request(format!(
                "{} is \"true\", but a load balancer without a security group can't be named in \
                 rules; take it out, and open the nodes yourself",
                table::MANAGE_BACKEND_RULES.suffix
            )));
        }
        SecurityGroups::None => false,
    };
    Ok(manage.then(|| BackendRules {
        rules: ranges(target_groups),
    }))
}

/// One range a protocol that covers all ports of targets and health checks: fewer rules
/// than ports, of which a security group has 60.
fn ranges(target_groups: &[TargetGroup]) -> BTreeSet<Traffic> {
    let mut ports: BTreeMap<bool, BTreeSet<u16>> = BTreeMap::new();
    for group in target_groups {
        let mut traffic: BTreeSet<u16> = group.targets.iter().map(Target::port).collect();
        // Known before there is a target, except where pods resolve a name.
        if group.target_type == TargetType::Instance || group.port != NAMED_PORT {
            traffic.insert(group.port);
        }
        let checked = match group.health_check.port {
            CheckPort::Traffic => traffic.clone(),
            CheckPort::Number(port) => BTreeSet::from([port]),
        };
        ports.entry(true).or_default().extend(checked);
        if group.protocol.carries_tcp() {
            ports.entry(true).or_default().extend(&traffic);
        }
        if group.protocol.carries_udp() {
            ports.entry(false).or_default().extend(&traffic);
        }
    }
    ports
        .into_iter()
        .filter_map(|(tcp, ports)| {
            let (first, last) = (*ports.first()?, *ports.last()?);
            Some(if tcp {
                Traffic::Tcp(first, last)
            } else {
                Traffic::Udp(first, last)
            })
        })
        .collect()
}
