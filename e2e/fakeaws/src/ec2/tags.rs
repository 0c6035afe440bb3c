//! Tags of EC2's resources.

use crate::actions::Context;
use crate::config::Quotas;
use crate::error::ApiError;
use crate::model::{Region, Tags};
use crate::params::Params;
use crate::xml::Xml;

type Done = Result<(), ApiError>;

/// The tags of `TagSpecification.N` for a new resource of that type.
pub fn specified(p: &Params<'_>, resource: &str, quotas: &Quotas) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for specification in p.list("TagSpecification") {
        let kind = specification.required("ResourceType")?;
        if kind != resource {
            return Err(ApiError::value(format!(
                "'{kind}' is not a valid taggable resource type for this operation."
            )));
        }
        for (key, value) in read(&specification)? {
            if tags.insert(key.clone(), value).is_some() {
                return Err(ApiError::value(format!(
                    "Duplicate tag key '{key}' specified."
                )));
            }
        }
    }
    check_count(&tags, quotas)?;
    Ok(tags)
}

/// `Tag.N.Key` and `Tag.N.Value`, each key once.
fn read(p: &Params<'_>) -> Result<Vec<(String, String)>, ApiError> {
    let mut tags = Vec::new();
    for tag in p.list("Tag") {
        let key = tag.required("Key")?.to_owned();
        let value = tag.text("Value").unwrap_or_default().to_owned();
        check(&key, &value)?;
        tags.push((key, value));
    }
    Ok(tags)
}

fn check(key: &str, value: &str) -> Done {
    if key.to_ascii_lowercase().starts_with("aws:") {
        return Err(ApiError::value(format!(
            "Tag keys starting with 'aws:' are reserved for internal use: {key}"
        )));
    }
    if key.chars().count() > 127 {
        return Err(ApiError::value(format!(
            "Tag key exceeds the maximum length of 127 characters: {key}"
        )));
    }
    if value.chars().count() > 255 {
        return Err(ApiError::value(format!(
            "Tag value exceeds the maximum length of 255 characters: {value}"
        )));
    }
    Ok(())
}

fn check_count(tags: &Tags, quotas: &Quotas) -> Done {
    if tags.len() > quotas.tags {
        return Err(ApiError::new(
            "TagLimitExceeded",
            format!("More than {} tags specified", quotas.tags),
        ));
    }
    Ok(())
}

/// The tags of any resource.
fn tags_of<'a>(region: &'a mut Region, id: &str) -> Result<&'a mut Tags, ApiError> {
    let (kind, code) = match id.split('-').next().unwrap_or_default() {
        "sg" => (
            region.security_groups.get_mut(id).map(|x| &mut x.tags),
            "InvalidGroup.NotFound",
        ),
        "subnet" => (
            region.subnets.get_mut(id).map(|x| &mut x.tags),
            "InvalidSubnetID.NotFound",
        ),
        "vpc" => (
            region.vpcs.get_mut(id).map(|x| &mut x.tags),
            "InvalidVpcID.NotFound",
        ),
        "i" => (
            region.instances.get_mut(id).map(|x| &mut x.tags),
            "InvalidInstanceID.NotFound",
        ),
        "rtb" => (
            region.route_tables.get_mut(id).map(|x| &mut x.tags),
            "InvalidRouteTableID.NotFound",
        ),
        "eipalloc" => (
            region.addresses.get_mut(id).map(|x| &mut x.tags),
            "InvalidAllocationID.NotFound",
        ),
        "sgr" => (
            region
                .security_groups
                .values_mut()
                .flat_map(|group| &mut group.ingress)
                .find(|rule| rule.id == id)
                .map(|rule| &mut rule.tags),
            "InvalidSecurityGroupRuleId.NotFound",
        ),
        _ => (None, "InvalidID"),
    };
    kind.ok_or_else(|| ApiError::new(code, format!("The ID '{id}' does not exist")))
}

/// `CreateTags`.
pub fn create(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let ids = p.texts("ResourceId");
    if ids.is_empty() {
        return Err(p.missing("ResourceId"));
    }
    let tags = read(p)?;
    if tags.is_empty() {
        return Err(p.missing("Tag"));
    }
    p.finish()?;
    // First look, then change: all or nothing.
    for id in &ids {
        let mut all = tags_of(region, id)?.clone();
        all.extend(tags.iter().cloned());
        check_count(&all, c.quotas)?;
    }
    for id in &ids {
        tags_of(region, id)?.extend(tags.iter().cloned());
    }
    xml.text("return", true);
    Ok(())
}

/// `DeleteTags`: by key, or by key and value; without any, all.
pub fn delete(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let ids = p.texts("ResourceId");
    if ids.is_empty() {
        return Err(p.missing("ResourceId"));
    }
    let mut doomed = Vec::new();
    for tag in p.list("Tag") {
        doomed.push((
            tag.required("Key")?.to_owned(),
            tag.text("Value").map(str::to_owned),
        ));
    }
    p.finish()?;
    for id in &ids {
        tags_of(region, id)?;
    }
    for id in &ids {
        tags_of(region, id)?.retain(|key, value| {
            !doomed.is_empty()
                && !doomed.iter().any(|(other, wanted)| {
                    other == key && wanted.as_ref().is_none_or(|wanted| wanted == value)
                })
        });
    }
    xml.text("return", true);
    Ok(())
}
