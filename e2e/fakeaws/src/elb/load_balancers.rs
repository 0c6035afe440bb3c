//! Load balancers.

use std::collections::BTreeSet;

use super::common::{
    AT_ONCE, Done, Paging, arn, at_most, check_name, choice, has_udp, load_balancer,
    load_balancer_mut,
};
use super::subnets::{self, Purpose};
use super::{attributes, tags};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::balancing::Mapping;
use crate::model::{Capacity, LoadBalancer, Region};
use crate::params::Params;
use crate::xml::Xml;

/// Of network load balancers in any region; AWS has one for each.
const HOSTED_ZONE: &str = "Z26RNL4JYFTOTI";

/// `CreateLoadBalancer`.
pub fn create(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let name = p.required("Name")?.to_owned();
    let kind = choice(p, "Type", &["application", "network", "gateway"])?;
    let scheme = choice(p, "Scheme", &["internet-facing", "internal"])?
        .unwrap_or_else(|| "internet-facing".into());
    let ip_address_type =
        choice(p, "IpAddressType", &["ipv4", "dualstack"])?.unwrap_or_else(|| "ipv4".into());
    let source_nat = choice(p, "EnablePrefixForIpv6SourceNat", &["on", "off"])?;
    let mappings = subnets::read(p)?;
    let security_groups = p.texts("SecurityGroups");
    let tags = tags::read(p, c.quotas)?;
    p.finish()?;
    check_name("The load balancer", &name)?;
    if name.starts_with("internal-") {
        return Err(ApiError::validation(
            "The load balancer name cannot begin with 'internal-'",
        ));
    }
    if kind.as_deref() != Some("network") {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            "This stand-in makes load balancers of type 'network' only",
        ));
    }
    let source_nat = source_nat.as_deref() == Some("on");
    let mut lb = LoadBalancer {
        arn: String::new(),
        name,
        dns_name: String::new(),
        scheme,
        ip_address_type,
        vpc: String::new(),
        mappings,
        security_groups,
        private_link_rules: None,
        source_nat,
        attributes: attributes::Attributes::new(),
        tags,
        created_at: c.now,
        active_at: c.now + c.timing.provisioning,
        steered: None,
        capacity: Capacity::default(),
    };
    if let Some(twin) = region.load_balancer_named(&lb.name) {
        if !is_same(twin, &lb) {
            return Err(ApiError::new(
                "DuplicateLoadBalancerName",
                format!(
                    "A load balancer with the same name '{}' exists, but with different settings",
                    lb.name
                ),
            ));
        }
        // Its tags are not looked at and stay what they are.
        xml.members("LoadBalancers", [twin], |x, lb| write(x, region, lb, c));
        return Ok(());
    }
    let purpose = Purpose {
        scheme: &lb.scheme,
        ip_address_type: &lb.ip_address_type,
        source_nat,
        load_balancer: None,
    };
    lb.vpc = subnets::check(region, &lb.mappings, purpose)?;
    check_groups(region, c, &lb.security_groups, &lb.vpc)?;
    if region.load_balancers.len() >= c.quotas.load_balancers {
        return Err(ApiError::new(
            "TooManyLoadBalancers",
            "The maximum number of load balancers has been reached",
        ));
    }
    if !lb.security_groups.is_empty() {
        lb.private_link_rules = Some("on".into());
    }
    let id = region.next_id();
    lb.arn = arn(region, &format!("loadbalancer/net/{}/{id}", lb.name));
    lb.dns_name = format!("{}-{id}.elb.{}.amazonaws.com", lb.name, region.name);
    lb.attributes = attributes::of_load_balancer(&lb.scheme);
    let arn = lb.arn.clone();
    region.load_balancers.insert(arn.clone(), lb);
    subnets::plug(region, &arn, c);
    xml.members("LoadBalancers", [load_balancer(region, &arn)?], |x, lb| {
        write(x, region, lb, c);
    });
    Ok(())
}

/// Whether a call to create `asked` may be answered with `twin`.
fn is_same(twin: &LoadBalancer, asked: &LoadBalancer) -> bool {
    let groups =
        |lb: &LoadBalancer| -> BTreeSet<String> { lb.security_groups.iter().cloned().collect() };
    twin.scheme == asked.scheme
        && twin.ip_address_type == asked.ip_address_type
        && twin.source_nat == asked.source_nat
        && groups(twin) == groups(asked)
        && by_subnet(&twin.mappings) == by_subnet(&asked.mappings)
}

fn by_subnet(mappings: &[Mapping]) -> Vec<&Mapping> {
    let mut sorted: Vec<&Mapping> = mappings.iter().collect();
    sorted.sort_by_key(|mapping| &mapping.subnet);
    sorted
}

fn check_groups(region: &Region, c: &Context<'_>, groups: &[String], vpc: &str) -> Done {
    let is_valid = |id: &String| region.security_groups.get(id).is_some_and(|g| g.vpc == vpc);
    if !groups.iter().all(is_valid) {
        return Err(ApiError::new(
            "InvalidSecurityGroup",
            "One or more security groups are invalid",
        ));
    }
    if groups.len() > c.quotas.groups_per_interface {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            format!(
                "You can specify at most {} security groups",
                c.quotas.groups_per_interface
            ),
        ));
    }
    Ok(())
}

/// `DeleteLoadBalancer`: of one that is not there, success.
pub fn delete(region: &mut Region, c: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    p.finish()?;
    check_arn(arn, "loadbalancer/")?;
    let Some(lb) = region.load_balancers.get(arn) else {
        return Ok(());
    };
    if lb.is_set("deletion_protection.enabled") {
        return Err(ApiError::new(
            "OperationNotPermitted",
            format!(
                "Load balancer '{arn}' cannot be deleted because deletion protection is enabled"
            ),
        ));
    }
    region.load_balancers.remove(arn);
    region
        .listeners
        .retain(|_, listener| listener.load_balancer != arn);
    region.note_use(c.now, c.timing);
    subnets::unplug(region, arn, c.now + c.timing.interface_release, |_| true);
    region.settle(c.now);
    Ok(())
}

/// An ARN of ELB of that kind.
pub fn check_arn(arn: &str, kind: &str) -> Done {
    let mut parts = arn.splitn(6, ':');
    let looks_right = parts.next() == Some("arn")
        && parts.nth(1) == Some("elasticloadbalancing")
        && parts
            .nth(2)
            .is_some_and(|resource| resource.starts_with(kind));
    if looks_right {
        Ok(())
    } else {
        Err(ApiError::validation(format!("'{arn}' is not a valid ARN")))
    }
}

/// `DescribeLoadBalancers`.
pub fn describe(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arns = p.texts("LoadBalancerArns");
    let names = p.texts("Names");
    let paging = Paging::read(p)?;
    p.finish()?;
    at_most(&arns, AT_ONCE, "load balancer ARNs")?;
    at_most(&names, AT_ONCE, "load balancer names")?;
    if !arns.is_empty() && !names.is_empty() {
        return Err(ApiError::validation(
            "Load balancer names and load balancer ARNs cannot be specified at the same time",
        ));
    }
    let not_found = || {
        ApiError::new(
            "LoadBalancerNotFound",
            "One or more load balancers not found",
        )
    };
    let chosen: Vec<&LoadBalancer> = if arns.is_empty() && names.is_empty() {
        region.load_balancers.values().collect()
    } else {
        let by_arn = arns.iter().map(|arn| region.load_balancers.get(arn));
        let by_name = names.iter().map(|name| region.load_balancer_named(name));
        by_arn
            .chain(by_name)
            .map(|found| found.ok_or_else(not_found))
            .collect::<Result<_, _>>()?
    };
    paging.write(xml, "LoadBalancers", &chosen, |x, lb| {
        write(x, region, lb, c);
    });
    Ok(())
}

fn write(xml: &mut Xml, region: &Region, lb: &LoadBalancer, c: &Context<'_>) {
    let (state, reason) = lb.state(c.now);
    xml.text("LoadBalancerArn", &lb.arn)
        .text("DNSName", &lb.dns_name)
        .text("CanonicalHostedZoneId", HOSTED_ZONE)
        .text("CreatedTime", c.dates.text(lb.created_at))
        .text("LoadBalancerName", &lb.name)
        .text("Scheme", &lb.scheme)
        .text("VpcId", &lb.vpc)
        .node("State", |x| {
            x.text("Code", state).maybe("Reason", reason);
        })
        .text("Type", "network");
    write_zones(xml, region, lb);
    if !lb.security_groups.is_empty() {
        xml.member_texts("SecurityGroups", &lb.security_groups);
    }
    xml.text("IpAddressType", &lb.ip_address_type)
        .maybe(
            "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic",
            lb.private_link_rules.as_deref(),
        )
        .text("EnablePrefixForIpv6SourceNat", on_off(lb.source_nat));
}

const fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

fn write_zones(xml: &mut Xml, region: &Region, lb: &LoadBalancer) {
    xml.members("AvailabilityZones", &lb.mappings, |x, mapping| {
        x.maybe(
            "ZoneName",
            region
                .subnets
                .get(&mapping.subnet)
                .map(|subnet| &subnet.zone),
        )
        .text("SubnetId", &mapping.subnet);
        let elastic = mapping
            .allocation
            .as_ref()
            .and_then(|id| region.addresses.get(id));
        let has_address =
            elastic.is_some() || mapping.private_ipv4.is_some() || mapping.ipv6.is_some();
        x.members(
            "LoadBalancerAddresses",
            has_address.then_some(()),
            |x, ()| {
                x.maybe("IpAddress", elastic.map(|elastic| elastic.address))
                    .maybe("AllocationId", mapping.allocation.as_deref())
                    .maybe("PrivateIPv4Address", mapping.private_ipv4)
                    .maybe("IPv6Address", mapping.ipv6);
            },
        );
        if let Some(prefix) = &mapping.source_nat_prefix {
            x.member_texts("SourceNatIpv6Prefixes", [prefix]);
        }
    });
}

/// `SetSubnets`: these, and no others.
pub fn set_subnets(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    let mappings = subnets::read(p)?;
    let ip_address_type = choice(p, "IpAddressType", &["ipv4", "dualstack"])?;
    let source_nat = choice(p, "EnablePrefixForIpv6SourceNat", &["on", "off"])?;
    p.finish()?;
    let lb = load_balancer(region, arn)?;
    let ip_address_type = ip_address_type.unwrap_or_else(|| lb.ip_address_type.clone());
    let source_nat = source_nat.map_or(lb.source_nat, |value| value == "on");
    let purpose = Purpose {
        scheme: &lb.scheme,
        ip_address_type: &ip_address_type,
        source_nat,
        load_balancer: Some(arn),
    };
    let vpc = subnets::check(region, &mappings, purpose)?;
    if vpc != lb.vpc {
        return Err(ApiError::new(
            "InvalidSubnet",
            format!(
                "All subnets must belong to the load balancer's VPC {}",
                lb.vpc
            ),
        ));
    }
    check_udp(region, arn, &ip_address_type, source_nat)?;
    let lb = load_balancer_mut(region, arn)?;
    lb.mappings = mappings;
    lb.ip_address_type = ip_address_type;
    lb.source_nat = source_nat;
    subnets::plug(region, arn, c);
    let lb = load_balancer(region, arn)?;
    write_zones(xml, region, lb);
    xml.text("IpAddressType", &lb.ip_address_type)
        .text("EnablePrefixForIpv6SourceNat", on_off(lb.source_nat));
    Ok(())
}

/// UDP and dual stack go together with prefixes for source NAT only.
fn check_udp(region: &Region, arn: &str, ip_address_type: &str, source_nat: bool) -> Done {
    let carries_udp = region
        .listeners_of(arn)
        .any(|listener| has_udp(&listener.protocol));
    if carries_udp && ip_address_type == "dualstack" && !source_nat {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            "A dualstack load balancer with UDP listeners needs EnablePrefixForIpv6SourceNat to be on",
        ));
    }
    Ok(())
}

/// `SetSecurityGroups`: only on a load balancer that was made with some.
pub fn set_security_groups(
    region: &mut Region,
    c: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    let groups = p.texts("SecurityGroups");
    let name = "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic";
    let private_link = choice(p, name, &["on", "off"])?;
    p.finish()?;
    let lb = load_balancer(region, arn)?;
    if lb.security_groups.is_empty() {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            format!(
                "Security groups cannot be set on '{arn}', which was created without security groups"
            ),
        ));
    }
    if groups.is_empty() {
        return Err(ApiError::validation(
            "At least one security group must be specified",
        ));
    }
    check_groups(region, c, &groups, &lb.vpc)?;
    let lb = load_balancer_mut(region, arn)?;
    lb.security_groups.clone_from(&groups);
    if private_link.is_some() {
        lb.private_link_rules = private_link;
    }
    let private_link = lb.private_link_rules.clone();
    subnets::plug(region, arn, c);
    xml.member_texts("SecurityGroupIds", &groups)
        .maybe(name, private_link);
    Ok(())
}

/// `SetIpAddressType`.
pub fn set_ip_address_type(
    region: &mut Region,
    c: &Context<'_>,
    p: &Params<'_>,
    xml: &mut Xml,
) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    let Some(asked) = choice(p, "IpAddressType", &["ipv4", "dualstack"])? else {
        return Err(p.missing("IpAddressType"));
    };
    p.finish()?;
    let lb = load_balancer(region, arn)?;
    let purpose = Purpose {
        scheme: &lb.scheme,
        ip_address_type: &asked,
        source_nat: lb.source_nat,
        load_balancer: Some(arn),
    };
    subnets::check(region, &lb.mappings, purpose)?;
    check_udp(region, arn, &asked, lb.source_nat)?;
    let groups = region.groups_of(arn);
    let uses_ipv6 = groups.iter().any(|group| group.ip_address_type == "ipv6");
    if asked == "ipv4" && uses_ipv6 {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            "A load balancer with IPv6 target groups must be dualstack",
        ));
    }
    load_balancer_mut(region, arn)?
        .ip_address_type
        .clone_from(&asked);
    subnets::plug(region, arn, c);
    xml.text("IpAddressType", asked);
    Ok(())
}
