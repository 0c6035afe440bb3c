//! `ELBv2`'s actions that Herald needs, by the SDK.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;

use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_elasticloadbalancingv2::types as sdk;

use crate::actions::{Action, Api};
use crate::client::error::is_throttling;
use crate::client::query::error_chain;
use crate::client::{CallError, Caller, Client};
use crate::cloud::{HealthCheck, Listener, LoadBalancer, State, TargetGroup, TargetHealth};
use crate::spec::{self, IpAddressType, Scheme, SubnetMapping, Tags, Target};

/// The largest page of `DescribeLoadBalancers` and `DescribeTargetGroups`.
const PAGE: i32 = 400;
/// The most ARNs of one `DescribeTags` or `DescribeLoadBalancers`.
pub(crate) const ARNS: usize = 20;
/// The most targets of one `RegisterTargets` or `DeregisterTargets`.
pub(crate) const TARGETS: usize = 200;

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

fn port(value: Option<i32>) -> u16 {
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

fn tags(tags: &Tags) -> Vec<sdk::Tag> {
    tags.iter()
        .map(|(key, value)| sdk::Tag::builder().key(key).value(value).build())
        .collect()
}

fn mappings(subnets: &[SubnetMapping]) -> Vec<sdk::SubnetMapping> {
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

fn source_nat(on: Option<bool>) -> Option<sdk::EnablePrefixForIpv6SourceNatEnum> {
    on.map(|on| {
        if on {
            sdk::EnablePrefixForIpv6SourceNatEnum::On
        } else {
            sdk::EnablePrefixForIpv6SourceNatEnum::Off
        }
    })
}

fn ip_type(value: IpAddressType) -> sdk::IpAddressType {
    sdk::IpAddressType::from(value.as_str())
}

fn descriptions(targets: &[Target]) -> Vec<sdk::TargetDescription> {
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
fn forward(groups: &[(String, Option<u16>)], sticky: bool) -> sdk::Action {
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

fn certificate(arn: &str) -> sdk::Certificate {
    sdk::Certificate::builder().certificate_arn(arn).build()
}

impl Client {
    async fn elb<T, E, R, F>(
        &self,
        caller: Caller<'_>,
        action: Action,
        send: impl Fn(aws_sdk_elasticloadbalancingv2::Client) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, SdkError<E, R>>>,
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
        R: Debug + Send + Sync + 'static,
    {
        debug_assert_eq!(action.api(), Api::Elbv2);
        let send = &send;
        self.call(caller, action, || async move {
            send(self.elb.clone())
                .await
                .map_err(|error| failure(action, &error))
        })
        .await
    }

    /// All load balancers of the region, or those of these ARNs (at most 20) or of
    /// this name; without tags.
    pub(crate) async fn load_balancers(
        &self,
        caller: Caller<'_>,
        arns: &[String],
        name: Option<&str>,
    ) -> Result<Vec<LoadBalancer>, CallError> {
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let page = self
                .elb(caller, Action::DescribeLoadBalancers, |elb| {
                    let mut call = elb.describe_load_balancers().set_marker(marker.clone());
                    if !arns.is_empty() {
                        call = call.set_load_balancer_arns(Some(arns.to_vec()));
                    } else if let Some(name) = name {
                        call = call.names(name);
                    } else {
                        call = call.page_size(PAGE);
                    }
                    call.send()
                })
                .await?;
            found.extend(page.load_balancers().iter().map(LoadBalancer::from));
            marker = page.next_marker().map(ToOwned::to_owned);
            if marker.as_deref().is_none_or(str::is_empty) {
                return Ok(found);
            }
        }
    }

    /// All target groups of the region, or those of a load balancer, or the one of a
    /// name; without tags.
    pub(crate) async fn target_groups(
        &self,
        caller: Caller<'_>,
        load_balancer: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<TargetGroup>, CallError> {
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let page = self
                .elb(caller, Action::DescribeTargetGroups, |elb| {
                    let mut call = elb
                        .describe_target_groups()
                        .set_marker(marker.clone())
                        .set_load_balancer_arn(load_balancer.map(ToOwned::to_owned));
                    if let Some(name) = name {
                        call = call.names(name);
                    } else if load_balancer.is_none() {
                        call = call.page_size(PAGE);
                    }
                    call.send()
                })
                .await?;
            found.extend(page.target_groups().iter().map(TargetGroup::from));
            marker = page.next_marker().map(ToOwned::to_owned);
            if marker.as_deref().is_none_or(str::is_empty) {
                return Ok(found);
            }
        }
    }

    /// Tags of load balancers, listeners and target groups, by ARN. What does not exist
    /// any more has none.
    pub(crate) async fn tags(
        &self,
        caller: Caller<'_>,
        arns: &[String],
    ) -> Result<BTreeMap<String, Tags>, CallError> {
        let mut found = BTreeMap::new();
        let mut chunks: Vec<Vec<String>> = arns.chunks(ARNS).map(<[String]>::to_vec).collect();
        while let Some(chunk) = chunks.pop() {
            let page = self
                .elb(caller, Action::DescribeTags, |elb| {
                    elb.describe_tags()
                        .set_resource_arns(Some(chunk.clone()))
                        .send()
                })
                .await;
            let page = match page {
                Ok(page) => page,
                // One that is gone spoils the call for all: halves find out which.
                Err(error) if error.not_found() => {
                    if chunk.len() > 1 {
                        let (left, right) = chunk.split_at(chunk.len() / 2);
                        chunks.extend([left.to_vec(), right.to_vec()]);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            for description in page.tag_descriptions() {
                let tags = description.tags().iter();
                let tags = tags.map(|tag| {
                    let value = tag.value().unwrap_or_default();
                    (tag.key().unwrap_or_default().to_owned(), value.to_owned())
                });
                let arn = description.resource_arn().unwrap_or_default();
                found.insert(arn.to_owned(), tags.collect());
            }
        }
        Ok(found)
    }

    /// Attributes of a load balancer.
    pub(crate) async fn load_balancer_attributes(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<BTreeMap<String, String>, CallError> {
        let answer = self
            .elb(caller, Action::DescribeLoadBalancerAttributes, |elb| {
                elb.describe_load_balancer_attributes()
                    .load_balancer_arn(arn)
                    .send()
            })
            .await?;
        Ok(pairs(
            answer
                .attributes()
                .iter()
                .map(|attribute| (attribute.key(), attribute.value())),
        ))
    }

    /// Capacity units that are reserved for a load balancer.
    pub(crate) async fn capacity(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<Option<u32>, CallError> {
        let answer = self
            .elb(caller, Action::DescribeCapacityReservation, |elb| {
                elb.describe_capacity_reservation()
                    .load_balancer_arn(arn)
                    .send()
            })
            .await?;
        Ok(answer
            .minimum_load_balancer_capacity()
            .and_then(sdk::MinimumLoadBalancerCapacity::capacity_units)
            .and_then(|units| u32::try_from(units).ok())
            .filter(|units| *units > 0))
    }

    /// Listeners of a load balancer, without attributes and further certificates.
    pub(crate) async fn listeners(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<Vec<Listener>, CallError> {
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let page = self
                .elb(caller, Action::DescribeListeners, |elb| {
                    elb.describe_listeners()
                        .load_balancer_arn(arn)
                        .set_marker(marker.clone())
                        .send()
                })
                .await?;
            found.extend(page.listeners().iter().map(Listener::from));
            marker = page.next_marker().map(ToOwned::to_owned);
            if marker.as_deref().is_none_or(str::is_empty) {
                return Ok(found);
            }
        }
    }

    /// Attributes of a listener.
    pub(crate) async fn listener_attributes(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<BTreeMap<String, String>, CallError> {
        let answer = self
            .elb(caller, Action::DescribeListenerAttributes, |elb| {
                elb.describe_listener_attributes().listener_arn(arn).send()
            })
            .await?;
        Ok(pairs(
            answer
                .attributes()
                .iter()
                .map(|attribute| (attribute.key(), attribute.value())),
        ))
    }

    /// Certificates of a listener beside the default one.
    pub(crate) async fn more_certificates(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<BTreeSet<String>, CallError> {
        let mut found = BTreeSet::new();
        let mut marker = None;
        loop {
            let page = self
                .elb(caller, Action::DescribeListenerCertificates, |elb| {
                    elb.describe_listener_certificates()
                        .listener_arn(arn)
                        .set_marker(marker.clone())
                        .send()
                })
                .await?;
            let more = page.certificates().iter();
            found.extend(
                more.filter(|certificate| certificate.is_default() != Some(true))
                    .filter_map(|certificate| certificate.certificate_arn())
                    .map(ToOwned::to_owned),
            );
            marker = page.next_marker().map(ToOwned::to_owned);
            if marker.as_deref().is_none_or(str::is_empty) {
                return Ok(found);
            }
        }
    }

    /// Attributes of a target group.
    pub(crate) async fn target_group_attributes(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<BTreeMap<String, String>, CallError> {
        let answer = self
            .elb(caller, Action::DescribeTargetGroupAttributes, |elb| {
                elb.describe_target_group_attributes()
                    .target_group_arn(arn)
                    .send()
            })
            .await?;
        Ok(pairs(
            answer
                .attributes()
                .iter()
                .map(|attribute| (attribute.key(), attribute.value())),
        ))
    }

    /// Targets of a target group with their health.
    pub(crate) async fn target_health(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<Vec<TargetHealth>, CallError> {
        let answer = self
            .elb(caller, Action::DescribeTargetHealth, |elb| {
                elb.describe_target_health().target_group_arn(arn).send()
            })
            .await?;
        let health = |description: &sdk::TargetHealthDescription| {
            let target = description.target()?;
            let id = target.id()?;
            let port = port(target.port());
            let target = match id.parse() {
                Ok(address) => Target::Ip {
                    address,
                    port,
                    outside_vpc: target.availability_zone() == Some("all"),
                },
                Err(_) => Target::Instance {
                    id: id.to_owned(),
                    port,
                },
            };
            let state = description
                .target_health()
                .and_then(|health| health.state());
            Some(TargetHealth {
                target,
                state: state.map_or_else(String::new, |state| state.as_str().to_owned()),
            })
        };
        let descriptions = answer.target_health_descriptions();
        Ok(descriptions.iter().filter_map(health).collect())
    }

    /// Makes a load balancer. One that exists with the same name and settings is
    /// returned, whoever's it is.
    pub(crate) async fn create_load_balancer(
        &self,
        caller: Caller<'_>,
        spec: &spec::LoadBalancer,
        security_groups: Option<&[String]>,
    ) -> Result<LoadBalancer, CallError> {
        let answer = self
            .elb(caller, Action::CreateLoadBalancer, |elb| {
                elb.create_load_balancer()
                    .name(&spec.name)
                    .r#type(sdk::LoadBalancerTypeEnum::Network)
                    .scheme(sdk::LoadBalancerSchemeEnum::from(spec.scheme.as_str()))
                    .ip_address_type(ip_type(spec.ip_address_type))
                    .set_subnet_mappings(Some(mappings(&spec.subnets)))
                    .set_security_groups(security_groups.map(<[String]>::to_vec))
                    .set_enable_prefix_for_ipv6_source_nat(source_nat(spec.ipv6_source_nat))
                    .set_tags(Some(tags(&spec.tags)))
                    .send()
            })
            .await?;
        answer
            .load_balancers()
            .first()
            .map(LoadBalancer::from)
            .ok_or_else(|| CallError::Unknown {
                action: Action::CreateLoadBalancer,
                message: "its answer has no load balancer".to_owned(),
            })
    }

    pub(crate) async fn set_subnets(
        &self,
        caller: Caller<'_>,
        arn: &str,
        spec: &spec::LoadBalancer,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::SetSubnets, |elb| {
            elb.set_subnets()
                .load_balancer_arn(arn)
                .set_subnet_mappings(Some(mappings(&spec.subnets)))
                .ip_address_type(ip_type(spec.ip_address_type))
                .set_enable_prefix_for_ipv6_source_nat(source_nat(spec.ipv6_source_nat))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn set_ip_address_type(
        &self,
        caller: Caller<'_>,
        arn: &str,
        value: IpAddressType,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::SetIpAddressType, |elb| {
            elb.set_ip_address_type()
                .load_balancer_arn(arn)
                .ip_address_type(ip_type(value))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn set_security_groups(
        &self,
        caller: Caller<'_>,
        arn: &str,
        groups: &[String],
        enforce_on_private_link: Option<bool>,
    ) -> Result<(), CallError> {
        use sdk::EnforceSecurityGroupInboundRulesOnPrivateLinkTrafficEnum as Enforce;

        self.elb(caller, Action::SetSecurityGroups, |elb| {
            elb.set_security_groups()
                .load_balancer_arn(arn)
                .set_security_groups(Some(groups.to_vec()))
                .set_enforce_security_group_inbound_rules_on_private_link_traffic(
                    enforce_on_private_link.map(|on| if on { Enforce::On } else { Enforce::Off }),
                )
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn modify_load_balancer_attributes(
        &self,
        caller: Caller<'_>,
        arn: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::ModifyLoadBalancerAttributes, |elb| {
            let attributes = attributes.iter().map(|(key, value)| {
                sdk::LoadBalancerAttribute::builder()
                    .key(key)
                    .value(value)
                    .build()
            });
            elb.modify_load_balancer_attributes()
                .load_balancer_arn(arn)
                .set_attributes(Some(attributes.collect()))
                .send()
        })
        .await
        .map(drop)
    }

    /// Reserves capacity, or with none gives it back.
    pub(crate) async fn modify_capacity(
        &self,
        caller: Caller<'_>,
        arn: &str,
        units: Option<u32>,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::ModifyCapacityReservation, |elb| {
            let call = elb.modify_capacity_reservation().load_balancer_arn(arn);
            match units {
                Some(units) => call.minimum_load_balancer_capacity(
                    sdk::MinimumLoadBalancerCapacity::builder()
                        .capacity_units(i32::try_from(units).unwrap_or(i32::MAX))
                        .build(),
                ),
                None => call.reset_capacity_reservation(true),
            }
            .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn delete_load_balancer(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::DeleteLoadBalancer, |elb| {
            elb.delete_load_balancer().load_balancer_arn(arn).send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn create_target_group(
        &self,
        caller: Caller<'_>,
        vpc: &str,
        spec: &spec::TargetGroup,
    ) -> Result<TargetGroup, CallError> {
        let check = HealthCheck::from(&spec.health_check);
        let answer = self
            .elb(caller, Action::CreateTargetGroup, |elb| {
                elb.create_target_group()
                    .name(&spec.name)
                    .vpc_id(vpc)
                    .port(i32::from(spec.port))
                    .protocol(sdk::ProtocolEnum::from(spec.protocol.as_str()))
                    .target_type(sdk::TargetTypeEnum::from(spec.target_type.as_str()))
                    .ip_address_type(sdk::TargetGroupIpAddressTypeEnum::from(
                        spec.family.as_str(),
                    ))
                    .health_check_enabled(true)
                    .health_check_protocol(sdk::ProtocolEnum::from(check.protocol.as_str()))
                    .health_check_port(&check.port)
                    .set_health_check_path(check.path.clone())
                    .set_matcher(matcher(&check))
                    .health_check_interval_seconds(check.interval_seconds)
                    .health_check_timeout_seconds(check.timeout_seconds)
                    .healthy_threshold_count(check.healthy_threshold)
                    .unhealthy_threshold_count(check.unhealthy_threshold)
                    .set_tags(Some(tags(&spec.tags)))
                    .send()
            })
            .await?;
        answer
            .target_groups()
            .first()
            .map(TargetGroup::from)
            .ok_or_else(|| CallError::Unknown {
                action: Action::CreateTargetGroup,
                message: "its answer has no target group".to_owned(),
            })
    }

    pub(crate) async fn modify_target_group(
        &self,
        caller: Caller<'_>,
        arn: &str,
        check: &HealthCheck,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::ModifyTargetGroup, |elb| {
            elb.modify_target_group()
                .target_group_arn(arn)
                .health_check_protocol(sdk::ProtocolEnum::from(check.protocol.as_str()))
                .health_check_port(&check.port)
                .set_health_check_path(check.path.clone())
                .set_matcher(matcher(check))
                .health_check_interval_seconds(check.interval_seconds)
                .health_check_timeout_seconds(check.timeout_seconds)
                .healthy_threshold_count(check.healthy_threshold)
                .unhealthy_threshold_count(check.unhealthy_threshold)
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn modify_target_group_attributes(
        &self,
        caller: Caller<'_>,
        arn: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::ModifyTargetGroupAttributes, |elb| {
            let attributes = attributes.iter().map(|(key, value)| {
                sdk::TargetGroupAttribute::builder()
                    .key(key)
                    .value(value)
                    .build()
            });
            elb.modify_target_group_attributes()
                .target_group_arn(arn)
                .set_attributes(Some(attributes.collect()))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn delete_target_group(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::DeleteTargetGroup, |elb| {
            elb.delete_target_group().target_group_arn(arn).send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn register_targets(
        &self,
        caller: Caller<'_>,
        arn: &str,
        targets: &[Target],
    ) -> Result<(), CallError> {
        self.elb(caller, Action::RegisterTargets, |elb| {
            elb.register_targets()
                .target_group_arn(arn)
                .set_targets(Some(descriptions(targets)))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn deregister_targets(
        &self,
        caller: Caller<'_>,
        arn: &str,
        targets: &[Target],
    ) -> Result<(), CallError> {
        self.elb(caller, Action::DeregisterTargets, |elb| {
            elb.deregister_targets()
                .target_group_arn(arn)
                .set_targets(Some(descriptions(targets)))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn create_listener(
        &self,
        caller: Caller<'_>,
        load_balancer: &str,
        settings: &ListenerSettings,
        listener_tags: &Tags,
    ) -> Result<Listener, CallError> {
        let answer = self
            .elb(caller, Action::CreateListener, |elb| {
                elb.create_listener()
                    .load_balancer_arn(load_balancer)
                    .port(i32::from(settings.port))
                    .protocol(sdk::ProtocolEnum::from(settings.protocol.as_str()))
                    .set_ssl_policy(settings.ssl_policy.clone())
                    .set_certificates(
                        settings
                            .certificate
                            .as_deref()
                            .map(|arn| vec![certificate(arn)]),
                    )
                    .set_alpn_policy(settings.alpn_policy.clone().map(|policy| vec![policy]))
                    .default_actions(forward(&settings.forward, settings.sticky))
                    .set_tags(Some(tags(listener_tags)))
                    .send()
            })
            .await?;
        answer
            .listeners()
            .first()
            .map(Listener::from)
            .ok_or_else(|| CallError::Unknown {
                action: Action::CreateListener,
                message: "its answer has no listener".to_owned(),
            })
    }

    pub(crate) async fn modify_listener(
        &self,
        caller: Caller<'_>,
        arn: &str,
        settings: &ListenerSettings,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::ModifyListener, |elb| {
            elb.modify_listener()
                .listener_arn(arn)
                .port(i32::from(settings.port))
                .protocol(sdk::ProtocolEnum::from(settings.protocol.as_str()))
                .set_ssl_policy(settings.ssl_policy.clone())
                .set_certificates(
                    settings
                        .certificate
                        .as_deref()
                        .map(|arn| vec![certificate(arn)]),
                )
                .set_alpn_policy(settings.alpn_policy.clone().map(|policy| vec![policy]))
                .default_actions(forward(&settings.forward, settings.sticky))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn modify_listener_attributes(
        &self,
        caller: Caller<'_>,
        arn: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::ModifyListenerAttributes, |elb| {
            let attributes = attributes.iter().map(|(key, value)| {
                sdk::ListenerAttribute::builder()
                    .key(key)
                    .value(value)
                    .build()
            });
            elb.modify_listener_attributes()
                .listener_arn(arn)
                .set_attributes(Some(attributes.collect()))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn add_certificates(
        &self,
        caller: Caller<'_>,
        arn: &str,
        certificates: &BTreeSet<String>,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::AddListenerCertificates, |elb| {
            elb.add_listener_certificates()
                .listener_arn(arn)
                .set_certificates(Some(
                    certificates.iter().map(|arn| certificate(arn)).collect(),
                ))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn remove_certificates(
        &self,
        caller: Caller<'_>,
        arn: &str,
        certificates: &BTreeSet<String>,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::RemoveListenerCertificates, |elb| {
            elb.remove_listener_certificates()
                .listener_arn(arn)
                .set_certificates(Some(
                    certificates.iter().map(|arn| certificate(arn)).collect(),
                ))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn delete_listener(
        &self,
        caller: Caller<'_>,
        arn: &str,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::DeleteListener, |elb| {
            elb.delete_listener().listener_arn(arn).send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn add_tags(
        &self,
        caller: Caller<'_>,
        arn: &str,
        new: &Tags,
    ) -> Result<(), CallError> {
        self.elb(caller, Action::AddTags, |elb| {
            elb.add_tags()
                .resource_arns(arn)
                .set_tags(Some(tags(new)))
                .send()
        })
        .await
        .map(drop)
    }

    pub(crate) async fn remove_tags(
        &self,
        caller: Caller<'_>,
        arn: &str,
        keys: &[String],
    ) -> Result<(), CallError> {
        self.elb(caller, Action::RemoveTags, |elb| {
            elb.remove_tags()
                .resource_arns(arn)
                .set_tag_keys(Some(keys.to_vec()))
                .send()
        })
        .await
        .map(drop)
    }
}

fn matcher(check: &HealthCheck) -> Option<sdk::Matcher> {
    let codes = check.success_codes.as_ref()?;
    Some(sdk::Matcher::builder().http_code(codes).build())
}

fn pairs<'a>(
    attributes: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>,
) -> BTreeMap<String, String> {
    attributes
        .filter_map(|(key, value)| Some((key?.to_owned(), value.unwrap_or_default().to_owned())))
        .collect()
}

/// What a failure of the SDK's means.
fn failure<E, R>(action: Action, error: &SdkError<E, R>) -> CallError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    R: Debug + Send + Sync + 'static,
{
    let message = error_chain(error);
    let SdkError::ServiceError(service) = error else {
        if message.contains("credentials") || message.contains("identity") {
            return CallError::NoCredentials { action, message };
        }
        return CallError::Unknown { action, message };
    };
    let code = service.err().code().unwrap_or_default().to_owned();
    let words = service.err().message().unwrap_or_default().to_owned();
    if is_throttling(&code) {
        return CallError::Throttled { action, code };
    }
    // An error of AWS's own: it may have been done.
    if code.is_empty()
        || matches!(
            code.as_str(),
            "InternalFailure" | "InternalError" | "ServiceUnavailable"
        )
    {
        return CallError::Unknown {
            action,
            message: format!("{code} {words}"),
        };
    }
    CallError::Refused {
        action,
        code,
        message: words,
    }
}
