//! Calls that look.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_elasticloadbalancingv2::types as sdk;

use crate::actions::Action;
use crate::client::{CallError, Caller, Client};
use crate::cloud::{Listener, LoadBalancer, TargetGroup, TargetHealth};
use crate::spec::{Tags, Target};

use super::convert::{pairs, port};
use super::{ARNS, PAGE};

impl Client {
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
}
