//! Objects as former releases wrote them: an operator of today has nothing to write about
//! them. Who changes a word of a condition makes every Service be written to at the next
//! upgrade; this says so before.
//!
//! A release adds its fixtures and keeps those of the ones before.

use std::sync::Arc;

use herald_api::IPAddressPool;
use herald_ipam::{AddressPools as _, Outside};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::simulated::{Operator, Shared};
use crate::stores::key_of;
use crate::{pool_status, pools};

const SERVICES: [&str; 1] = [include_str!("fixtures/services-0.1.0.json")];
const POOLS: [&str; 1] = [include_str!("fixtures/pool-0.1.0.json")];

#[tokio::test]
async fn nothing_is_written_to_services_of_former_releases() {
    for text in SERVICES {
        let world = Shared::default();
        let objects: Vec<Value> = serde_json::from_str(text).unwrap();
        for object in objects {
            let service: Service = serde_json::from_value(object.clone()).unwrap();
            let mut world = world.lock().unwrap();
            if service
                .finalizers()
                .contains(&"herald.dev/cleanup".to_owned())
            {
                world.cloud.extend(service.uid());
            }
            world.services.insert(key_of(&service), object);
        }
        assert!(Operator::start(&world).settle().await);
        let world = world.lock().unwrap();
        let after = serde_json::to_string_pretty(&world.services.values().collect::<Vec<_>>());
        assert_eq!(world.writes, 0, "written: {}", after.unwrap());
    }
}

#[test]
fn nothing_is_written_to_pools_of_former_releases() {
    for text in POOLS {
        let object: IPAddressPool = serde_json::from_str(text).unwrap();
        let (parsed, problems) = pools::parse(&[Arc::new(object.clone())], |_| false);
        assert!(problems.is_empty());
        let provider = herald_baremetal::BareMetal::new(Outside::Keep);
        provider.set_pools(parsed);
        let services: Vec<Service> = serde_json::from_str(SERVICES[0]).unwrap();
        let holder = crate::request::holder(&services[0], herald_core::Labels::new());
        provider
            .adopt(&holder, &["192.0.2.3".parse().unwrap()])
            .unwrap();
        let before = object.status.clone().unwrap();
        provider.restore(&pool_status::resting(&before));
        let report = &provider.reports()[0];
        assert_eq!(pool_status::status(&object, Some(report), None), before);
    }
}
