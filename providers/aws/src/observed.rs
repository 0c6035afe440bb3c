//! What a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use herald_core::Ingress as Point;
use herald_provider::Refusal;

use crate::action::Named;
use crate::cloud::{
    Listener, LoadBalancer, LoadBalancerDetail, SecurityGroup, TargetGroup, TargetGroupDetail,
};
use crate::spec::{Spec, Target};

/// What exists for one Service, and what should.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Service's UID.
    pub uid: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// What should exist; none where nothing should.
    pub want: Option<Result<Want, Refusal>>,
    /// The load balancer that is, or is to become, what should exist.
    pub current: Option<Have>,
    /// Others of the Service: those it replaced.
    pub old: Vec<LoadBalancer>,
    /// A load balancer that is not the Service's and has the name of the one to make.
    pub taken_by: Option<LoadBalancer>,
    /// What is to be taken over.
    pub adoption: Adoption,
    /// The Service's target groups, and those of its names; by name.
    pub target_groups: BTreeMap<String, HaveGroup>,
    /// Target groups of its owner that a lent load balancer has.
    pub owners_groups: Vec<HaveGroup>,
    /// The Service's own security groups.
    pub security_groups: Vec<SecurityGroup>,
    /// The security group that all load balancers of the cluster share.
    pub backend: Option<SecurityGroup>,
    /// Security groups of the targets' nodes.
    pub node_groups: Vec<SecurityGroup>,
    /// No other Service of the cluster has anything in the account.
    pub alone: bool,
    /// Other Services of the cluster have pods as targets.
    pub others_target_pods: bool,
    /// Security groups with rules that let the shared one in; read when it is to go.
    pub referring: Vec<SecurityGroup>,
    /// The record of the cluster's nodes that should be written, where every load
    /// balancer that goes by it has them.
    pub nodes_record_due: Option<String>,
    /// Load balancers that go by that record and do not have those nodes, long after
    /// anybody registered any: their own records must not say so any more.
    pub stragglers: Vec<Named>,
    /// Changes of targets are gathered for this long yet.
    pub gather: Option<Duration>,
    /// Whether the targets behind `current` are as healthy as those behind what it
    /// replaces; none where nothing is to be replaced.
    pub healthy: Option<bool>,
    /// How targets do behind listeners that pass from one target group to another, by
    /// the groups' ARNs; empty where none does.
    pub group_health: BTreeMap<String, GroupHealth>,
    /// ARNs of listeners for which AWS takes no weights.
    pub unweighted: BTreeSet<String>,
    /// Load balancers that can't be deleted while they are protected.
    pub protected: BTreeSet<String>,
    /// Now, in seconds of Unix time.
    pub unix: u64,
    /// The reading is new enough to say that something is not there.
    pub sure: bool,
    /// When to look next where nothing changes.
    pub recheck: Duration,
    /// Pods that are targets, with their health as AWS says it, for readiness gates.
    pub pods: Vec<herald_provider::PodHealth>,
    /// What the Service's status has now.
    pub published: Vec<Point>,
}

/// What should exist.
#[derive(Clone, Debug)]
pub struct Want {
    /// The specification.
    pub spec: Spec,
    /// Instance ids of the nodes that every Service gets that selects none.
    pub nodes: BTreeSet<String>,
    /// The record when it has been applied.
    pub record: String,
    /// How long a replaced load balancer stays.
    pub delay: Duration,
}

/// What a Service takes over.
#[derive(Clone, Debug, Default)]
pub enum Adoption {
    /// Nothing, or it is done.
    #[default]
    Nothing,
    /// A load balancer that the user named.
    Given(LoadBalancer),
    /// What the user named can't be had, with the reason.
    Impossible(String),
    /// What the AWS Load Balancer Controller made for the same Service.
    Controller {
        /// Its load balancer.
        load_balancer: LoadBalancer,
        /// Its target groups.
        target_groups: Vec<TargetGroup>,
        /// Its managed security group.
        security_groups: Vec<SecurityGroup>,
    },
}

/// A load balancer with its detail.
#[derive(Clone, Debug)]
pub struct Have {
    /// What all know of it.
    pub load_balancer: LoadBalancer,
    /// None where the record says that it is right.
    pub detail: Option<LoadBalancerDetail>,
}

impl Have {
    /// The listener of a port.
    pub fn listener(&self, port: u16) -> Option<&Listener> {
        self.detail.as_ref()?.listeners.get(&port)
    }
}

/// A target group with its detail.
#[derive(Clone, Debug)]
pub struct HaveGroup {
    /// What all know of it.
    pub group: TargetGroup,
    /// What is known of the rest.
    pub detail: TargetGroupDetail,
    /// It bears the Service's tags, or the record says that it is the Service's.
    pub ours: bool,
    /// Ids of targets that this cluster registered, where other clusters register some
    /// too.
    pub listed: Option<BTreeSet<String>>,
}

/// How the targets of a group do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupHealth {
    /// Registered and not draining.
    pub serving: BTreeSet<Target>,
    /// One of them is healthy.
    pub healthy: bool,
    /// One of them has not been judged yet.
    pub initial: bool,
    /// Some drain.
    pub draining: bool,
}
