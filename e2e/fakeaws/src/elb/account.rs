//! The account's limits, and the policies for TLS that there are.

use super::common::{Done, Paging};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::Region;
use crate::params::Params;
use crate::xml::Xml;

/// Policies for TLS listeners, the default one first, and the protocols that
/// they allow.
const SSL_POLICIES: [(&str, &[&str]); 12] = [
    (
        "ELBSecurityPolicy-2016-08",
        &["TLSv1", "TLSv1.1", "TLSv1.2"],
    ),
    ("ELBSecurityPolicy-TLS-1-1-2017-01", &["TLSv1.1", "TLSv1.2"]),
    ("ELBSecurityPolicy-TLS-1-2-2017-01", &["TLSv1.2"]),
    ("ELBSecurityPolicy-TLS-1-2-Ext-2018-06", &["TLSv1.2"]),
    (
        "ELBSecurityPolicy-FS-2018-06",
        &["TLSv1", "TLSv1.1", "TLSv1.2"],
    ),
    ("ELBSecurityPolicy-FS-1-2-Res-2020-10", &["TLSv1.2"]),
    (
        "ELBSecurityPolicy-TLS13-1-0-2021-06",
        &["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
    ),
    (
        "ELBSecurityPolicy-TLS13-1-1-2021-06",
        &["TLSv1.1", "TLSv1.2", "TLSv1.3"],
    ),
    (
        "ELBSecurityPolicy-TLS13-1-2-2021-06",
        &["TLSv1.2", "TLSv1.3"],
    ),
    (
        "ELBSecurityPolicy-TLS13-1-2-Res-2021-06",
        &["TLSv1.2", "TLSv1.3"],
    ),
    ("ELBSecurityPolicy-TLS13-1-3-2021-06", &["TLSv1.3"]),
    (
        "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09",
        &["TLSv1.2", "TLSv1.3"],
    ),
];

/// What a TLS listener gets that says nothing.
pub const DEFAULT_SSL_POLICY: &str = SSL_POLICIES[0].0;

/// Whether there is such a policy.
pub fn has_ssl_policy(name: &str) -> bool {
    SSL_POLICIES.iter().any(|(policy, _)| *policy == name)
}

/// `DescribeSSLPolicies`. Ciphers are not listed.
pub fn ssl_policies(_: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let names = p.texts("Names");
    let kind = p.text("LoadBalancerType").unwrap_or("network");
    let paging = Paging::read(p)?;
    p.finish()?;
    if let Some(name) = names.iter().find(|name| !has_ssl_policy(name)) {
        return Err(no_ssl_policy(name));
    }
    let chosen: Vec<_> = SSL_POLICIES
        .iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|asked| asked == name))
        .filter(|_| kind != "gateway")
        .collect();
    paging.write(xml, "SslPolicies", &chosen, |x, (name, protocols)| {
        x.member_texts("SslProtocols", *protocols)
            .members("Ciphers", None::<&str>, |_, _| {})
            .text("Name", name)
            .member_texts("SupportedLoadBalancerTypes", ["application", "network"]);
    });
    Ok(())
}

/// What to answer for a policy that is not there.
pub fn no_ssl_policy(name: &str) -> ApiError {
    ApiError::new(
        "SSLPolicyNotFound",
        format!("SSL policy '{name}' not found"),
    )
}

/// `DescribeAccountLimits`.
pub fn limits(_: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let paging = Paging::read(p)?;
    p.finish()?;
    let q = c.quotas;
    let limits = [
        ("network-load-balancers", q.load_balancers),
        ("listeners-per-network-load-balancer", q.listeners),
        ("target-groups", q.target_groups),
        ("targets-per-network-load-balancer", q.targets),
        (
            "targets-per-availability-zone-per-network-load-balancer",
            q.targets_per_zone,
        ),
        ("targets-per-target-group", q.targets_per_group),
        ("certificates-per-network-load-balancer", q.certificates),
        (
            "target-groups-per-action-on-network-load-balancer",
            q.target_groups_per_action,
        ),
    ];
    paging.write(xml, "Limits", &limits, |x, (name, most)| {
        x.text("Name", name).text("Max", most);
    });
    Ok(())
}
