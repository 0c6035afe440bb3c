//! Every action the fake answers, in one table.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Quotas, Timing};
use crate::error::ApiError;
use crate::model::Region;
use crate::params::{Params, Service};
use crate::xml::Xml;
use crate::{ec2, elb, sts};

/// Whether an action changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It only looks.
    Read,
    /// It may change something.
    Write,
}

/// Which token bucket an action drinks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// ELB's describes.
    Describe,
    /// ELB's registrations.
    Register,
    /// ELB's other writes.
    Mutate,
    /// ELB's costly writes.
    Intensive,
    /// EC2's reads.
    Ec2Read,
    /// EC2's writes.
    Ec2Write,
    /// STS.
    Sts,
}

/// What an action may use besides the region.
#[derive(Debug)]
pub struct Context<'a> {
    /// The fake's time.
    pub now: Duration,
    /// The date of a time of the fake.
    pub dates: Dates,
    /// How long things take.
    pub timing: &'a Timing,
    /// How much there may be.
    pub quotas: &'a Quotas,
    /// The caller's access key.
    pub access_key: &'a str,
}

/// Turns times of the fake into text.
#[derive(Clone, Copy, Debug)]
pub struct Dates(pub crate::clock::Clock);

impl Dates {
    /// `2026-01-02T03:04:05.678Z`.
    pub fn text(&self, time: Duration) -> String {
        jiff::Timestamp::try_from(self.0.date(time))
            .map(|date| format!("{date:.3}"))
            .unwrap_or_default()
    }
}

/// What performs an action: it changes everything or, with an error, nothing.
/// What it writes is the inside of the answer.
pub type Run = fn(&mut Region, &Context<'_>, &Params<'_>, &mut Xml) -> Result<(), ApiError>;

/// An action.
#[derive(Debug)]
pub struct Action {
    /// Its service.
    pub service: Service,
    /// Its name.
    pub name: &'static str,
    /// Whether it changes anything.
    pub kind: Kind,
    /// Its bucket.
    pub family: Family,
    /// What performs it.
    pub run: Run,
}

const fn action(service: Service, name: &'static str, family: Family, run: Run) -> Action {
    let kind = match family {
        Describe | Ec2Read | Family::Sts => Kind::Read,
        Register | Mutate | Intensive | Ec2Write => Kind::Write,
    };
    Action {
        service,
        name,
        kind,
        family,
        run,
    }
}

const fn elbv2(name: &'static str, family: Family, run: Run) -> Action {
    action(Service::Elbv2, name, family, run)
}

const fn ec2(name: &'static str, family: Family, run: Run) -> Action {
    action(Service::Ec2, name, family, run)
}

use Family::{Describe, Ec2Read, Ec2Write, Intensive, Mutate, Register};

/// All of them.
pub static ACTIONS: &[Action] = &[
    elbv2("CreateLoadBalancer", Intensive, elb::load_balancers::create),
    elbv2("DeleteLoadBalancer", Mutate, elb::load_balancers::delete),
    elbv2(
        "DescribeLoadBalancers",
        Describe,
        elb::load_balancers::describe,
    ),
    elbv2("SetSubnets", Intensive, elb::load_balancers::set_subnets),
    elbv2(
        "SetSecurityGroups",
        Intensive,
        elb::load_balancers::set_security_groups,
    ),
    elbv2(
        "SetIpAddressType",
        Intensive,
        elb::load_balancers::set_ip_address_type,
    ),
    elbv2(
        "DescribeLoadBalancerAttributes",
        Describe,
        elb::attributes::describe_load_balancer,
    ),
    elbv2(
        "ModifyLoadBalancerAttributes",
        Mutate,
        elb::attributes::modify_load_balancer,
    ),
    elbv2("CreateTargetGroup", Mutate, elb::target_groups::create),
    elbv2("ModifyTargetGroup", Mutate, elb::target_groups::modify),
    elbv2("DeleteTargetGroup", Mutate, elb::target_groups::delete),
    elbv2(
        "DescribeTargetGroups",
        Describe,
        elb::target_groups::describe,
    ),
    elbv2(
        "DescribeTargetGroupAttributes",
        Describe,
        elb::attributes::describe_target_group,
    ),
    elbv2(
        "ModifyTargetGroupAttributes",
        Mutate,
        elb::attributes::modify_target_group,
    ),
    elbv2("RegisterTargets", Register, elb::targets::register),
    elbv2("DeregisterTargets", Register, elb::targets::deregister),
    elbv2(
        "DescribeTargetHealth",
        Describe,
        elb::targets::describe_health,
    ),
    elbv2("CreateListener", Mutate, elb::listeners::create),
    elbv2("ModifyListener", Mutate, elb::listeners::modify),
    elbv2("DeleteListener", Mutate, elb::listeners::delete),
    elbv2("DescribeListeners", Describe, elb::listeners::describe),
    elbv2("DescribeRules", Describe, elb::listeners::describe_rules),
    elbv2(
        "DescribeListenerAttributes",
        Describe,
        elb::attributes::describe_listener,
    ),
    elbv2(
        "ModifyListenerAttributes",
        Mutate,
        elb::attributes::modify_listener,
    ),
    elbv2("AddListenerCertificates", Mutate, elb::certificates::add),
    elbv2(
        "RemoveListenerCertificates",
        Mutate,
        elb::certificates::remove,
    ),
    elbv2(
        "DescribeListenerCertificates",
        Describe,
        elb::certificates::describe,
    ),
    elbv2("AddTags", Mutate, elb::tags::add),
    elbv2("RemoveTags", Mutate, elb::tags::remove),
    elbv2("DescribeTags", Describe, elb::tags::describe),
    elbv2(
        "DescribeCapacityReservation",
        Describe,
        elb::capacity::describe,
    ),
    elbv2(
        "ModifyCapacityReservation",
        Intensive,
        elb::capacity::modify,
    ),
    elbv2("DescribeAccountLimits", Describe, elb::account::limits),
    elbv2("DescribeSSLPolicies", Describe, elb::account::ssl_policies),
    ec2("DescribeVpcs", Ec2Read, ec2::network::vpcs),
    ec2("DescribeSubnets", Ec2Read, ec2::network::subnets),
    ec2("DescribeAvailabilityZones", Ec2Read, ec2::network::zones),
    ec2("DescribeRouteTables", Ec2Read, ec2::network::route_tables),
    ec2("DescribeAddresses", Ec2Read, ec2::network::addresses),
    ec2(
        "DescribeManagedPrefixLists",
        Ec2Read,
        ec2::network::prefix_lists,
    ),
    ec2("DescribeInstances", Ec2Read, ec2::instances::instances),
    ec2(
        "DescribeNetworkInterfaces",
        Ec2Read,
        ec2::instances::interfaces,
    ),
    ec2(
        "DescribeSecurityGroups",
        Ec2Read,
        ec2::security_groups::describe,
    ),
    ec2(
        "CreateSecurityGroup",
        Ec2Write,
        ec2::security_groups::create,
    ),
    ec2(
        "DeleteSecurityGroup",
        Ec2Write,
        ec2::security_groups::delete,
    ),
    ec2(
        "AuthorizeSecurityGroupIngress",
        Ec2Write,
        ec2::rules::authorize,
    ),
    ec2("RevokeSecurityGroupIngress", Ec2Write, ec2::rules::revoke),
    ec2("DescribeSecurityGroupRules", Ec2Read, ec2::rules::describe),
    ec2("CreateTags", Ec2Write, ec2::tags::create),
    ec2("DeleteTags", Ec2Write, ec2::tags::delete),
    action(
        Service::Sts,
        "GetCallerIdentity",
        Family::Sts,
        sts::caller_identity,
    ),
    action(
        Service::Sts,
        "AssumeRoleWithWebIdentity",
        Family::Sts,
        sts::assume_role,
    ),
];

/// The action of that name.
pub fn find(service: Service, name: &str) -> Option<&'static Action> {
    ACTIONS
        .iter()
        .find(|action| action.service == service && action.name == name)
}
