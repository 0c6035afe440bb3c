//! One account in one region: what there is, and what time does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::balancing::{Listener, LoadBalancer, Target, TargetGroup, TargetKey, Verdict};
use super::network::{
    ElasticAddress, Instance, InstanceState, Interface, PrefixList, RouteTable, SecurityGroup,
    Subnet, Vpc, Zone,
};
use crate::config::Timing;
use crate::fixtures::Fixtures;

/// One account in one region.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// The account's number.
    pub account: String,
    /// The region's name.
    pub name: String,
    /// Zones by name.
    pub zones: BTreeMap<String, Zone>,
    /// VPCs by id.
    pub vpcs: BTreeMap<String, Vpc>,
    /// Subnets by id.
    pub subnets: BTreeMap<String, Subnet>,
    /// Route tables by id.
    pub route_tables: BTreeMap<String, RouteTable>,
    /// Instances by id.
    pub instances: BTreeMap<String, Instance>,
    /// Network interfaces by id, of instances and of load balancers.
    pub interfaces: BTreeMap<String, Interface>,
    /// Elastic addresses by allocation.
    pub addresses: BTreeMap<String, ElasticAddress>,
    /// Prefix lists by id.
    pub prefix_lists: BTreeMap<String, PrefixList>,
    /// Security groups by id.
    pub security_groups: BTreeMap<String, SecurityGroup>,
    /// Certificates by ARN.
    pub certificates: BTreeSet<String>,
    /// S3 buckets that access logs may go to.
    pub buckets: BTreeSet<String>,
    /// Load balancers by ARN.
    pub load_balancers: BTreeMap<String, LoadBalancer>,
    /// Listeners by ARN.
    pub listeners: BTreeMap<String, Listener>,
    /// Target groups by ARN.
    pub target_groups: BTreeMap<String, TargetGroup>,
    /// Health checks are real, so that no verdict means none yet.
    pub real_checks: bool,
    serial: u64,
}

impl Region {
    /// A region that has nothing but two zones.
    pub fn empty(account: &str, name: &str) -> Self {
        let mut region = Self {
            account: account.into(),
            name: name.into(),
            ..Self::default()
        };
        for letter in ["a", "b"] {
            let zone = Zone {
                name: format!("{name}{letter}"),
                id: format!("{name}-az-{letter}"),
                zone_type: "availability-zone".into(),
            };
            region.zones.insert(zone.name.clone(), zone);
        }
        region
    }

    /// Adds what fixtures describe; what is there under the same id is
    /// replaced.
    pub fn add(&mut self, fixtures: &Fixtures) {
        let f = fixtures.clone();
        if !f.zones.is_empty() {
            self.zones.retain(|name, _| {
                f.zones.iter().any(|zone| zone.name == *name)
                    || self.subnets.values().any(|subnet| subnet.zone == *name)
            });
        }
        self.zones
            .extend(f.zones.into_iter().map(|z| (z.name.clone(), z)));
        self.vpcs
            .extend(f.vpcs.into_iter().map(|v| (v.id.clone(), v)));
        self.subnets
            .extend(f.subnets.into_iter().map(|s| (s.id.clone(), s)));
        self.route_tables
            .extend(f.route_tables.into_iter().map(|t| (t.id.clone(), t)));
        self.security_groups
            .extend(f.security_groups.into_iter().map(|g| (g.id.clone(), g)));
        self.addresses
            .extend(f.addresses.into_iter().map(|a| (a.allocation.clone(), a)));
        self.prefix_lists
            .extend(f.prefix_lists.into_iter().map(|l| (l.id.clone(), l)));
        self.certificates.extend(f.certificates);
        self.buckets.extend(f.buckets);
        for instance in f.instances {
            self.add_instance(instance);
        }
    }

    /// Adds an instance and its interface.
    pub fn add_instance(&mut self, instance: Instance) {
        let interface = Interface {
            id: format!("eni-{}", instance.id.trim_start_matches("i-")),
            subnet: instance.subnet.clone(),
            description: String::new(),
            addresses: std::iter::once(instance.address)
                .chain(instance.secondary.iter().copied())
                .collect(),
            ipv6: instance.ipv6,
            security_groups: instance.security_groups.clone(),
            instance: Some(instance.id.clone()),
            load_balancer: None,
            released_at: None,
        };
        self.interfaces.insert(interface.id.clone(), interface);
        self.instances.insert(instance.id.clone(), instance);
    }

    /// What happens to an instance from outside. A terminated one loses its
    /// interface and its registrations.
    pub fn set_instance_state(&mut self, id: &str, state: InstanceState) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.state = state;
        if state == InstanceState::Terminated {
            self.interfaces
                .retain(|_, interface| interface.instance.as_deref() != Some(id));
            for group in self.target_groups.values_mut() {
                group.targets.retain(|key, _| key.id != id);
            }
        }
    }

    /// Sets what health checks say of a target, in every group and on every
    /// port; none goes back to healthy. Returns how many registrations it met.
    pub fn set_target_health(&mut self, id: &str, verdict: Option<Verdict>) -> usize {
        let mut met = 0;
        for group in self.target_groups.values_mut() {
            for (key, target) in &mut group.targets {
                if key.id == id {
                    target.verdict = verdict;
                    met += 1;
                }
            }
        }
        met
    }

    /// A load balancer by its name.
    pub fn load_balancer_named(&self, name: &str) -> Option<&LoadBalancer> {
        self.load_balancers.values().find(|lb| lb.name == name)
    }

    /// A target group by its name.
    pub fn target_group_named(&self, name: &str) -> Option<&TargetGroup> {
        self.target_groups.values().find(|tg| tg.name == name)
    }

    /// Listeners of a load balancer.
    pub fn listeners_of<'a>(
        &'a self,
        load_balancer: &'a str,
    ) -> impl Iterator<Item = &'a Listener> {
        self.listeners
            .values()
            .filter(move |listener| listener.load_balancer == load_balancer)
    }

    /// ARNs of the load balancers whose listeners use a target group.
    pub fn users_of(&self, target_group: &str) -> BTreeSet<&str> {
        self.listeners
            .values()
            .filter(|listener| {
                listener
                    .forward
                    .groups
                    .iter()
                    .any(|group| group.arn == target_group)
            })
            .map(|listener| listener.load_balancer.as_str())
            .collect()
    }

    /// Target groups that a load balancer's listeners use.
    pub fn groups_of(&self, load_balancer: &str) -> Vec<&TargetGroup> {
        let arns: BTreeSet<&String> = self
            .listeners_of(load_balancer)
            .flat_map(|listener| listener.forward.groups.iter().map(|group| &group.arn))
            .collect();
        arns.into_iter()
            .filter_map(|arn| self.target_groups.get(arn))
            .collect()
    }

    /// Notes which target groups are used now. To be called after every change
    /// of a listener.
    pub fn note_use(&mut self, now: Duration, timing: &Timing) {
        let used: BTreeSet<String> = self
            .listeners
            .values()
            .flat_map(|listener| {
                listener
                    .forward
                    .groups
                    .iter()
                    .map(|group| group.arn.clone())
            })
            .collect();
        for (arn, group) in &mut self.target_groups {
            match (used.contains(arn), group.used_since) {
                (true, None) => group.used_since = Some(now),
                (false, Some(_)) => {
                    group.used_since = None;
                    group.released_at = now + timing.target_group_release;
                    // Nothing flows to it, so nothing has to drain.
                    group
                        .targets
                        .retain(|_, target| target.deregistered_at.is_none());
                }
                _ => {}
            }
        }
    }

    /// Sixteen hexadecimal digits that nothing else here has; the same ones in
    /// the same order after each reset.
    pub fn next_id(&mut self) -> String {
        self.serial += 1;
        format!("{:016x}", mixed(self.serial))
    }

    /// An id as EC2 makes them: `sg-` and 17 hexadecimal digits.
    pub fn next_ec2_id(&mut self, kind: &str) -> String {
        format!("{kind}-0{}", self.next_id())
    }

    /// A free address of a subnet for an interface: from its upper half, where
    /// fixtures have nothing.
    pub fn free_address(&self, subnet: &Subnet) -> Option<Ipv4Addr> {
        let taken: BTreeSet<Ipv4Addr> = self
            .interfaces
            .values()
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect();
        let first = u32::from(subnet.cidr.network());
        let last = u32::from(subnet.cidr.broadcast());
        let middle = first + (last - first) / 2;
        (middle + 1..last)
            .chain(first + 4..=middle)
            .map(Ipv4Addr::from)
            .find(|address| !taken.contains(address))
    }

    /// A free IPv6 address of a subnet.
    pub fn free_ipv6(&self, subnet: &Subnet) -> Option<Ipv6Addr> {
        let network = u128::from(subnet.ipv6_cidr?.network());
        let taken: BTreeSet<Ipv6Addr> = self
            .interfaces
            .values()
            .filter_map(|interface| interface.ipv6)
            .collect();
        (0x1_0000..0x2_0000)
            .map(|host| Ipv6Addr::from(network + host))
            .find(|address| !taken.contains(address))
    }

    /// IPv4 addresses of a subnet that are left.
    pub fn addresses_left(&self, subnet: &Subnet) -> u32 {
        let taken = self
            .interfaces
            .values()
            .filter(|i| i.subnet == subnet.id && i.load_balancer.is_some())
            .count();
        subnet
            .free_addresses
            .saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Takes away what time has ended: drained targets, released interfaces.
    pub fn settle(&mut self, now: Duration) {
        for group in self.target_groups.values_mut() {
            let delay = group.deregistration_delay();
            group.targets.retain(|_, target| {
                target
                    .deregistered_at
                    .is_none_or(|since| now < since.saturating_add(delay))
            });
        }
        let gone: BTreeSet<String> = self
            .interfaces
            .values()
            .filter(|interface| interface.released_at.is_some_and(|at| at <= now))
            .map(|interface| interface.id.clone())
            .collect();
        if gone.is_empty() {
            return;
        }
        self.interfaces.retain(|id, _| !gone.contains(id));
        for address in self.addresses.values_mut() {
            if address
                .interface
                .as_ref()
                .is_some_and(|id| gone.contains(id))
            {
                address.interface = None;
            }
        }
    }

    /// When time will next change something by itself.
    pub fn next_event(&self, now: Duration, timing: &Timing) -> Option<Duration> {
        let balancers = self
            .load_balancers
            .values()
            .flat_map(|lb| [lb.active_at, lb.capacity.ready_at]);
        let interfaces = self.interfaces.values().filter_map(|i| i.released_at);
        // When what uses a group is active, for all groups at once: a region
        // may have thousands.
        let mut active_at: BTreeMap<&str, Duration> = BTreeMap::new();
        for listener in self.listeners.values() {
            let Some(lb) = self.load_balancers.get(&listener.load_balancer) else {
                continue;
            };
            for group in &listener.forward.groups {
                let at = active_at.entry(&group.arn).or_insert(lb.active_at);
                *at = lb.active_at.min(*at);
            }
        }
        let groups = self.target_groups.values().flat_map(|group| {
            let delay = group.deregistration_delay();
            let active_at = active_at.get(group.arn.as_str()).copied();
            group
                .targets
                .values()
                .flat_map(move |target| {
                    let drained = target.deregistered_at.map(|at| at.saturating_add(delay));
                    let judged = self.first_verdict_at(group, target, active_at, timing);
                    [drained, judged].into_iter().flatten()
                })
                .chain(std::iter::once(group.released_at))
        });
        balancers
            .chain(interfaces)
            .chain(groups)
            .filter(|at| *at > now)
            .min()
    }

    /// When a target gets its first verdict, if its group is used since and by
    /// what is `active_at`; none with real health checks.
    fn first_verdict_at(
        &self,
        group: &TargetGroup,
        target: &Target,
        active_at: Option<Duration>,
        timing: &Timing,
    ) -> Option<Duration> {
        let begins = target.registered_at.max(group.used_since?).max(active_at?);
        (!self.real_checks).then(|| begins + timing.target_initial)
    }

    /// The health of a target.
    pub fn health(
        &self,
        group: &TargetGroup,
        key: &TargetKey,
        target: &Target,
        now: Duration,
        timing: &Timing,
    ) -> Health {
        if target.deregistered_at.is_some() {
            return Health::DRAINING;
        }
        if let Some(instance) = self.instances.get(&key.id)
            && instance.state != InstanceState::Running
        {
            return Health::STOPPED;
        }
        let users: Vec<&LoadBalancer> = self
            .users_of(&group.arn)
            .into_iter()
            .filter_map(|arn| self.load_balancers.get(arn))
            .collect();
        if users.is_empty() {
            return Health::NOT_IN_USE;
        }
        if !users
            .iter()
            .any(|lb| self.serves_zone(lb, group, target, key))
        {
            return Health::ZONE_NOT_ENABLED;
        }
        if !users.iter().any(|lb| lb.is_active(now)) {
            return Health::REGISTERING;
        }
        let active_at = users.iter().map(|lb| lb.active_at).min();
        let due = self.first_verdict_at(group, target, active_at, timing);
        match target.verdict {
            _ if due.is_some_and(|at| now < at) => Health::CHECKING,
            None if self.real_checks => Health::CHECKING,
            None | Some(Verdict::Healthy) => Health::HEALTHY,
            Some(Verdict::Unhealthy) => Health::FAILED,
        }
    }

    /// A target in a zone that its load balancer is not in gets no traffic,
    /// unless cross-zone load balancing is on.
    fn serves_zone(
        &self,
        lb: &LoadBalancer,
        group: &TargetGroup,
        target: &Target,
        key: &TargetKey,
    ) -> bool {
        let setting = group.attributes.get("load_balancing.cross_zone.enabled");
        let crosses = match setting.map(String::as_str) {
            Some("true") => true,
            Some("false") => false,
            _ => lb.is_set("load_balancing.cross_zone.enabled"),
        };
        let Some(zone) = self.zone_of(key, target) else {
            return true;
        };
        crosses
            || lb
                .mappings
                .iter()
                .filter_map(|mapping| self.subnets.get(&mapping.subnet))
                .any(|subnet| subnet.zone == zone)
    }

    /// The zone of a target; none for one that is in all.
    pub fn zone_of(&self, key: &TargetKey, target: &Target) -> Option<String> {
        match (self.instances.get(&key.id), target.zone.as_deref()) {
            (Some(instance), _) => self.subnets.get(&instance.subnet).map(|s| s.zone.clone()),
            (None, Some("all") | None) => None,
            (None, Some(zone)) => Some(zone.to_owned()),
        }
    }

    /// Where traffic for a target goes.
    pub fn address_of(&self, group: &TargetGroup, key: &TargetKey) -> Option<IpAddr> {
        match self.instances.get(&key.id) {
            Some(instance) if group.ip_address_type == "ipv6" => instance.ipv6.map(IpAddr::V6),
            Some(instance) => Some(instance.address.into()),
            None => key.address(),
        }
    }

    /// The subnet of a VPC that an address is in.
    pub fn subnet_of(&self, vpc: &str, address: IpAddr) -> Option<&Subnet> {
        self.subnets
            .values()
            .filter(|subnet| subnet.vpc == vpc)
            .find(|subnet| match address {
                IpAddr::V4(address) => subnet.cidr.contains(&address),
                IpAddr::V6(address) => subnet.ipv6_cidr.is_some_and(|b| b.contains(&address)),
            })
    }
}

/// State, reason and description of a target, in AWS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Such as `healthy`.
    pub state: &'static str,
    /// Such as `Target.FailedHealthChecks`; none when healthy.
    pub reason: Option<&'static str>,
    /// For people.
    pub description: Option<&'static str>,
}

impl Health {
    const fn new(state: &'static str, reason: &'static str, description: &'static str) -> Self {
        Self {
            state,
            reason: Some(reason),
            description: Some(description),
        }
    }

    /// In service.
    pub const HEALTHY: Self = Self {
        state: "healthy",
        reason: None,
        description: None,
    };
    /// Out of service.
    pub const FAILED: Self = Self::new(
        "unhealthy",
        "Target.FailedHealthChecks",
        "Health checks failed",
    );
    /// Its load balancer is not active yet.
    pub const REGISTERING: Self = Self::new(
        "initial",
        "Elb.RegistrationInProgress",
        "Target registration is in progress",
    );
    /// Its first checks are not over yet.
    pub const CHECKING: Self = Self::new(
        "initial",
        "Elb.InitialHealthChecking",
        "Initial health checks in progress",
    );
    /// It was deregistered.
    pub const DRAINING: Self = Self::new(
        "draining",
        "Target.DeregistrationInProgress",
        "Target deregistration is in progress",
    );
    /// No listener uses its group.
    pub const NOT_IN_USE: Self = Self::new(
        "unused",
        "Target.NotInUse",
        "Target group is not configured to receive traffic from the load balancer",
    );
    /// Its zone is not the load balancer's.
    pub const ZONE_NOT_ENABLED: Self = Self::new(
        "unused",
        "Target.NotInUse",
        "Target is in an Availability Zone that is not enabled for the load balancer",
    );
    /// Its instance does not run.
    pub const STOPPED: Self = Self::new(
        "unused",
        "Target.InvalidState",
        "Target is in the stopped state",
    );
    /// It is not registered.
    pub const NOT_REGISTERED: Self = Self::new(
        "unused",
        "Target.NotRegistered",
        "Target is not registered to the target group",
    );
}

/// Spreads a counter over all 64 bits, one to one (the finaliser of
/// splitmix64).
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
