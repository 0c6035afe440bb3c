//! The subnets of a load balancer: what may be asked for, and the interfaces
//! that come of it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::Ipv6Net;

use super::common::Done;
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::balancing::Mapping;
use crate::model::{Interface, Region};
use crate::params::Params;

/// Free addresses that a subnet needs.
const FREE_ADDRESSES: u32 = 8;

/// Reads `Subnets` or `SubnetMappings`: exactly one of them.
pub fn read(p: &Params<'_>) -> Result<Vec<Mapping>, ApiError> {
    let subnets = p.texts("Subnets");
    let mut mappings = Vec::new();
    for mapping in p.list("SubnetMappings") {
        mappings.push(Mapping {
            subnet: mapping.required("SubnetId")?.to_owned(),
            allocation: mapping.text("AllocationId").map(str::to_owned),
            private_ipv4: mapping.read::<Ipv4Addr>("PrivateIPv4Address")?,
            ipv6: mapping.read::<Ipv6Addr>("IPv6Address")?,
            source_nat_prefix: mapping.text("SourceNatIpv6Prefix").map(str::to_owned),
        });
    }
    match (subnets.is_empty(), mappings.is_empty()) {
        (false, false) => Err(ApiError::validation(
            "You must specify either subnets or subnet mappings, but not both",
        )),
        (true, true) => Err(ApiError::validation(
            "At least one subnet must be specified",
        )),
        (true, false) => Ok(mappings),
        (false, true) => Ok(subnets.into_iter().map(plain).collect()),
    }
}

const fn plain(subnet: String) -> Mapping {
    Mapping {
        subnet,
        allocation: None,
        private_ipv4: None,
        ipv6: None,
        source_nat_prefix: None,
    }
}

/// For whom subnets are.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// The load balancer's scheme.
    pub scheme: &'a str,
    /// Its address type.
    pub ip_address_type: &'a str,
    /// Whether it uses prefixes for source NAT.
    pub source_nat: bool,
    /// Its ARN, if it is there already.
    pub load_balancer: Option<&'a str>,
}

/// Checks subnets for a load balancer; their VPC.
pub fn check(
    region: &Region,
    mappings: &[Mapping],
    purpose: Purpose<'_>,
) -> Result<String, ApiError> {
    let configuration = |message: String| ApiError::new("InvalidConfigurationRequest", message);
    let mut zones = BTreeSet::new();
    let mut vpcs = BTreeSet::new();
    for mapping in mappings {
        let subnet = region.subnets.get(&mapping.subnet).ok_or_else(|| {
            ApiError::new(
                "SubnetNotFound",
                format!("The subnet ID '{}' does not exist", mapping.subnet),
            )
        })?;
        vpcs.insert(subnet.vpc.clone());
        if !zones.insert(subnet.zone.clone()) {
            return Err(configuration(
                "A load balancer cannot be attached to multiple subnets in the same Availability Zone".into(),
            ));
        }
        if purpose.ip_address_type == "dualstack" && subnet.ipv6_cidr.is_none() {
            return Err(configuration(format!(
                "You must specify subnets with an associated IPv6 CIDR block: '{}' has none",
                subnet.id
            )));
        }
        let has_one = region.interfaces.values().any(|interface| {
            interface.subnet == subnet.id
                && purpose.load_balancer.is_some()
                && interface.load_balancer.as_deref() == purpose.load_balancer
        });
        if !has_one && region.addresses_left(subnet) < FREE_ADDRESSES {
            return Err(ApiError::new(
                "InvalidSubnet",
                format!(
                    "Not enough IP space available in {}. ELB requires at least {FREE_ADDRESSES} free IP addresses in each subnet",
                    subnet.id
                ),
            ));
        }
    }
    let mut vpcs = vpcs.into_iter();
    let (Some(vpc), None) = (vpcs.next(), vpcs.next()) else {
        return Err(ApiError::new(
            "InvalidSubnet",
            "All subnets must belong to the same VPC",
        ));
    };
    if purpose.scheme == "internet-facing"
        && !region
            .vpcs
            .get(&vpc)
            .is_some_and(|vpc| vpc.internet_gateway)
    {
        return Err(ApiError::new(
            "InvalidSubnet",
            format!("VPC {vpc} has no internet gateway"),
        ));
    }
    check_allocations(region, mappings, purpose)?;
    check_private(region, mappings, purpose)?;
    check_ipv6(region, mappings, purpose)?;
    Ok(vpc)
}

fn check_allocations(region: &Region, mappings: &[Mapping], purpose: Purpose<'_>) -> Done {
    let asked: Vec<&String> = mappings
        .iter()
        .filter_map(|m| m.allocation.as_ref())
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    if purpose.scheme != "internet-facing" {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            "You can specify Elastic IP addresses for internet-facing load balancers only",
        ));
    }
    if asked.len() != mappings.len() {
        return Err(ApiError::validation(
            "You must specify an allocation ID for every subnet or for none",
        ));
    }
    let mut seen = BTreeSet::new();
    for id in asked {
        let address = region.addresses.get(id).ok_or_else(|| {
            ApiError::new(
                "AllocationIdNotFound",
                format!("The allocation IDs '{id}' do not exist"),
            )
        })?;
        let holder = address
            .interface
            .as_ref()
            .and_then(|interface| region.interfaces.get(interface));
        let is_ours = holder.is_some_and(|interface| {
            interface.load_balancer.is_some()
                && interface.load_balancer.as_deref() == purpose.load_balancer
        });
        if !seen.insert(id) || (address.interface.is_some() && !is_ours) {
            return Err(ApiError::new(
                "ResourceInUse",
                format!("The allocation IDs '{id}' are not available for use"),
            ));
        }
    }
    Ok(())
}

fn check_private(region: &Region, mappings: &[Mapping], purpose: Purpose<'_>) -> Done {
    for mapping in mappings {
        let Some(address) = mapping.private_ipv4 else {
            continue;
        };
        if purpose.scheme != "internal" {
            return Err(ApiError::new(
                "InvalidConfigurationRequest",
                "You can specify private IPv4 addresses for internal load balancers only",
            ));
        }
        let subnet = region.subnets.get(&mapping.subnet);
        if !subnet.is_some_and(|subnet| subnet.cidr.contains(&address)) {
            return Err(ApiError::new(
                "InvalidConfigurationRequest",
                format!(
                    "The private IPv4 address '{address}' is not in subnet '{}'",
                    mapping.subnet
                ),
            ));
        }
        let taken = region.interfaces.values().any(|interface| {
            interface.addresses.contains(&address)
                && (purpose.load_balancer.is_none()
                    || interface.load_balancer.as_deref() != purpose.load_balancer)
        });
        if taken {
            return Err(ApiError::new(
                "ResourceInUse",
                format!("The private IPv4 address '{address}' is in use"),
            ));
        }
    }
    Ok(())
}

fn check_ipv6(region: &Region, mappings: &[Mapping], purpose: Purpose<'_>) -> Done {
    let dualstack = purpose.ip_address_type == "dualstack";
    if purpose.source_nat && !dualstack {
        return Err(ApiError::validation(
            "EnablePrefixForIpv6SourceNat can be on for dualstack load balancers only",
        ));
    }
    for mapping in mappings {
        let block = region
            .subnets
            .get(&mapping.subnet)
            .and_then(|subnet| subnet.ipv6_cidr);
        if let Some(address) = mapping.ipv6 {
            if !dualstack {
                return Err(ApiError::validation(
                    "You can specify IPv6 addresses for dualstack load balancers only",
                ));
            }
            if !block.is_some_and(|block| block.contains(&address)) {
                return Err(ApiError::new(
                    "InvalidConfigurationRequest",
                    format!(
                        "The IPv6 address '{address}' is not in subnet '{}'",
                        mapping.subnet
                    ),
                ));
            }
        }
        if let Some(prefix) = &mapping.source_nat_prefix {
            if !purpose.source_nat {
                return Err(ApiError::validation(
                    "SourceNatIpv6Prefix needs EnablePrefixForIpv6SourceNat to be on",
                ));
            }
            let fits = prefix == "auto_assigned"
                || prefix.parse::<Ipv6Net>().is_ok_and(|prefix| {
                    prefix.prefix_len() == 80 && block.is_some_and(|block| block.contains(&prefix))
                });
            if !fits {
                return Err(ApiError::validation(format!(
                    "SourceNatIpv6Prefix '{prefix}' must be auto_assigned or a /80 of subnet '{}'",
                    mapping.subnet
                )));
            }
        }
    }
    Ok(())
}

/// Gives a load balancer its interfaces: one in each of its subnets, and none
/// elsewhere.
pub fn plug(region: &mut Region, arn: &str, c: &Context<'_>) {
    let Some(lb) = region.load_balancers.get(arn).cloned() else {
        return;
    };
    let wanted: BTreeSet<&str> = lb.mappings.iter().map(|m| m.subnet.as_str()).collect();
    unplug(
        region,
        arn,
        c.now + c.timing.interface_release,
        |interface| !wanted.contains(interface.subnet.as_str()),
    );
    region.settle(c.now);
    for mapping in &lb.mappings {
        let Some(subnet) = region.subnets.get(&mapping.subnet).cloned() else {
            continue;
        };
        let mine = region
            .interfaces
            .values()
            .find(|i| {
                i.load_balancer.as_deref() == Some(arn)
                    && i.subnet == subnet.id
                    && i.released_at.is_none()
            })
            .map(|interface| interface.id.clone());
        let id = mine.unwrap_or_else(|| region.next_ec2_id("eni"));
        let old = region.interfaces.remove(&id);
        let address = mapping
            .private_ipv4
            .or_else(|| old.as_ref().and_then(|old| old.addresses.first().copied()))
            .or_else(|| region.free_address(&subnet));
        let ipv6 = if lb.ip_address_type == "dualstack" {
            mapping
                .ipv6
                .or_else(|| old.as_ref().and_then(|old| old.ipv6))
                .or_else(|| region.free_ipv6(&subnet))
        } else {
            None
        };
        let interface = Interface {
            id: id.clone(),
            subnet: subnet.id,
            description: format!("ELB {}", lb.path()),
            addresses: address.into_iter().collect(),
            ipv6,
            security_groups: lb.security_groups.clone(),
            instance: None,
            load_balancer: Some(arn.to_owned()),
            released_at: None,
        };
        region.interfaces.insert(id.clone(), interface);
        for elastic in region.addresses.values_mut() {
            let is_mapped = Some(&elastic.allocation) == mapping.allocation.as_ref();
            if is_mapped {
                elastic.interface = Some(id.clone());
            } else if elastic.interface.as_ref() == Some(&id) {
                elastic.interface = None;
            }
        }
    }
}

/// Releases interfaces of a load balancer at that time.
pub fn unplug(region: &mut Region, arn: &str, at: Duration, which: impl Fn(&Interface) -> bool) {
    for interface in region.interfaces.values_mut() {
        if interface.load_balancer.as_deref() == Some(arn)
            && interface.released_at.is_none()
            && which(interface)
        {
            interface.released_at = Some(at);
        }
    }
}
