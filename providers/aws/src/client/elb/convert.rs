//! Between the words of the SDK and those of [`cloud`](crate::cloud) and
//! [`spec`](crate::spec).

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_elasticloadbalancingv2::types as sdk;

use crate::cloud::{HealthCheck, Listener, LoadBalancer, State, TargetGroup};
use crate::spec::{self, IpAddressType, Scheme, SubnetMapping, Tags, Target};

/// A health check as AWS is told.
impl From<&spec::HealthCheck> for HealthCheck {
    fn from(check: &spec::HealthCheck) -> Self {
        let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        Self {
            protocol: check.protocol.as_str().to_owned(),
            port: check.port.to_string(),
            path: check.path.clone(),
            success_codes: check.success_codes.clone(),
            interval_seconds: number(check.interval_seconds),
            timeout_seconds: number(check.timeout_seconds),
            healthy_threshold: number(check.healthy_threshold),
            unhealthy_threshold: number(check.unhealthy_threshold),
        }
    }
}

fn on_off(value: Option<&str>) -> Option<bool> {
    match value {
        Some("on") => Some(true),
        Some("off") => Some(false),
        _ => None,
    }
}

impl From<&sdk::LoadBalancer> for LoadBalancer {
    fn from(is: &sdk::LoadBalancer) -> Self {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let state = is.state();
        let reason = || text(state.and_then(sdk::LoadBalancerState::reason));
        let mut subnets: Vec<SubnetMapping> = is.availability_zones().iter().map(subnet).collect();
        subnets.sort();
        Self {
            arn: text(is.load_balancer_arn()),
            name: text(is.load_balancer_name()),
            dns_name: text(is.dns_name()).to_lowercase(),
            vpc_id: text(is.vpc_id()),
            network: is.r#type() == Some(&sdk::LoadBalancerTypeEnum::Network),
            scheme: match is.scheme() {
                Some(sdk::LoadBalancerSchemeEnum::Internal) => Scheme::Internal,
                _ => Scheme::InternetFacing,
            },
            ip_address_type: match is.ip_address_type() {
                Some(sdk::IpAddressType::Dualstack) => IpAddressType::Dualstack,
                _ => IpAddressType::Ipv4,
            },
            state: match state.and_then(sdk::LoadBalancerState::code) {
                Some(sdk::LoadBalancerStateEnum::Active) => State::Active,
                Some(sdk::LoadBalancerStateEnum::ActiveImpaired) => State::Impaired(reason()),
                Some(sdk::LoadBalancerStateEnum::Failed) => State::Failed(reason()),
                _ => State::Provisioning,
            },
            subnets,
            security_groups: is.security_groups().iter().cloned().collect(),
            enforce_on_private_link: on_off(
                is.enforce_security_group_inbound_rules_on_private_link_traffic(),
            ),
            ipv6_source_nat: on_off(
                is.enable_prefix_for_ipv6_source_nat()
                    .map(sdk::EnablePrefixForIpv6SourceNatEnum::as_str),
            ),
            tags: None,
        }
    }
}

fn subnet(zone: &sdk::AvailabilityZone) -> SubnetMapping {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let mut subnet = SubnetMapping::new(text(zone.subnet_id()), text(zone.zone_name()));
    for address in zone.load_balancer_addresses() {
        if let Some(id) = address.allocation_id() {
            subnet.allocation = Some(id.to_owned());
        }
        if let Some(address) = address.private_ipv4_address() {
            subnet.private_ipv4 = address.parse().ok();
        }
        if let Some(address) = address.ipv6_address() {
            subnet.ipv6 = address.parse().ok();
        }
    }
    subnet.source_nat_ipv6_prefix = zone.source_nat_ipv6_prefixes().first().cloned();
    subnet
}

impl From<&sdk::TargetGroup> for TargetGroup {
    fn from(is: &sdk::TargetGroup) -> Self {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let number = Option::unwrap_or_default;
        Self {
            arn: text(is.target_group_arn()),
            name: text(is.target_group_name()),
            port: port(is.port()),
            protocol: text(is.protocol().map(sdk::ProtocolEnum::as_str)),
            target_type: text(is.target_type().map(sdk::TargetTypeEnum::as_str)),
            health_check: HealthCheck {
                protocol: text(is.health_check_protocol().map(sdk::ProtocolEnum::as_str)),
                port: text(is.health_check_port()),
                path: is.health_check_path().map(ToOwned::to_owned),
                success_codes: is
                    .matcher()
                    .and_then(sdk::Matcher::http_code)
                    .map(ToOwned::to_owned),
                interval_seconds: number(is.health_check_interval_seconds()),
                timeout_seconds: number(is.health_check_timeout_seconds()),
                healthy_threshold: number(is.healthy_threshold_count()),
                unhealthy_threshold: number(is.unhealthy_threshold_count()),
            },
            load_balancers: is.load_balancer_arns().iter().cloned().collect(),
            tags: None,
        }
    }
}

pub(super) fn port(value: Option<i32>) -> u16 {
    value
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or_default()
}

impl From<&sdk::Listener> for Listener {
    fn from(is: &sdk::Listener) -> Self {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let action = is.default_actions().first();
        let config = action.and_then(sdk::Action::forward_config);
        let mut forward: Vec<(String, Option<i32>)> = config
            .map(sdk::ForwardActionConfig::target_groups)
            .unwrap_or_default()
            .iter()
            .map(|group| (text(group.target_group_arn()), group.weight()))
            .collect();
        if forward.is_empty()
            && let Some(arn) = action.and_then(sdk::Action::target_group_arn)
        {
            forward.push((arn.to_owned(), None));
        }
        if let [(_, weight)] = &mut forward[..] {
            // A weight among one says nothing.
            *weight = None;
        }
        Self {
            arn: text(is.listener_arn()),
            port: port(is.port()),
            protocol: text(is.protocol().map(sdk::ProtocolEnum::as_str)),
            certificate: is
                .certificates()
                .first()
                .and_then(sdk::Certificate::certificate_arn)
                .map(ToOwned::to_owned),
            more_certificates: BTreeSet::new(),
            ssl_policy: is.ssl_policy().map(ToOwned::to_owned),
            alpn_policy: is.alpn_policy().first().cloned(),
            forward,
            sticky: config
                .and_then(sdk::ForwardActionConfig::target_group_stickiness_config)
                .is_some_and(|config| config.enabled() == Some(true)),
            attributes: BTreeMap::new(),
        }
    }
}

pub(super) fn tags(tags: &Tags) -> Vec<sdk::Tag> {
    tags.iter()
        .map(|(key, value)| sdk::Tag::builder().key(key).value(value).build())
        .collect()
}

pub(super) fn mappings(subnets: &[SubnetMapping]) -> Vec<sdk::SubnetMapping> {
    subnets
        .iter()
        .map(|subnet| {
            sdk::SubnetMapping::builder()
                .subnet_id(&subnet.subnet)
                .set_allocation_id(subnet.allocation.clone())
                .set_private_ipv4_address(subnet.private_ipv4.map(|address| address.to_string()))
                .set_ipv6_address(subnet.ipv6.map(|address| address.to_string()))
                .set_source_nat_ipv6_prefix(subnet.source_nat_ipv6_prefix.clone())
                .build()
        })
        .collect()
}

pub(super) fn source_nat(on: Option<bool>) -> Option<sdk::EnablePrefixForIpv6SourceNatEnum> {
    on.map(|on| {
        if on {
            sdk::EnablePrefixForIpv6SourceNatEnum::On
        } else {
            sdk::EnablePrefixForIpv6SourceNatEnum::Off
        }
    })
}

pub(super) fn ip_type(value: IpAddressType) -> sdk::IpAddressType {
    sdk::IpAddressType::from(value.as_str())
}

pub(super) fn descriptions(targets: &[Target]) -> Vec<sdk::TargetDescription> {
    targets
        .iter()
        .map(|target| {
            sdk::TargetDescription::builder()
                .id(target.id())
                .port(i32::from(target.port()))
                .set_availability_zone(target.availability_zone().map(ToOwned::to_owned))
                .build()
        })
        .collect()
}

/// The forward action of a listener; an ARN alone where there is one group.
pub(super) fn forward(groups: &[(String, Option<u16>)], sticky: bool) -> sdk::Action {
    let action = sdk::Action::builder().r#type(sdk::ActionTypeEnum::Forward);
    if let ([(arn, _)], false) = (groups, sticky) {
        return action.target_group_arn(arn).build();
    }
    let groups = groups.iter().map(|(arn, weight)| {
        sdk::TargetGroupTuple::builder()
            .target_group_arn(arn)
            .set_weight(weight.map(i32::from))
            .build()
    });
    let stickiness = sdk::TargetGroupStickinessConfig::builder()
        .enabled(sticky)
        .build();
    let config = sdk::ForwardActionConfig::builder()
        .set_target_groups(Some(groups.collect()))
        .target_group_stickiness_config(stickiness)
        .build();
    action.forward_config(config).build()
}

/// What `CreateListener` and `ModifyListener` say, with ARNs for target groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerSettings {
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) certificate: Option<String>,
    pub(crate) ssl_policy: Option<String>,
    pub(crate) alpn_policy: Option<String>,
    pub(crate) forward: Vec<(String, Option<u16>)>,
    pub(crate) sticky: bool,
}

pub(super) fn certificate(arn: &str) -> sdk::Certificate {
    sdk::Certificate::builder().certificate_arn(arn).build()
}

pub(super) fn matcher(check: &HealthCheck) -> Option<sdk::Matcher> {
    let codes = check.success_codes.as_ref()?;
    Some(sdk::Matcher::builder().http_code(codes).build())
}

pub(super) fn pairs<'a>(
    attributes: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>,
) -> BTreeMap<String, String> {
    attributes
        .filter_map(|(key, value)| Some((key?.to_owned(), value.unwrap_or_default().to_owned())))
        .collect()
}
