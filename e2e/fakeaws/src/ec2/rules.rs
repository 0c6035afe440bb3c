//! Rules of security groups, for what comes in.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{Ipv4Net, Ipv6Net};

use super::query::{Fact, Paging, Query, tag_fact, write_tags};
use super::security_groups::{check_text, find};
use super::tags;
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{Permission, Region, Rule, RulePeer, SecurityGroup};
use crate::params::Params;
use crate::xml::Xml;

type Done = Result<(), ApiError>;

/// A permission as it was asked for, with its description.
type Asked = (Permission, Option<String>);

/// Reads `IpPermissions.N`.
fn read(p: &Params<'_>, region: &Region, vpc: &str) -> Result<Vec<Asked>, ApiError> {
    let mut asked = Vec::new();
    for permission in p.list("IpPermissions") {
        let protocol = protocol(permission.required("IpProtocol")?)?;
        let (from, to) = ports(&permission, &protocol)?;
        let mut add = |peer: RulePeer, description: Option<&str>| {
            if let Some(text) = description {
                check_text("Description", text)?;
            }
            let permission = Permission {
                protocol: protocol.clone(),
                from,
                to,
                peer,
            };
            if asked.iter().any(|(other, _)| *other == permission) {
                return Err(ApiError::value(
                    "The same permission must not appear multiple times",
                ));
            }
            asked.push((permission, description.map(str::to_owned)));
            Ok(())
        };
        let mut peers = 0;
        for range in permission.list("IpRanges") {
            let text = range.required("CidrIp")?;
            let block: Ipv4Net = text.parse().map_err(|_| bad_cidr(text))?;
            // EC2 takes the network of an address with host bits.
            add(RulePeer::Ipv4(block.trunc()), range.text("Description"))?;
            peers += 1;
        }
        for range in permission.list("Ipv6Ranges") {
            let text = range.required("CidrIpv6")?;
            let block: Ipv6Net = text.parse().map_err(|_| bad_cidr(text))?;
            add(RulePeer::Ipv6(block.trunc()), range.text("Description"))?;
            peers += 1;
        }
        for pair in permission.list("Groups") {
            let id = pair.required("GroupId")?;
            // Who owns it and where it is goes without saying here.
            let _ = (
                pair.text("UserId"),
                pair.text("VpcId"),
                pair.text("GroupName"),
            );
            let group = find(region, id)?;
            if group.vpc != vpc {
                return Err(ApiError::new(
                    "InvalidGroup.NotFound",
                    format!(
                        "You have specified two resources that belong to different networks: {id}"
                    ),
                ));
            }
            add(RulePeer::Group(id.to_owned()), pair.text("Description"))?;
            peers += 1;
        }
        for list in permission.list("PrefixListIds") {
            let id = list.required("PrefixListId")?;
            if !region.prefix_lists.contains_key(id) {
                return Err(ApiError::new(
                    "InvalidPrefixListID.NotFound",
                    format!("The prefix list ID '{id}' does not exist"),
                ));
            }
            add(
                RulePeer::PrefixList(id.to_owned()),
                list.text("Description"),
            )?;
            peers += 1;
        }
        if peers == 0 {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "Invalid value for portRange or source: a permission needs a source",
            ));
        }
    }
    Ok(asked)
}

fn bad_cidr(text: &str) -> ApiError {
    ApiError::value(format!("CIDR block {text} is malformed"))
}

/// The name that EC2 keeps: names for what has one, else the number.
fn protocol(text: &str) -> Result<String, ApiError> {
    let lower = text.to_ascii_lowercase();
    let known = match lower.as_str() {
        "tcp" | "6" => "tcp",
        "udp" | "17" => "udp",
        "icmp" | "1" => "icmp",
        "icmpv6" | "58" => "icmpv6",
        "-1" | "all" => "-1",
        number if number.parse::<u8>().is_ok() => number,
        _ => {
            return Err(ApiError::value(format!(
                "Invalid value '{text}' for IP protocol. Unknown protocol."
            )));
        }
    };
    Ok(known.to_owned())
}

/// First and last port; ICMP has type and code there, other protocols nothing.
fn ports(p: &Params<'_>, protocol: &str) -> Result<(Option<i32>, Option<i32>), ApiError> {
    let from: Option<i32> = p.read("FromPort")?;
    let to: Option<i32> = p.read("ToPort")?;
    match protocol {
        "tcp" | "udp" => {
            let (Some(from), Some(to)) = (from, to) else {
                return Err(ApiError::value(format!(
                    "Invalid value 'Must specify both from and to ports with {}.' for portRange.",
                    protocol.to_uppercase()
                )));
            };
            if !(0..=65535).contains(&from) || !(0..=65535).contains(&to) || from > to {
                return Err(ApiError::value(format!(
                    "Invalid {} port range ({from}:{to})",
                    protocol.to_uppercase()
                )));
            }
            Ok((Some(from), Some(to)))
        }
        "icmp" | "icmpv6" => {
            let (from, to) = (from.unwrap_or(-1), to.unwrap_or(-1));
            if !(-1..=255).contains(&from) || !(-1..=255).contains(&to) {
                return Err(ApiError::value(format!("ICMP code ({to}) out of range")));
            }
            Ok((Some(from), Some(to)))
        }
        _ => Ok((None, None)),
    }
}

/// `AuthorizeSecurityGroupIngress`.
pub fn authorize(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let id = p.required("GroupId")?.to_owned();
    let group = find(region, &id)?;
    let asked = read(p, region, &group.vpc)?;
    let tags = tags::specified(p, "security-group-rule", c.quotas)?;
    p.finish()?;
    if asked.is_empty() {
        return Err(p.missing("IpPermissions"));
    }
    for (permission, _) in &asked {
        if group
            .ingress
            .iter()
            .any(|rule| rule.permission == *permission)
        {
            return Err(ApiError::new(
                "InvalidPermission.Duplicate",
                format!(
                    "the specified rule \"peer: {}, {}, from port: {}, to port: {}, ALLOW\" already exists",
                    permission.peer,
                    permission.protocol.to_uppercase(),
                    permission.from.unwrap_or(-1),
                    permission.to.unwrap_or(-1),
                ),
            ));
        }
    }
    let all: Vec<&Permission> = group
        .ingress
        .iter()
        .map(|rule| &rule.permission)
        .chain(asked.iter().map(|(permission, _)| permission))
        .collect();
    if weight(region, &all) > c.quotas.rules {
        return Err(ApiError::new(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        ));
    }
    let rules: Vec<Rule> = asked
        .into_iter()
        .map(|(permission, description)| Rule {
            id: region.next_ec2_id("sgr"),
            permission,
            description,
            tags: tags.clone(),
        })
        .collect();
    xml.text("return", true);
    write_rules(xml, region, rules.iter().map(|rule| (id.as_str(), rule)));
    if let Some(group) = region.security_groups.get_mut(&id) {
        group.ingress.extend(rules);
    }
    Ok(())
}

/// What rules count as: IPv4 and IPv6 are limited each for itself, security
/// groups count with both, prefix lists with the most that they may hold.
fn weight(region: &Region, permissions: &[&Permission]) -> usize {
    let (mut ipv4, mut ipv6) = (0, 0);
    for permission in permissions {
        match &permission.peer {
            RulePeer::Ipv4(_) => ipv4 += 1,
            RulePeer::Ipv6(_) => ipv6 += 1,
            RulePeer::Group(_) => {
                ipv4 += 1;
                ipv6 += 1;
            }
            RulePeer::PrefixList(id) => match region.prefix_lists.get(id) {
                Some(list) if list.family == "IPv6" => ipv6 += list.max_entries,
                Some(list) => ipv4 += list.max_entries,
                None => {}
            },
        }
    }
    ipv4.max(ipv6)
}

/// `RevokeSecurityGroupIngress`: by permission or by rule id.
pub fn revoke(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let id = p.required("GroupId")?.to_owned();
    let group = find(region, &id)?;
    let asked = read(p, region, &group.vpc)?;
    let ids: BTreeSet<String> = p.texts("SecurityGroupRuleId").into_iter().collect();
    p.finish()?;
    if asked.is_empty() && ids.is_empty() {
        return Err(p.missing("IpPermissions"));
    }
    for (permission, _) in &asked {
        if !group
            .ingress
            .iter()
            .any(|rule| rule.permission == *permission)
        {
            return Err(ApiError::new(
                "InvalidPermission.NotFound",
                "The specified rule does not exist in this security group.",
            ));
        }
    }
    for rule in &ids {
        if !group.ingress.iter().any(|other| other.id == *rule) {
            return Err(ApiError::new(
                "InvalidSecurityGroupRuleId.NotFound",
                format!("The security group rule ID '{rule}' does not exist"),
            ));
        }
    }
    if let Some(group) = region.security_groups.get_mut(&id) {
        group.ingress.retain(|rule| {
            !ids.contains(&rule.id)
                && !asked
                    .iter()
                    .any(|(permission, _)| *permission == rule.permission)
        });
    }
    xml.text("return", true);
    Ok(())
}

/// `DescribeSecurityGroupRules`. The rule for what goes out is not among them.
pub fn describe(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "SecurityGroupRuleId", Some(Paging::USUAL))?;
    p.finish()?;
    query.check(|filter| {
        ["group-id", "security-group-rule-id", "tag-key"].contains(&filter)
            || filter.starts_with("tag:")
    })?;
    let all: Vec<(&SecurityGroup, &Rule)> = region
        .security_groups
        .values()
        .flat_map(|group| group.ingress.iter().map(move |rule| (group, rule)))
        .collect();
    let page = query.page(
        &all,
        |(_, rule)| &rule.id,
        ("InvalidSecurityGroupRuleId.NotFound", "security group rule"),
        |(group, rule), filter| match filter {
            "group-id" => Fact::one(&group.id),
            "security-group-rule-id" => Fact::one(&rule.id),
            _ => tag_fact(&rule.tags, filter),
        },
    )?;
    write_rules(
        xml,
        region,
        page.items
            .iter()
            .map(|(group, rule)| (group.id.as_str(), *rule)),
    );
    page.write_token(xml);
    Ok(())
}

fn write_rules<'a>(
    xml: &mut Xml,
    region: &Region,
    rules: impl Iterator<Item = (&'a str, &'a Rule)>,
) {
    xml.items("securityGroupRuleSet", rules, |x, (group, rule)| {
        let permission = &rule.permission;
        x.text("securityGroupRuleId", &rule.id)
            .text("groupId", group)
            .text("groupOwnerId", &region.account)
            .text("isEgress", false)
            .text("ipProtocol", &permission.protocol)
            .text("fromPort", permission.from.unwrap_or(-1))
            .text("toPort", permission.to.unwrap_or(-1))
            .maybe("description", rule.description.as_deref());
        match &permission.peer {
            RulePeer::Ipv4(block) => x.text("cidrIpv4", block),
            RulePeer::Ipv6(block) => x.text("cidrIpv6", block),
            RulePeer::PrefixList(id) => x.text("prefixListId", id),
            RulePeer::Group(id) => x.node("referencedGroupInfo", |x| {
                x.text("groupId", id).text("userId", &region.account);
            }),
        };
        write_tags(x, &rule.tags);
    });
}

/// Writes rules as `ipPermissions`: those with the same protocol and ports
/// together.
pub fn write_permissions(xml: &mut Xml, region: &Region, rules: &[Rule]) {
    type Ports<'a> = (&'a str, Option<i32>, Option<i32>);
    let mut grouped: BTreeMap<Ports<'_>, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        let p = &rule.permission;
        grouped
            .entry((&p.protocol, p.from, p.to))
            .or_default()
            .push(rule);
    }
    xml.items(
        "ipPermissions",
        grouped,
        |x, ((protocol, from, to), rules)| {
            x.text("ipProtocol", protocol)
                .maybe("fromPort", from)
                .maybe("toPort", to);
            let write =
                |x: &mut Xml, list: &str, field: &str, of: fn(&RulePeer) -> Option<String>| {
                    let chosen = rules
                        .iter()
                        .filter_map(|rule| Some((of(&rule.permission.peer)?, rule)));
                    x.items(list, chosen, |x, (peer, rule)| {
                        x.text(field, peer);
                        if field == "groupId" {
                            x.text("userId", &region.account);
                        }
                        x.maybe("description", rule.description.as_deref());
                    });
                };
            write(x, "groups", "groupId", |peer| match peer {
                RulePeer::Group(id) => Some(id.clone()),
                _ => None,
            });
            write(x, "ipRanges", "cidrIp", |peer| match peer {
                RulePeer::Ipv4(block) => Some(block.to_string()),
                _ => None,
            });
            write(x, "ipv6Ranges", "cidrIpv6", |peer| match peer {
                RulePeer::Ipv6(block) => Some(block.to_string()),
                _ => None,
            });
            write(x, "prefixListIds", "prefixListId", |peer| match peer {
                RulePeer::PrefixList(id) => Some(id.clone()),
                _ => None,
            });
        },
    );
}
