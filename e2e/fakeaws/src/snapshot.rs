//! What exists, flat and comparable: for tests that look for what was left
//! behind.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::{Region, Tags};

/// What sort of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ResourceKind {
    /// A load balancer.
    LoadBalancer,
    /// A listener.
    Listener,
    /// A target group.
    TargetGroup,
    /// A registered target; those that drain are not counted.
    Target,
    /// A security group.
    SecurityGroup,
    /// A rule of a security group.
    Rule,
    /// An interface of a load balancer, released ones that linger not counted.
    Interface,
    /// An elastic address that is in use.
    AddressInUse,
    /// A tag of a subnet, instance or other fixture.
    Tag,
}

/// One thing that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// What it is.
    pub kind: ResourceKind,
    /// ARN or id; of what has none, its holder's and what tells it apart.
    pub id: String,
    /// Its name, or what it says.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} ({})", self.kind, self.name, self.id)
    }
}

/// Everything that exists in one account and region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<(ResourceKind, String), Resource>);

impl Serialize for Snapshot {
    /// A list of resources.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values())
    }
}

impl Snapshot {
    /// What exists in a region.
    pub fn of(region: &Region) -> Self {
        let mut snapshot = Self::default();
        for lb in region.load_balancers.values() {
            snapshot.add(ResourceKind::LoadBalancer, &lb.arn, &lb.name, &lb.tags);
        }
        for listener in region.listeners.values() {
            let name = format!("{} {}", listener.protocol, listener.port);
            snapshot.add(ResourceKind::Listener, &listener.arn, &name, &listener.tags);
        }
        for group in region.target_groups.values() {
            snapshot.add(
                ResourceKind::TargetGroup,
                &group.arn,
                &group.name,
                &group.tags,
            );
            for (key, target) in &group.targets {
                if target.deregistered_at.is_none() {
                    let name = format!("{}:{}", key.id, key.port);
                    let id = format!("{} {name}", group.arn);
                    snapshot.add(ResourceKind::Target, &id, &name, &Tags::new());
                }
            }
        }
        for group in region.security_groups.values() {
            snapshot.add(
                ResourceKind::SecurityGroup,
                &group.id,
                &group.name,
                &group.tags,
            );
            for rule in &group.ingress {
                let name = rule.permission.to_string();
                // Its own id changes when it is made anew; what it allows does not.
                let id = format!("{} {name}", group.id);
                snapshot.add(ResourceKind::Rule, &id, &name, &rule.tags);
            }
        }
        for interface in region.interfaces.values() {
            if interface.load_balancer.is_some() && interface.released_at.is_none() {
                let name = &interface.description;
                snapshot.add(ResourceKind::Interface, &interface.id, name, &Tags::new());
            }
        }
        for address in region.addresses.values() {
            if let Some(interface) = &address.interface {
                let id = &address.allocation;
                snapshot.add(ResourceKind::AddressInUse, id, interface, &Tags::new());
            }
        }
        let subnets = region.subnets.values().map(|s| (&s.id, &s.tags));
        let instances = region.instances.values().map(|i| (&i.id, &i.tags));
        let vpcs = region.vpcs.values().map(|v| (&v.id, &v.tags));
        for (id, tags) in subnets.chain(instances).chain(vpcs) {
            for (key, value) in tags {
                let name = format!("{key}={value}");
                snapshot.add(
                    ResourceKind::Tag,
                    &format!("{id} {key}"),
                    &name,
                    &Tags::new(),
                );
            }
        }
        snapshot
    }

    fn add(&mut self, kind: ResourceKind, id: &str, name: &str, tags: &Tags) {
        let resource = Resource {
            kind,
            id: id.to_owned(),
            name: name.to_owned(),
            tags: tags.clone(),
        };
        self.0.insert((kind, id.to_owned()), resource);
    }

    /// Everything.
    pub fn all(&self) -> impl Iterator<Item = &Resource> {
        self.0.values()
    }

    /// Everything of one kind.
    pub fn of_kind(&self, kind: ResourceKind) -> impl Iterator<Item = &Resource> {
        self.all().filter(move |resource| resource.kind == kind)
    }

    /// How many there are of one kind.
    pub fn count(&self, kind: ResourceKind) -> usize {
        self.of_kind(kind).count()
    }

    /// What is here and was not there `before`: with a snapshot of the
    /// beginning, what was left behind.
    pub fn since<'a>(&'a self, before: &'a Self) -> Vec<&'a Resource> {
        self.0
            .iter()
            .filter(|(key, _)| !before.0.contains_key(key))
            .map(|(_, resource)| resource)
            .collect()
    }
}
