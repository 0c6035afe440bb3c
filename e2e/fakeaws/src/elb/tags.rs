//! Tags of load balancers, listeners and target groups.

use std::collections::BTreeSet;

use super::common::{AT_ONCE, Done, at_most};
use crate::actions::Context;
use crate::config::Quotas;
use crate::error::ApiError;
use crate::model::{Region, Tags};
use crate::params::Params;
use crate::xml::Xml;

/// Reads `Tags.member.N` for a new resource.
pub fn read(p: &Params<'_>, quotas: &Quotas) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for tag in p.list("Tags") {
        let key = tag.required("Key")?.to_owned();
        let value = tag.text("Value").unwrap_or_default().to_owned();
        check(&key, 128)?;
        check(&value, 256)?;
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(ApiError::validation(format!(
                "Tag keys that start with 'aws:' are reserved: '{key}'"
            )));
        }
        if tags.insert(key.clone(), value).is_some() {
            return Err(ApiError::new(
                "DuplicateTagKeys",
                format!("The tag key '{key}' was specified more than once"),
            ));
        }
    }
    check_count(&tags, quotas)?;
    Ok(tags)
}

fn check_count(tags: &Tags, quotas: &Quotas) -> Done {
    if tags.len() > quotas.tags {
        return Err(ApiError::new(
            "TooManyTags",
            format!("Cannot have more than {} tags", quotas.tags),
        ));
    }
    Ok(())
}

/// Letters, digits, spaces and `_.:/=+-@`.
fn check(text: &str, most: usize) -> Done {
    let allowed = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c);
    if text.chars().count() > most || !text.chars().all(allowed) {
        return Err(ApiError::validation(format!(
            "1 validation error detected: Value '{text}' at 'tags' failed to satisfy constraint: Member must satisfy regular expression pattern: ^([\\p{{L}}\\p{{Z}}\\p{{N}}_.:/=+\\-@]*)$ and have length less than or equal to {most}"
        )));
    }
    Ok(())
}

/// The tags of any resource.
fn tags_of<'a>(region: &'a mut Region, arn: &str) -> Result<&'a mut Tags, ApiError> {
    let resource = arn.split(':').nth(5).unwrap_or_default();
    let (tags, code) = match resource.split('/').next().unwrap_or_default() {
        "loadbalancer" => (
            region.load_balancers.get_mut(arn).map(|lb| &mut lb.tags),
            "LoadBalancerNotFound",
        ),
        "targetgroup" => (
            region
                .target_groups
                .get_mut(arn)
                .map(|group| &mut group.tags),
            "TargetGroupNotFound",
        ),
        "listener" => (
            region
                .listeners
                .get_mut(arn)
                .map(|listener| &mut listener.tags),
            "ListenerNotFound",
        ),
        _ => {
            return Err(ApiError::validation(format!(
                "'{arn}' is not a valid resource ARN"
            )));
        }
    };
    tags.ok_or_else(|| ApiError::new(code, format!("'{arn}' not found")))
}

fn arns(p: &Params<'_>) -> Result<Vec<String>, ApiError> {
    let arns = p.texts("ResourceArns");
    if arns.is_empty() {
        return Err(p.missing("ResourceArns"));
    }
    at_most(&arns, AT_ONCE, "resources")?;
    Ok(arns)
}

/// `AddTags`: those with a key that is there are replaced.
pub fn add(region: &mut Region, c: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arns = arns(p)?;
    let tags = read(p, c.quotas)?;
    p.finish()?;
    if tags.is_empty() {
        return Err(p.missing("Tags"));
    }
    // First look, then change: all or nothing.
    for arn in &arns {
        let mut all = tags_of(region, arn)?.clone();
        all.extend(tags.clone());
        check_count(&all, c.quotas)?;
    }
    for arn in &arns {
        tags_of(region, arn)?.extend(tags.clone());
    }
    Ok(())
}

/// `RemoveTags`: keys that are not there do not matter.
pub fn remove(region: &mut Region, _: &Context<'_>, p: &Params<'_>, _: &mut Xml) -> Done {
    let arns = arns(p)?;
    let keys: BTreeSet<String> = p.texts("TagKeys").into_iter().collect();
    p.finish()?;
    if keys.is_empty() {
        return Err(p.missing("TagKeys"));
    }
    for arn in &arns {
        tags_of(region, arn)?;
    }
    for arn in &arns {
        tags_of(region, arn)?.retain(|key, _| !keys.contains(key));
    }
    Ok(())
}

/// `DescribeTags`, of 20 resources at most.
pub fn describe(region: &mut Region, _: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arns = arns(p)?;
    p.finish()?;
    let mut described = Vec::new();
    for arn in arns {
        let tags = tags_of(region, &arn)?.clone();
        described.push((arn, tags));
    }
    xml.members("TagDescriptions", described, |x, (arn, tags)| {
        x.text("ResourceArn", arn)
            .members("Tags", tags, |x, (key, value)| {
                x.text("Key", key).text("Value", value);
            });
    });
    Ok(())
}
