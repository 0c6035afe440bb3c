//! Listeners.

use std::collections::BTreeSet;

use super::common::{
    AT_ONCE, Done, Paging, arn, at_most, has_udp, listener, listener_mut, load_balancer, port,
    protocol, target_group,
};
use super::{account, attributes, certificates, tags};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{Certificate, Forward, Listener, LoadBalancer, Region, WeightedGroup};
use crate::params::Params;
use crate::xml::Xml;

const ALPN: [&str; 5] = [
    "None",
    "HTTP1Only",
    "HTTP2Only",
    "HTTP2Optional",
    "HTTP2Preferred",
];

/// What a call says of a listener.
#[derive(Debug)]
struct Asked {
    port: Option<u16>,
    protocol: Option<String>,
    ssl_policy: Option<String>,
    certificates: Vec<Certificate>,
    alpn: Option<String>,
    forward: Option<Forward>,
}

impl Asked {
    fn read(p: &Params<'_>, region: &Region) -> Result<Self, ApiError> {
        let alpn = p.texts("AlpnPolicy");
        if alpn.len() > 1 {
            return Err(ApiError::validation("You can specify only one ALPN policy"));
        }
        let alpn = alpn.into_iter().next();
        if let Some(policy) = &alpn
            && !ALPN.contains(&policy.as_str())
        {
            return Err(ApiError::new(
                "ALPNPolicyNotFound",
                format!("The ALPN policy '{policy}' is not supported"),
            ));
        }
        Ok(Self {
            port: port(p, "Port")?,
            protocol: protocol(p, "Protocol")?,
            ssl_policy: p.text("SslPolicy").map(str::to_owned),
            certificates: certificates::read(p, region)?,
            alpn,
            forward: forward(p)?,
        })
    }
}

/// Reads `DefaultActions`: one, which forwards.
fn forward(p: &Params<'_>) -> Result<Option<Forward>, ApiError> {
    let actions = p.list("DefaultActions");
    let action = match &actions[..] {
        [] => return Ok(None),
        [action] => action,
        _ => {
            return Err(ApiError::validation(
                "A listener of a network load balancer has one action",
            ));
        }
    };
    let kind = action.required("Type")?;
    if kind != "forward" {
        return Err(ApiError::new(
            "InvalidLoadBalancerAction",
            format!(
                "Action type '{kind}' is not supported for network load balancers; use 'forward'"
            ),
        ));
    }
    let _: Option<u32> = action.read("Order")?;
    let short = action.text("TargetGroupArn");
    let mut forward = Forward::default();
    if let Some(config) = action.branch("ForwardConfig") {
        for group in config.list("TargetGroups") {
            let weight = group.read::<i64>("Weight")?;
            let weight = match weight.map(u32::try_from) {
                None => None,
                Some(Ok(weight)) if weight <= 999 => Some(weight),
                _ => {
                    return Err(ApiError::validation(
                        "Target group weight must be in the range 0-999, inclusive",
                    ));
                }
            };
            forward.groups.push(WeightedGroup {
                arn: group.required("TargetGroupArn")?.to_owned(),
                weight,
            });
        }
        if let Some(stickiness) = config.branch("TargetGroupStickinessConfig") {
            forward.sticky = stickiness.read("Enabled")?.unwrap_or(false);
            forward.sticky_seconds = stickiness.read("DurationSeconds")?;
        }
    }
    match short {
        Some(arn) if forward.groups.is_empty() => forward.groups.push(WeightedGroup {
            arn: arn.to_owned(),
            weight: None,
        }),
        Some(arn) if forward.groups.len() != 1 || forward.groups[0].arn != arn => {
            return Err(ApiError::validation(
                "TargetGroupArn and ForwardConfig must name the same target group",
            ));
        }
        _ => {}
    }
    let arns: BTreeSet<&String> = forward.groups.iter().map(|group| &group.arn).collect();
    if arns.is_empty() {
        return Err(ApiError::validation(
            "A forward action must have a target group",
        ));
    }
    if arns.len() != forward.groups.len() {
        return Err(ApiError::validation(
            "A target group can be in an action only once",
        ));
    }
    if arns.len() > 1 && forward.groups.iter().any(|group| group.weight.is_none()) {
        return Err(ApiError::validation(
            "Weights must be specified when an action has several target groups",
        ));
    }
    Ok(Some(forward))
}

/// `CreateListener`.
pub fn create(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let balancer = p.required("LoadBalancerArn")?.to_owned();
    let asked = Asked::read(p, region)?;
    let tags = tags::read(p, c.quotas)?;
    p.finish()?;
    let lb = load_balancer(region, &balancer)?;
    let missing = |what: &str| ApiError::validation(format!("A listener {what} must be specified"));
    let mut new = Listener {
        arn: String::new(),
        load_balancer: balancer,
        port: asked.port.ok_or_else(|| missing("port"))?,
        protocol: asked.protocol.clone().ok_or_else(|| missing("protocol"))?,
        certificate: None,
        more_certificates: BTreeSet::new(),
        ssl_policy: None,
        alpn: None,
        forward: asked
            .forward
            .clone()
            .ok_or_else(|| missing("default action"))?,
        attributes: attributes::Attributes::new(),
        tags,
    };
    apply_tls(&mut new, &asked)?;
    check(region, c, lb, &new, None)?;
    if let Some(twin) = region
        .listeners_of(&lb.arn)
        .find(|other| other.port == new.port)
    {
        let same = twin.protocol == new.protocol
            && twin.certificate == new.certificate
            && twin.ssl_policy == new.ssl_policy
            && twin.alpn == new.alpn
            && twin.forward == new.forward;
        if !same {
            return Err(duplicate(new.port));
        }
        xml.members("Listeners", [twin], write);
        return Ok(());
    }
    if region.listeners_of(&lb.arn).count() >= c.quotas.listeners {
        return Err(ApiError::new(
            "TooManyListeners",
            format!(
                "The maximum number of listeners on load balancer '{}' is {}",
                lb.arn, c.quotas.listeners
            ),
        ));
    }
    let path = lb.path().to_owned();
    let id = region.next_id();
    new.arn = arn(region, &format!("listener/{path}/{id}"));
    new.attributes = attributes::of_listener(&new.protocol);
    xml.members("Listeners", [&new], write);
    region.listeners.insert(new.arn.clone(), new);
    region.note_use(c.now, c.timing);
    Ok(())
}

fn duplicate(port: u16) -> ApiError {
    ApiError::new(
        "DuplicateListener",
        format!("A listener already exists on this port for this load balancer: {port}"),
    )
}

/// Sets certificate, policy and ALPN: TLS has them, others must not.
fn apply_tls(listener: &mut Listener, asked: &Asked) -> Done {
    if listener.protocol != "TLS" {
        let what = if !asked.certificates.is_empty() {
            "Certificates"
        } else if asked.ssl_policy.is_some() {
            "An SSL policy"
        } else if asked.alpn.is_some() {
            "An ALPN policy"
        } else {
            listener.certificate = None;
            listener.more_certificates.clear();
            listener.ssl_policy = None;
            listener.alpn = None;
            return Ok(());
        };
        return Err(ApiError::validation(format!(
            "{what} cannot be specified for {} listeners",
            listener.protocol
        )));
    }
    match &asked.certificates[..] {
        [] => {}
        [certificate] => listener.certificate = Some(certificate.clone()),
        _ => {
            return Err(ApiError::validation(
                "Up to one default certificate can be specified; add more with AddListenerCertificates",
            ));
        }
    }
    if listener.certificate.is_none() {
        return Err(ApiError::validation(
            "A certificate must be specified for TLS listeners",
        ));
    }
    if let Some(policy) = &asked.ssl_policy {
        if !account::has_ssl_policy(policy) {
            return Err(account::no_ssl_policy(policy));
        }
        listener.ssl_policy = Some(policy.clone());
    }
    listener
        .ssl_policy
        .get_or_insert_with(|| account::DEFAULT_SSL_POLICY.into());
    if asked.alpn.is_some() {
        listener.alpn.clone_from(&asked.alpn);
    }
    Ok(())
}

/// Which target groups a listener's protocol goes with.
fn is_compatible(listener: &str, group: &str) -> bool {
    match listener {
        "TCP" => matches!(group, "TCP" | "TCP_UDP"),
        "TLS" => matches!(group, "TCP" | "TLS"),
        "UDP" => matches!(group, "UDP" | "TCP_UDP"),
        "QUIC" => matches!(group, "QUIC" | "TCP_QUIC"),
        other => other == group,
    }
}

/// Checks a listener against its load balancer and target groups. `itself` is
/// the ARN of one that is there already.
fn check(
    region: &Region,
    c: &Context<'_>,
    lb: &LoadBalancer,
    new: &Listener,
    itself: Option<&str>,
) -> Done {
    let quotas = c.quotas;
    if has_udp(&new.protocol) && lb.ip_address_type == "dualstack" && !lb.source_nat {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            format!(
                "A {} listener on a dualstack load balancer needs EnablePrefixForIpv6SourceNat to be on",
                new.protocol
            ),
        ));
    }
    if new.forward.groups.len() > quotas.target_groups_per_action {
        return Err(ApiError::new(
            "TooManyTargetGroups",
            format!(
                "An action can have {} target groups",
                quotas.target_groups_per_action
            ),
        ));
    }
    for WeightedGroup { arn, .. } in &new.forward.groups {
        let group = target_group(region, arn)?;
        if group.vpc != lb.vpc {
            return Err(ApiError::new(
                "InvalidConfigurationRequest",
                format!(
                    "Target group '{arn}' is not in the load balancer's VPC {}",
                    lb.vpc
                ),
            ));
        }
        if !is_compatible(&new.protocol, &group.protocol) {
            return Err(ApiError::new(
                "IncompatibleProtocols",
                format!(
                    "Listener protocol '{}' is incompatible with target group protocol '{}' of '{arn}'",
                    new.protocol, group.protocol
                ),
            ));
        }
        if group.ip_address_type == "ipv6" && lb.ip_address_type != "dualstack" {
            return Err(ApiError::new(
                "InvalidConfigurationRequest",
                format!("IPv6 target group '{arn}' needs a dualstack load balancer"),
            ));
        }
        if region.users_of(arn).iter().any(|user| *user != lb.arn) {
            return Err(ApiError::new(
                "TargetGroupAssociationLimit",
                format!(
                    "The following target groups cannot be associated with more than one load balancer: {arn}"
                ),
            ));
        }
    }
    let unique: BTreeSet<&String> = region
        .listeners_of(&lb.arn)
        .filter(|other| itself != Some(&other.arn))
        .chain([new])
        .flat_map(|listener| listener.forward.groups.iter().map(|group| &group.arn))
        .collect();
    if unique.len() > quotas.target_groups_per_load_balancer {
        return Err(ApiError::new(
            "TooManyUniqueTargetGroupsPerLoadBalancer",
            format!(
                "A load balancer can have {} target groups",
                quotas.target_groups_per_load_balancer
            ),
        ));
    }
    Ok(())
}

/// `ModifyListener`: what is not said stays.
pub fn modify(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("ListenerArn")?;
    let asked = Asked::read(p, region)?;
    p.finish()?;
    let old = listener(region, arn)?;
    let lb = load_balancer(region, &old.load_balancer)?;
    let mut new = old.clone();
    if let Some(port) = asked.port {
        new.port = port;
    }
    if let Some(protocol) = &asked.protocol {
        new.protocol.clone_from(protocol);
    }
    if let Some(forward) = &asked.forward {
        new.forward.clone_from(forward);
    }
    apply_tls(&mut new, &asked)?;
    check(region, c, lb, &new, Some(arn))?;
    if region
        .listeners_of(&lb.arn)
        .any(|other| other.port == new.port && other.arn != arn)
    {
        return Err(duplicate(new.port));
    }
    if new.protocol != old.protocol {
        let old = std::mem::replace(&mut new.attributes, attributes::of_listener(&new.protocol));
        for (key, value) in &mut new.attributes {
            if let Some(had) = old.get(key) {
                value.clone_from(had);
            }
        }
    }
    *listener_mut(region, arn)? = new;
    region.note_use(c.now, c.timing);
    xml.members("Listeners", [listener(region, arn)?], write);
    Ok(())
}

/// `DeleteListener`.
pub fn delete(region: &mut Region, c: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arn = p.required("ListenerArn")?;
    p.finish()?;
    listener(region, arn)?;
    region.listeners.remove(arn);
    region.note_use(c.now, c.timing);
    Ok(())
}

/// `DescribeListeners`: of a load balancer, or by ARN.
pub fn describe(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let balancer = p.text("LoadBalancerArn");
    let arns = p.texts("ListenerArns");
    let paging = Paging::read(p)?;
    p.finish()?;
    at_most(&arns, AT_ONCE, "listener ARNs")?;
    if balancer.is_some() != arns.is_empty() {
        return Err(ApiError::validation(
            "You must specify either listener ARNs or a load balancer ARN",
        ));
    }
    let chosen: Vec<&Listener> = match balancer {
        Some(arn) => {
            load_balancer(region, arn)?;
            region.listeners_of(arn).collect()
        }
        None => arns
            .iter()
            .map(|arn| {
                region.listeners.get(arn).ok_or_else(|| {
                    ApiError::new("ListenerNotFound", "One or more listeners not found")
                })
            })
            .collect::<Result<_, _>>()?,
    };
    paging.write(xml, "Listeners", &chosen, |x, listener| write(x, listener));
    Ok(())
}

fn write(xml: &mut Xml, listener: &Listener) {
    xml.text("ListenerArn", &listener.arn)
        .text("LoadBalancerArn", &listener.load_balancer)
        .text("Port", listener.port)
        .text("Protocol", &listener.protocol);
    if let Some(Certificate(arn)) = &listener.certificate {
        xml.members("Certificates", [arn], |x, arn| {
            x.text("CertificateArn", arn);
        });
    }
    xml.maybe("SslPolicy", listener.ssl_policy.as_deref())
        .members("DefaultActions", [&listener.forward], write_forward);
    if let Some(alpn) = &listener.alpn {
        xml.member_texts("AlpnPolicy", [alpn]);
    }
}

fn write_forward(xml: &mut Xml, forward: &Forward) {
    let only = match &forward.groups[..] {
        [group] => Some(&group.arn),
        _ => None,
    };
    xml.text("Type", "forward")
        .maybe("TargetGroupArn", only)
        .text("Order", 1)
        .node("ForwardConfig", |x| {
            x.members("TargetGroups", &forward.groups, |x, group| {
                x.text("TargetGroupArn", &group.arn)
                    .maybe("Weight", group.weight);
            })
            .node("TargetGroupStickinessConfig", |x| {
                x.text("Enabled", forward.sticky)
                    .maybe("DurationSeconds", forward.sticky_seconds);
            });
        });
}

/// `DescribeRules`: a listener of a network load balancer has its default rule
/// only.
pub fn describe_rules(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("ListenerArn")?;
    let paging = Paging::read(p)?;
    p.finish()?;
    let listener = listener(region, arn)?;
    paging.write(xml, "Rules", &[listener], |x, listener| {
        let rule = listener.arn.replacen(":listener/", ":listener-rule/", 1);
        x.text("RuleArn", format!("{rule}/default"))
            .text("Priority", "default")
            .members("Conditions", None::<&str>, |_, _| {})
            .members("Actions", [&listener.forward], write_forward)
            .text("IsDefault", true);
    });
    Ok(())
}
