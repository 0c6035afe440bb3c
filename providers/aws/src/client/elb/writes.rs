//! Calls that change something.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_elasticloadbalancingv2::types as sdk;

use crate::actions::Action;
use crate::client::{CallError, Caller, Client};
use crate::cloud::{HealthCheck, Listener, LoadBalancer, TargetGroup};
use crate::spec::{self, IpAddressType, Tags, Target};

use super::ListenerSettings;
use super::convert::{
    certificate, descriptions, forward, ip_type, mappings, matcher, source_nat, tags,
};

impl Client {
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
