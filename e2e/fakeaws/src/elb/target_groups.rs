//! Target groups.

use std::collections::BTreeMap;
use std::time::Duration;

use super::common::{
    AT_ONCE, Done, Paging, arn, at_most, check_name, choice, load_balancer, number, port, protocol,
    target_group, target_group_mut,
};
use super::load_balancers::check_arn;
use super::{attributes, tags};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{HealthCheck, Region, TargetGroup};
use crate::params::Params;
use crate::xml::Xml;

/// What a call says of health checks.
#[derive(Debug)]
struct Asked {
    protocol: Option<String>,
    port: Option<String>,
    path: Option<String>,
    matcher: Option<String>,
    interval: Option<u32>,
    timeout: Option<u32>,
    healthy: Option<u32>,
    unhealthy: Option<u32>,
}

impl Asked {
    fn read(p: &Params<'_>) -> Result<Self, ApiError> {
        let port = p.text("HealthCheckPort");
        let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
        if let Some(text) = port
            && text != "traffic-port"
            && !is_port(text)
        {
            return Err(ApiError::validation(format!(
                "Health check port '{text}' must be 'traffic-port' or in the range 1-65535, inclusive"
            )));
        }
        if p.read::<bool>("HealthCheckEnabled")? == Some(false) {
            return Err(ApiError::validation(
                "Health check enabled must be true for target groups with target type 'instance' or 'ip'",
            ));
        }
        let path = p.text("HealthCheckPath");
        if let Some(path) = path
            && (!path.starts_with('/') || path.len() > 1024)
        {
            return Err(ApiError::validation(format!(
                "Health check path '{path}' must begin with a '/' character, and can have a maximum of 1024 characters"
            )));
        }
        let matcher = match p.branch("Matcher") {
            Some(matcher) => Some(matcher.required("HttpCode")?.to_owned()),
            None => None,
        };
        if let Some(codes) = &matcher
            && !is_matcher(codes)
        {
            return Err(ApiError::validation(format!(
                "Health check matcher HTTP code '{codes}' must be within '200-599' inclusive"
            )));
        }
        Ok(Self {
            protocol: choice(p, "HealthCheckProtocol", &["TCP", "HTTP", "HTTPS"])?,
            port: port.map(str::to_owned),
            path: path.map(str::to_owned),
            matcher,
            interval: number(p, "HealthCheckIntervalSeconds", 5, 300)?,
            timeout: number(p, "HealthCheckTimeoutSeconds", 2, 120)?,
            healthy: number(p, "HealthyThresholdCount", 2, 10)?,
            unhealthy: number(p, "UnhealthyThresholdCount", 2, 10)?,
        })
    }

    /// The check that comes of it, on top of what was.
    fn applied(self, old: Option<&HealthCheck>) -> Result<HealthCheck, ApiError> {
        let protocol = self
            .protocol
            .or_else(|| old.map(|old| old.protocol.clone()))
            .unwrap_or_else(|| "TCP".into());
        let speaks_http = protocol != "TCP";
        if !speaks_http && (self.path.is_some() || self.matcher.is_some()) {
            return Err(ApiError::validation(
                "Health check path and matcher are not supported for health checks with the TCP protocol",
            ));
        }
        let timeout = if protocol == "HTTP" { 6 } else { 10 };
        let keep = |text: Option<String>, old: Option<&String>, default: &str| {
            speaks_http.then(|| {
                text.or_else(|| old.cloned())
                    .unwrap_or_else(|| default.into())
            })
        };
        let check = HealthCheck {
            port: self
                .port
                .or_else(|| old.map(|old| old.port.clone()))
                .unwrap_or_else(|| "traffic-port".into()),
            path: keep(self.path, old.and_then(|old| old.path.as_ref()), "/"),
            matcher: keep(
                self.matcher,
                old.and_then(|old| old.matcher.as_ref()),
                "200-399",
            ),
            interval: self
                .interval
                .unwrap_or_else(|| old.map_or(30, |old| old.interval)),
            timeout: self
                .timeout
                .unwrap_or_else(|| old.map_or(timeout, |old| old.timeout)),
            healthy: self
                .healthy
                .unwrap_or_else(|| old.map_or(5, |old| old.healthy)),
            unhealthy: self
                .unhealthy
                .unwrap_or_else(|| old.map_or(2, |old| old.unhealthy)),
            protocol,
        };
        if check.timeout > check.interval {
            return Err(ApiError::validation(format!(
                "Health check timeout '{}' must be smaller than or equal to the interval '{}'",
                check.timeout, check.interval
            )));
        }
        Ok(check)
    }
}

/// `200`, `200-399`, `200,301`: codes from 200 to 599.
fn is_matcher(codes: &str) -> bool {
    let code = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|code| (200..=599).contains(code))
    };
    codes.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => matches!((code(first), code(last)), (Some(a), Some(b)) if a <= b),
        None => code(part).is_some(),
    })
}

/// `CreateTargetGroup`.
pub fn create(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let name = p.required("Name")?.to_owned();
    let protocol = protocol(p, "Protocol")?;
    let port = port(p, "Port")?;
    let vpc = p.text("VpcId").map(str::to_owned);
    let target_type =
        choice(p, "TargetType", &["instance", "ip"])?.unwrap_or_else(|| "instance".into());
    let ip_address_type =
        choice(p, "IpAddressType", &["ipv4", "ipv6"])?.unwrap_or_else(|| "ipv4".into());
    let check = Asked::read(p)?;
    let tags = tags::read(p, c.quotas)?;
    p.finish()?;
    check_name("Target group", &name)?;
    let protocol = protocol.ok_or_else(|| ApiError::validation("A protocol must be specified"))?;
    let port = port.ok_or_else(|| ApiError::validation("A port must be specified"))?;
    let vpc = vpc.ok_or_else(|| ApiError::validation("A VPC ID must be specified"))?;
    let health_check = check.applied(None)?;
    if !region.vpcs.contains_key(&vpc) {
        return Err(ApiError::validation(format!(
            "The VPC ID '{vpc}' is not found"
        )));
    }
    let mut group = TargetGroup {
        arn: String::new(),
        name,
        attributes: attributes::of_target_group(&protocol, &target_type),
        protocol,
        port,
        vpc,
        target_type,
        ip_address_type,
        health_check,
        tags,
        targets: BTreeMap::new(),
        used_since: None,
        released_at: Duration::ZERO,
    };
    if let Some(twin) = region.target_group_named(&group.name) {
        if !is_same(twin, &group) {
            return Err(ApiError::new(
                "DuplicateTargetGroupName",
                format!(
                    "A target group with the same name '{}' exists, but with different settings",
                    group.name
                ),
            ));
        }
        // Its tags are not looked at and stay what they are.
        xml.members("TargetGroups", [twin], |x, group| write(x, region, group));
        return Ok(());
    }
    if region.target_groups.len() >= c.quotas.target_groups {
        return Err(ApiError::new(
            "TooManyTargetGroups",
            "The maximum number of target groups has been reached",
        ));
    }
    let id = region.next_id();
    group.arn = arn(region, &format!("targetgroup/{}/{id}", group.name));
    xml.members("TargetGroups", [&group], |x, group| write(x, region, group));
    region.target_groups.insert(group.arn.clone(), group);
    Ok(())
}

/// Whether a call to create `asked` may be answered with `twin`.
fn is_same(twin: &TargetGroup, asked: &TargetGroup) -> bool {
    let settings = |group: &TargetGroup| {
        (
            group.protocol.clone(),
            group.port,
            group.vpc.clone(),
            group.target_type.clone(),
            group.ip_address_type.clone(),
            group.health_check.clone(),
        )
    };
    settings(twin) == settings(asked)
}

/// `ModifyTargetGroup`: its health check.
pub fn modify(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("TargetGroupArn")?;
    let asked = Asked::read(p)?;
    p.finish()?;
    let check = asked.applied(Some(&target_group(region, arn)?.health_check))?;
    target_group_mut(region, arn)?.health_check = check;
    xml.members("TargetGroups", [target_group(region, arn)?], |x, group| {
        write(x, region, group);
    });
    Ok(())
}

/// `DeleteTargetGroup`: of one that is not there, success.
pub fn delete(region: &mut Region, c: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arn = p.required("TargetGroupArn")?;
    p.finish()?;
    check_arn(arn, "targetgroup/")?;
    let Some(group) = region.target_groups.get(arn) else {
        return Ok(());
    };
    if group.used_since.is_some() || c.now < group.released_at {
        return Err(ApiError::new(
            "ResourceInUse",
            format!("Target group '{arn}' is currently in use by a listener or a rule"),
        ));
    }
    region.target_groups.remove(arn);
    Ok(())
}

/// `DescribeTargetGroups`.
pub fn describe(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let balancer = p.text("LoadBalancerArn");
    let arns = p.texts("TargetGroupArns");
    let names = p.texts("Names");
    let paging = Paging::read(p)?;
    p.finish()?;
    at_most(&arns, AT_ONCE, "target group ARNs")?;
    at_most(&names, AT_ONCE, "target group names")?;
    let said = [balancer.is_some(), !arns.is_empty(), !names.is_empty()];
    if said.into_iter().filter(|said| *said).count() > 1 {
        return Err(ApiError::validation(
            "Target group names, target group ARNs, and a load balancer ARN cannot be specified at the same time",
        ));
    }
    let not_found = || ApiError::new("TargetGroupNotFound", "One or more target groups not found");
    let chosen: Vec<&TargetGroup> = if let Some(arn) = balancer {
        load_balancer(region, arn)?;
        region.groups_of(arn)
    } else if said == [false; 3] {
        region.target_groups.values().collect()
    } else {
        let by_arn = arns.iter().map(|arn| region.target_groups.get(arn));
        let by_name = names.iter().map(|name| region.target_group_named(name));
        by_arn
            .chain(by_name)
            .map(|found| found.ok_or_else(not_found))
            .collect::<Result<_, _>>()?
    };
    paging.write(xml, "TargetGroups", &chosen, |x, group| {
        write(x, region, group);
    });
    Ok(())
}

fn write(xml: &mut Xml, region: &Region, group: &TargetGroup) {
    let check = &group.health_check;
    xml.text("TargetGroupArn", &group.arn)
        .text("TargetGroupName", &group.name)
        .text("Protocol", &group.protocol)
        .text("Port", group.port)
        .text("VpcId", &group.vpc)
        .text("HealthCheckProtocol", &check.protocol)
        .text("HealthCheckPort", &check.port)
        .text("HealthCheckEnabled", true)
        .text("HealthCheckIntervalSeconds", check.interval)
        .text("HealthCheckTimeoutSeconds", check.timeout)
        .text("HealthyThresholdCount", check.healthy)
        .text("UnhealthyThresholdCount", check.unhealthy)
        .maybe("HealthCheckPath", check.path.as_deref());
    if let Some(codes) = &check.matcher {
        xml.node("Matcher", |x| {
            x.text("HttpCode", codes);
        });
    }
    xml.member_texts("LoadBalancerArns", region.users_of(&group.arn))
        .text("TargetType", &group.target_type)
        .text("IpAddressType", &group.ip_address_type);
}
