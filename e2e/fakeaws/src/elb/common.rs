//! What many actions of ELB have in common: names, pages, ARNs.

use crate::error::ApiError;
use crate::model::{Listener, LoadBalancer, Region, TargetGroup};
use crate::params::Params;
use crate::xml::Xml;

/// The result of an action.
pub type Done = Result<(), ApiError>;

/// How many ARNs or names a call may have.
pub const AT_ONCE: usize = 20;

/// The protocols of network load balancers.
pub const PROTOCOLS: [&str; 6] = ["TCP", "TLS", "UDP", "TCP_UDP", "QUIC", "TCP_QUIC"];

/// Whether a protocol has a UDP side.
pub fn has_udp(protocol: &str) -> bool {
    matches!(protocol, "UDP" | "TCP_UDP" | "QUIC" | "TCP_QUIC")
}

/// A protocol of network load balancers.
pub fn protocol(p: &Params<'_>, name: &str) -> Result<Option<String>, ApiError> {
    let Some(text) = p.text(name) else {
        return Ok(None);
    };
    if !PROTOCOLS.contains(&text) {
        return Err(ApiError::validation(format!(
            "{name} '{text}' must be one of '{}'",
            PROTOCOLS.join(", ")
        )));
    }
    Ok(Some(text.to_owned()))
}

/// Names of load balancers and target groups: at most 32 letters, digits and
/// hyphens, no hyphen at the ends.
pub fn check_name(what: &str, name: &str) -> Done {
    let wrong = |why: &str| Err(ApiError::validation(format!("{what} name '{name}' {why}")));
    if name.len() > 32 {
        return wrong("cannot be longer than '32' characters");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return wrong(
            "can only contain characters that are alphanumeric characters and hyphens(-)",
        );
    }
    if name.starts_with('-') || name.ends_with('-') {
        return wrong("cannot begin or end with a hyphen(-)");
    }
    Ok(())
}

/// One of a few words.
pub fn choice(p: &Params<'_>, name: &str, choices: &[&str]) -> Result<Option<String>, ApiError> {
    match p.text(name) {
        Some(text) if choices.contains(&text) => Ok(Some(text.to_owned())),
        Some(text) => Err(ApiError::validation(format!(
            "1 validation error detected: Value '{text}' at '{name}' failed to satisfy constraint: Member must satisfy enum value set: [{}]",
            choices.join(", ")
        ))),
        None => Ok(None),
    }
}

/// A number within bounds.
pub fn number(p: &Params<'_>, name: &str, least: u32, most: u32) -> Result<Option<u32>, ApiError> {
    match p.read::<i64>(name)? {
        Some(number) => match u32::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::validation(format!(
                "{name} '{number}' must be in the range {least}-{most}, inclusive"
            ))),
        },
        None => Ok(None),
    }
}

/// A port, 1 to 65535.
pub fn port(p: &Params<'_>, name: &str) -> Result<Option<u16>, ApiError> {
    Ok(number(p, name, 1, 65535)?.and_then(|port| u16::try_from(port).ok()))
}

/// At most 20 ARNs or names, none of them twice asked for nothing.
pub fn at_most(texts: &[String], most: usize, what: &str) -> Done {
    if texts.len() > most {
        return Err(ApiError::validation(format!(
            "Cannot have more than {most} {what} specified: {} were",
            texts.len()
        )));
    }
    Ok(())
}

/// `PageSize` and `Marker`.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    size: usize,
    start: usize,
}

impl Paging {
    /// Reads them; without a size a page has 400.
    pub fn read(p: &Params<'_>) -> Result<Self, ApiError> {
        let size = number(p, "PageSize", 1, 400)?.unwrap_or(400);
        let start = match p.text("Marker") {
            Some(marker) => marker
                .parse()
                .map_err(|_| ApiError::validation(format!("Invalid marker '{marker}'")))?,
            None => 0,
        };
        Ok(Self {
            size: size as usize,
            start,
        })
    }

    /// Writes a page as a list, and where the next one begins.
    pub fn write<T>(
        self,
        xml: &mut Xml,
        list: &str,
        items: &[T],
        mut each: impl FnMut(&mut Xml, &T),
    ) {
        let end = self.start.saturating_add(self.size).min(items.len());
        let page = items.get(self.start..end).unwrap_or_default();
        xml.members(list, page, |x, item| each(x, item))
            .maybe("NextMarker", (end < items.len()).then_some(end));
    }
}

/// The load balancer of that ARN.
pub fn load_balancer<'a>(region: &'a Region, arn: &str) -> Result<&'a LoadBalancer, ApiError> {
    region.load_balancers.get(arn).ok_or_else(|| {
        ApiError::new(
            "LoadBalancerNotFound",
            format!("Load balancer '{arn}' not found"),
        )
    })
}

/// The same, to change it.
pub fn load_balancer_mut<'a>(
    region: &'a mut Region,
    arn: &str,
) -> Result<&'a mut LoadBalancer, ApiError> {
    region.load_balancers.get_mut(arn).ok_or_else(|| {
        ApiError::new(
            "LoadBalancerNotFound",
            format!("Load balancer '{arn}' not found"),
        )
    })
}

/// The target group of that ARN.
pub fn target_group<'a>(region: &'a Region, arn: &str) -> Result<&'a TargetGroup, ApiError> {
    region
        .target_groups
        .get(arn)
        .ok_or_else(|| no_target_group(arn))
}

/// The same, to change it.
pub fn target_group_mut<'a>(
    region: &'a mut Region,
    arn: &str,
) -> Result<&'a mut TargetGroup, ApiError> {
    region
        .target_groups
        .get_mut(arn)
        .ok_or_else(|| no_target_group(arn))
}

fn no_target_group(arn: &str) -> ApiError {
    ApiError::new(
        "TargetGroupNotFound",
        format!("Target group '{arn}' not found"),
    )
}

/// The listener of that ARN.
pub fn listener<'a>(region: &'a Region, arn: &str) -> Result<&'a Listener, ApiError> {
    region.listeners.get(arn).ok_or_else(|| no_listener(arn))
}

/// The same, to change it.
pub fn listener_mut<'a>(region: &'a mut Region, arn: &str) -> Result<&'a mut Listener, ApiError> {
    region
        .listeners
        .get_mut(arn)
        .ok_or_else(|| no_listener(arn))
}

fn no_listener(arn: &str) -> ApiError {
    ApiError::new("ListenerNotFound", format!("Listener '{arn}' not found"))
}

/// An ARN of this account and region.
pub fn arn(region: &Region, rest: &str) -> String {
    format!(
        "arn:aws:elasticloadbalancing:{}:{}:{rest}",
        region.name, region.account
    )
}
