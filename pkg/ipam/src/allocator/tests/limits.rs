use super::*;
use crate::{Limits, PoolState};

fn limited(addresses: Option<u32>, services: Option<u32>) -> Pool {
    Pool {
        limits: Limits {
            addresses,
            services,
        },
        ..pool("lan", &["192.0.2.0/28", "fd00::/120"])
    }
}

fn of(namespace: &str, service: ServiceRequest) -> ServiceRequest {
    ServiceRequest {
        key: ServiceKey::new(namespace, &service.key.name),
        ..service
    }
}

#[test]
fn a_namespace_has_no_more_addresses_than_it_may() {
    let mut allocator = allocator(vec![limited(Some(3), None)]);
    let both = [IpFamily::V4, IpFamily::V6];
    serve(&mut allocator, &service("a", &both)).unwrap();
    let error = serve(&mut allocator, &service("b", &both)).unwrap_err();
    assert_eq!(error.reason(), "LimitReached");
    assert_eq!(
        error.to_string(),
        "no pool gives this Service its IPv4 and IPv6 address; pool \"lan\": namespace \"default\" \
         may have 3 addresses of it, and has no more left"
    );
    serve(&mut allocator, &v4("c")).unwrap();
    let asked = serve(&mut allocator, &ask("d", &["192.0.2.9"])).unwrap_err();
    assert_eq!(asked.reason(), "LimitReached");
    // Others have limits of their own, and this one's are theirs to free.
    serve(&mut allocator, &of("shop", v4("e"))).unwrap();
    assert_eq!(allocator.reports()[0].at_limit, ["default"]);
    assert_eq!(allocator.reports()[0].waiting.len(), 2);
    release(&mut allocator, "a");
    serve(&mut allocator, &service("b", &both)).unwrap();
    assert_eq!(allocator.reports()[0].waiting.len(), 1);
}

#[test]
fn only_so_many_services_of_a_namespace_are_served() {
    let mut allocator = allocator(vec![limited(None, Some(1))]);
    serve(&mut allocator, &v4("a")).unwrap();
    assert!(serve(&mut allocator, &v4("b")).is_err());
    // The one that is served may have more of it.
    let both = service("a", &[IpFamily::V4, IpFamily::V6]);
    assert_eq!(serve(&mut allocator, &both).unwrap().len(), 2);
    // A limit that comes later takes nothing away.
    serve(&mut allocator, &of("shop", v4("c"))).unwrap();
    allocator.set_pools(vec![limited(Some(0), Some(0))]);
    assert_eq!(serve(&mut allocator, &both).unwrap().len(), 2);
    // A pool that is closed is not what one waits for with room.
    allocator.set_pools(vec![Pool {
        state: PoolState::Disabled,
        ..limited(None, None)
    }]);
    let error = serve(&mut allocator, &v4("d")).unwrap_err();
    assert_eq!(error.reason(), "PoolDisabled");
}
