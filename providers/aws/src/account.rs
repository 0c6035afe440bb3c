//! What Herald knows of the account: one reading for all Services, kept up to date
//! by what is written.
//!
//! Read in bulk: load balancers with their tags, target groups, the cluster's
//! security groups, the network. What AWS tells only of one object at a time
//! (attributes, listeners, targets) is a *detail*: known after it was read or made,
//! and not needed where the [record](crate::record) says that it is right.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::cloud::{
    LoadBalancer, LoadBalancerDetail, SecurityGroup, State, TargetGroup, TargetGroupDetail,
};
use crate::facts::{RouteTable, Subnet, Zone};
use crate::identity::{TAG_CLUSTER, TAG_RESOURCE, TAG_SERVICE_UID};
use crate::record::BACKEND_GROUP;
use crate::spec::Tags;
use crate::table::Table;

/// The VPC and what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    pub(crate) vpc_cidrs: Vec<ipnet::IpNet>,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) route_tables: Vec<RouteTable>,
    pub(crate) zones: Vec<Zone>,
}

/// What Herald knows of the account.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) load_balancers: Table<LoadBalancer>,
    pub(crate) target_groups: Table<TargetGroup>,
    /// Those with the cluster's tag.
    pub(crate) security_groups: Table<SecurityGroup>,
    /// Those of nodes, by id; others made them.
    pub(crate) node_groups: Table<SecurityGroup>,
    /// Security groups of the first interface of each instance.
    pub(crate) instances: BTreeMap<String, BTreeSet<String>>,
    pub(crate) network: Option<Network>,
    /// All security groups of the VPC, for Services that name some; read when needed.
    pub(crate) vpc_groups: Option<Vec<crate::facts::SecurityGroup>>,
    pub(crate) load_balancer_details: HashMap<String, LoadBalancerDetail>,
    pub(crate) target_group_details: HashMap<String, TargetGroupDetail>,
    /// When the last complete reading began.
    pub(crate) read: Option<Instant>,
    /// When states of load balancers in the making were last asked for.
    pub(crate) polled: Option<Instant>,
    /// Per Service: when a call failed that may have been done all the same.
    pub(crate) unsure: HashMap<String, Instant>,
    /// Per Service: when its details are to be read again.
    pub(crate) check_due: HashMap<String, Instant>,
}

/// Whose something is, by its tags.
pub(crate) fn owner<'a>(tags: &'a Tags, cluster: &str) -> Option<&'a str> {
    (tags.get(TAG_CLUSTER).map(String::as_str) == Some(cluster))
        .then(|| tags.get(TAG_SERVICE_UID).map(String::as_str))
        .flatten()
}

impl Account {
    /// The Service's load balancers.
    pub(crate) fn load_balancers_of(&self, cluster: &str, uid: &str) -> Vec<LoadBalancer> {
        let ours = |is: &&LoadBalancer| {
            is.network
                && is
                    .tags
                    .as_ref()
                    .is_some_and(|tags| owner(tags, cluster) == Some(uid))
        };
        self.load_balancers.values().filter(ours).cloned().collect()
    }

    /// Any load balancer with this name.
    pub(crate) fn load_balancer_named(&self, name: &str) -> Option<&LoadBalancer> {
        self.load_balancers.values().find(|is| is.name == name)
    }

    /// Any target group with this name.
    pub(crate) fn target_group_named(&self, name: &str) -> Option<&TargetGroup> {
        self.target_groups.values().find(|is| is.name == name)
    }

    /// The Service's own security groups.
    pub(crate) fn security_groups_of(&self, cluster: &str, uid: &str) -> Vec<SecurityGroup> {
        let ours = |is: &&SecurityGroup| owner(&is.tags, cluster) == Some(uid);
        self.security_groups
            .values()
            .filter(ours)
            .cloned()
            .collect()
    }

    /// The security group that all load balancers of the cluster share.
    pub(crate) fn backend_group(&self, cluster: &str) -> Option<&SecurityGroup> {
        self.security_groups.values().find(|is| {
            is.tags.get(TAG_CLUSTER).map(String::as_str) == Some(cluster)
                && is.tags.get(TAG_RESOURCE).map(String::as_str) == Some(BACKEND_GROUP)
        })
    }

    /// Whether any Service of the cluster but this one has anything.
    pub(crate) fn others_have_anything(&self, cluster: &str, uid: &str) -> bool {
        let other = |tags: &Tags| owner(tags, cluster).is_some_and(|owner| owner != uid);
        self.load_balancers
            .values()
            .any(|is| is.tags.as_ref().is_some_and(other))
            || self
                .target_groups
                .values()
                .any(|is| is.tags.as_ref().is_some_and(other))
            || self.security_groups.values().any(|is| other(&is.tags))
    }

    /// ARNs of load balancers of the cluster that AWS still makes.
    pub(crate) fn provisioning(&self, cluster: &str) -> Vec<String> {
        self.load_balancers
            .values()
            .filter(|is| is.state == State::Provisioning)
            .filter(|is| {
                is.tags
                    .as_ref()
                    .is_some_and(|tags| owner(tags, cluster).is_some())
            })
            .map(|is| is.arn.clone())
            .collect()
    }

    /// Takes over a complete reading that began at `began`.
    pub(crate) fn replace(
        &mut self,
        load_balancers: Vec<LoadBalancer>,
        target_groups: Vec<TargetGroup>,
        security_groups: Vec<SecurityGroup>,
        began: Instant,
        lag: Duration,
    ) {
        let read = load_balancers.into_iter().map(|is| (is.arn.clone(), is));
        self.load_balancers.replace(read, began, lag, |known, now| {
            known.state = now.state.clone();
        });
        // Tags that only a Service's own look has read are kept.
        let tagged: HashMap<String, Tags> = self
            .target_groups
            .values()
            .filter_map(|is| Some((is.arn.clone(), is.tags.clone()?)))
            .collect();
        let read = target_groups.into_iter().map(|mut is| {
            is.tags = is.tags.or_else(|| tagged.get(&is.arn).cloned());
            (is.arn.clone(), is)
        });
        self.target_groups.replace(read, began, lag, |_, _| ());
        let read = security_groups.into_iter().map(|is| (is.id.clone(), is));
        self.security_groups.replace(read, began, lag, |_, _| ());
        let (load_balancers, target_groups) = (&self.load_balancers, &self.target_groups);
        self.load_balancer_details
            .retain(|arn, _| load_balancers.get(arn).is_some());
        self.target_group_details
            .retain(|arn, _| target_groups.get(arn).is_some());
        self.read = Some(began);
    }
}
