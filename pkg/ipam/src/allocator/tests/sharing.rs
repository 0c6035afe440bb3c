use herald_core::{Protocol, ServicePort, TargetPort};

use super::*;

fn sharing(name: &str, key: &str, ports: &[(u16, Protocol)]) -> ServiceRequest {
    let port = |(port, protocol): &(u16, Protocol)| ServicePort {
        name: String::new(),
        protocol: *protocol,
        port: *port,
        node_port: None,
        target_port: TargetPort::Number(*port),
    };
    ServiceRequest {
        sharing_key: Some(key.into()),
        ports: ports.iter().map(port).collect(),
        ..v4(name)
    }
}

fn local(service: ServiceRequest, app: &str) -> ServiceRequest {
    ServiceRequest {
        traffic_policy: TrafficPolicy::Local,
        selector: BTreeMap::from([("app".into(), app.into())]),
        ..service
    }
}

const HTTP: (u16, Protocol) = (80, Protocol::Tcp);
const HTTPS: (u16, Protocol) = (443, Protocol::Tcp);
const QUIC: (u16, Protocol) = (443, Protocol::Udp);

#[test]
fn services_with_one_key_and_ports_of_their_own_have_one_address() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/29"])]);
    serve(&mut allocator, &v4("alone")).unwrap();
    for service in [
        sharing("web", "k", &[HTTP]),
        sharing("secure", "k", &[HTTPS]),
        sharing("quic", "k", &[QUIC]),
    ] {
        assert_eq!(serve(&mut allocator, &service).unwrap(), ["192.0.2.1"]);
    }
    let other = sharing("other", "l", &[(22, Protocol::Tcp)]);
    assert_eq!(serve(&mut allocator, &other).unwrap(), ["192.0.2.2"]);
    assert_eq!(usage(&allocator, "lan").assigned_v4, 3);
    // It is free only when the last has gone.
    release(&mut allocator, "web");
    release(&mut allocator, "quic");
    assert_eq!(usage(&allocator, "lan").assigned_v4, 3);
    release(&mut allocator, "secure");
    assert_eq!(usage(&allocator, "lan").assigned_v4, 2);
}

#[test]
fn a_refusal_says_all_that_stands_between() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0-192.0.2.0"])]);
    serve(&mut allocator, &sharing("web", "k", &[HTTP])).unwrap();
    let at_it = |service: ServiceRequest| ServiceRequest {
        requested_addresses: vec!["192.0.2.0".parse().unwrap()],
        ..service
    };
    let mut refused = |service: ServiceRequest| {
        let error = serve(&mut allocator, &at_it(service)).unwrap_err();
        assert_eq!(error.reason(), "AddressTaken");
        error.to_string()
    };
    assert_eq!(
        refused(v4("a")),
        "192.0.2.0 is taken by Service default/web"
    );
    assert_eq!(
        refused(sharing("a", "k", &[HTTPS, HTTP])),
        "port 80/TCP of 192.0.2.0 is taken by Service default/web; Services that share an address \
         need ports of their own"
    );
    let other_key = refused(sharing("a", "l", &[HTTPS]));
    assert!(other_key.contains("has another value"), "{other_key}");
    let policy = refused(local(sharing("a", "k", &[HTTPS]), "web"));
    assert!(policy.contains("only one of the two has"), "{policy}");
}

#[test]
fn with_policy_local_the_pods_must_be_the_same() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    let web = local(sharing("web", "k", &[HTTP]), "web");
    let same = local(sharing("same", "k", &[HTTPS]), "web");
    let other = local(sharing("other", "k", &[QUIC]), "other");
    assert_eq!(serve(&mut allocator, &web).unwrap(), ["192.0.2.0"]);
    assert_eq!(serve(&mut allocator, &same).unwrap(), ["192.0.2.0"]);
    assert_eq!(serve(&mut allocator, &other).unwrap(), ["192.0.2.1"]);
    // The only one at an address may change what it brings along.
    let moved = local(sharing("other", "m", &[QUIC]), "else");
    assert_eq!(serve(&mut allocator, &moved).unwrap(), ["192.0.2.1"]);
}

#[test]
fn one_that_stops_sharing_moves_and_the_others_stay() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/31"])]);
    serve(&mut allocator, &sharing("web", "k", &[HTTP])).unwrap();
    serve(&mut allocator, &sharing("secure", "k", &[HTTPS])).unwrap();
    let clashing = sharing("secure", "k", &[HTTPS, HTTP]);
    assert_eq!(serve(&mut allocator, &clashing).unwrap(), ["192.0.2.1"]);
    // Where there is nothing else, it loses it all the same: two Services with
    // one port at one address serve nobody.
    serve(&mut allocator, &sharing("quic", "k", &[QUIC])).unwrap();
    let clashing = sharing("quic", "k", &[QUIC, HTTP]);
    serve(&mut allocator, &clashing).unwrap_err();
    assert!(allocator.held("uid-quic").is_empty());
    // As soon as the conditions change it is looked at again, and served.
    allocator.due(at(0));
    serve(&mut allocator, &sharing("web", "k", &[(81, Protocol::Tcp)])).unwrap();
    let due = allocator.due(at(0)).services;
    assert_eq!(due.first(), Some(&clashing.key));
    assert_eq!(serve(&mut allocator, &clashing).unwrap(), ["192.0.2.0"]);
}

#[test]
fn those_who_share_are_adopted_together() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    for service in [
        sharing("web", "k", &[HTTP]),
        sharing("secure", "k", &[HTTPS]),
    ] {
        adopt(&mut allocator, &service, &["192.0.2.3"]);
    }
    let third = sharing("third", "k", &[HTTP]);
    let shared = "192.0.2.3".parse().unwrap();
    assert!(allocator.adopt(&third, &[shared], at(0)).is_err());
    assert_eq!(serve(&mut allocator, &third).unwrap(), ["192.0.2.0"]);
    assert_eq!(
        serve(&mut allocator, &sharing("quic", "k", &[QUIC])).unwrap(),
        ["192.0.2.0"]
    );
}
