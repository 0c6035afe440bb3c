//! Token buckets like AWS's, for each account and region.

use std::collections::BTreeMap;
use std::time::Instant;

use herald_fakecloud::throttle::TokenBucket;
use serde::{Deserialize, Serialize};

use crate::actions::{Action, Family};

/// The size of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bucket {
    /// Calls at once.
    pub burst: u32,
    /// Calls a second, above 0.
    pub rate: f64,
}

impl Bucket {
    const fn new(burst: u32, rate: f64) -> Self {
        Self { burst, rate }
    }
}

/// The sizes of all buckets. ELB has one for each family of actions, EC2 one
/// for each action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Throttling {
    /// ELB: all describes together.
    pub describe: Bucket,
    /// ELB: registrations and deregistrations together.
    pub register: Bucket,
    /// ELB: other writes together.
    pub mutate: Bucket,
    /// ELB: what costs AWS much (`CreateLoadBalancer`, `SetSubnets`,
    /// `SetSecurityGroups`, `SetIpAddressType`, `ModifyCapacityReservation`),
    /// together.
    pub intensive: Bucket,
    /// EC2: each read.
    pub ec2_read: Bucket,
    /// EC2: each write.
    pub ec2_write: Bucket,
    /// STS: each action.
    pub sts: Bucket,
}

impl Default for Throttling {
    /// AWS's sizes, as far as they are known.
    fn default() -> Self {
        Self {
            describe: Bucket::new(40, 10.0),
            register: Bucket::new(20, 4.0),
            mutate: Bucket::new(20, 3.0),
            intensive: Bucket::new(10, 0.2),
            ec2_read: Bucket::new(100, 20.0),
            ec2_write: Bucket::new(50, 5.0),
            sts: Bucket::new(100, 50.0),
        }
    }
}

/// The buckets of one account and region.
#[derive(Debug, Default)]
pub struct Buckets(BTreeMap<&'static str, TokenBucket>);

impl Buckets {
    /// Takes a token for a call; whether there was one.
    pub fn take(&mut self, action: &Action, sizes: &Throttling, now: Instant) -> bool {
        let (key, size) = match action.family {
            Family::Describe => ("describe", sizes.describe),
            Family::Register => ("register", sizes.register),
            Family::Mutate => ("mutate", sizes.mutate),
            Family::Intensive => ("intensive", sizes.intensive),
            Family::Ec2Read => (action.name, sizes.ec2_read),
            Family::Ec2Write => (action.name, sizes.ec2_write),
            Family::Sts => (action.name, sizes.sts),
        };
        self.0
            .entry(key)
            .or_insert_with(|| TokenBucket::new(size.rate, size.burst, now))
            .take(now)
            .is_ok()
    }
}
