//! The steps that plans are made of. Each may be done twice, and may be the last thing
//! that the process ever does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::cloud::{HealthCheck, Ingress};
use crate::spec::{
    IpAddressType, List, Listener, LoadBalancer, ManagedGroup, Pairs, Tags, Target, TargetGroup,
};

/// Kind of an object that is tagged.
pub const LOAD_BALANCER: &str = "load balancer";
/// Kind of an object that is tagged.
pub const TARGET_GROUP: &str = "target group";

/// An object with what people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// ARN or id; none where a step before this one makes it.
    pub id: Option<String>,
    /// Its name.
    pub name: String,
}

impl Named {
    /// Something that exists.
    pub fn existing(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            name: name.into(),
        }
    }

    /// Something that a step before makes.
    pub fn planned(name: impl Into<String>) -> Self {
        Self {
            id: None,
            name: name.into(),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

/// One step, for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The Service's UID: its turn in the budget.
    pub uid: String,
    /// What to do.
    pub step: Step,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step.fmt(f)
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes the security group that all load balancers of the cluster share.
    CreateBackendGroup {
        /// Its VPC.
        vpc_id: String,
        /// Its name.
        name: String,
        /// Its tags.
        tags: Tags,
    },
    /// Makes a Service's own security group.
    CreateSecurityGroup {
        /// Its VPC.
        vpc_id: String,
        /// The group.
        group: ManagedGroup,
    },
    /// Lets traffic in.
    Authorize {
        /// Which group.
        group: Named,
        /// What is new.
        rules: BTreeSet<Ingress>,
    },
    /// Lets the cluster's load balancers reach nodes or pods.
    AuthorizeBackend {
        /// Which group of nodes.
        group: Named,
        /// Ranges as protocol, first and last port.
        ranges: BTreeSet<(String, i32, i32)>,
    },
    /// Lets traffic in no more.
    Revoke {
        /// Which group.
        group: Named,
        /// What goes.
        rules: BTreeSet<Ingress>,
    },
    /// Sets tags of a security group.
    TagSecurityGroup {
        /// Which one.
        group: Named,
        /// What is new.
        set: Tags,
        /// What goes.
        unset: BTreeSet<String>,
    },
    /// Deletes a security group.
    DeleteSecurityGroup {
        /// Which one.
        group: Named,
    },
    /// Makes a load balancer.
    CreateLoadBalancer {
        /// The load balancer.
        spec: Box<LoadBalancer>,
        /// Names of the security groups it gets; none at all for one without.
        groups: Option<Vec<Named>>,
    },
    /// Changes its security groups.
    SetSecurityGroups {
        /// Which one.
        load_balancer: Named,
        /// All of them.
        groups: Vec<Named>,
        /// Whether their rules hold for `PrivateLink`.
        enforce_on_private_link: Option<bool>,
    },
    /// Changes its subnets, its IPv6 source prefixes, and its families with them.
    SetSubnets {
        /// Which one.
        load_balancer: Named,
        /// What they should be.
        spec: Box<LoadBalancer>,
    },
    /// Changes the families it has addresses of.
    SetIpAddressType {
        /// Which one.
        load_balancer: Named,
        /// Which families.
        value: IpAddressType,
    },
    /// Changes its attributes.
    SetLoadBalancerAttributes {
        /// Which one.
        load_balancer: Named,
        /// What changes.
        attributes: BTreeMap<String, String>,
    },
    /// Reserves capacity, or gives it back.
    SetCapacity {
        /// Which one.
        load_balancer: Named,
        /// How much.
        units: Option<u32>,
    },
    /// Deletes a load balancer with its listeners.
    DeleteLoadBalancer {
        /// Which one.
        load_balancer: Named,
    },
    /// Says when a load balancer that was replaced goes.
    Retire {
        /// Which one.
        load_balancer: Named,
        /// How long from now.
        after: Duration,
    },
    /// Takes a load balancer over.
    Adopt {
        /// Which one.
        load_balancer: Named,
        /// Its new tags.
        set: Tags,
        /// Tags that go.
        unset: BTreeSet<String>,
    },
    /// Takes over a target group of the AWS Load Balancer Controller's.
    AdoptTargetGroup {
        /// Which one.
        group: Named,
        /// Its new tags.
        set: Tags,
        /// Tags that go.
        unset: BTreeSet<String>,
    },
    /// Gives a load balancer back: takes Herald's tags off.
    GiveBack {
        /// Which one.
        load_balancer: Named,
        /// Tags that go.
        unset: BTreeSet<String>,
    },
    /// Makes a target group.
    CreateTargetGroup {
        /// Its VPC.
        vpc_id: String,
        /// The group.
        spec: Box<TargetGroup>,
    },
    /// Changes how targets are checked.
    SetHealthCheck {
        /// Which one.
        group: Named,
        /// How.
        check: HealthCheck,
    },
    /// Changes a target group's attributes.
    SetTargetGroupAttributes {
        /// Which one.
        group: Named,
        /// What changes.
        attributes: BTreeMap<String, String>,
    },
    /// Registers targets.
    Register {
        /// Which target group.
        group: Named,
        /// At most 200.
        targets: Vec<Target>,
    },
    /// Lets targets drain.
    Deregister {
        /// Which target group.
        group: Named,
        /// At most 200.
        targets: Vec<Target>,
    },
    /// Deletes a target group.
    DeleteTargetGroup {
        /// Which one.
        group: Named,
    },
    /// Makes a listener.
    CreateListener {
        /// Of which load balancer.
        load_balancer: Named,
        /// The listener.
        spec: Box<Listener>,
        /// Its target groups, in the order of its forward action.
        groups: Vec<Named>,
    },
    /// Changes a listener.
    ModifyListener {
        /// Of which load balancer.
        load_balancer: Named,
        /// The listener's ARN.
        arn: String,
        /// What it should be.
        spec: Box<Listener>,
        /// Its target groups, in the order of its forward action.
        groups: Vec<Named>,
    },
    /// Changes a listener's target groups and their weights while it passes from one to
    /// another.
    HandOver {
        /// Of which load balancer.
        load_balancer: Named,
        /// The listener's ARN.
        arn: String,
        /// What it is meanwhile.
        spec: Box<Listener>,
        /// Its target groups, in the order of its forward action.
        groups: Vec<Named>,
    },
    /// Changes a listener's attributes.
    SetListenerAttributes {
        /// Of which load balancer.
        load_balancer: Named,
        /// Its port.
        port: u16,
        /// What changes.
        attributes: BTreeMap<String, String>,
    },
    /// Adds certificates beside the default one.
    AddCertificates {
        /// Of which load balancer.
        load_balancer: Named,
        /// The listener's port.
        port: u16,
        /// What is new.
        certificates: BTreeSet<String>,
    },
    /// Removes certificates beside the default one.
    RemoveCertificates {
        /// Of which load balancer.
        load_balancer: Named,
        /// The listener's port.
        port: u16,
        /// What goes.
        certificates: BTreeSet<String>,
    },
    /// Deletes a listener.
    DeleteListener {
        /// Of which load balancer.
        load_balancer: Named,
        /// The listener's ARN.
        arn: String,
        /// Its port.
        port: u16,
    },
    /// Sets tags of a load balancer or target group.
    Tag {
        /// [`LOAD_BALANCER`] or [`TARGET_GROUP`].
        kind: &'static str,
        /// Which one.
        object: Named,
        /// What is new.
        set: Tags,
        /// What goes.
        unset: BTreeSet<String>,
    },
    /// Takes the record off, before what it is about changes.
    ClearRecord {
        /// Of which load balancer.
        load_balancer: Named,
    },
    /// Writes the record, when all is as it should be.
    WriteRecord {
        /// Of which load balancer.
        load_balancer: Named,
        /// The record.
        record: String,
    },
    /// Takes off the record of the cluster's nodes.
    ClearNodes {
        /// The shared security group.
        group: Named,
    },
    /// Writes the record of the cluster's nodes.
    WriteNodes {
        /// The shared security group.
        group: Named,
        /// The record.
        record: String,
    },
    /// Reads the account anew when every write before must be visible, and so makes sure
    /// that nothing is left.
    Confirm,
}

impl Step {
    /// Whether the record of the load balancer is about what this changes.
    pub fn is_recorded(&self) -> bool {
        matches!(
            self,
            Self::Tag { kind, .. } if *kind == TARGET_GROUP
        ) || matches!(
            self,
            Self::SetLoadBalancerAttributes { .. }
                | Self::SetCapacity { .. }
                | Self::CreateTargetGroup { .. }
                | Self::SetTargetGroupAttributes { .. }
                | Self::CreateListener { .. }
                | Self::ModifyListener { .. }
                | Self::HandOver { .. }
                | Self::SetListenerAttributes { .. }
                | Self::AddCertificates { .. }
                | Self::RemoveCertificates { .. }
                | Self::DeleteListener { .. }
        )
    }

    /// Whether it only writes down how far things are.
    pub const fn is_record(&self) -> bool {
        matches!(
            self,
            Self::ClearRecord { .. }
                | Self::WriteRecord { .. }
                | Self::ClearNodes { .. }
                | Self::WriteNodes { .. }
        )
    }

    /// Whether it changes what is registered.
    pub const fn is_about_targets(&self) -> bool {
        matches!(self, Self::Register { .. } | Self::Deregister { .. })
    }
}

/// `i-1, i-2 and 7 more`.
struct Few<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Few<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        List(&self.0[..self.0.len().min(SHOWN)]).fmt(f)?;
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// `set a=b and take c off`.
struct Change<'a>(&'a Tags, &'a BTreeSet<String>);

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.is_empty(), self.1.is_empty()) {
            (false, true) => write!(f, "set {}", Pairs(self.0)),
            (true, _) => write!(f, "take off {}", List(self.1)),
            (false, false) => write!(f, "set {} and take off {}", Pairs(self.0), List(self.1)),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBackendGroup { name, .. } => write!(
                f,
                "create security group {name:?}, which all load balancers of the cluster share"
            ),
            Self::CreateSecurityGroup { group, .. } => {
                write!(f, "create security group {:?}", group.name)
            }
            Self::Authorize { group, rules } => {
                write!(f, "let in through security group {group}: {}", List(rules))
            }
            Self::AuthorizeBackend { group, ranges } => {
                write!(f, "let load balancers reach security group {group} on")?;
                for (index, (protocol, from, to)) in ranges.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma} {} {from}-{to}", protocol.to_uppercase())?;
                }
                Ok(())
            }
            Self::Revoke { group, rules } => write!(
                f,
                "let in no more through security group {group}: {}",
                List(rules)
            ),
            Self::TagSecurityGroup { group, set, unset } => {
                write!(f, "tags of security group {group}: {}", Change(set, unset))
            }
            Self::DeleteSecurityGroup { group } => write!(f, "delete security group {group}"),
            Self::CreateLoadBalancer { spec, groups } => {
                write!(f, "create load balancer {spec}")?;
                match groups {
                    Some(groups) => write!(f, " with security groups {}", List(groups)),
                    None => f.write_str(" without security groups"),
                }
            }
            Self::SetSecurityGroups {
                load_balancer,
                groups,
                ..
            } => write!(
                f,
                "give load balancer {load_balancer} the security groups {}",
                List(groups)
            ),
            Self::SetSubnets {
                load_balancer,
                spec,
            } => write!(
                f,
                "put load balancer {load_balancer} ({}) into {}",
                spec.ip_address_type,
                List(&spec.subnets)
            ),
            Self::SetIpAddressType {
                load_balancer,
                value,
            } => write!(f, "make load balancer {load_balancer} {value}"),
            Self::SetLoadBalancerAttributes {
                load_balancer,
                attributes,
            } => write!(
                f,
                "set of load balancer {load_balancer}: {}",
                Pairs(attributes)
            ),
            Self::SetCapacity {
                load_balancer,
                units: Some(units),
            } => write!(
                f,
                "reserve {units} capacity units for load balancer {load_balancer}"
            ),
            Self::SetCapacity {
                load_balancer,
                units: None,
            } => write!(f, "give back the capacity of load balancer {load_balancer}"),
            Self::DeleteLoadBalancer { load_balancer } => {
                write!(f, "delete load balancer {load_balancer} with its listeners")
            }
            Self::Retire {
                load_balancer,
                after,
            } => write!(
                f,
                "publish the new load balancer, and retire {load_balancer} in {} s",
                after.as_secs()
            ),
            Self::Adopt { load_balancer, .. } => {
                write!(f, "take over load balancer {load_balancer}")
            }
            Self::AdoptTargetGroup { group, .. } => write!(f, "take over target group {group}"),
            Self::GiveBack { load_balancer, .. } => {
                write!(f, "give load balancer {load_balancer} back")
            }
            Self::CreateTargetGroup { spec, .. } => write!(f, "create target group {spec}"),
            Self::SetHealthCheck { group, check } => write!(
                f,
                "check targets of target group {group} by {} {}",
                check.protocol, check.port
            ),
            Self::SetTargetGroupAttributes { group, attributes } => {
                write!(f, "set of target group {group}: {}", Pairs(attributes))
            }
            Self::Register { group, targets } => {
                write!(f, "register in target group {group}: {}", Few(targets))
            }
            Self::Deregister { group, targets } => {
                write!(f, "deregister from target group {group}: {}", Few(targets))
            }
            Self::DeleteTargetGroup { group } => write!(f, "delete target group {group}"),
            Self::CreateListener {
                load_balancer,
                spec,
                ..
            } => write!(f, "create listener {spec} of load balancer {load_balancer}"),
            Self::ModifyListener {
                load_balancer,
                spec,
                ..
            } => write!(
                f,
                "change listener {} of load balancer {load_balancer} to {spec}",
                spec.port
            ),
            Self::HandOver {
                load_balancer,
                spec,
                groups,
                ..
            } => {
                write!(
                    f,
                    "hand over listener {} of load balancer {load_balancer} between target groups:",
                    spec.port
                )?;
                let weights = spec.forward.targets.iter().map(|target| target.weight);
                for (index, (group, weight)) in groups.iter().zip(weights).enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma} {group} at weight {}", weight.unwrap_or(1))?;
                }
                Ok(())
            }
            Self::SetListenerAttributes {
                load_balancer,
                port,
                attributes,
            } => write!(
                f,
                "set of listener {port} of load balancer {load_balancer}: {}",
                Pairs(attributes)
            ),
            Self::AddCertificates {
                load_balancer,
                port,
                certificates,
            } => write!(
                f,
                "add certificates to listener {port} of load balancer {load_balancer}: {}",
                List(certificates)
            ),
            Self::RemoveCertificates {
                load_balancer,
                port,
                certificates,
            } => write!(
                f,
                "remove certificates from listener {port} of load balancer {load_balancer}: {}",
                List(certificates)
            ),
            Self::DeleteListener {
                load_balancer,
                port,
                ..
            } => write!(f, "delete listener {port} of load balancer {load_balancer}"),
            Self::Tag {
                kind,
                object,
                set,
                unset,
            } => write!(f, "tags of {kind} {object}: {}", Change(set, unset)),
            Self::ClearRecord { load_balancer } => write!(
                f,
                "note at load balancer {load_balancer} that it is being changed"
            ),
            Self::WriteRecord { load_balancer, .. } => write!(
                f,
                "note at load balancer {load_balancer} that all was applied"
            ),
            Self::ClearNodes { group } => write!(
                f,
                "note at security group {group} that targets are being changed"
            ),
            Self::WriteNodes { group, .. } => write!(
                f,
                "note at security group {group} that all targets are registered"
            ),
            Self::Confirm => f.write_str("make sure that nothing is left"),
        }
    }
}
