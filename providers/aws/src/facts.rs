//! What the account holds that a load balancer's shape depends on.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::spec::{IpAddressType, Scheme, SubnetMapping};

/// The network that load balancers are put into, and what a Service has there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The VPC.
    pub vpc_id: String,
    /// Its networks of both families. A pod outside of them is registered with
    /// `AvailabilityZone=all`.
    pub vpc_cidrs: Vec<IpNet>,
    /// All subnets of the VPC.
    pub subnets: Vec<Subnet>,
    /// All route tables of the VPC.
    pub route_tables: Vec<RouteTable>,
    /// Availability zones, local zones and wavelength zones of the region.
    pub zones: Vec<Zone>,
    /// All security groups of the VPC; needed only where a Service names some.
    pub security_groups: Vec<SecurityGroup>,
    /// The load balancer that the Service has, if it has one (or the one to adopt).
    pub existing: Option<Existing>,
}

/// A subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// `subnet-…`.
    pub id: String,
    /// Name of its zone, such as `eu-central-1a`.
    pub zone: String,
    /// IPv4 network; none in a subnet of IPv6 only.
    pub ipv4_cidr: Option<IpNet>,
    /// IPv6 networks that are associated.
    pub ipv6_cidrs: Vec<IpNet>,
    /// Free IPv4 addresses.
    pub available_ips: u32,
    /// The outpost it is on, if it is on one.
    pub outpost_arn: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A route table, as far as reachability goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// `rtb-…`.
    pub id: String,
    /// Whether it holds for subnets without an association of their own.
    pub main: bool,
    /// Subnets that are associated with it.
    pub subnets: BTreeSet<String>,
    /// Whether a route leads to an internet gateway (`igw-…`).
    pub internet_gateway: bool,
}

/// A zone of the region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Its name, such as `eu-central-1a`.
    pub name: String,
    /// Its id, the same in every account, such as `euc1-az2`.
    pub id: String,
    /// `availability-zone`, `local-zone` or `wavelength-zone`.
    pub kind: String,
}

/// A security group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: String,
    /// Its name, which is not what users know it by: that is the tag `Name`.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A load balancer that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// Its scheme.
    pub scheme: Scheme,
    /// Families it has addresses of.
    pub ip_address_type: IpAddressType,
    /// Its subnets, by zone.
    pub subnets: Vec<SubnetMapping>,
    /// Its security groups; one that was made without any can never have one.
    pub security_groups: Vec<String>,
}
