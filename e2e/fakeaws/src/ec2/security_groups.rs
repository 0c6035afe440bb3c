//! Security groups.

use super::query::{Fact, Paging, Query, tag_fact, write_tags};
use super::{rules, tags};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{Region, RulePeer, SecurityGroup};
use crate::params::Params;
use crate::xml::Xml;

type Done = Result<(), ApiError>;

/// `CreateSecurityGroup`.
pub fn create(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let name = p.required("GroupName")?.to_owned();
    let description = p.required("GroupDescription")?.to_owned();
    let vpc = p.required("VpcId")?.to_owned();
    let tags = tags::specified(p, "security-group", c.quotas)?;
    p.finish()?;
    check_text("GroupName", &name)?;
    check_text("GroupDescription", &description)?;
    if name.starts_with("sg-") {
        return Err(ApiError::value(
            "Value for parameter GroupName is invalid. It must not begin with 'sg-'",
        ));
    }
    if !region.vpcs.contains_key(&vpc) {
        return Err(ApiError::new(
            "InvalidVpcID.NotFound",
            format!("The vpc ID '{vpc}' does not exist"),
        ));
    }
    if region
        .security_groups
        .values()
        .any(|g| g.vpc == vpc && g.name == name)
    {
        return Err(ApiError::new(
            "InvalidGroup.Duplicate",
            format!("The security group '{name}' already exists for VPC '{vpc}'"),
        ));
    }
    if region.security_groups.len() >= c.quotas.security_groups {
        return Err(ApiError::new(
            "SecurityGroupLimitExceeded",
            "The maximum number of security groups for this account has been reached.",
        ));
    }
    let group = SecurityGroup {
        id: region.next_ec2_id("sg"),
        name,
        description,
        vpc,
        ingress: Vec::new(),
        tags,
    };
    xml.text("return", true)
        .text("groupId", &group.id)
        .text("securityGroupArn", arn(region, &group.id));
    write_tags(xml, &group.tags);
    region.security_groups.insert(group.id.clone(), group);
    Ok(())
}

fn arn(region: &Region, id: &str) -> String {
    format!(
        "arn:aws:ec2:{}:{}:security-group/{id}",
        region.name, region.account
    )
}

/// At most 255 of `a-zA-Z0-9`, space and `._-:/()#,@[]+=&;{}!$*`.
pub fn check_text(parameter: &str, text: &str) -> Done {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    if text.len() > 255 || !text.chars().all(allowed) {
        return Err(ApiError::value(format!(
            "Value ({text}) for parameter {parameter} is invalid. Character sets beyond ASCII are not supported."
        )));
    }
    Ok(())
}

/// `DeleteSecurityGroup`.
pub fn delete(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let id = p.required("GroupId")?.to_owned();
    p.finish()?;
    let group = find(region, &id)?;
    if group.name == "default" {
        return Err(ApiError::new(
            "CannotDelete",
            format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user"),
        ));
    }
    let has_interface = region
        .interfaces
        .values()
        .any(|interface| interface.security_groups.contains(&id));
    let peer = RulePeer::Group(id.clone());
    let is_referenced = region
        .security_groups
        .values()
        .filter(|other| other.id != id)
        .any(|other| {
            other
                .ingress
                .iter()
                .any(|rule| rule.permission.peer == peer)
        });
    if has_interface || is_referenced {
        return Err(ApiError::new(
            "DependencyViolation",
            format!("resource {id} has a dependent object"),
        ));
    }
    region.security_groups.remove(&id);
    xml.text("return", true).text("groupId", id);
    Ok(())
}

/// The group of that id.
pub fn find<'a>(region: &'a Region, id: &str) -> Result<&'a SecurityGroup, ApiError> {
    region.security_groups.get(id).ok_or_else(|| missing(id))
}

/// What to answer for a group that is not there.
pub fn missing(id: &str) -> ApiError {
    if id.starts_with("sg-") {
        ApiError::new(
            "InvalidGroup.NotFound",
            format!("The security group '{id}' does not exist"),
        )
    } else {
        ApiError::new(
            "InvalidGroupId.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"sg-...\")"),
        )
    }
}

/// Whom a group's rules allow in, of some kind.
fn peers(group: &SecurityGroup, which: impl Fn(&RulePeer) -> bool) -> Fact {
    let peers = group.ingress.iter().map(|rule| &rule.permission.peer);
    Fact::all(peers.filter(|peer| which(peer)))
}

/// `DescribeSecurityGroups`.
pub fn describe(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let query = Query::read(p, "GroupId", Some(Paging::USUAL))?;
    let names = p.texts("GroupName");
    p.finish()?;
    if let Some(name) = names.iter().find(|name| {
        !region
            .security_groups
            .values()
            .any(|group| group.name == **name)
    }) {
        return Err(ApiError::new(
            "InvalidGroup.NotFound",
            format!("The security group '{name}' does not exist"),
        ));
    }
    let fact = |group: &SecurityGroup, filter: &str| match filter {
        "group-id" => Fact::one(&group.id),
        "group-name" => Fact::one(&group.name),
        "description" => Fact::one(&group.description),
        "vpc-id" => Fact::one(&group.vpc),
        "owner-id" => Fact::one(&region.account),
        "ip-permission.group-id" => peers(group, |peer| matches!(peer, RulePeer::Group(_))),
        "ip-permission.cidr" => peers(group, |peer| matches!(peer, RulePeer::Ipv4(_))),
        _ => tag_fact(&group.tags, filter),
    };
    let chosen = region
        .security_groups
        .values()
        .filter(|group| names.is_empty() || names.contains(&group.name));
    query
        .page(
            chosen,
            |group| &group.id,
            ("InvalidGroup.NotFound", "security group"),
            fact,
        )?
        .write(xml, "securityGroupInfo", |x, group| {
            x.text("ownerId", &region.account)
                .text("groupId", &group.id)
                .text("groupName", &group.name)
                .text("groupDescription", &group.description)
                .text("vpcId", &group.vpc)
                .text("securityGroupArn", arn(region, &group.id));
            rules::write_permissions(x, region, &group.ingress);
            x.items("ipPermissionsEgress", [()], |x, ()| {
                x.text("ipProtocol", "-1")
                    .items("groups", None::<&str>, |_, _| {})
                    .items("ipRanges", ["0.0.0.0/0"], |x, cidr| {
                        x.text("cidrIp", cidr);
                    })
                    .items("ipv6Ranges", None::<&str>, |_, _| {})
                    .items("prefixListIds", None::<&str>, |_, _| {});
            });
            write_tags(x, &group.tags);
        });
    Ok(())
}
