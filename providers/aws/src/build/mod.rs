//! From a Service, its nodes and endpoints, and what the account holds to the [`Spec`]
//! of its load balancer. All of it is pure.

mod attributes;
mod error;
mod groups;
mod listeners;
mod ports;
mod subnets;
mod targets;

use herald_core::{Backend, Node, ServiceReference, ServiceRequest, TrafficPolicy};

pub use error::InvalidSpec;
pub(crate) use targets::common_instances;

use crate::annotations::{ActionTarget, Annotations};
use crate::facts::Facts;
use crate::identity::{Identity, LOAD_BALANCER};
use crate::settings::Settings;
use crate::spec::{IpAddressType, LoadBalancer, Scheme, SecurityGroups, Spec, Tags, TargetType};

/// What a Service asks for and what stands behind it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The Service.
    pub service: &'a ServiceRequest,
    /// Nodes that may carry its traffic.
    pub nodes: &'a [Node],
    /// Its endpoints, where [`needs_endpoints`] says that they are needed.
    pub endpoints: &'a [Backend],
    /// Services that [`references`] named and that exist.
    pub references: &'a [ServiceReference],
}

/// What every part of the build reads.
struct Context<'a> {
    settings: &'a Settings,
    request: Request<'a>,
    facts: &'a Facts,
    annotations: &'a Annotations,
    scheme: Scheme,
    ip_address_type: IpAddressType,
    target_type: TargetType,
    identity: Identity,
}

impl Context<'_> {
    /// Tags of one object: the user's, over them the operator's, over them our own.
    fn tags(&self, resource: &str) -> Tags {
        let mut tags = self.annotations.tags.clone();
        tags.extend(self.settings.default_tags.clone());
        tags.extend(self.identity.tags(resource));
        tags
    }
}

/// What should exist for a Service.
pub fn build(
    settings: &Settings,
    request: Request<'_>,
    facts: &Facts,
) -> Result<Spec, InvalidSpec> {
    let annotations = &Annotations::parse(&request.service.annotations)?;
    let existing = facts.existing.as_ref();
    let scheme = annotations
        .scheme
        .or(existing.map(|existing| existing.scheme))
        .unwrap_or(settings.default_scheme);
    let context = Context {
        settings,
        request,
        facts,
        annotations,
        scheme,
        ip_address_type: annotations.ip_address_type.unwrap_or(IpAddressType::Ipv4),
        target_type: target_type(settings, annotations),
        identity: Identity {
            cluster_id: settings.cluster_id.clone(),
            service: request.service.key.clone(),
            uid: request.service.uid.clone(),
        },
    };
    let (listeners, target_groups) = listeners::build(&context)?;
    let security_groups = groups::frontend(&context, &listeners)?;
    let backend_rules = groups::backend(&context, &security_groups, &target_groups)?;
    let carries_udp = listeners.iter().any(|l| l.protocol.carries_udp());
    let ipv6_source_nat = match context.ip_address_type {
        IpAddressType::Ipv4 => None,
        // AWS carries UDP over IPv6 only with it.
        IpAddressType::Dualstack => annotations.ipv6_source_nat.or(carries_udp.then_some(true)),
    };
    let variant = variant(&context, &security_groups);
    let load_balancer = LoadBalancer {
        name: annotations
            .name
            .clone()
            .unwrap_or_else(|| context.identity.load_balancer_name(&variant)),
        name_given: annotations.name.is_some(),
        scheme,
        ip_address_type: context.ip_address_type,
        subnets: subnets::build(&context, ipv6_source_nat == Some(true))?,
        ipv6_source_nat,
        attributes: attributes::of_load_balancer(&annotations.attributes),
        capacity_units: annotations.capacity_units,
        tags: context.tags(LOAD_BALANCER),
    };
    let spec = Spec {
        vpc_id: facts.vpc_id.clone(),
        variant: String::new(),
        load_balancer,
        security_groups,
        listeners,
        target_groups,
        backend_rules,
        hostname_when: annotations.hostname_when,
        adopt: annotations.adopt.clone(),
        replace: annotations.replace.clone(),
        allow_outage: annotations.allow_outage,
        identity: context.identity,
    };
    Ok(spec.renamed(&variant))
}

/// What makes a load balancer another one, beside whose it is: all that AWS can't
/// change in place and that is known beforehand, and the user's word.
fn variant(context: &Context<'_>, groups: &SecurityGroups) -> String {
    let groups = match groups {
        SecurityGroups::None => "no-groups",
        SecurityGroups::Managed(_) | SecurityGroups::Given { .. } => "groups",
    };
    let replace = context.annotations.replace.as_deref().unwrap_or_default();
    let mut variant = format!("{} {groups} {replace}", context.scheme);
    // A target group belongs to one load balancer: another name means others, too.
    if let Some(name) = &context.annotations.name {
        variant.push(' ');
        variant.push_str(name);
    }
    variant
}

fn target_type(settings: &Settings, annotations: &Annotations) -> TargetType {
    annotations
        .target_type
        .unwrap_or(settings.default_target_type)
}

/// Whether a Service's load balancer depends on its endpoints. With annotations that
/// can't be read it does not: it stays as it is.
pub fn needs_endpoints(settings: &Settings, service: &ServiceRequest) -> bool {
    let Ok(annotations) = Annotations::parse(&service.annotations) else {
        return false;
    };
    match target_type(settings, &annotations) {
        TargetType::Ip => true,
        TargetType::Instance => {
            service.traffic_policy == TrafficPolicy::Local && !annotations.local_all_nodes
        }
    }
}

/// Other Services of the namespace that a Service's annotations name, by name.
pub fn references(service: &ServiceRequest) -> Vec<String> {
    let Ok(annotations) = Annotations::parse(&service.annotations) else {
        return Vec::new();
    };
    let mut names: Vec<String> = annotations
        .actions
        .values()
        .flat_map(|action| &action.targets)
        .filter_map(|(target, _)| match target {
            ActionTarget::Service { name, .. } => Some(name.clone()),
            ActionTarget::Arn(_) => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Type of the condition by which a Service's load balancer tells a pod that it is in
/// service. Only pods that are targets themselves can wait for it.
pub fn readiness_gate(settings: &Settings, service: &ServiceRequest) -> Option<String> {
    let annotations = Annotations::parse(&service.annotations).ok()?;
    (target_type(settings, &annotations) == TargetType::Ip)
        .then(|| format!("target-health.herald.dev/{}", service.key.name))
}

#[cfg(test)]
mod tests;
