//! Which subnets a load balancer is in, and with which addresses.
//!
//! Those that the Service names; else those that its load balancer has; else those
//! found by role tag; else those found by reachability.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Context, InvalidSpec};
use crate::annotations::table;
use crate::facts::Subnet;
use crate::spec::{IpAddressType, Scheme, SubnetMapping};

/// AWS wants this many free addresses of a subnet for a load balancer.
const FREE_ADDRESSES: u32 = 8;
/// Tags of subnets that belong to clusters end with a cluster's name.
const CLUSTER_TAG: &str = "kubernetes.io/cluster/";
/// How many ids a message names.
const NAMED: usize = 5;

/// Subnets with their addresses, ordered by subnet.
pub(super) fn build(
    context: &Context<'_>,
    ipv6_source_nat: bool,
) -> Result<Vec<SubnetMapping>, InvalidSpec> {
    let subnets = if context.annotations.subnets.is_empty() {
        match kept(context) {
            Some(subnets) => subnets,
            None => discovered(context)?,
        }
    } else {
        named(context)?
    };
    with_ipv6(context, &subnets)?;
    let mut mappings: Vec<SubnetMapping> = subnets
        .iter()
        .map(|subnet| SubnetMapping::new(&subnet.id, &subnet.zone))
        .collect();
    elastic(context, &mut mappings)?;
    private(context, &subnets, &mut mappings)?;
    ipv6(context, &subnets, &mut mappings)?;
    if ipv6_source_nat {
        source_nat(context, &mut mappings)?;
    }
    mappings.sort_unstable();
    Ok(mappings)
}

fn wrong(message: impl Into<String>) -> InvalidSpec {
    InvalidSpec::Subnets(message.into())
}

/// The subnets that the Service names, in its order.
fn named<'a>(context: &Context<'a>) -> Result<Vec<&'a Subnet>, InvalidSpec> {
    let annotation = table::SUBNETS.suffix;
    let vpc = &context.facts.vpc_id;
    let mut chosen: Vec<&Subnet> = Vec::new();
    for name in &context.annotations.subnets {
        let found: Vec<&Subnet> = context
            .facts
            .subnets
            .iter()
            .filter(|subnet| {
                subnet.id == *name || subnet.tags.get("Name").is_some_and(|tag| tag == name)
            })
            .collect();
        match found[..] {
            [subnet] if chosen.iter().any(|other| other.id == subnet.id) => {}
            [subnet] => chosen.push(subnet),
            [] => {
                return Err(wrong(format!(
                    "{vpc} has no subnet {name:?}, by id or by tag Name, which {annotation} asks \
                     for"
                )));
            }
            _ => {
                return Err(wrong(format!(
                    "several subnets of {vpc} have the tag Name={name}: {}; name one by its id in \
                     {annotation}",
                    ids(&found)
                )));
            }
        }
    }
    let mut zones = BTreeMap::new();
    for subnet in &chosen {
        if let Some(other) = zones.insert(&subnet.zone, subnet) {
            return Err(wrong(format!(
                "{} and {} are both in zone {}, and a load balancer has one subnet a zone; take \
                 one out of {annotation}",
                other.id, subnet.id, subnet.zone
            )));
        }
    }
    one_kind(context, &chosen)?;
    Ok(chosen)
}

fn one_kind(context: &Context<'_>, subnets: &[&Subnet]) -> Result<(), InvalidSpec> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    for subnet in subnets {
        kinds.insert(kind(context, subnet), &subnet.id);
    }
    if kinds.len() < 2 {
        return Ok(());
    }
    let list: Vec<String> = kinds
        .iter()
        .map(|(kind, subnet)| format!("{subnet} is in {kind}"))
        .collect();
    Err(wrong(format!(
        "the subnets of one load balancer must all be in zones of one kind: {}",
        list.join(", ")
    )))
}

/// What kind of place a subnet is in, for people.
fn kind(context: &Context<'_>, subnet: &Subnet) -> &'static str {
    if subnet.outpost_arn.is_some() {
        return "an Outpost";
    }
    let zone = context
        .facts
        .zones
        .iter()
        .find(|zone| zone.name == subnet.zone);
    match zone.map(|zone| zone.kind.as_str()) {
        Some("local-zone") => "a local zone",
        Some("wavelength-zone") => "a Wavelength zone",
        _ => "an availability zone",
    }
}

/// The subnets of the load balancer that is there, as long as it keeps its scheme.
fn kept<'a>(context: &Context<'a>) -> Option<Vec<&'a Subnet>> {
    let existing = context.facts.existing.as_ref()?;
    if existing.scheme != context.scheme || existing.subnets.is_empty() {
        return None;
    }
    let by_id = |id: &String| context.facts.subnets.iter().find(|subnet| subnet.id == *id);
    let mut subnets = existing
        .subnets
        .iter()
        .map(|mapping| by_id(&mapping.subnet))
        .collect::<Option<Vec<_>>>()?;
    subnets.sort_by(|a, b| a.id.cmp(&b.id));
    Some(subnets)
}

/// Why a subnet is not taken, in the order in which it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reject {
    Role,
    Reachability,
    OtherCluster,
    Addresses,
    Ipv6,
    Kind,
}

fn discovered<'a>(context: &Context<'a>) -> Result<Vec<&'a Subnet>, InvalidSpec> {
    let all = &context.facts.subnets;
    let role = match context.scheme {
        Scheme::InternetFacing => "kubernetes.io/role/elb",
        Scheme::Internal => "kubernetes.io/role/internal-elb",
    };
    let has_role = |subnet: &Subnet| {
        subnet
            .tags
            .get(role)
            .is_some_and(|value| value.is_empty() || value == "1")
    };
    let by_role = all.iter().any(has_role);
    let mut rejected: BTreeMap<Reject, usize> = BTreeMap::new();
    let mut fit: Vec<&Subnet> = Vec::new();
    for subnet in all {
        let public = is_public(context, subnet);
        let reject = if by_role && !has_role(subnet) {
            Some(Reject::Role)
        } else if !by_role && public != (context.scheme == Scheme::InternetFacing) {
            Some(Reject::Reachability)
        } else {
            unfit(context, subnet)
        };
        match reject {
            Some(reject) => *rejected.entry(reject).or_default() += 1,
            None => fit.push(subnet),
        }
    }
    let fit = same_kind(context, fit, &mut rejected);
    let chosen = one_a_zone(context, fit);
    if chosen.is_empty() {
        return Err(wrong(nothing_found(context, role, &rejected)));
    }
    Ok(chosen)
}

fn unfit(context: &Context<'_>, subnet: &Subnet) -> Option<Reject> {
    let clusters = || {
        subnet
            .tags
            .keys()
            .filter_map(|key| key.strip_prefix(CLUSTER_TAG))
    };
    let of_others = clusters().next().is_some() && !clusters().any(|name| is_ours(context, name));
    if of_others {
        Some(Reject::OtherCluster)
    } else if subnet.available_ips < FREE_ADDRESSES {
        Some(Reject::Addresses)
    } else if context.ip_address_type == IpAddressType::Dualstack && subnet.ipv6_cidrs.is_empty() {
        Some(Reject::Ipv6)
    } else {
        None
    }
}

/// Without a name of our own no cluster's tag speaks against a subnet.
fn is_ours(context: &Context<'_>, cluster: &str) -> bool {
    let ours = context.settings.cluster_name.as_deref();
    ours.is_none_or(|ours| ours == cluster)
}

/// Whether the route table that holds for a subnet leads to an internet gateway.
fn is_public(context: &Context<'_>, subnet: &Subnet) -> bool {
    let tables = &context.facts.route_tables;
    let own = tables
        .iter()
        .find(|table| table.subnets.contains(&subnet.id));
    own.or_else(|| tables.iter().find(|table| table.main))
        .is_some_and(|table| table.internet_gateway)
}

/// Availability zones are preferred to local and Wavelength zones, which AWS does not
/// mix with them.
fn same_kind<'a>(
    context: &Context<'_>,
    subnets: Vec<&'a Subnet>,
    rejected: &mut BTreeMap<Reject, usize>,
) -> Vec<&'a Subnet> {
    let Some(preferred) = ["an availability zone", "a local zone", "a Wavelength zone"]
        .into_iter()
        .find(|wanted| {
            subnets
                .iter()
                .any(|subnet| kind(context, subnet) == *wanted)
        })
    else {
        *rejected.entry(Reject::Kind).or_default() += subnets.len();
        return Vec::new();
    };
    let before = subnets.len();
    let same: Vec<&Subnet> = subnets
        .into_iter()
        .filter(|subnet| kind(context, subnet) == preferred)
        .collect();
    *rejected.entry(Reject::Kind).or_default() += before - same.len();
    same
}

/// Of the subnets of a zone, one tagged for this cluster first, then the lowest id.
fn one_a_zone<'a>(context: &Context<'_>, mut subnets: Vec<&'a Subnet>) -> Vec<&'a Subnet> {
    let tagged = |subnet: &Subnet| {
        let name = context.settings.cluster_name.as_deref();
        name.is_some_and(|name| subnet.tags.contains_key(&format!("{CLUSTER_TAG}{name}")))
    };
    subnets.sort_by(|a, b| (!tagged(a), &a.id).cmp(&(!tagged(b), &b.id)));
    let mut by_zone: BTreeMap<&str, &Subnet> = BTreeMap::new();
    for subnet in subnets {
        by_zone.entry(&subnet.zone).or_insert(subnet);
    }
    let mut chosen: Vec<&Subnet> = by_zone.into_values().collect();
    chosen.sort_by(|a, b| a.id.cmp(&b.id));
    chosen
}

fn nothing_found(context: &Context<'_>, role: &str, rejected: &BTreeMap<Reject, usize>) -> String {
    let scheme = context.scheme;
    let total = context.facts.subnets.len();
    let reasons: Vec<String> = rejected
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reject, count)| {
            let why = match reject {
                Reject::Role => format!("without tag {role}"),
                Reject::Reachability if scheme == Scheme::InternetFacing => {
                    "without a route to an internet gateway".to_owned()
                }
                Reject::Reachability => "with a route to an internet gateway".to_owned(),
                Reject::OtherCluster => "tagged for other clusters only".to_owned(),
                Reject::Addresses => {
                    format!("with fewer than {FREE_ADDRESSES} free addresses")
                }
                Reject::Ipv6 => "without an IPv6 network".to_owned(),
                Reject::Kind => "on an Outpost or in zones of another kind".to_owned(),
            };
            format!("{count} {why}")
        })
        .collect();
    let looked = if total == 0 {
        "it has no subnets that could be read".to_owned()
    } else {
        format!("of {total} there are {}", reasons.join(", "))
    };
    format!(
        "{} has no subnet for an {scheme} load balancer: {looked}; give fitting subnets the tag \
         {role}=1, or name them in annotation {}",
        context.facts.vpc_id,
        table::SUBNETS.suffix
    )
}

/// Every subnet of a dual-stack load balancer has IPv6.
fn with_ipv6(context: &Context<'_>, subnets: &[&Subnet]) -> Result<(), InvalidSpec> {
    if context.ip_address_type != IpAddressType::Dualstack {
        return Ok(());
    }
    let without: Vec<&Subnet> = subnets
        .iter()
        .copied()
        .filter(|subnet| subnet.ipv6_cidrs.is_empty())
        .collect();
    if without.is_empty() {
        return Ok(());
    }
    Err(wrong(format!(
        "a dual-stack load balancer needs an IPv6 network in each of its subnets, and {} have \
         none; give them one, name others in annotation {}, or set {} to \"ipv4\"",
        ids(&without),
        table::SUBNETS.suffix,
        table::IP_ADDRESS_TYPE.suffix
    )))
}

/// As many addresses as subnets.
fn count(what: &str, addresses: usize, subnets: usize) -> Result<(), InvalidSpec> {
    if addresses == subnets {
        return Ok(());
    }
    Err(InvalidSpec::Request(format!(
        "{what} names {addresses}, and the load balancer has {subnets} subnets; there must be one \
         for each"
    )))
}

fn elastic(context: &Context<'_>, mappings: &mut [SubnetMapping]) -> Result<(), InvalidSpec> {
    let wanted = &context.annotations.eip_allocations;
    if wanted.is_empty() {
        return Ok(());
    }
    let annotation = table::EIP_ALLOCATIONS.suffix;
    if context.scheme == Scheme::Internal {
        return Err(InvalidSpec::Request(format!(
            "{annotation}: only internet-facing load balancers have Elastic IP addresses, and this \
             one is internal; take it out, or set {} to \"internet-facing\"",
            table::SCHEME.suffix
        )));
    }
    count(annotation, wanted.len(), mappings.len())?;
    // Where the subnets are not named, their order means nothing: what is there stays.
    let mut left: Vec<&String> = wanted.iter().collect();
    if context.annotations.subnets.is_empty() {
        let existing = context.facts.existing.iter().flat_map(|e| &e.subnets);
        for is in existing {
            let allocation = left
                .iter()
                .position(|id| Some(*id) == is.allocation.as_ref());
            let mapping = mappings.iter_mut().find(|m| m.subnet == is.subnet);
            if let (Some(place), Some(mapping)) = (allocation, mapping) {
                mapping.allocation = Some(left.remove(place).clone());
            }
        }
    }
    let free = mappings.iter_mut().filter(|m| m.allocation.is_none());
    for (mapping, id) in free.zip(left) {
        mapping.allocation = Some(id.clone());
    }
    Ok(())
}

fn private(
    context: &Context<'_>,
    subnets: &[&Subnet],
    mappings: &mut [SubnetMapping],
) -> Result<(), InvalidSpec> {
    let wanted = &context.annotations.private_ipv4;
    if wanted.is_empty() {
        return Ok(());
    }
    let annotation = table::PRIVATE_IPV4.suffix;
    if context.scheme == Scheme::InternetFacing {
        return Err(InvalidSpec::Request(format!(
            "{annotation}: only internal load balancers can choose private addresses, and this one \
             is internet-facing; take it out, or set {} to \"internal\"",
            table::SCHEME.suffix
        )));
    }
    count(annotation, wanted.len(), subnets.len())?;
    for (subnet, mapping) in subnets.iter().zip(mappings) {
        let within = |address: &IpAddr| subnet.ipv4_cidr.is_some_and(|net| net.contains(address));
        let mut fitting = wanted.iter().filter(|a| within(&IpAddr::from(**a)));
        mapping.private_ipv4 = Some(only(annotation, subnet, fitting.next(), fitting.next())?);
    }
    Ok(())
}

fn ipv6(
    context: &Context<'_>,
    subnets: &[&Subnet],
    mappings: &mut [SubnetMapping],
) -> Result<(), InvalidSpec> {
    let wanted = &context.annotations.ipv6;
    if wanted.is_empty() {
        return Ok(());
    }
    let annotation = table::IPV6.suffix;
    count(annotation, wanted.len(), subnets.len())?;
    for (subnet, mapping) in subnets.iter().zip(mappings) {
        let within = |address: &IpAddr| subnet.ipv6_cidrs.iter().any(|net| net.contains(address));
        let mut fitting = wanted.iter().filter(|a| within(&IpAddr::from(**a)));
        mapping.ipv6 = Some(only(annotation, subnet, fitting.next(), fitting.next())?);
    }
    Ok(())
}

/// The only address of a subnet's network.
fn only<A: Copy>(
    annotation: &str,
    subnet: &Subnet,
    first: Option<&A>,
    second: Option<&A>,
) -> Result<A, InvalidSpec> {
    match (first, second) {
        (Some(address), None) => Ok(*address),
        (None, _) => Err(InvalidSpec::Request(format!(
            "{annotation} has no address in the network of {}; there must be one for each subnet",
            subnet.id
        ))),
        (Some(_), Some(_)) => Err(InvalidSpec::Request(format!(
            "{annotation} has two addresses in the network of {}; there must be one for each \
             subnet",
            subnet.id
        ))),
    }
}

fn source_nat(context: &Context<'_>, mappings: &mut [SubnetMapping]) -> Result<(), InvalidSpec> {
    let wanted = &context.annotations.ipv6_source_nat_prefixes;
    if !wanted.is_empty() {
        count(
            table::IPV6_SOURCE_NAT_PREFIXES.suffix,
            wanted.len(),
            mappings.len(),
        )?;
    }
    for (index, mapping) in mappings.iter_mut().enumerate() {
        mapping.source_nat_ipv6_prefix = wanted.get(index).cloned();
    }
    Ok(())
}

fn ids(subnets: &[&Subnet]) -> String {
    let named: Vec<&str> = subnets.iter().take(NAMED).map(|s| s.id.as_str()).collect();
    let more = subnets.len().saturating_sub(NAMED);
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
