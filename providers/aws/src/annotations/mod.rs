//! A Service's annotations: what they ask for, and what is wrong with them.
//!
//! [`table`] holds every annotation as data. [`Annotations::parse`] reads them into
//! values, with all mistakes at once; [`warnings`] says which have no effect.

mod action;
mod docs;
mod error;
mod reader;
pub mod table;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use action::{Action, ActionTarget, PortName};
pub use docs::markdown;
pub use error::{InvalidAnnotation, InvalidAnnotations};
pub use reader::PortParameter;
use reader::Reader;
use table as t;
pub use warnings::warnings;

use crate::identity::TAG_PREFIX;
use crate::spec::{Adopt, CheckProtocol, HostnameWhen, IpAddressType, Scheme, Tags, TargetType};

/// What a Service's annotations ask for. What is not said is none, or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an annotation of its own"
)]
pub struct Annotations {
    /// `aws-load-balancer-name`.
    pub name: Option<String>,
    /// `aws-load-balancer-scheme`, or its old form.
    pub scheme: Option<Scheme>,
    /// `aws-load-balancer-ip-address-type`.
    pub ip_address_type: Option<IpAddressType>,
    /// `aws-load-balancer-subnets`: ids or values of tag `Name`.
    pub subnets: Vec<String>,
    /// `aws-load-balancer-eip-allocations`.
    pub eip_allocations: Vec<String>,
    /// `aws-load-balancer-private-ipv4-addresses`.
    pub private_ipv4: Vec<Ipv4Addr>,
    /// `aws-load-balancer-ipv6-addresses`.
    pub ipv6: Vec<Ipv6Addr>,
    /// `aws-load-balancer-enable-prefix-for-ipv6-source-nat`.
    pub ipv6_source_nat: Option<bool>,
    /// `aws-load-balancer-source-nat-ipv6-prefixes`.
    pub ipv6_source_nat_prefixes: Vec<String>,
    /// `aws-load-balancer-attributes`, over their old forms.
    pub attributes: BTreeMap<String, String>,
    /// `aws-load-balancer-minimum-load-balancer-capacity`.
    pub capacity_units: Option<u32>,
    /// `aws-load-balancer-additional-resource-tags`.
    pub tags: Tags,
    /// `aws-load-balancer-security-groups`: ids or values of tag `Name`.
    pub security_groups: Vec<String>,
    /// `aws-load-balancer-manage-backend-security-group-rules`.
    pub manage_backend_rules: Option<bool>,
    /// `aws-load-balancer-disable-nlb-sg`.
    pub without_security_group: bool,
    /// `aws-load-balancer-inbound-sg-rules-on-private-link-traffic`.
    pub private_link_rules: Option<bool>,
    /// `aws-load-balancer-security-group-prefix-lists`.
    pub prefix_lists: Vec<String>,
    /// `load-balancer-source-ranges`.
    pub source_ranges: Vec<IpNet>,
    /// `aws-load-balancer-enable-icmp-for-path-mtu-discovery`.
    pub path_mtu_discovery: bool,
    /// `aws-load-balancer-ssl-cert`.
    pub certificates: Vec<String>,
    /// `aws-load-balancer-ssl-ports`.
    pub ssl_ports: Vec<PortName>,
    /// `aws-load-balancer-ssl-negotiation-policy`.
    pub ssl_policy: Option<String>,
    /// `aws-load-balancer-alpn-policy`; `None` is none.
    pub alpn_policy: Option<String>,
    /// `aws-load-balancer-backend-protocol` is `ssl`.
    pub tls_to_targets: bool,
    /// `aws-load-balancer-enable-tcp-udp-listener`.
    pub tcp_udp: Option<bool>,
    /// `aws-load-balancer-quic-enabled-ports`.
    pub quic_ports: Vec<PortName>,
    /// `aws-load-balancer-listener-attributes`, by listener.
    pub listener_attributes: BTreeMap<PortParameter, BTreeMap<String, String>>,
    /// `actions`, by listener.
    pub actions: BTreeMap<PortParameter, Action>,
    /// `aws-load-balancer-nlb-target-type`.
    pub target_type: Option<TargetType>,
    /// `aws-load-balancer-target-node-labels`.
    pub target_node_labels: BTreeMap<String, String>,
    /// `aws-load-balancer-target-group-attributes`.
    pub target_group_attributes: BTreeMap<String, String>,
    /// The same for one port.
    pub target_group_attributes_of_port: BTreeMap<u16, BTreeMap<String, String>>,
    /// `aws-load-balancer-proxy-protocol`.
    pub proxy_protocol: bool,
    /// `aws-load-balancer-proxy-protocol-per-target-group`.
    pub proxy_protocol_ports: BTreeSet<u16>,
    /// `aws-load-balancer-multi-cluster-target-group`.
    pub multi_cluster: bool,
    /// `aws-load-balancer-healthcheck-…`.
    pub check: Check,
    /// `aws-hostname-when`.
    pub hostname_when: HostnameWhen,
    /// `aws-local-nodes` is `all`.
    pub local_all_nodes: bool,
    /// `aws-not-ready-nodes` is `remove`.
    pub remove_not_ready_nodes: bool,
    /// `aws-adopt-load-balancer-arn` or `-tags`.
    pub adopt: Option<Adopt>,
    /// `aws-replace`.
    pub replace: Option<String>,
    /// `aws-allow-outage`.
    pub allow_outage: bool,
}

/// What is said of the health check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// `-protocol`.
    pub protocol: Option<CheckProtocol>,
    /// `-port`: `traffic-port`, a number, or a name.
    pub port: Option<String>,
    /// `-path`.
    pub path: Option<String>,
    /// `-success-codes`.
    pub success_codes: Option<String>,
    /// `-interval`, in seconds.
    pub interval: Option<u32>,
    /// `-timeout`, in seconds.
    pub timeout: Option<u32>,
    /// `-healthy-threshold`.
    pub healthy: Option<u32>,
    /// `-unhealthy-threshold`.
    pub unhealthy: Option<u32>,
}

impl Annotations {
    /// Reads a Service's annotations.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, InvalidAnnotations> {
        let mut r = Reader::new(annotations);
        let parsed = Self {
            name: name(&mut r),
            scheme: scheme(&mut r),
            ip_address_type: r.word(&t::IP_ADDRESS_TYPE).map(|word| match word {
                "dualstack" => IpAddressType::Dualstack,
                _ => IpAddressType::Ipv4,
            }),
            subnets: r.list(&t::SUBNETS),
            eip_allocations: r.list(&t::EIP_ALLOCATIONS),
            private_ipv4: r.items(&t::PRIVATE_IPV4, "IPv4 addresses", |item| item.parse().ok()),
            ipv6: r.items(&t::IPV6, "IPv6 addresses", |item| item.parse().ok()),
            ipv6_source_nat: r.flag(&t::IPV6_SOURCE_NAT),
            ipv6_source_nat_prefixes: r.items(
                &t::IPV6_SOURCE_NAT_PREFIXES,
                "\"auto_assigned\" or IPv6 networks of length 80",
                source_nat_prefix,
            ),
            attributes: attributes(&mut r),
            capacity_units: capacity(&mut r),
            tags: tags(&mut r),
            security_groups: r.list(&t::SECURITY_GROUPS),
            manage_backend_rules: r.flag(&t::MANAGE_BACKEND_RULES),
            without_security_group: r.flag(&t::DISABLE_SECURITY_GROUP).unwrap_or(false),
            private_link_rules: r.flag(&t::PRIVATE_LINK_RULES),
            prefix_lists: r.items(&t::PREFIX_LISTS, "ids of prefix lists (pl-…)", |item| {
                item.starts_with("pl-").then(|| item.to_owned())
            }),
            source_ranges: r.items(
                &t::SOURCE_RANGES,
                "networks such as 10.0.0.0/8",
                source_range,
            ),
            path_mtu_discovery: r.flag(&t::PATH_MTU).unwrap_or(false),
            certificates: r.list(&t::SSL_CERT),
            ssl_ports: r.items(&t::SSL_PORTS, "ports, by number or name", PortName::parse),
            ssl_policy: r.text(&t::SSL_POLICY).map(str::to_owned),
            alpn_policy: r
                .word(&t::ALPN_POLICY)
                .filter(|word| *word != "None")
                .map(str::to_owned),
            tls_to_targets: r.word(&t::BACKEND_PROTOCOL) == Some("ssl"),
            tcp_udp: r.flag(&t::TCP_UDP),
            quic_ports: r.items(&t::QUIC_PORTS, "ports, by number or name", PortName::parse),
            listener_attributes: r.maps(&t::LISTENER_ATTRIBUTES),
            actions: r.parsed(&t::ACTIONS, Action::parse),
            target_type: target_type(&mut r),
            target_node_labels: r.map(&t::TARGET_NODE_LABELS),
            target_group_attributes: r.map(&t::TARGET_GROUP_ATTRIBUTES),
            target_group_attributes_of_port: r
                .maps(&t::TARGET_GROUP_ATTRIBUTES_OF_PORT)
                .into_iter()
                .map(|(parameter, map)| (parameter.port, map))
                .collect(),
            proxy_protocol: r.word(&t::PROXY_PROTOCOL).is_some(),
            proxy_protocol_ports: r
                .items(&t::PROXY_PROTOCOL_PORTS, "ports from 1 to 65535", port)
                .into_iter()
                .collect(),
            multi_cluster: r.flag(&t::MULTI_CLUSTER).unwrap_or(false),
            check: check(&mut r),
            hostname_when: match r.word(&t::HOSTNAME_WHEN) {
                Some("provisioning") => HostnameWhen::Provisioning,
                _ => HostnameWhen::Active,
            },
            local_all_nodes: r.word(&t::LOCAL_NODES) == Some("all"),
            remove_not_ready_nodes: r.word(&t::NOT_READY_NODES) == Some("remove"),
            adopt: adopt(&mut r),
            replace: r.text(&t::REPLACE).map(str::to_owned),
            allow_outage: r.flag(&t::ALLOW_OUTAGE).unwrap_or(false),
        };
        parsed.contradictions(&mut r);
        r.finish()?;
        Ok(parsed)
    }

    /// What rules each other out among the annotations themselves.
    fn contradictions(&self, r: &mut Reader<'_>) {
        if self.without_security_group && !self.security_groups.is_empty() {
            r.conflict(
                &t::DISABLE_SECURITY_GROUP,
                "security groups are named too; keep one of the two",
            );
        }
        if self.scheme == Some(Scheme::Internal) && !self.eip_allocations.is_empty() {
            r.conflict(
                &t::EIP_ALLOCATIONS,
                "only internet-facing load balancers have Elastic IP addresses; take it out, or \
                 set the scheme to internet-facing",
            );
        }
        if self.scheme == Some(Scheme::InternetFacing) && !self.private_ipv4.is_empty() {
            r.conflict(
                &t::PRIVATE_IPV4,
                "only internal load balancers can choose private addresses; take it out, or set \
                 the scheme to internal",
            );
        }
        if self.ip_address_type != Some(IpAddressType::Dualstack) {
            let needs = "only load balancers of aws-load-balancer-ip-address-type \"dualstack\" \
                         have IPv6; set that, or take it out";
            if !self.ipv6.is_empty() {
                r.conflict(&t::IPV6, needs);
            }
            if self.ipv6_source_nat == Some(true) {
                r.conflict(&t::IPV6_SOURCE_NAT, needs);
            }
        }
        if !self.ipv6_source_nat_prefixes.is_empty() && self.ipv6_source_nat != Some(true) {
            r.conflict(
                &t::IPV6_SOURCE_NAT_PREFIXES,
                "it needs aws-load-balancer-enable-prefix-for-ipv6-source-nat \"on\"",
            );
        }
        if let (Some(timeout), Some(interval)) = (self.check.timeout, self.check.interval)
            && timeout > interval
        {
            r.conflict(
                &t::CHECK_TIMEOUT,
                format!(
                    "{timeout} seconds is longer than the interval of {interval} seconds; AWS \
                     wants it no longer than that"
                ),
            );
        }
    }
}

fn name(r: &mut Reader<'_>) -> Option<String> {
    let name = r.text(&t::NAME)?.to_owned();
    let fits = name.len() <= 32
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.starts_with("internal-");
    if !fits {
        r.conflict(
            &t::NAME,
            format!(
                "{:?} is no name of a load balancer: at most 32 letters, digits and hyphens, no \
                 hyphen at either end, and not beginning with \"internal-\"",
                name.chars().take(80).collect::<String>()
            ),
        );
    }
    Some(name)
}

fn scheme(r: &mut Reader<'_>) -> Option<Scheme> {
    let old = r.flag(&t::INTERNAL).map(|internal| {
        if internal {
            Scheme::Internal
        } else {
            Scheme::InternetFacing
        }
    });
    match r.word(&t::SCHEME) {
        Some("internal") => Some(Scheme::Internal),
        Some(_) => Some(Scheme::InternetFacing),
        None => old,
    }
}

fn source_nat_prefix(item: &str) -> Option<String> {
    let fits = item == "auto_assigned"
        || matches!(item.parse::<IpNet>(), Ok(IpNet::V6(net)) if net.prefix_len() == 80);
    fits.then(|| item.to_owned())
}

/// A network as a security-group rule takes it: host bits are dropped, as EC2 does.
pub(crate) fn source_range(item: &str) -> Option<IpNet> {
    item.parse::<IpNet>().ok().map(|net| net.trunc())
}

fn port(item: &str) -> Option<u16> {
    item.parse().ok().filter(|port| *port != 0)
}

fn attributes(r: &mut Reader<'_>) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    for (annotation, attribute) in [
        (&t::ACCESS_LOG_ENABLED, "access_logs.s3.enabled"),
        (&t::CROSS_ZONE, "load_balancing.cross_zone.enabled"),
    ] {
        if let Some(value) = r.flag(annotation) {
            attributes.insert(attribute.to_owned(), value.to_string());
        }
    }
    // As in the AWS Load Balancer Controller, a bucket counts only with logs on.
    if attributes
        .get("access_logs.s3.enabled")
        .is_some_and(|on| on == "true")
    {
        for (annotation, attribute) in [
            (&t::ACCESS_LOG_BUCKET, "access_logs.s3.bucket"),
            (&t::ACCESS_LOG_PREFIX, "access_logs.s3.prefix"),
        ] {
            if let Some(value) = r.text(annotation) {
                attributes.insert(attribute.to_owned(), value.to_owned());
            }
        }
    }
    attributes.extend(r.map(&t::ATTRIBUTES));
    let routing = [
        "any_availability_zone",
        "partial_availability_zone_affinity",
        "availability_zone_affinity",
    ];
    if let Some(policy) = attributes.get("dns_record.client_routing_policy")
        && !routing.contains(&policy.as_str())
    {
        let problem = format!(
            "dns_record.client_routing_policy must be one of {}",
            routing.join(", ")
        );
        r.conflict(&t::ATTRIBUTES, problem);
    }
    attributes
}

fn capacity(r: &mut Reader<'_>) -> Option<u32> {
    let map = r.map(&t::CAPACITY);
    if map.is_empty() {
        return None;
    }
    let units = (map.len() == 1)
        .then(|| map.get("CapacityUnits")?.parse().ok())
        .flatten();
    if units.is_none() {
        r.conflict(&t::CAPACITY, "it must be CapacityUnits=NUMBER");
    }
    // Zero is how the AWS Load Balancer Controller says that none is reserved.
    units.filter(|units| *units != 0)
}

fn tags(r: &mut Reader<'_>) -> Tags {
    let tags = r.map(&t::TAGS);
    for key in tags.keys() {
        let problem = if key.starts_with(TAG_PREFIX) || key.starts_with("aws:") {
            "is reserved"
        } else if key.chars().count() > 128 {
            "is longer than 128 characters"
        } else {
            continue;
        };
        let key: String = key.chars().take(80).collect();
        r.conflict(&t::TAGS, format!("tag key {key:?} {problem}"));
    }
    tags
}

fn target_type(r: &mut Reader<'_>) -> Option<TargetType> {
    let by_type = r.word(&t::TYPE).filter(|word| *word == "nlb-ip");
    match r.word(&t::TARGET_TYPE).or(by_type)? {
        "instance" => Some(TargetType::Instance),
        _ => Some(TargetType::Ip),
    }
}

fn check(r: &mut Reader<'_>) -> Check {
    Check {
        protocol: r.word(&t::CHECK_PROTOCOL).map(|word| match word {
            "http" => CheckProtocol::Http,
            "https" => CheckProtocol::Https,
            _ => CheckProtocol::Tcp,
        }),
        port: r.text(&t::CHECK_PORT).map(str::to_owned),
        path: r.text(&t::CHECK_PATH).map(str::to_owned),
        success_codes: r.text(&t::CHECK_SUCCESS_CODES).map(str::to_owned),
        interval: r.number(&t::CHECK_INTERVAL),
        timeout: r.number(&t::CHECK_TIMEOUT),
        healthy: r.number(&t::CHECK_HEALTHY),
        unhealthy: r.number(&t::CHECK_UNHEALTHY),
    }
}

fn adopt(r: &mut Reader<'_>) -> Option<Adopt> {
    let tags = r.map(&t::ADOPT_TAGS);
    let Some(arn) = r.text(&t::ADOPT_ARN) else {
        return (!tags.is_empty()).then_some(Adopt::Tags(tags));
    };
    if !arn.contains(":loadbalancer/net/") {
        r.conflict(
            &t::ADOPT_ARN,
            "it is no ARN of a Network Load Balancer (arn:…:loadbalancer/net/NAME/ID)",
        );
    }
    if !tags.is_empty() {
        r.conflict(
            &t::ADOPT_ARN,
            "aws-adopt-load-balancer-tags is there too; keep one of the two",
        );
    }
    Some(Adopt::Arn(arn.to_owned()))
}

#[cfg(test)]
mod tests;
