//! EC2's actions that Herald needs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::actions::Action;
use crate::client::query::Form;
use crate::client::{CallError, Caller, Client};
use crate::cloud::{Ingress, IngressSource, SecurityGroup};
use crate::facts::{RouteTable, Subnet, Zone};
use crate::spec::Tags;

/// `<thing><item/>...</thing>`.
#[derive(Debug, Deserialize)]
struct Set<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TagItem {
    key: String,
    #[serde(default)]
    value: String,
}

fn tags(set: Set<TagItem>) -> Tags {
    set.item
        .into_iter()
        .map(|tag| (tag.key, tag.value))
        .collect()
}

/// A page of an answer.
trait Page {
    fn next(&self) -> Option<&str>;
}

macro_rules! pages {
    ($($name:ident)*) => {
        $(impl Page for $name {
            fn next(&self) -> Option<&str> {
                self.next_token.as_deref().filter(|token| !token.is_empty())
            }
        })*
    };
}

pages!(SubnetsAnswer RouteTablesAnswer GroupsAnswer InstancesAnswer);

/// Answer to `DescribeSubnets`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubnetsAnswer {
    #[serde(default)]
    subnet_set: Set<SubnetItem>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubnetItem {
    subnet_id: String,
    #[serde(default)]
    availability_zone: String,
    cidr_block: Option<String>,
    #[serde(default)]
    ipv6_cidr_block_association_set: Set<Ipv6Item>,
    #[serde(default)]
    available_ip_address_count: u32,
    outpost_arn: Option<String>,
    #[serde(default)]
    tag_set: Set<TagItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipv6Item {
    #[serde(default)]
    ipv6_cidr_block: String,
    #[serde(default)]
    ipv6_cidr_block_state: CidrState,
}

#[derive(Debug, Default, Deserialize)]
struct CidrState {
    #[serde(default)]
    state: String,
}

impl From<SubnetItem> for Subnet {
    fn from(item: SubnetItem) -> Self {
        Self {
            id: item.subnet_id,
            zone: item.availability_zone,
            ipv4_cidr: item.cidr_block.and_then(|cidr| cidr.parse().ok()),
            ipv6_cidrs: item
                .ipv6_cidr_block_association_set
                .item
                .into_iter()
                .filter(|cidr| {
                    matches!(cidr.ipv6_cidr_block_state.state.as_str(), "" | "associated")
                })
                .filter_map(|cidr| cidr.ipv6_cidr_block.parse().ok())
                .collect(),
            available_ips: item.available_ip_address_count,
            outpost_arn: item.outpost_arn.filter(|arn| !arn.is_empty()),
            tags: tags(item.tag_set),
        }
    }
}

/// Answer to `DescribeRouteTables`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteTablesAnswer {
    #[serde(default)]
    route_table_set: Set<RouteTableItem>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteTableItem {
    route_table_id: String,
    #[serde(default)]
    association_set: Set<AssociationItem>,
    #[serde(default)]
    route_set: Set<RouteItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AssociationItem {
    #[serde(default)]
    main: bool,
    subnet_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteItem {
    gateway_id: Option<String>,
}

impl From<RouteTableItem> for RouteTable {
    fn from(item: RouteTableItem) -> Self {
        let associations = item.association_set.item;
        Self {
            id: item.route_table_id,
            main: associations.iter().any(|association| association.main),
            subnets: associations
                .into_iter()
                .filter_map(|association| association.subnet_id)
                .filter(|id| !id.is_empty())
                .collect(),
            internet_gateway: item.route_set.item.iter().any(|route| {
                route
                    .gateway_id
                    .as_deref()
                    .is_some_and(|id| id.starts_with("igw-"))
            }),
        }
    }
}

/// Answer to `DescribeAvailabilityZones`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ZonesAnswer {
    #[serde(default)]
    availability_zone_info: Set<ZoneItem>,
}

#[derive(Debug, Deserialize)]
struct ZoneItem {
    #[serde(rename = "zoneName")]
    name: String,
    #[serde(rename = "zoneId", default)]
    id: String,
    #[serde(rename = "zoneType", default)]
    kind: String,
}

impl From<ZoneItem> for Zone {
    fn from(item: ZoneItem) -> Self {
        Self {
            name: item.name,
            id: item.id,
            kind: item.kind,
        }
    }
}

/// Answer to `DescribeVpcs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VpcsAnswer {
    #[serde(default)]
    vpc_set: Set<VpcItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VpcItem {
    cidr_block: Option<String>,
    #[serde(default)]
    cidr_block_association_set: Set<Ipv4Item>,
    #[serde(default)]
    ipv6_cidr_block_association_set: Set<Ipv6Item>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipv4Item {
    #[serde(default)]
    cidr_block: String,
}

/// Answer to `DescribeSecurityGroups`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupsAnswer {
    #[serde(default)]
    security_group_info: Set<GroupItem>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupItem {
    group_id: String,
    #[serde(default)]
    group_name: String,
    #[serde(default)]
    vpc_id: String,
    #[serde(default)]
    ip_permissions: Set<PermissionItem>,
    #[serde(default)]
    tag_set: Set<TagItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PermissionItem {
    #[serde(default)]
    ip_protocol: String,
    from_port: Option<i32>,
    to_port: Option<i32>,
    #[serde(default)]
    groups: Set<GroupPair>,
    #[serde(default)]
    ip_ranges: Set<RangeItem>,
    #[serde(default)]
    ipv6_ranges: Set<Range6Item>,
    #[serde(default)]
    prefix_list_ids: Set<PrefixListItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupPair {
    #[serde(default)]
    group_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RangeItem {
    #[serde(default)]
    cidr_ip: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range6Item {
    #[serde(default)]
    cidr_ipv6: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrefixListItem {
    #[serde(default)]
    prefix_list_id: String,
}

impl PermissionItem {
    fn rules(self) -> impl Iterator<Item = Ingress> {
        let protocol = match self.ip_protocol.as_str() {
            "6" => "tcp",
            "17" => "udp",
            "1" => "icmp",
            "58" => "icmpv6",
            other => other,
        }
        .to_owned();
        let (from, to) = (self.from_port.unwrap_or(-1), self.to_port.unwrap_or(-1));
        let cidrs = self
            .ip_ranges
            .item
            .into_iter()
            .map(|range| range.cidr_ip)
            .chain(
                self.ipv6_ranges
                    .item
                    .into_iter()
                    .map(|range| range.cidr_ipv6),
            )
            .filter_map(|cidr| cidr.parse().ok())
            .map(IngressSource::Cidr);
        let groups = self.groups.item.into_iter().map(|pair| pair.group_id);
        let lists = self
            .prefix_list_ids
            .item
            .into_iter()
            .map(|list| list.prefix_list_id);
        cidrs
            .chain(groups.map(IngressSource::Group))
            .chain(lists.map(IngressSource::PrefixList))
            .map(move |source| Ingress {
                protocol: protocol.clone(),
                from,
                to,
                source,
            })
    }
}

impl From<GroupItem> for SecurityGroup {
    fn from(item: GroupItem) -> Self {
        Self {
            id: item.group_id,
            name: item.group_name,
            vpc_id: item.vpc_id,
            tags: tags(item.tag_set),
            ingress: item
                .ip_permissions
                .item
                .into_iter()
                .flat_map(PermissionItem::rules)
                .collect(),
        }
    }
}

/// Answer to `CreateSecurityGroup`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupCreated {
    group_id: String,
}

/// Answer to `DescribeInstances`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstancesAnswer {
    #[serde(default)]
    reservation_set: Set<ReservationItem>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReservationItem {
    #[serde(default)]
    instances_set: Set<InstanceItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceItem {
    instance_id: String,
    #[serde(default)]
    group_set: Set<GroupPair>,
}

/// An answer of which only the success matters.
#[derive(Debug, Deserialize)]
pub(crate) struct Done {}

/// The most values that a filter takes.
const FILTER_VALUES: usize = 200;

impl Client {
    async fn all<P: Page + serde::de::DeserializeOwned>(
        &self,
        caller: Caller<'_>,
        action: Action,
        form: impl Fn() -> Form,
    ) -> Result<Vec<P>, CallError> {
        let mut pages: Vec<P> = Vec::new();
        loop {
            let mut form = form().with("MaxResults", "1000");
            if let Some(token) = pages.last().and_then(|page| page.next()) {
                form = form.with("NextToken", token);
            }
            let page: P = self.ec2(caller, action, &form).await?;
            let last = page.next().is_none();
            pages.push(page);
            if last {
                return Ok(pages);
            }
        }
    }

    /// Networks of a VPC, of both families.
    pub(crate) async fn vpc_cidrs(
        &self,
        caller: Caller<'_>,
        vpc: &str,
    ) -> Result<Vec<ipnet::IpNet>, CallError> {
        let form = Form::default().list("VpcId", [vpc]);
        let answer: VpcsAnswer = self.ec2(caller, Action::DescribeVpcs, &form).await?;
        let mut cidrs = BTreeSet::new();
        for vpc in answer.vpc_set.item {
            cidrs.extend(vpc.cidr_block);
            let v4 = vpc.cidr_block_association_set.item.into_iter();
            cidrs.extend(v4.map(|item| item.cidr_block));
            let v6 = vpc.ipv6_cidr_block_association_set.item.into_iter();
            cidrs.extend(v6.map(|item| item.ipv6_cidr_block));
        }
        Ok(cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect())
    }

    /// All subnets of a VPC.
    pub(crate) async fn subnets(
        &self,
        caller: Caller<'_>,
        vpc: &str,
    ) -> Result<Vec<Subnet>, CallError> {
        let form = || Form::default().filter(1, "vpc-id", [vpc]);
        let pages: Vec<SubnetsAnswer> = self.all(caller, Action::DescribeSubnets, form).await?;
        let items = pages.into_iter().flat_map(|page| page.subnet_set.item);
        Ok(items.map(Subnet::from).collect())
    }

    /// All route tables of a VPC.
    pub(crate) async fn route_tables(
        &self,
        caller: Caller<'_>,
        vpc: &str,
    ) -> Result<Vec<RouteTable>, CallError> {
        let form = || Form::default().filter(1, "vpc-id", [vpc]);
        let action = Action::DescribeRouteTables;
        // Its pages are of at most 100.
        let pages: Vec<RouteTablesAnswer> = {
            let mut pages: Vec<RouteTablesAnswer> = Vec::new();
            loop {
                let mut form = form().with("MaxResults", "100");
                if let Some(token) = pages.last().and_then(|page| page.next()) {
                    form = form.with("NextToken", token);
                }
                let page: RouteTablesAnswer = self.ec2(caller, action, &form).await?;
                let last = page.next().is_none();
                pages.push(page);
                if last {
                    break pages;
                }
            }
        };
        let items = pages.into_iter().flat_map(|page| page.route_table_set.item);
        Ok(items.map(RouteTable::from).collect())
    }

    /// The zones of the region.
    pub(crate) async fn zones(&self, caller: Caller<'_>) -> Result<Vec<Zone>, CallError> {
        let answer: ZonesAnswer = self
            .ec2(caller, Action::DescribeAvailabilityZones, &Form::default())
            .await?;
        let items = answer.availability_zone_info.item;
        Ok(items.into_iter().map(Zone::from).collect())
    }

    /// Security groups that a filter finds.
    pub(crate) async fn security_groups(
        &self,
        caller: Caller<'_>,
        filters: &[(&str, Vec<String>)],
    ) -> Result<Vec<SecurityGroup>, CallError> {
        let form = || {
            let number = 1..;
            number
                .zip(filters)
                .fold(Form::default(), |form, (number, (name, values))| {
                    form.filter(number, name, values.iter().map(String::as_str))
                })
        };
        let pages: Vec<GroupsAnswer> = self
            .all(caller, Action::DescribeSecurityGroups, form)
            .await?;
        let items = pages
            .into_iter()
            .flat_map(|page| page.security_group_info.item);
        Ok(items.map(SecurityGroup::from).collect())
    }

    /// Security groups of the first network interface of each of these instances;
    /// those that do not exist are left out.
    pub(crate) async fn instance_groups(
        &self,
        caller: Caller<'_>,
        ids: &[String],
    ) -> Result<BTreeMap<String, BTreeSet<String>>, CallError> {
        let mut groups = BTreeMap::new();
        for ids in ids.chunks(FILTER_VALUES) {
            let form = || Form::default().filter(1, "instance-id", ids.iter().map(String::as_str));
            let pages: Vec<InstancesAnswer> =
                self.all(caller, Action::DescribeInstances, form).await?;
            let instances = pages
                .into_iter()
                .flat_map(|page| page.reservation_set.item)
                .flat_map(|reservation| reservation.instances_set.item);
            for instance in instances {
                let ids = instance
                    .group_set
                    .item
                    .into_iter()
                    .map(|pair| pair.group_id);
                groups.insert(instance.instance_id, ids.collect());
            }
        }
        Ok(groups)
    }

    /// Makes a security group and returns its id.
    pub(crate) async fn create_security_group(
        &self,
        caller: Caller<'_>,
        vpc: &str,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> Result<String, CallError> {
        let mut form = Form::default()
            .with("VpcId", vpc)
            .with("GroupName", name)
            .with("GroupDescription", description)
            .with("TagSpecification.1.ResourceType", "security-group");
        for (index, (key, value)) in tags.iter().enumerate() {
            let tag = format!("TagSpecification.1.Tag.{}", index + 1);
            form = form
                .with(format!("{tag}.Key"), key)
                .with(format!("{tag}.Value"), value);
        }
        let answer: GroupCreated = self.ec2(caller, Action::CreateSecurityGroup, &form).await?;
        Ok(answer.group_id)
    }

    /// Deletes a security group.
    pub(crate) async fn delete_security_group(
        &self,
        caller: Caller<'_>,
        id: &str,
    ) -> Result<(), CallError> {
        let form = Form::default().with("GroupId", id);
        self.ec2::<Done>(caller, Action::DeleteSecurityGroup, &form)
            .await?;
        Ok(())
    }

    /// Adds rules that let traffic in.
    pub(crate) async fn authorize(
        &self,
        caller: Caller<'_>,
        group: &str,
        rules: &BTreeSet<Ingress>,
        description: &str,
    ) -> Result<(), CallError> {
        let form = permissions(group, rules, Some(description));
        self.ec2::<Done>(caller, Action::AuthorizeSecurityGroupIngress, &form)
            .await?;
        Ok(())
    }

    /// Takes rules away.
    pub(crate) async fn revoke(
        &self,
        caller: Caller<'_>,
        group: &str,
        rules: &BTreeSet<Ingress>,
    ) -> Result<(), CallError> {
        let form = permissions(group, rules, None);
        self.ec2::<Done>(caller, Action::RevokeSecurityGroupIngress, &form)
            .await?;
        Ok(())
    }

    /// Sets tags of a security group.
    pub(crate) async fn tag_group(
        &self,
        caller: Caller<'_>,
        id: &str,
        tags: &Tags,
    ) -> Result<(), CallError> {
        let mut form = Form::default().list("ResourceId", [id]);
        for (index, (key, value)) in tags.iter().enumerate() {
            form = form
                .with(format!("Tag.{}.Key", index + 1), key)
                .with(format!("Tag.{}.Value", index + 1), value);
        }
        self.ec2::<Done>(caller, Action::CreateTags, &form).await?;
        Ok(())
    }

    /// Takes tags off a security group.
    pub(crate) async fn untag_group(
        &self,
        caller: Caller<'_>,
        id: &str,
        keys: &[String],
    ) -> Result<(), CallError> {
        let mut form = Form::default().list("ResourceId", [id]);
        for (index, key) in keys.iter().enumerate() {
            form = form.with(format!("Tag.{}.Key", index + 1), key);
        }
        self.ec2::<Done>(caller, Action::DeleteTags, &form).await?;
        Ok(())
    }
}

fn permissions(group: &str, rules: &BTreeSet<Ingress>, description: Option<&str>) -> Form {
    let mut form = Form::default().with("GroupId", group);
    for (index, rule) in rules.iter().enumerate() {
        let item = format!("IpPermissions.{}", index + 1);
        form = form
            .with(format!("{item}.IpProtocol"), &rule.protocol)
            .with(format!("{item}.FromPort"), rule.from.to_string())
            .with(format!("{item}.ToPort"), rule.to.to_string());
        let (list, name, value) = match &rule.source {
            IngressSource::Cidr(cidr @ ipnet::IpNet::V4(_)) => {
                ("IpRanges", "CidrIp", cidr.to_string())
            }
            IngressSource::Cidr(cidr @ ipnet::IpNet::V6(_)) => {
                ("Ipv6Ranges", "CidrIpv6", cidr.to_string())
            }
            IngressSource::PrefixList(id) => ("PrefixListIds", "PrefixListId", id.clone()),
            IngressSource::Group(id) => ("Groups", "GroupId", id.clone()),
        };
        form = form.with(format!("{item}.{list}.1.{name}"), value);
        if let Some(description) = description {
            form = form.with(format!("{item}.{list}.1.Description"), description);
        }
    }
    form
}

/// Reads bytes as every answer of EC2 that there is. For the fuzzer; panics never.
pub fn parse_any(bytes: &[u8]) -> usize {
    use crate::client::query::{ErrorAnswer, parse};

    let groups = parse::<GroupsAnswer>(bytes).map(|answer| {
        answer
            .security_group_info
            .item
            .into_iter()
            .map(SecurityGroup::from)
            .count()
    });
    let subnets = parse::<SubnetsAnswer>(bytes)
        .map(|answer| answer.subnet_set.item.into_iter().map(Subnet::from).count());
    let tables = parse::<RouteTablesAnswer>(bytes).map(|answer| {
        answer
            .route_table_set
            .item
            .into_iter()
            .map(RouteTable::from)
            .count()
    });
    [
        groups.is_ok(),
        subnets.is_ok(),
        tables.is_ok(),
        parse::<ZonesAnswer>(bytes).is_ok(),
        parse::<VpcsAnswer>(bytes).is_ok(),
        parse::<InstancesAnswer>(bytes).is_ok(),
        parse::<GroupCreated>(bytes).is_ok(),
        parse::<Done>(bytes).is_ok(),
        parse::<ErrorAnswer>(bytes).is_ok(),
    ]
    .into_iter()
    .filter(|ok| *ok)
    .count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::query::parse;

    const GROUPS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeSecurityGroupsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
  <requestId>r</requestId>
  <securityGroupInfo>
    <item>
      <ownerId>1</ownerId><groupId>sg-1</groupId><groupName>nodes</groupName>
      <groupDescription>d</groupDescription><vpcId>vpc-1</vpcId>
      <ipPermissions>
        <item><ipProtocol>tcp</ipProtocol><fromPort>80</fromPort><toPort>81</toPort>
          <groups><item><userId>1</userId><groupId>sg-2</groupId></item></groups>
          <ipRanges><item><cidrIp>0.0.0.0/0</cidrIp><description>x</description></item></ipRanges>
          <ipv6Ranges><item><cidrIpv6>::/0</cidrIpv6></item></ipv6Ranges>
          <prefixListIds><item><prefixListId>pl-1</prefixListId></item></prefixListIds></item>
        <item><ipProtocol>-1</ipProtocol><groups/><ipRanges><item><cidrIp>10.0.0.0/8</cidrIp></item></ipRanges></item>
      </ipPermissions>
      <tagSet><item><key>a</key><value/></item><item><key>b</key><value>c &amp; d</value></item></tagSet>
    </item>
    <item><groupId>sg-3</groupId><ipPermissions/><tagSet/></item>
  </securityGroupInfo>
  <nextToken/>
</DescribeSecurityGroupsResponse>"#;

    #[test]
    fn groups_are_read() {
        let answer: GroupsAnswer = parse(GROUPS.as_bytes()).unwrap();
        assert_eq!(answer.next(), None);
        let groups: Vec<SecurityGroup> = answer
            .security_group_info
            .item
            .into_iter()
            .map(SecurityGroup::from)
            .collect();
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].tags["b"], "c & d");
        let rules: Vec<String> = groups[0].ingress.iter().map(ToString::to_string).collect();
        assert_eq!(
            rules,
            [
                "-1 from 10.0.0.0/8",
                "TCP 80-81 from 0.0.0.0/0",
                "TCP 80-81 from ::/0",
                "TCP 80-81 from pl-1",
                "TCP 80-81 from sg-2",
            ]
        );
    }

    #[test]
    fn deep_and_endless_answers_end_in_an_error_or_a_value() {
        let deep = "<a>".repeat(200_000);
        parse_any(deep.as_bytes());
        let deep = format!("<r><securityGroupInfo>{}", "<item>".repeat(200_000));
        parse_any(deep.as_bytes());
    }

    proptest! {
        #[test]
        fn hostile_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse_any(&bytes);
        }

        /// A real answer with bytes changed, cut off or doubled.
        #[test]
        fn broken_answers_never_panic(
            changes in proptest::collection::vec((0..GROUPS.len(), any::<u8>()), 0..8),
            end in 0..GROUPS.len(),
            twice in any::<bool>(),
        ) {
            let mut bytes = GROUPS.as_bytes().to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(end);
            if twice {
                bytes.extend_from_within(..);
            }
            parse_any(&bytes);
        }
    }
}
