use super::*;
use crate::wire::CheckProtocol;

fn cloud(pools: &[&str]) -> (Cloud, Instant) {
    let settings = Settings {
        provisioning_time: Duration::from_secs(2),
        deletion_time: Duration::from_secs(1),
        quotas: Quotas {
            load_balancers: 3,
            listeners: 2,
            targets: 2,
        },
        domain: "cloud.test".into(),
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
    };
    (Cloud::new(settings), Instant::now())
}

fn request(name: &str) -> CreateLoadBalancer {
    CreateLoadBalancer {
        name: name.into(),
        client_token: None,
        tags: BTreeMap::from([
            ("owner".into(), name.into()),
            ("cluster".into(), "c1".into()),
        ]),
        address_type: AddressType::Address,
        families: BTreeSet::from([IpFamily::V4]),
        listeners: vec![listener(80)],
        targets: vec![target("192.0.2.1")],
        health_check: HealthCheck {
            protocol: CheckProtocol::Tcp,
            port: 30080,
            path: "/healthz".into(),
            interval_millis: 1000,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        },
    }
}

fn listener(port: u16) -> Listener {
    Listener {
        port,
        protocol: Protocol::Tcp,
        target_port: 30000 + port,
    }
}

fn target(address: &str) -> Target {
    Target {
        address: address.parse().unwrap(),
        name: format!("node-{address}"),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
    result.unwrap_err().code
}

#[test]
fn a_load_balancer_lives_from_provisioning_to_gone() {
    let (mut cloud, start) = cloud(&["198.51.100.0/30"]);
    let (made, new) = cloud.create(request("web"), None, start).unwrap();
    assert!(new);
    assert_eq!(made.state, LoadBalancerState::Provisioning);
    assert_eq!(made.addresses, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
    assert!(cloud.programs(start).is_empty(), "it carries nothing yet");
    assert_eq!(
        cloud.next_deadline(start),
        Some(start + Duration::from_secs(2))
    );

    let ready = start + Duration::from_secs(2);
    cloud.advance(ready);
    let programs = cloud.programs(ready);
    assert!(programs[0].becomes_active);
    assert_eq!(
        cloud.get(&made.id, ready).unwrap().state,
        LoadBalancerState::Provisioning
    );
    assert!(cloud.carried(&made.id, Err("no such interface".into()), ready));
    assert_eq!(
        cloud.get(&made.id, ready).unwrap().state_reason.as_deref(),
        Some("no such interface")
    );
    assert!(cloud.carried(&made.id, Ok(()), ready));
    assert!(!cloud.carried(&made.id, Ok(()), ready), "no news");
    let active = cloud
        .get(&made.id, ready + Duration::from_millis(7))
        .unwrap();
    assert_eq!(
        (active.state, active.state_age_millis),
        (LoadBalancerState::Active, 7)
    );
    assert_eq!(active.state_reason, None);

    cloud.delete(&made.id, ready).unwrap();
    assert!(cloud.programs(ready).is_empty());
    assert_eq!(
        code(cloud.set_listeners(&made.id, &[], ready)),
        "BeingDeleted"
    );
    assert_eq!(
        code(cloud.create(request("web"), None, ready)),
        "AlreadyExists"
    );
    cloud
        .delete(&made.id, ready + Duration::from_millis(500))
        .unwrap();
    cloud.advance(ready + Duration::from_secs(1));
    assert_eq!(code(cloud.get(&made.id, ready)), "NotFound");
    assert_eq!(code(cloud.delete(&made.id, ready)), "NotFound");
}

#[test]
fn a_load_balancer_doomed_to_fail_stays_failed_and_never_carries() {
    let (mut cloud, start) = cloud(&["198.51.100.0/30"]);
    let (made, _) = cloud
        .create(request("web"), Some("no capacity".into()), start)
        .unwrap();
    let later = start + Duration::from_secs(2);
    assert!(cloud.programs(later).is_empty());
    cloud.advance(later);
    let failed = cloud.get(&made.id, later).unwrap();
    assert_eq!(failed.state, LoadBalancerState::Failed);
    assert_eq!(failed.state_reason.as_deref(), Some("no capacity"));
    assert!(!cloud.carried(&made.id, Ok(()), later));
    assert!(cloud.programs(later).is_empty());
    cloud.delete(&made.id, later).unwrap();
    cloud.advance(later + Duration::from_secs(1));
    assert!(cloud.get(&made.id, later).is_err());
}

#[test]
fn a_client_token_makes_create_idempotent() {
    let (mut cloud, now) = cloud(&["198.51.100.0/24"]);
    let mut first = request("web");
    first.client_token = Some("t1".into());
    let (made, new) = cloud.create(first.clone(), None, now).unwrap();
    let (again, again_new) = cloud.create(first.clone(), None, now).unwrap();
    assert_eq!((&made.id, new, again_new), (&again.id, true, false));
    let mut other = first.clone();
    other.name = "other".into();
    assert_eq!(code(cloud.create(other, None, now)), "IdempotencyMismatch");
    let mut second_token = first;
    second_token.client_token = Some("t2".into());
    assert_eq!(code(cloud.create(second_token, None, now)), "AlreadyExists");
}

#[test]
fn quotas_hold() {
    let (mut cloud, now) = cloud(&["198.51.100.0/24"]);
    let mut many = request("many");
    many.listeners = vec![listener(1), listener(2), listener(3)];
    assert_eq!(code(cloud.create(many, None, now)), "QuotaExceeded");
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(cloud.create(request(name), None, now).unwrap().0.id);
    }
    let refused = cloud.create(request("d"), None, now).unwrap_err();
    assert_eq!(
        (refused.status, refused.code.as_str()),
        (402, "QuotaExceeded")
    );
    let three = [
        target("192.0.2.1"),
        target("192.0.2.2"),
        target("192.0.2.3"),
    ];
    assert_eq!(
        code(cloud.set_targets(&ids[0], &three, now)),
        "QuotaExceeded"
    );
    assert_eq!(
        cloud.get(&ids[0], now).unwrap().targets.len(),
        1,
        "a refused call changes nothing"
    );
}

#[test]
fn addresses_are_unique_and_not_reused_at_once() {
    let (mut cloud, now) = cloud(&["198.51.100.0/29", "2001:db8::/64"]);
    let mut dual = request("dual");
    dual.families = BTreeSet::from([IpFamily::V4, IpFamily::V6]);
    let (made, _) = cloud.create(dual, None, now).unwrap();
    assert_eq!(
        made.addresses,
        [
            "198.51.100.1".parse::<IpAddr>().unwrap(),
            "2001:db8::1".parse().unwrap()
        ]
    );
    cloud.delete(&made.id, now).unwrap();
    cloud.advance(now + Duration::from_secs(1));
    let (next, _) = cloud.create(request("next"), None, now).unwrap();
    assert_eq!(next.addresses, ["198.51.100.2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_pool_wraps_around_and_runs_out() {
    let (mut cloud, now) = cloud(&["198.51.100.0/31", "198.51.100.2/31"]);
    let (a, _) = cloud.create(request("a"), None, now).unwrap();
    let (b, _) = cloud.create(request("b"), None, now).unwrap();
    assert_ne!(a.addresses, b.addresses);
    assert_eq!(
        code(cloud.create(request("c"), None, now)),
        "AddressesExhausted"
    );
    cloud.delete(&a.id, now).unwrap();
    cloud.advance(now + Duration::from_secs(1));
    let (c, _) = cloud.create(request("c"), None, now).unwrap();
    assert_eq!(c.addresses, a.addresses);
}

#[test]
fn families_come_and_go_without_moving_the_others() {
    let (mut cloud, now) = cloud(&["198.51.100.0/24", "2001:db8::/120"]);
    let (made, _) = cloud.create(request("web"), None, now).unwrap();
    let both = BTreeSet::from([IpFamily::V4, IpFamily::V6]);
    let dual = cloud.set_families(&made.id, &both, now).unwrap();
    assert_eq!(dual.addresses[0], made.addresses[0]);
    assert_eq!(dual.addresses.len(), 2);
    let only = cloud
        .set_families(&made.id, &BTreeSet::from([IpFamily::V6]), now)
        .unwrap();
    assert_eq!(only.addresses, dual.addresses[1..]);
    assert_eq!(
        code(cloud.set_families(&made.id, &BTreeSet::new(), now)),
        "InvalidRequest"
    );
}

#[test]
fn health_changes_only_after_its_threshold() {
    let (mut cloud, now) = cloud(&["198.51.100.0/24"]);
    let (made, _) = cloud.create(request("web"), None, now).unwrap();
    let address = "192.0.2.1".parse().unwrap();
    let health = |cloud: &Cloud| cloud.get(&made.id, now).unwrap().targets[0].health;
    let fail = || Err("refused".to_owned());

    assert_eq!(health(&cloud), TargetHealth::Initial);
    assert!(
        cloud.record_check(&made.id, address, Ok(())),
        "a new target needs one"
    );
    assert!(!cloud.record_check(&made.id, address, fail()));
    assert!(!cloud.record_check(&made.id, address, fail()));
    assert!(
        !cloud.record_check(&made.id, address, Ok(())),
        "the count starts again"
    );
    assert!(!cloud.record_check(&made.id, address, fail()));
    assert!(!cloud.record_check(&made.id, address, fail()));
    assert_eq!(health(&cloud), TargetHealth::Healthy);
    assert!(cloud.record_check(&made.id, address, fail()));
    assert_eq!(health(&cloud), TargetHealth::Unhealthy);
    assert!(!cloud.record_check(&made.id, address, Ok(())));
    assert!(cloud.record_check(&made.id, address, Ok(())));
    assert_eq!(health(&cloud), TargetHealth::Healthy);

    let kept = cloud
        .set_targets(&made.id, &[target("192.0.2.1"), target("192.0.2.2")], now)
        .unwrap();
    assert_eq!(
        kept.targets.iter().map(|t| t.health).collect::<Vec<_>>(),
        [TargetHealth::Healthy, TargetHealth::Initial]
    );
    assert!(!cloud.record_check(&made.id, "192.0.2.9".parse().unwrap(), Ok(())));
}

#[test]
fn lists_are_filtered_and_paged() {
    let (mut cloud, now) = cloud(&["198.51.100.0/24"]);
    for name in ["a", "b", "c"] {
        cloud.create(request(name), None, now).unwrap();
    }
    let cluster = [("cluster".to_owned(), "c1".to_owned())];
    let first = cloud.list(None, &cluster, None, 2, now);
    assert_eq!(first.items.len(), 2);
    let rest = cloud.list(None, &cluster, first.next_page_token.as_deref(), 2, now);
    assert_eq!((rest.items.len(), rest.next_page_token), (1, None));
    let whole = cloud.list(None, &cluster, None, 3, now);
    assert_eq!(whole.next_page_token, None, "no empty last page");
    assert_eq!(
        cloud.list(Some("b"), &cluster, None, 9, now).items[0].name,
        "b"
    );
    let other = [("cluster".to_owned(), "c2".to_owned())];
    assert!(cloud.list(None, &other, None, 9, now).items.is_empty());
}

#[test]
fn a_hostname_is_known_while_it_leads_somewhere() {
    let (mut cloud, now) = cloud(&["198.51.100.0/24"]);
    let mut named = request("web");
    named.address_type = AddressType::Hostname;
    let (made, _) = cloud.create(named, None, now).unwrap();
    assert_eq!(made.hostname.as_deref(), Some("web.cloud.test"));
    assert!(cloud.hosts().is_empty());
    cloud.carried(&made.id, Ok(()), now);
    assert_eq!(cloud.hosts()[0].hostname, "web.cloud.test");
    assert_eq!(cloud.hosts()[0].addresses, made.addresses);
    cloud.delete(&made.id, now).unwrap();
    assert!(cloud.hosts().is_empty());
}

#[test]
fn mistakes_are_refused_with_what_is_wrong() {
    let (mut cloud, now) = cloud(&["198.51.100.0/24"]);
    let mut refused = |change: fn(&mut CreateLoadBalancer)| {
        let mut request = request("web");
        change(&mut request);
        let error = cloud.create(request, None, now).unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (400, "InvalidRequest"));
        error.message
    };
    assert!(refused(|r| r.name = "Web".into()).contains("\"Web\""));
    assert!(refused(|r| r.name = "x".repeat(33)).contains("1 to 32"));
    assert!(refused(|r| r.families.clear()).contains("families"));
    assert!(refused(|r| r.listeners[0].port = 0).contains("port"));
    assert!(refused(|r| r.listeners[0].protocol = Protocol::Sctp).contains("SCTP"));
    assert!(refused(|r| r.listeners.push(listener(80))).contains("TCP 80"));
    assert!(refused(|r| r.targets.push(target("192.0.2.1"))).contains("twice"));
    assert!(refused(|r| r.health_check.interval_millis = 1).contains("intervalMillis"));
    assert!(refused(|r| r.health_check.path = "/a b\r\n".into()).contains("path"));
    assert!(refused(|r| r.health_check.healthy_threshold = 0).contains("threshold"));
}
