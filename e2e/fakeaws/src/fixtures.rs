//! What is there before anybody calls: the network of a cluster, its nodes,
//! elastic addresses, certificates.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::model::{
    ElasticAddress, Instance, InstanceState, PrefixList, RouteTable, SecurityGroup, Subnet, Tags,
    Vpc, Zone,
};

/// What is there before anybody calls, in one account and region. The same in
/// JSON: `--fixtures`, `POST /_admin/fixtures`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Fixtures {
    /// The account's number; also that of callers whose keys nobody knows.
    pub account: String,
    /// The region.
    pub region: String,
    /// Zones.
    pub zones: Vec<Zone>,
    /// VPCs.
    pub vpcs: Vec<Vpc>,
    /// Subnets.
    pub subnets: Vec<Subnet>,
    /// Route tables.
    pub route_tables: Vec<RouteTable>,
    /// Security groups.
    pub security_groups: Vec<SecurityGroup>,
    /// Instances.
    pub instances: Vec<Instance>,
    /// Elastic addresses.
    pub addresses: Vec<ElasticAddress>,
    /// Prefix lists.
    pub prefix_lists: Vec<PrefixList>,
    /// ARNs of certificates.
    pub certificates: Vec<String>,
    /// S3 buckets that access logs may go to.
    pub buckets: Vec<String>,
}

/// The account that test clients are in.
pub const ACCOUNT: &str = "123456789012";
/// The region of [`Fixtures::cluster`].
pub const REGION: &str = "us-east-1";
/// The VPC of [`Fixtures::cluster`].
pub const VPC: &str = "vpc-0000000000000c1a5";
/// The nodes' security group in [`Fixtures::cluster`].
pub const NODE_GROUP: &str = "sg-000000000000000de";

impl Default for Fixtures {
    /// Nothing, in [`ACCOUNT`] and [`REGION`].
    fn default() -> Self {
        Self {
            account: ACCOUNT.into(),
            region: REGION.into(),
            zones: Vec::new(),
            vpcs: Vec::new(),
            subnets: Vec::new(),
            route_tables: Vec::new(),
            security_groups: Vec::new(),
            instances: Vec::new(),
            addresses: Vec::new(),
            prefix_lists: Vec::new(),
            certificates: Vec::new(),
            buckets: Vec::new(),
        }
    }
}

/// Tags out of pairs.
pub fn tags<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Tags {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

impl Fixtures {
    /// The network of a cluster of that name as EKS or kops would make it, in
    /// three zones of us-east-1:
    ///
    /// - VPC [`VPC`], `10.0.0.0/16` and `2600:1f18:c1a5::/56`, with an internet
    ///   gateway;
    /// - a public subnet `subnet-public-a` (-b, -c) and a private one
    ///   `subnet-private-a` in each zone, both dual-stack, with the tags that
    ///   controllers find them by and route tables that agree;
    /// - security group [`NODE_GROUP`] of the nodes, tagged with the cluster;
    /// - nodes `i-00000000000000001` to `…3`, one in each private subnet, at
    ///   10.0.32.11, 10.0.48.12, 10.0.64.13 (see [`nodes`](Self::nodes));
    /// - elastic addresses `eipalloc-a`, `-b`, `-c`;
    /// - two certificates ([`certificate`]), a prefix list `pl-office` of 3
    ///   entries, a bucket `access-logs`.
    pub fn cluster(name: &str) -> Self {
        let mut fixtures = Self {
            vpcs: vec![Vpc {
                id: VPC.into(),
                cidrs: vec![block([10, 0, 0, 0], 16)],
                ipv6_cidr: Some(block6(0, 56)),
                internet_gateway: true,
                tags: tags([("Name", name)]),
            }],
            prefix_lists: vec![PrefixList {
                id: "pl-office".into(),
                name: "office".into(),
                max_entries: 3,
                family: "IPv4".into(),
                tags: Tags::new(),
            }],
            certificates: vec![certificate(1), certificate(2)],
            buckets: vec!["access-logs".into()],
            ..Self::default()
        };
        let owned = format!("kubernetes.io/cluster/{name}");
        for (index, letter) in [(0u8, "a"), (1, "b"), (2, "c")] {
            let zone = format!("{REGION}{letter}");
            fixtures.zones.push(Zone {
                name: zone.clone(),
                id: format!("use1-az{}", index + 1),
                zone_type: "availability-zone".into(),
            });
            fixtures.subnets.push(Subnet {
                id: format!("subnet-public-{letter}"),
                vpc: VPC.into(),
                zone: zone.clone(),
                cidr: block([10, 0, index, 0], 24),
                ipv6_cidr: Some(block6(index.into(), 64)),
                free_addresses: 240,
                map_public_ip: true,
                tags: tags([
                    ("Name", &*format!("public-{letter}")),
                    ("kubernetes.io/role/elb", "1"),
                    (&owned, "shared"),
                ]),
            });
            fixtures.subnets.push(Subnet {
                id: format!("subnet-private-{letter}"),
                vpc: VPC.into(),
                zone,
                cidr: block([10, 0, 32 + 16 * index, 0], 20),
                ipv6_cidr: Some(block6(16 + u16::from(index), 64)),
                free_addresses: 4000,
                map_public_ip: false,
                tags: tags([
                    ("Name", &*format!("private-{letter}")),
                    ("kubernetes.io/role/internal-elb", "1"),
                    (&owned, "shared"),
                ]),
            });
            fixtures.route_tables.push(RouteTable {
                id: format!("rtb-private-{letter}"),
                vpc: VPC.into(),
                main: false,
                subnets: vec![format!("subnet-private-{letter}")],
                default_route: Some(format!("nat-{letter}")),
                tags: Tags::new(),
            });
            fixtures.addresses.push(ElasticAddress {
                allocation: format!("eipalloc-{letter}"),
                address: Ipv4Addr::new(198, 51, 100, 1 + index),
                tags: Tags::new(),
                interface: None,
            });
        }
        fixtures.route_tables.push(RouteTable {
            id: "rtb-public".into(),
            vpc: VPC.into(),
            main: true,
            subnets: Vec::new(),
            default_route: Some("igw-1".into()),
            tags: Tags::new(),
        });
        fixtures.security_groups.push(SecurityGroup {
            id: "sg-00000000000000def".into(),
            name: "default".into(),
            description: "default VPC security group".into(),
            vpc: VPC.into(),
            ingress: Vec::new(),
            tags: Tags::new(),
        });
        fixtures.security_groups.push(SecurityGroup {
            id: NODE_GROUP.into(),
            name: format!("{name}-nodes"),
            description: "nodes of the cluster".into(),
            vpc: VPC.into(),
            ingress: Vec::new(),
            tags: tags([(owned.as_str(), "owned")]),
        });
        fixtures.nodes(3)
    }

    /// The same with `count` nodes (at most 4,000) instead, in the private
    /// subnets in turn: node `n` (from 1) is [`node_id`]`(n)` at
    /// [`node_address`]`(n)`.
    #[must_use]
    pub fn nodes(mut self, count: u16) -> Self {
        self.instances = (1..=count).map(node).collect();
        self
    }

    /// What a file or a request says.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// Node `n` (from 1) of [`Fixtures::cluster`], running.
pub fn node(n: u16) -> Instance {
    let letter = ["a", "b", "c"][usize::from((n - 1) % 3)];
    Instance {
        id: node_id(n),
        subnet: format!("subnet-private-{letter}"),
        address: node_address(n),
        secondary: Vec::new(),
        ipv6: None,
        security_groups: vec![NODE_GROUP.into()],
        state: InstanceState::Running,
        tags: tags([("Name", &*format!("node-{n}"))]),
    }
}

/// `i-` and 17 digits.
pub fn node_id(n: u16) -> String {
    format!("i-{n:017}")
}

/// The private address of node `n`.
pub fn node_address(n: u16) -> Ipv4Addr {
    let subnet = 32 + 16 * u8::try_from((n - 1) % 3).unwrap_or_default();
    let host = 10 + n;
    let [high, low] = host.to_be_bytes();
    Ipv4Addr::new(10, 0, subnet + high, low)
}

/// The ARN of certificate `n`; 1 and 2 are there in [`Fixtures::cluster`].
pub fn certificate(n: u8) -> String {
    format!("arn:aws:acm:{REGION}:{ACCOUNT}:certificate/00000000-0000-0000-0000-{n:012}")
}

fn block(address: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address.into(), prefix)
}

fn block6(subnet: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert([0x2600, 0x1f18, 0xc1a5, subnet, 0, 0, 0, 0].into(), prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_survives_json_and_its_nodes_are_in_their_subnets() {
        let fixtures = Fixtures::cluster("demo").nodes(700);
        let text = serde_json::to_string(&fixtures).unwrap();
        assert_eq!(Fixtures::from_json(&text).unwrap(), fixtures);
        for instance in &fixtures.instances {
            let subnet = fixtures
                .subnets
                .iter()
                .find(|subnet| subnet.id == instance.subnet)
                .unwrap();
            assert!(subnet.cidr.contains(&instance.address), "{}", instance.id);
        }
        assert_eq!(node_address(2).to_string(), "10.0.48.12");
        assert!(Fixtures::from_json(r#"{"vpc": []}"#).is_err());
    }

    #[test]
    fn the_example_of_the_docs_is_read() {
        let docs = include_str!("../../../docs/fakeaws.md");
        let example = docs.split("```json\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let fixtures = Fixtures::from_json(example).unwrap();
        assert_eq!(fixtures.instances[0].security_groups, ["sg-1"]);
    }
}
