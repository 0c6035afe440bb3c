use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use herald_core::{
    Backend, Endpoint, EndpointPort, IpFamily, Labels, Node, Protocol, ServiceKey, ServicePort,
    ServiceReference, ServiceRequest, Taint, TargetPort, TrafficPolicy,
};
use proptest::prelude::*;

use super::*;
use crate::facts::{Existing, RouteTable, SecurityGroup, Subnet, Zone};
use crate::spec::{List, SecurityGroups, SubnetMapping};

fn service(annotations: &[(&str, &str)]) -> ServiceRequest {
    ServiceRequest {
        annotations: annotations
            .iter()
            .map(|(key, value)| (format!("herald.dev/{key}"), (*value).to_owned()))
            .collect(),
        ports: vec![port("http", Protocol::Tcp, 80)],
        ..ServiceRequest::new(ServiceKey::new("default", "web"), "u1")
    }
}

fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: Some(30000 + port),
        target_port: TargetPort::Number(8000 + port),
    }
}

fn node(number: u8) -> Node {
    Node {
        name: format!("n{number}"),
        labels: Labels::new(),
        internal_addresses: vec![[10, 0, 1, number].into()],
        ready: true,
        network_unavailable: false,
        excluded: false,
        deleting: false,
        provider_id: Some(format!("aws:///eu-central-1a/i-{number}")),
        taints: Vec::new(),
        zone: None,
    }
}

fn backend(number: u8, node: u8, ready: bool) -> Backend {
    let ports = [
        ("http", Protocol::Tcp, 80),
        ("dns", Protocol::Tcp, 53),
        ("dns-u", Protocol::Udp, 53),
    ];
    Backend {
        endpoint: Endpoint {
            address: [10, 0, 9, number].into(),
            node: Some(format!("n{node}")),
            ready,
            serving: ready,
            terminating: false,
        },
        ports: ports
            .into_iter()
            .map(|(name, protocol, port)| EndpointPort {
                name: name.into(),
                protocol,
                port: 8000 + port,
            })
            .collect(),
        pod: Some(format!("web-{number}")),
        awaits_gate: false,
    }
}

fn subnet(id: &str, zone: &str, number: u8, tags: &[&str]) -> Subnet {
    Subnet {
        id: format!("subnet-{id}"),
        zone: format!("eu-central-1{zone}"),
        ipv4_cidr: Some(format!("10.0.{number}.0/24").parse().unwrap()),
        ipv6_cidrs: vec![format!("2001:db8:0:{number}::/64").parse().unwrap()],
        available_ips: 200,
        outpost_arn: None,
        tags: tags
            .iter()
            .map(|tag| tag.split_once('=').unwrap_or((tag, "")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}

fn facts() -> Facts {
    Facts {
        vpc_id: "vpc-1".into(),
        vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        subnets: vec![
            subnet(
                "pub-a",
                "a",
                1,
                &["kubernetes.io/role/elb=1", "Name=public-a"],
            ),
            subnet(
                "pub-b",
                "b",
                2,
                &["kubernetes.io/role/elb", "Name=public-b"],
            ),
            subnet("priv-a", "a", 11, &["kubernetes.io/role/internal-elb=1"]),
            subnet("priv-b", "b", 12, &["kubernetes.io/role/internal-elb=1"]),
        ],
        route_tables: vec![
            RouteTable {
                id: "rtb-main".into(),
                main: true,
                subnets: BTreeSet::new(),
                internet_gateway: false,
            },
            RouteTable {
                id: "rtb-public".into(),
                main: false,
                subnets: ["subnet-pub-a".to_owned(), "subnet-pub-b".to_owned()].into(),
                internet_gateway: true,
            },
        ],
        zones: Vec::new(),
        security_groups: vec![SecurityGroup {
            id: "sg-edge".into(),
            name: "sg".into(),
            tags: BTreeMap::from([("Name".to_owned(), "edge".to_owned())]),
        }],
        existing: None,
    }
}

fn settings() -> Settings {
    Settings {
        cluster_id: "c1".into(),
        cluster_name: Some("prod".into()),
        ..Settings::default()
    }
}

struct Case {
    settings: Settings,
    service: ServiceRequest,
    nodes: Vec<Node>,
    endpoints: Vec<Backend>,
    references: Vec<ServiceReference>,
    facts: Facts,
}

impl Case {
    fn new(annotations: &[(&str, &str)]) -> Self {
        Self {
            settings: settings(),
            service: service(annotations),
            nodes: vec![node(1), node(2), node(3)],
            endpoints: vec![backend(1, 1, true), backend(2, 2, true)],
            references: Vec::new(),
            facts: facts(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn ports(self, ports: Vec<ServicePort>) -> Self {
        self.with(|case| case.service.ports = ports)
    }

    fn build(&self) -> Result<Spec, String> {
        let request = Request {
            service: &self.service,
            nodes: &self.nodes,
            endpoints: &self.endpoints,
            references: &self.references,
        };
        build(&self.settings, request, &self.facts)
            .map_err(|error| format!("{}: {error}", error.reason()))
    }

    fn text(&self) -> String {
        self.build().map_or_else(|error| error, |spec| text(&spec))
    }

    fn targets(&self) -> String {
        let spec = self.build().unwrap();
        List(&spec.target_groups[0].targets).to_string()
    }

    fn subnets(&self) -> String {
        self.build().map_or_else(
            |error| error,
            |spec| List(&spec.load_balancer.subnets).to_string(),
        )
    }
}

/// A specification in words.
fn text(spec: &Spec) -> String {
    let mut text = format!("load balancer {}\n", spec.load_balancer);
    match &spec.security_groups {
        SecurityGroups::Managed(group) => {
            let _ = writeln!(
                text,
                "security group {:?} lets in {}",
                group.name,
                List(&group.rules)
            );
        }
        SecurityGroups::Given { ids, .. } => {
            let _ = writeln!(text, "security groups {}", List(ids));
        }
        SecurityGroups::None => text.push_str("no security group\n"),
    }
    for listener in &spec.listeners {
        let _ = writeln!(text, "listener {listener}");
    }
    for group in &spec.target_groups {
        let _ = writeln!(text, "{group}: {}", List(&group.targets));
    }
    match &spec.backend_rules {
        Some(rules) => {
            let _ = writeln!(text, "backends let in {rules}");
        }
        None => text.push_str("rules of backends are left alone\n"),
    }
    text
}

fn existing(scheme: Scheme, subnets: &[(&str, &str)]) -> Existing {
    Existing {
        arn: "arn".into(),
        name: "web".into(),
        scheme,
        ip_address_type: IpAddressType::Ipv4,
        subnets: subnets
            .iter()
            .map(|(subnet, allocation)| SubnetMapping {
                allocation: (!allocation.is_empty()).then(|| (*allocation).to_owned()),
                ..SubnetMapping::new(*subnet, "z")
            })
            .collect(),
        security_groups: vec!["sg-1".into()],
    }
}

#[test]
fn a_plain_service_is_an_internal_load_balancer_of_nodes() {
    insta::assert_snapshot!(Case::new(&[]).text());
}

#[test]
fn pods_are_targets_by_address() {
    let case = Case::new(&[
        ("aws-load-balancer-nlb-target-type", "ip"),
        ("aws-load-balancer-scheme", "internet-facing"),
        ("aws-load-balancer-ip-address-type", "dualstack"),
    ])
    .with(|case| {
        case.service.ports = vec![
            port("dns", Protocol::Tcp, 53),
            port("dns-u", Protocol::Udp, 53),
        ];
        case.endpoints.push(backend(3, 3, false));
        let mut gated = backend(4, 3, false);
        gated.awaits_gate = true;
        let mut away = backend(5, 3, true);
        away.endpoint.address = [192, 168, 0, 1].into();
        let mut going = backend(6, 3, true);
        going.endpoint.terminating = true;
        case.endpoints.extend([gated, away, going]);
    });
    insta::assert_snapshot!(case.text());
    let spec = case.build().unwrap();
    let outside: Vec<_> = spec.target_groups[0]
        .targets
        .iter()
        .filter_map(|target| target.availability_zone().map(|zone| (target.id(), zone)))
        .collect();
    assert_eq!(outside, [("192.168.0.1".to_owned(), "all")]);
    assert_eq!(spec.load_balancer.ipv6_source_nat, Some(true));
}

#[test]
fn tls_is_for_the_ports_that_are_named() {
    let case = Case::new(&[
        ("aws-load-balancer-ssl-cert", "arn:one, arn:two"),
        ("aws-load-balancer-ssl-ports", "https"),
        ("aws-load-balancer-backend-protocol", "ssl"),
        ("aws-load-balancer-alpn-policy", "HTTP2Preferred"),
        ("aws-load-balancer-proxy-protocol-per-target-group", "443"),
        ("aws-load-balancer-security-groups", "edge,sg-2"),
    ])
    .ports(vec![
        port("http", Protocol::Tcp, 80),
        port("https", Protocol::Tcp, 443),
    ]);
    insta::assert_snapshot!(case.text());
    let spec = case.build().unwrap();
    let tls = &spec.listeners[1];
    assert_eq!(tls.certificates, ["arn:one", "arn:two"]);
    assert_eq!(tls.ssl_policy.as_deref(), Some("ELBSecurityPolicy-2016-08"));
    assert_eq!(tls.alpn_policy.as_deref(), Some("HTTP2Preferred"));
    assert_eq!(spec.listeners[0].alpn_policy, None);
    let proxy: Vec<_> = spec
        .target_groups
        .iter()
        .map(|group| {
            group
                .attributes
                .set
                .contains_key("proxy_protocol_v2.enabled")
        })
        .collect();
    assert_eq!(proxy, [true, false], "443 sorts before 80");
}

#[test]
fn local_traffic_is_checked_at_the_health_check_node_port() {
    let local = |annotations: &[(&str, &str)]| {
        Case::new(annotations).with(|case| {
            case.service.traffic_policy = TrafficPolicy::Local;
            case.service.health_check_node_port = Some(31000);
        })
    };
    insta::assert_snapshot!(local(&[]).text());
    assert_eq!(
        local(&[("aws-local-nodes", "all")]).targets(),
        "i-1:30080, i-2:30080, i-3:30080"
    );
    let check = local(&[("aws-load-balancer-healthcheck-interval", "5")])
        .build()
        .unwrap()
        .target_groups[0]
        .health_check
        .clone();
    assert_eq!((check.interval_seconds, check.timeout_seconds), (5, 5));
    assert_eq!((check.healthy_threshold, check.unhealthy_threshold), (2, 2));
}

#[test]
fn udp_alone_is_checked_where_something_answers() {
    let check = |ports: Vec<ServicePort>, kind: &str| {
        let spec = Case::new(&[("aws-load-balancer-nlb-target-type", kind)])
            .ports(ports)
            .build()
            .unwrap();
        let udp = spec
            .target_groups
            .iter()
            .find(|g| g.key == "53/UDP")
            .unwrap();
        udp.health_check.to_string()
    };
    let udp = port("dns-u", Protocol::Udp, 53);
    let tcp = port("http", Protocol::Tcp, 80);
    assert_eq!(check(vec![udp.clone()], "instance"), "HTTP 10256 /healthz");
    assert_eq!(
        check(vec![udp.clone(), tcp.clone()], "instance"),
        "TCP 30080"
    );
    assert_eq!(check(vec![udp.clone(), tcp], "ip"), "TCP 8080");
    assert_eq!(check(vec![udp], "ip"), "TCP traffic-port");
}

#[test]
fn nodes_that_are_leaving_or_kept_out_are_no_targets() {
    let case = |annotations: &[(&str, &str)]| {
        Case::new(annotations).with(|case| {
            for (place, key) in [
                (0, "ToBeDeletedByClusterAutoscaler"),
                (1, "karpenter.sh/disrupted"),
            ] {
                case.nodes[place].taints.push(Taint {
                    key: key.into(),
                    effect: "NoSchedule".into(),
                });
            }
            let mut excluded = node(4);
            excluded.excluded = true;
            let mut fargate = node(5);
            fargate
                .labels
                .insert("eks.amazonaws.com/compute-type".into(), "fargate".into());
            let mut elsewhere = node(6);
            elsewhere.provider_id = Some("kind://docker/kind/n6".into());
            let mut labelled = node(7);
            labelled.labels.insert("pool".into(), "edge".into());
            let mut unready = node(8);
            unready.ready = false;
            case.nodes
                .extend([excluded, fargate, elsewhere, labelled, unready]);
        })
    };
    assert_eq!(case(&[]).targets(), "i-3:30080, i-7:30080, i-8:30080");
    let labels = [("aws-load-balancer-target-node-labels", "pool=edge")];
    assert_eq!(case(&labels).targets(), "i-7:30080");
    let remove = [("aws-not-ready-nodes", "remove")];
    assert_eq!(case(&remove).targets(), "i-3:30080, i-7:30080");
    let blind =
        case(&remove).with(|case| case.nodes.iter_mut().for_each(|node| node.ready = false));
    assert_eq!(blind.targets(), "i-3:30080, i-7:30080, i-8:30080");
}

#[test]
fn instance_ids_come_from_provider_ids() {
    let ids = |provider_id: &str| {
        let case = Case::new(&[]).with(|case| {
            case.nodes.truncate(1);
            case.nodes[0].provider_id = Some(provider_id.into());
        });
        case.targets()
    };
    assert_eq!(ids("aws:///eu-central-1a/i-0a1b"), "i-0a1b:30080");
    assert_eq!(ids("aws:///i-0a1b"), "i-0a1b:30080");
    for wrong in [
        "",
        "aws:///eu-central-1a/i-",
        "aws:///eu/fargate-ip-10",
        "gce:///i-0a1b",
        "aws:///z/i-0/../x",
    ] {
        assert_eq!(ids(wrong), "", "{wrong}");
    }
}

#[test]
fn traffic_is_shared_with_other_services_by_weight() {
    let action = r#"{"type":"forward","forwardConfig":{"baseServiceWeight":90,"targetGroups":[
        {"serviceName":"canary","servicePort":"http","weight":9},
        {"targetGroupARN":"arn:elsewhere","weight":1}]}}"#;
    let canary = ServiceReference {
        name: "canary".into(),
        ports: vec![port("http", Protocol::Tcp, 8080)],
        traffic_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        endpoints: Vec::new(),
    };
    let case = Case::new(&[("actions.TCP-80", action)]);
    assert_eq!(references(&case.service), ["canary"]);
    assert!(
        case.text().contains("default/canary, which does not exist"),
        "{}",
        case.text()
    );
    let case = case.with(|case| case.references.push(canary));
    insta::assert_snapshot!(case.text());
    let udp = case.with(|case| case.references[0].ports[0].protocol = Protocol::Udp);
    assert!(
        udp.text()
            .contains("no such port of the listener's protocol TCP")
    );
}

#[test]
fn what_cannot_be_is_said_with_its_mend() {
    let both = || {
        vec![
            port("dns", Protocol::Tcp, 53),
            port("dns-u", Protocol::Udp, 53),
        ]
    };
    let errors = vec![
        Case::new(&[("aws-load-balancer-enable-tcp-udp-listener", "false")]).ports(both()),
        Case::new(&[])
            .ports(both())
            .with(|case| case.service.ports[1].node_port = Some(31053)),
        Case::new(&[("aws-load-balancer-nlb-target-type", "ip")])
            .ports(both())
            .with(|case| case.service.ports[1].target_port = TargetPort::Name("dns".into())),
        Case::new(&[("aws-load-balancer-ssl-cert", "arn")]).ports(both()),
        Case::new(&[
            ("aws-load-balancer-ssl-cert", "arn"),
            ("aws-load-balancer-ssl-ports", "443"),
        ]),
        Case::new(&[("aws-load-balancer-quic-enabled-ports", "80")]),
        Case::new(&[("aws-load-balancer-quic-enabled-ports", "53")]).ports(vec![port(
            "dns-u",
            Protocol::Udp,
            53,
        )]),
        Case::new(&[]).ports(vec![port("s", Protocol::Sctp, 80)]),
        Case::new(&[]).with(|case| case.service.ports[0].node_port = None),
        Case::new(&[]).with(|case| case.service.traffic_policy = TrafficPolicy::Local),
        Case::new(&[]).with(|case| case.service.ip_families = vec![IpFamily::V6]),
        Case::new(&[("load-balancer-source-ranges", "2001:db8::/32")]),
        Case::new(&[]).with(|case| case.service.source_ranges.push("10.0.0.0".into())),
        Case::new(&[("aws-load-balancer-security-groups", "core")]),
        Case::new(&[
            ("aws-load-balancer-disable-nlb-sg", "true"),
            (
                "aws-load-balancer-manage-backend-security-group-rules",
                "true",
            ),
        ]),
        Case::new(&[(
            "aws-load-balancer-target-group-attributes",
            "preserve_client_ip.enabled=false",
        )])
        .ports(vec![port("dns-u", Protocol::Udp, 53)]),
        Case::new(&[("aws-load-balancer-healthcheck-port", "metrics")]),
        Case::new(&[("aws-load-balancer-eip-allocations", "eipalloc-1,eipalloc-2")]),
        Case::new(&[("aws-load-balancer-private-ipv4-addresses", "10.0.11.9")]),
        Case::new(&[(
            "aws-load-balancer-private-ipv4-addresses",
            "10.0.11.9,10.0.11.10",
        )]),
        Case::new(&[("aws-load-balancer-subnets", "nowhere")]),
        Case::new(&[("aws-load-balancer-subnets", "public-a,subnet-priv-a")]),
        Case::new(&[("aws-load-balancer-scheme", "public")]),
    ];
    let errors: Vec<String> = errors
        .iter()
        .map(|case| case.build().unwrap_err())
        .collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn clients_come_from_the_ranges_and_lists_that_are_named() {
    let rules = |annotations: &[(&str, &str)], field: &[&str]| {
        let case = Case::new(annotations).with(|case| {
            case.service.source_ranges = field.iter().map(|s| (*s).to_owned()).collect();
        });
        match case.build().unwrap().security_groups {
            SecurityGroups::Managed(group) => List(&group.rules).to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(rules(&[], &[]), "TCP 80 from 0.0.0.0/0");
    let dual = ("aws-load-balancer-ip-address-type", "dualstack");
    assert_eq!(
        rules(&[dual], &[]),
        "TCP 80 from 0.0.0.0/0, TCP 80 from ::/0"
    );
    let lists = ("aws-load-balancer-security-group-prefix-lists", "pl-1");
    assert_eq!(rules(&[lists], &[]), "TCP 80 from pl-1");
    let range = ("load-balancer-source-ranges", "10.1.0.0/16");
    assert_eq!(rules(&[range], &[]), "TCP 80 from 10.1.0.0/16");
    assert_eq!(rules(&[range], &["10.2.0.9/16"]), "TCP 80 from 10.2.0.0/16");
    let icmp = ("aws-load-balancer-enable-icmp-for-path-mtu-discovery", "on");
    assert_eq!(
        rules(&[range, icmp], &[]),
        "TCP 80 from 10.1.0.0/16, ICMP fragmentation needed from 10.1.0.0/16"
    );
}

#[test]
fn subnets_are_found_by_tag_then_by_reachability() {
    let scheme = [("aws-load-balancer-scheme", "internet-facing")];
    let public = "subnet-pub-a, subnet-pub-b";
    assert_eq!(Case::new(&scheme).subnets(), public);
    let untagged = |case: &mut Case| case.facts.subnets.iter_mut().for_each(|s| s.tags.clear());
    assert_eq!(Case::new(&scheme).with(untagged).subnets(), public);
    assert_eq!(
        Case::new(&[]).with(untagged).subnets(),
        "subnet-priv-a, subnet-priv-b"
    );
    // One that is tagged for this cluster comes before a lower id.
    let two = Case::new(&scheme).with(|case| {
        let tags = [
            "kubernetes.io/role/elb=1",
            "kubernetes.io/cluster/prod=owned",
        ];
        case.facts.subnets.push(subnet("pub-z", "a", 3, &tags));
    });
    assert_eq!(two.subnets(), "subnet-pub-b, subnet-pub-z");
}

#[test]
fn subnets_that_do_not_fit_are_counted_by_reason() {
    let case = Case::new(&[
        ("aws-load-balancer-scheme", "internet-facing"),
        ("aws-load-balancer-ip-address-type", "dualstack"),
    ])
    .with(|case| {
        case.facts.subnets[0].available_ips = 7;
        case.facts.subnets[1].ipv6_cidrs.clear();
        let tags = [
            "kubernetes.io/role/elb=1",
            "kubernetes.io/cluster/other=shared",
        ];
        case.facts.subnets.push(subnet("other", "c", 3, &tags));
        let mut outpost = subnet("outpost", "c", 4, &["kubernetes.io/role/elb=1"]);
        outpost.outpost_arn = Some("arn".into());
        case.facts.subnets.push(outpost);
    });
    insta::assert_snapshot!(case.subnets());
    let empty = Case::new(&[]).with(|case| case.facts.subnets.clear());
    assert!(
        empty.subnets().contains("no subnets that could be read"),
        "{}",
        empty.subnets()
    );
}

#[test]
fn zones_of_other_kinds_are_taken_only_where_there_is_nothing_else() {
    let case = |zones: &[(&str, &str)]| {
        Case::new(&[]).with(|case| {
            case.facts.zones = zones
                .iter()
                .map(|(name, kind)| Zone {
                    name: format!("eu-central-1{name}"),
                    id: String::new(),
                    kind: (*kind).to_owned(),
                })
                .collect();
        })
    };
    let local = [("a", "availability-zone"), ("b", "local-zone")];
    assert_eq!(case(&local).subnets(), "subnet-priv-a");
    assert_eq!(
        case(&[("a", "local-zone"), ("b", "local-zone")]).subnets(),
        "subnet-priv-a, subnet-priv-b"
    );
    let named = case(&local).with(|case| {
        case.service.annotations.insert(
            "herald.dev/aws-load-balancer-subnets".into(),
            "subnet-priv-a,subnet-priv-b".into(),
        );
    });
    assert!(
        named.subnets().contains("zones of one kind"),
        "{}",
        named.subnets()
    );
}

#[test]
fn an_existing_load_balancer_keeps_its_scheme_and_subnets() {
    let case = |annotations: &[(&str, &str)]| {
        Case::new(annotations).with(|case| {
            case.facts.existing = Some(existing(
                Scheme::InternetFacing,
                &[("subnet-pub-b", "eipalloc-2")],
            ));
        })
    };
    let kept = case(&[]).build().unwrap();
    assert_eq!(kept.load_balancer.scheme, Scheme::InternetFacing);
    assert_eq!(case(&[]).subnets(), "subnet-pub-b");
    let internal = [("aws-load-balancer-scheme", "internal")];
    assert_eq!(case(&internal).subnets(), "subnet-priv-a, subnet-priv-b");
    let named = [("aws-load-balancer-subnets", "public-b,public-a")];
    assert_eq!(case(&named).subnets(), "subnet-pub-a, subnet-pub-b");
    // Addresses that it has stay where they are.
    let both =
        case(&[("aws-load-balancer-eip-allocations", "eipalloc-2,eipalloc-1")]).with(|case| {
            case.facts.existing = Some(existing(
                Scheme::InternetFacing,
                &[("subnet-pub-a", ""), ("subnet-pub-b", "eipalloc-2")],
            ));
        });
    assert_eq!(
        both.subnets(),
        "subnet-pub-a with eipalloc-1, subnet-pub-b with eipalloc-2"
    );
}

#[test]
fn addresses_go_to_the_subnets_whose_they_are() {
    let internal = Case::new(&[(
        "aws-load-balancer-private-ipv4-addresses",
        "10.0.12.9, 10.0.11.9",
    )]);
    assert_eq!(
        internal.subnets(),
        "subnet-priv-a with 10.0.11.9, subnet-priv-b with 10.0.12.9"
    );
    let public = Case::new(&[
        ("aws-load-balancer-scheme", "internet-facing"),
        ("aws-load-balancer-ip-address-type", "dualstack"),
        ("aws-load-balancer-subnets", "public-b,public-a"),
        ("aws-load-balancer-eip-allocations", "eipalloc-b,eipalloc-a"),
        (
            "aws-load-balancer-ipv6-addresses",
            "2001:db8:0:1::9,2001:db8:0:2::9",
        ),
        ("aws-load-balancer-enable-prefix-for-ipv6-source-nat", "on"),
        (
            "aws-load-balancer-source-nat-ipv6-prefixes",
            "auto_assigned,2001:db8:0:1:8::/80",
        ),
    ]);
    assert_eq!(
        public.subnets(),
        "subnet-pub-a with eipalloc-a, 2001:db8:0:1::9, 2001:db8:0:1:8::/80, \
         subnet-pub-b with eipalloc-b, 2001:db8:0:2::9, auto_assigned"
    );
}

#[test]
fn a_key_that_leaves_a_map_goes_back_to_its_default() {
    let with = Case::new(&[(
        "aws-load-balancer-attributes",
        "load_balancing.cross_zone.enabled=true",
    )])
    .build()
    .unwrap();
    let without = Case::new(&[]).build().unwrap();
    let mut aws: BTreeMap<String, String> = BTreeMap::from([
        ("load_balancing.cross_zone.enabled".into(), "false".into()),
        ("deletion_protection.enabled".into(), "false".into()),
    ]);
    let on = with.load_balancer.attributes.changes(&aws);
    assert_eq!(on.len(), 1, "{on:?}");
    aws.extend(on);
    assert!(with.load_balancer.attributes.changes(&aws).is_empty());
    let off = without.load_balancer.attributes.changes(&aws);
    assert_eq!(off["load_balancing.cross_zone.enabled"], "false");
}

#[test]
fn names_change_with_what_cannot_be_changed_in_place_and_with_nothing_else() {
    let names = |annotations: &[(&str, &str)]| {
        let spec = Case::new(annotations).build().unwrap();
        (spec.load_balancer.name, spec.target_groups[0].name.clone())
    };
    let plain = names(&[]);
    assert_eq!(plain, names(&[("aws-load-balancer-attributes", "a=b")]));
    let public = names(&[("aws-load-balancer-scheme", "internet-facing")]);
    assert!(plain.0 != public.0 && plain.1 != public.1);
    let anew = names(&[("aws-replace", "1")]);
    assert!(plain.0 != anew.0 && plain.1 != anew.1);
    let pods = names(&[("aws-load-balancer-nlb-target-type", "ip")]);
    assert!(plain.0 == pods.0 && plain.1 != pods.1);
    assert_eq!(names(&[("aws-load-balancer-name", "shop")]).0, "shop");
}

#[test]
fn tags_of_the_operator_win_and_ours_over_all() {
    let mut case = Case::new(&[(
        "aws-load-balancer-additional-resource-tags",
        "team=shop,stage=dev",
    )]);
    case.settings.default_tags = BTreeMap::from([("stage".into(), "prod".into())]);
    let tags = case.build().unwrap().target_groups[0].tags.clone();
    insta::assert_debug_snapshot!(tags);
}

#[test]
fn endpoints_are_needed_for_pods_and_for_local_nodes_only() {
    let needs = |annotations: &[(&str, &str)], policy| {
        let mut service = service(annotations);
        service.traffic_policy = policy;
        needs_endpoints(&settings(), &service)
    };
    let ip = ("aws-load-balancer-nlb-target-type", "ip");
    assert!(!needs(&[], TrafficPolicy::Cluster));
    assert!(needs(&[ip], TrafficPolicy::Cluster));
    assert!(needs(&[], TrafficPolicy::Local));
    assert!(!needs(&[("aws-local-nodes", "all")], TrafficPolicy::Local));
    assert_eq!(
        readiness_gate(&settings(), &service(&[ip])).as_deref(),
        Some("target-health.herald.dev/web")
    );
    assert_eq!(readiness_gate(&settings(), &service(&[])), None);
}

fn any_annotations() -> impl Strategy<Value = BTreeMap<String, String>> {
    use crate::annotations::table::{Annotation, Parameter};
    let all: Vec<&'static Annotation> = Annotation::all().collect();
    let one = (proptest::sample::select(all), 0..4u8, "\\PC{0,24}").prop_map(
        |(annotation, choice, noise)| {
            let parameter = match annotation.parameter {
                Parameter::None => "",
                Parameter::Port => ".80",
                Parameter::ProtocolPort => ".TCP-80",
            };
            let value = if choice == 0 {
                noise
            } else {
                annotation.example.to_owned()
            };
            (
                format!("herald.dev/{}{parameter}", annotation.suffix),
                value,
            )
        },
    );
    proptest::collection::btree_map(0..60u8, one, 0..8).prop_map(|map| map.into_values().collect())
}

fn any_port() -> impl Strategy<Value = ServicePort> {
    let protocol = prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ];
    (
        protocol,
        prop_oneof![Just(80u16), Just(443), 1..=u16::MAX],
        any::<Option<u16>>(),
    )
        .prop_map(|(protocol, port, node_port)| ServicePort {
            name: format!("{protocol}-{port}").to_lowercase(),
            protocol,
            port,
            node_port,
            target_port: TargetPort::Number(port),
        })
}

proptest! {
    /// Whatever a Service asks for, there is a specification or an error that says
    /// something; and a specification keeps AWS's rules.
    #[test]
    fn hostile_services_never_panic(
        annotations in any_annotations(),
        ports in proptest::collection::vec(any_port(), 0..5),
        local in any::<bool>(),
        existing_scheme in proptest::option::of(any::<bool>()),
    ) {
        let case = Case::new(&[]).with(|case| {
            case.service.annotations = annotations;
            case.service.ports = ports;
            if local {
                case.service.traffic_policy = TrafficPolicy::Local;
                case.service.health_check_node_port = Some(31000);
            }
            case.facts.existing = existing_scheme.map(|public| existing(
                if public { Scheme::InternetFacing } else { Scheme::Internal },
                &[("subnet-pub-a", ""), ("subnet-gone", "")],
            ));
        });
        match case.build() {
            Err(message) => prop_assert!(message.len() > 10),
            Ok(spec) => {
                let ports: BTreeSet<u16> = spec.listeners.iter().map(|l| l.port).collect();
                prop_assert_eq!(ports.len(), spec.listeners.len());
                prop_assert!(spec.load_balancer.name.len() <= 32);
                prop_assert!(!spec.load_balancer.subnets.is_empty());
                let zones: BTreeSet<&str> =
                    spec.load_balancer.subnets.iter().map(|s| s.zone.as_str()).collect();
                prop_assert_eq!(zones.len(), spec.load_balancer.subnets.len());
                for group in &spec.target_groups {
                    prop_assert!(!group.name.is_empty() && group.name.len() <= 32);
                    let check = &group.health_check;
                    prop_assert!(check.timeout_seconds <= check.interval_seconds);
                }
                prop_assert_eq!(case.build().unwrap(), spec);
            }
        }
    }
}
