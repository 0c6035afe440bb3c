//! What there is in one account and region. Times are those of the fake's
//! clock; states that only time changes are computed from them, not stored.

pub mod balancing;
pub mod network;
pub mod region;

pub use balancing::{
    Capacity, Certificate, Forward, HealthCheck, Listener, LoadBalancer, Target, TargetGroup,
    TargetKey, Verdict, WeightedGroup,
};
pub use network::{
    ElasticAddress, Instance, InstanceState, Interface, Permission, PrefixList, RouteTable, Rule,
    RulePeer, SecurityGroup, Subnet, Vpc, Zone,
};
pub use region::Region;

use std::collections::BTreeMap;

/// Tags of a resource.
pub type Tags = BTreeMap<String, String>;
