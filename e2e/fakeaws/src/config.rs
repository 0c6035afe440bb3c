//! How a fake behaves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use herald_core::AddressRange;
use serde::{Deserialize, Serialize};

use crate::clock::Pace;
use crate::fixtures::Fixtures;
use crate::throttle::Throttling;

/// How a fake behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0 for any free one.
    pub listen: SocketAddr,
    /// How its time passes.
    pub pace: Pace,
    /// How long things take, in its time.
    pub timing: Timing,
    /// How much there may be.
    pub quotas: Quotas,
    /// How often it may be called; none for as often as you like.
    pub throttling: Option<Throttling>,
    /// What is there from the start, and again after a reset.
    pub fixtures: Fixtures,
    /// Really carry traffic; none for a fake of the API alone.
    pub data_path: Option<DataPath>,
}

impl Config {
    /// Nothing takes time: what is made is active, and targets are healthy, at
    /// the next call.
    pub fn quick() -> Self {
        Self {
            timing: Timing::NONE,
            ..Self::default()
        }
    }

    /// Everything takes as long as with AWS, but the clock stands until
    /// [`FakeAws::advance`](crate::FakeAws::advance) moves it.
    pub fn stopped() -> Self {
        Self {
            pace: Pace::Stopped,
            ..Self::default()
        }
    }
}

impl Default for Config {
    /// On loopback, in real time, as slow as AWS, without throttling, with the
    /// cluster of [`Fixtures::cluster`].
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            pace: Pace::Running(1.0),
            timing: Timing::default(),
            quotas: Quotas::default(),
            throttling: None,
            fixtures: Fixtures::cluster("demo"),
            data_path: None,
        }
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A load balancer, from create to active.
    pub provisioning: Duration,
    /// A target, from registered (and its load balancer active) to its first
    /// verdict. With a data path the health checks decide instead.
    pub target_initial: Duration,
    /// A deleted load balancer's network interfaces, which hold on to its
    /// security groups, subnets and elastic addresses.
    pub interface_release: Duration,
    /// A target group, from when nothing uses it any more until it may be
    /// deleted.
    pub target_group_release: Duration,
    /// A capacity reservation, from asked for to provisioned.
    pub capacity: Duration,
    /// How far the describes of ELB lag behind its writes.
    pub elbv2_lag: Duration,
    /// How far the describes of EC2 lag behind its writes.
    pub ec2_lag: Duration,
}

impl Timing {
    /// Nothing takes time.
    pub const NONE: Self = Self {
        provisioning: Duration::ZERO,
        target_initial: Duration::ZERO,
        interface_release: Duration::ZERO,
        target_group_release: Duration::ZERO,
        capacity: Duration::ZERO,
        elbv2_lag: Duration::ZERO,
        ec2_lag: Duration::ZERO,
    };
}

impl Default for Timing {
    /// About what AWS takes: load balancers 2 minutes, targets 1 minute, freed
    /// interfaces 45 seconds, freed target groups 2 seconds; reads see writes.
    fn default() -> Self {
        Self {
            provisioning: Duration::from_mins(2),
            target_initial: Duration::from_mins(1),
            interface_release: Duration::from_secs(45),
            target_group_release: Duration::from_secs(2),
            capacity: Duration::from_mins(5),
            ..Self::NONE
        }
    }
}

/// How much of everything there may be, in one account and region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Quotas {
    /// Network load balancers.
    pub load_balancers: usize,
    /// Target groups.
    pub target_groups: usize,
    /// Listeners of a load balancer.
    pub listeners: usize,
    /// Certificates of a load balancer, the default ones not counted.
    pub certificates: usize,
    /// Targets of a target group.
    pub targets_per_group: usize,
    /// Targets of a load balancer; one in two groups counts twice.
    pub targets: usize,
    /// Targets of a load balancer in one availability zone.
    pub targets_per_zone: usize,
    /// Targets of a load balancer with cross-zone load balancing.
    pub targets_cross_zone: usize,
    /// Target groups that one action of a listener forwards to.
    pub target_groups_per_action: usize,
    /// Different target groups of a load balancer.
    pub target_groups_per_load_balancer: usize,
    /// Tags of a resource.
    pub tags: usize,
    /// Security groups.
    pub security_groups: usize,
    /// Rules of a security group in one direction, counted for each address
    /// family; a prefix list counts as its greatest number of entries.
    pub rules: usize,
    /// Security groups of a network interface.
    pub groups_per_interface: usize,
}

impl Default for Quotas {
    /// What an account starts with.
    fn default() -> Self {
        Self {
            load_balancers: 50,
            target_groups: 3000,
            listeners: 50,
            certificates: 25,
            targets_per_group: 1000,
            targets: 3000,
            targets_per_zone: 500,
            targets_cross_zone: 500,
            target_groups_per_action: 5,
            target_groups_per_load_balancer: 100,
            tags: 50,
            security_groups: 2500,
            rules: 60,
            groups_per_interface: 5,
        }
    }
}

/// A data path: load balancers that really listen and forward.
#[derive(Clone, Debug)]
pub struct DataPath {
    /// Where a load balancer's address comes from, one of each family.
    pub pools: Vec<AddressRange>,
    /// Where addresses are plugged; none if the host has them all already.
    pub interface: Option<String>,
    /// A hosts(5) file to keep with the names of active load balancers.
    pub hosts_file: Option<PathBuf>,
}
