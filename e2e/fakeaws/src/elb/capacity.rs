//! Capacity reservations.

use std::time::Duration;

use super::common::{Done, load_balancer, load_balancer_mut};
use crate::actions::Context;
use crate::error::ApiError;
use crate::model::{LoadBalancer, Region};
use crate::params::Params;
use crate::xml::Xml;

/// Decreases a day.
const DECREASES: usize = 2;
/// What a load balancer can reserve at most, in units.
const MOST: u32 = 45_000;

const DAY: Duration = Duration::from_hours(24);

fn decreases_left(lb: &LoadBalancer, now: Duration) -> usize {
    let today = lb
        .capacity
        .decreases
        .iter()
        .filter(|at| now.saturating_sub(**at) < DAY);
    DECREASES.saturating_sub(today.count())
}

fn write(xml: &mut Xml, region: &Region, lb: &LoadBalancer, c: &Context<'_>) {
    let capacity = &lb.capacity;
    xml.maybe(
        "LastModifiedTime",
        capacity.modified_at.map(|at| c.dates.text(at)),
    )
    .text("DecreaseRequestsRemaining", decreases_left(lb, c.now));
    let Some(units) = capacity.units else {
        return;
    };
    let code = if c.now < capacity.ready_at {
        "pending"
    } else {
        "provisioned"
    };
    let zones = lb
        .mappings
        .iter()
        .filter_map(|mapping| region.subnets.get(&mapping.subnet));
    let share = f64::from(units) / f64::from(u32::try_from(lb.mappings.len()).unwrap_or(1).max(1));
    xml.node("MinimumLoadBalancerCapacity", |x| {
        x.text("CapacityUnits", units);
    })
    .members("CapacityReservationState", zones, |x, subnet| {
        x.node("State", |x| {
            x.text("Code", code);
        })
        .text("AvailabilityZone", &subnet.zone)
        .text(
            "EffectiveCapacityUnits",
            if code == "pending" { 0.0 } else { share },
        );
    });
}

/// `DescribeCapacityReservation`.
pub fn describe(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    p.finish()?;
    write(xml, region, load_balancer(region, arn)?, c);
    Ok(())
}

/// `ModifyCapacityReservation`: units, or none any more.
pub fn modify(region: &mut Region, c: &Context<'_>, p: &Params<'_>, xml: &mut Xml) -> Done {
    let arn = p.required("LoadBalancerArn")?;
    let asked: Option<u32> = match p.branch("MinimumLoadBalancerCapacity") {
        Some(capacity) => capacity.read("CapacityUnits")?,
        None => None,
    };
    let reset = p.read::<bool>("ResetCapacityReservation")?.unwrap_or(false);
    p.finish()?;
    if asked.is_some() == reset {
        return Err(ApiError::validation(
            "Exactly one of MinimumLoadBalancerCapacity and ResetCapacityReservation must be specified",
        ));
    }
    let lb = load_balancer(region, arn)?;
    if lb.state(c.now).0 != "active" {
        return Err(ApiError::new(
            "InvalidConfigurationRequest",
            format!("Load balancer '{arn}' must be active to change its capacity reservation"),
        ));
    }
    if c.now < lb.capacity.ready_at {
        return Err(ApiError::new(
            "PriorRequestNotComplete",
            "The prior capacity reservation request is not complete",
        ));
    }
    match asked {
        Some(0) => return Err(ApiError::validation("CapacityUnits must be greater than 0")),
        Some(units) if units > MOST => {
            return Err(ApiError::new(
                "CapacityUnitsLimitExceeded",
                format!("CapacityUnits cannot be greater than {MOST}"),
            ));
        }
        _ => {}
    }
    let decrease = lb
        .capacity
        .units
        .is_some_and(|had| asked.is_none_or(|units| units < had));
    if decrease && decreases_left(lb, c.now) == 0 {
        return Err(ApiError::new(
            "CapacityDecreaseRequestLimitExceeded",
            "The daily limit of capacity decrease requests has been exceeded",
        ));
    }
    let lb = load_balancer_mut(region, arn)?;
    if lb.capacity.units != asked {
        lb.capacity.units = asked;
        lb.capacity.modified_at = Some(c.now);
        lb.capacity.ready_at = c.now + c.timing.capacity;
        if decrease {
            lb.capacity.decreases.push(c.now);
        }
    }
    let lb = load_balancer(region, arn)?;
    write(xml, region, lb, c);
    Ok(())
}
