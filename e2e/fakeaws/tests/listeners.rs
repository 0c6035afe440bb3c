//! Rules of listeners and certificates, one test for each.

mod common;

use common::Api;
use herald_fakeaws::Config;
use herald_fakeaws::fixtures::certificate;

#[tokio::test]
async fn protocols_go_with_their_target_groups_only() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    let protocols = ["TCP", "TLS", "UDP", "TCP_UDP", "QUIC", "TCP_QUIC"];
    let mut allowed = Vec::new();
    for (port, listener) in (8000..).zip(protocols) {
        for group in protocols {
            let name = format!("{listener}-{group}").replace('_', "");
            let arn = api.target_group(&name, group).await;
            let port = port.to_string();
            let certificate = certificate(1);
            let mut parameters = vec![
                ("LoadBalancerArn", lb.as_str()),
                ("Protocol", listener),
                ("Port", port.as_str()),
                ("DefaultActions.member.1.Type", "forward"),
                ("DefaultActions.member.1.TargetGroupArn", arn.as_str()),
            ];
            if listener == "TLS" {
                parameters.push(("Certificates.member.1.CertificateArn", &certificate));
            }
            let answer = api.elb("CreateListener", &parameters).await;
            if answer.status == 200 {
                allowed.push(format!("{listener} {group}"));
                let made = answer.text("ListenerArn");
                api.elb("DeleteListener", &[("ListenerArn", &made)])
                    .await
                    .ok();
            } else {
                answer.refused("IncompatibleProtocols");
            }
        }
    }
    assert_eq!(
        allowed,
        [
            "TCP TCP",
            "TCP TCP_UDP",
            "TLS TCP",
            "TLS TLS",
            "UDP UDP",
            "UDP TCP_UDP",
            "TCP_UDP TCP_UDP",
            "QUIC QUIC",
            "QUIC TCP_QUIC",
            "TCP_QUIC TCP_QUIC",
        ]
    );
}

#[tokio::test]
async fn a_port_has_one_listener_whatever_its_protocol() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    let tcp = api.target_group("tcp", "TCP").await;
    let udp = api.target_group("udp", "UDP").await;
    let first = api.listener(&lb, "TCP", "53", &tcp).await.ok();
    let again = api.listener(&lb, "TCP", "53", &tcp).await.ok();
    assert_eq!(again.text("ListenerArn"), first.text("ListenerArn"));
    api.listener(&lb, "UDP", "53", &udp)
        .await
        .refused("DuplicateListener");
    let other = api
        .listener(&lb, "UDP", "54", &udp)
        .await
        .ok()
        .text("ListenerArn");
    api.elb("ModifyListener", &[("ListenerArn", &other), ("Port", "53")])
        .await
        .refused("DuplicateListener");
    for port in ["0", "65536", "x"] {
        api.listener(&lb, "TCP", port, &tcp)
            .await
            .refused("ValidationError");
    }
    api.listener(&lb, "HTTP", "80", &tcp)
        .await
        .refused("ValidationError");
}

#[tokio::test]
async fn an_arn_tells_whose_it_is_and_the_action_comes_back() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    let group = api.target_group("tcp", "TCP").await;
    let made = api.listener(&lb, "TCP", "80", &group).await.ok();
    let inside = lb.replace(":loadbalancer/", ":listener/");
    assert!(made.text("ListenerArn").starts_with(&format!("{inside}/")));
    assert!(made.xml.contains(&format!(
        "<ForwardConfig><TargetGroups><member><TargetGroupArn>{group}</TargetGroupArn></member></TargetGroups>"
    )));
    let seen = api
        .elb("DescribeListeners", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    assert_eq!(seen.text("Port"), "80");
    let rules = api
        .elb(
            "DescribeRules",
            &[("ListenerArn", &made.text("ListenerArn"))],
        )
        .await
        .ok();
    assert_eq!(
        (rules.text("Priority"), rules.text("IsDefault")),
        ("default".into(), "true".into())
    );
    let groups = api
        .elb("DescribeTargetGroups", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    assert_eq!(groups.texts("TargetGroupName"), ["tcp"]);
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    let group = api.target_group("tcp", "TCP").await;
    api.listener("arn:x", "TCP", "80", &group)
        .await
        .refused("LoadBalancerNotFound");
    api.listener(&lb, "TCP", "80", "arn:x")
        .await
        .refused("TargetGroupNotFound");
    api.elb(
        "CreateListener",
        &[
            ("LoadBalancerArn", &lb),
            ("Protocol", "TCP"),
            ("Port", "80"),
        ],
    )
    .await
    .refused("ValidationError");
    for action in [
        "DeleteListener",
        "DescribeListenerAttributes",
        "DescribeListenerCertificates",
    ] {
        api.elb(action, &[("ListenerArn", "arn:x")])
            .await
            .refused("ListenerNotFound");
    }
    api.elb("DescribeListeners", &[])
        .await
        .refused("ValidationError");
    api.elb("DescribeListeners", &[("ListenerArns.member.1", "x")])
        .await
        .refused("ListenerNotFound");
}

#[tokio::test]
async fn a_target_group_is_for_one_load_balancer() {
    let api = Api::quick();
    let first = api.load_balancer("a").await;
    let second = api.load_balancer("b").await;
    let group = api.target_group("tcp", "TCP").await;
    let listener = api
        .listener(&first, "TCP", "80", &group)
        .await
        .ok()
        .text("ListenerArn");
    api.listener(&first, "TCP", "81", &group).await.ok();
    api.listener(&second, "TCP", "80", &group)
        .await
        .refused("TargetGroupAssociationLimit");
    api.elb("DeleteListener", &[("ListenerArn", &listener)])
        .await
        .ok();
    api.listener(&second, "TCP", "80", &group)
        .await
        .refused("TargetGroupAssociationLimit");
    api.elb("DeleteLoadBalancer", &[("LoadBalancerArn", &first)])
        .await
        .ok();
    api.listener(&second, "TCP", "80", &group).await.ok();
}

#[tokio::test]
async fn tls_has_a_certificate_and_others_have_none() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    let group = api.target_group("tcp", "TCP").await;
    let (first, second, unknown) = (certificate(1), certificate(2), certificate(9));
    let create = async |protocol: &str, more: &[(&str, &str)]| {
        let mut parameters = vec![
            ("LoadBalancerArn", lb.as_str()),
            ("Protocol", protocol),
            ("Port", "443"),
            ("DefaultActions.member.1.Type", "forward"),
            ("DefaultActions.member.1.TargetGroupArn", group.as_str()),
        ];
        parameters.extend(more);
        api.elb("CreateListener", &parameters).await
    };
    let one = ("Certificates.member.1.CertificateArn", first.as_str());
    create("TLS", &[]).await.refused("ValidationError");
    create("TCP", &[one]).await.refused("ValidationError");
    create("TCP", &[("SslPolicy", "ELBSecurityPolicy-2016-08")])
        .await
        .refused("ValidationError");
    create("TCP", &[("AlpnPolicy.member.1", "None")])
        .await
        .refused("ValidationError");
    create("TLS", &[("Certificates.member.1.CertificateArn", &unknown)])
        .await
        .refused("CertificateNotFound");
    create(
        "TLS",
        &[one, ("Certificates.member.2.CertificateArn", &second)],
    )
    .await
    .refused("ValidationError");
    create("TLS", &[one, ("SslPolicy", "x")])
        .await
        .refused("SSLPolicyNotFound");
    create("TLS", &[one, ("AlpnPolicy.member.1", "h2")])
        .await
        .refused("ALPNPolicyNotFound");
    let made = create("TLS", &[one, ("AlpnPolicy.member.1", "HTTP2Preferred")])
        .await
        .ok();
    assert_eq!(made.text("SslPolicy"), "ELBSecurityPolicy-2016-08");
    assert_eq!(made.text("AlpnPolicy"), "<member>HTTP2Preferred</member>");

    let arn = made.text("ListenerArn");
    let listener = ("ListenerArn", arn.as_str());
    api.elb("DescribeListenerAttributes", &[listener])
        .await
        .ok();
    let changed = api
        .elb(
            "ModifyListener",
            &[
                listener,
                ("AlpnPolicy.member.1", "None"),
                ("SslPolicy", "ELBSecurityPolicy-TLS13-1-2-2021-06"),
            ],
        )
        .await
        .ok();
    assert_eq!(
        changed.text("SslPolicy"),
        "ELBSecurityPolicy-TLS13-1-2-2021-06"
    );
    assert_eq!(changed.text("CertificateArn"), first);
    let plain = api
        .elb("ModifyListener", &[listener, ("Protocol", "TCP")])
        .await
        .ok();
    assert!(!plain.xml.contains("SslPolicy") && !plain.xml.contains("Certificate"));
    api.elb("AddListenerCertificates", &[listener, one])
        .await
        .refused("OperationNotPermitted");
}

#[tokio::test]
async fn more_certificates_come_and_go() {
    let mut config = Config::quick();
    config.quotas.certificates = 1;
    let api = Api::new(config);
    let lb = api.load_balancer("web").await;
    let group = api.target_group("tcp", "TCP").await;
    let (first, second) = (certificate(1), certificate(2));
    let arn = api
        .elb(
            "CreateListener",
            &[
                ("LoadBalancerArn", &lb),
                ("Protocol", "TLS"),
                ("Port", "443"),
                ("DefaultActions.member.1.Type", "forward"),
                ("DefaultActions.member.1.TargetGroupArn", &group),
                ("Certificates.member.1.CertificateArn", &first),
            ],
        )
        .await
        .ok()
        .text("ListenerArn");
    let listener = ("ListenerArn", arn.as_str());
    let with = |certificate| {
        [
            listener,
            ("Certificates.member.1.CertificateArn", certificate),
        ]
    };
    let list = async || {
        let seen = api
            .elb("DescribeListenerCertificates", &[listener])
            .await
            .ok();
        seen.texts("CertificateArn")
            .into_iter()
            .zip(seen.texts("IsDefault"))
            .collect::<Vec<_>>()
    };
    api.elb("AddListenerCertificates", &with("arn:x"))
        .await
        .refused("CertificateNotFound");
    api.elb("AddListenerCertificates", &with(&second))
        .await
        .ok();
    api.elb("AddListenerCertificates", &with(&second))
        .await
        .ok();
    api.elb("AddListenerCertificates", &with(&first))
        .await
        .refused("TooManyCertificates");
    assert_eq!(
        list().await,
        [
            (first.clone(), "true".into()),
            (second.clone(), "false".into())
        ]
    );
    api.elb("RemoveListenerCertificates", &with(&first))
        .await
        .refused("OperationNotPermitted");
    api.elb("RemoveListenerCertificates", &with(&second))
        .await
        .ok();
    api.elb("RemoveListenerCertificates", &with(&second))
        .await
        .ok();
    assert_eq!(list().await, [(first, "true".into())]);
}

#[tokio::test]
async fn weights_are_for_several_target_groups() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    let (a, b) = (
        api.target_group("a", "TCP").await,
        api.target_group("b", "TCP").await,
    );
    let create = async |weights: &[&str], more: &[(&str, &str)]| {
        let mut parameters = vec![
            ("LoadBalancerArn", lb.as_str()),
            ("Protocol", "TCP"),
            ("Port", "80"),
            ("DefaultActions.member.1.Type", "forward"),
        ];
        let prefix = "DefaultActions.member.1.ForwardConfig.TargetGroups.member";
        let keys: Vec<(String, String)> = (1..=2)
            .map(|n| {
                (
                    format!("{prefix}.{n}.TargetGroupArn"),
                    format!("{prefix}.{n}.Weight"),
                )
            })
            .collect();
        for ((arn, (arn_key, weight_key)), n) in [&a, &b].iter().zip(&keys).zip(0..) {
            parameters.push((arn_key, arn));
            if let Some(weight) = weights.get(n) {
                parameters.push((weight_key, weight));
            }
        }
        parameters.extend(more);
        api.elb("CreateListener", &parameters).await
    };
    create(&[], &[]).await.refused("ValidationError");
    create(&["1", "1000"], &[]).await.refused("ValidationError");
    create(&["1", "-1"], &[]).await.refused("ValidationError");
    let sticky = "DefaultActions.member.1.ForwardConfig.TargetGroupStickinessConfig";
    let made = create(
        &["0", "999"],
        &[
            (&format!("{sticky}.Enabled"), "true"),
            (&format!("{sticky}.DurationSeconds"), "60"),
        ],
    )
    .await
    .ok();
    assert_eq!(made.texts("Weight"), ["0", "999"]);
    assert_eq!(
        made.text("TargetGroupStickinessConfig"),
        "<Enabled>true</Enabled><DurationSeconds>60</DurationSeconds>"
    );
    // The short form, beside it, has to say the same.
    create(
        &["0", "999"],
        &[("DefaultActions.member.1.TargetGroupArn", &a)],
    )
    .await
    .refused("ValidationError");
}

#[tokio::test]
async fn actions_other_than_forward_are_refused() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    api.elb(
        "CreateListener",
        &[
            ("LoadBalancerArn", &lb),
            ("Protocol", "TCP"),
            ("Port", "80"),
            ("DefaultActions.member.1.Type", "fixed-response"),
        ],
    )
    .await
    .refused("InvalidLoadBalancerAction");
}

#[tokio::test]
async fn udp_and_dual_stack_need_source_nat() {
    let api = Api::quick();
    let dual = ("IpAddressType", "dualstack");
    let lb = api.load_balancer_with("web", &[dual]).await;
    let group = api.target_group("udp", "UDP").await;
    api.listener(&lb, "UDP", "53", &group)
        .await
        .refused("InvalidConfigurationRequest");
    let set = [
        ("LoadBalancerArn", lb.as_str()),
        ("Subnets.member.1", "subnet-public-a"),
        ("EnablePrefixForIpv6SourceNat", "on"),
    ];
    api.elb("SetSubnets", &set).await.ok();
    api.listener(&lb, "UDP", "53", &group).await.ok();
    let mut off = set;
    off[2].1 = "off";
    api.elb("SetSubnets", &off)
        .await
        .refused("InvalidConfigurationRequest");

    let lb = api.load_balancer("four").await;
    let group = api.target_group("udp4", "UDP").await;
    api.listener(&lb, "UDP", "53", &group).await.ok();
    api.elb("SetIpAddressType", &[("LoadBalancerArn", &lb), dual])
        .await
        .refused("InvalidConfigurationRequest");
}

#[tokio::test]
async fn ipv6_target_groups_need_dual_stack() {
    let api = Api::quick();
    let group = api
        .target_group_with("six", "TCP", &[("IpAddressType", "ipv6")])
        .await;
    let lb = api.load_balancer("web").await;
    api.listener(&lb, "TCP", "80", &group)
        .await
        .refused("InvalidConfigurationRequest");
    let kind = |kind| [("LoadBalancerArn", lb.as_str()), ("IpAddressType", kind)];
    api.elb("SetIpAddressType", &kind("dualstack")).await.ok();
    api.listener(&lb, "TCP", "80", &group).await.ok();
    api.elb("SetIpAddressType", &kind("ipv4"))
        .await
        .refused("InvalidConfigurationRequest");
}

#[tokio::test]
async fn idle_timeouts_are_for_listeners_that_carry_tcp() {
    let api = Api::quick();
    let lb = api.load_balancer("web").await;
    let tcp = api.target_group("tcp", "TCP").await;
    let udp = api.target_group("udp", "UDP").await;
    let tcp = api
        .listener(&lb, "TCP", "80", &tcp)
        .await
        .ok()
        .text("ListenerArn");
    let udp = api
        .listener(&lb, "UDP", "81", &udp)
        .await
        .ok()
        .text("ListenerArn");
    let modify = async |arn: &str, key: &str, value: &str| {
        let parameters = [
            ("ListenerArn", arn),
            ("Attributes.member.1.Key", key),
            ("Attributes.member.1.Value", value),
        ];
        api.elb("ModifyListenerAttributes", &parameters).await
    };
    let key = "tcp.idle_timeout.seconds";
    let seen = api
        .elb("DescribeListenerAttributes", &[("ListenerArn", &tcp)])
        .await
        .ok();
    assert_eq!(
        (seen.text("Key"), seen.text("Value")),
        (key.into(), "350".into())
    );
    modify(&tcp, key, "59").await.refused("ValidationError");
    modify(&tcp, key, "6001").await.refused("ValidationError");
    modify(&tcp, "x", "1").await.refused("ValidationError");
    modify(&tcp, key, "400").await.ok();
    modify(&udp, key, "400")
        .await
        .refused("InvalidConfigurationRequest");
    let seen = api
        .elb("DescribeListenerAttributes", &[("ListenerArn", &udp)])
        .await
        .ok();
    assert!(seen.texts("Key").is_empty());
}

#[tokio::test]
async fn the_quotas_hold() {
    let mut config = Config::quick();
    config.quotas.listeners = 2;
    config.quotas.target_groups_per_load_balancer = 1;
    config.quotas.target_groups_per_action = 1;
    let api = Api::new(config);
    let lb = api.load_balancer("web").await;
    let (a, b) = (
        api.target_group("a", "TCP").await,
        api.target_group("b", "TCP").await,
    );
    let listener = api
        .listener(&lb, "TCP", "1", &a)
        .await
        .ok()
        .text("ListenerArn");
    api.listener(&lb, "TCP", "2", &b)
        .await
        .refused("TooManyUniqueTargetGroupsPerLoadBalancer");
    api.listener(&lb, "TCP", "2", &a).await.ok();
    api.listener(&lb, "TCP", "3", &a)
        .await
        .refused("TooManyListeners");
    let prefix = "DefaultActions.member.1.ForwardConfig.TargetGroups.member";
    api.elb(
        "ModifyListener",
        &[
            ("ListenerArn", &listener),
            ("DefaultActions.member.1.Type", "forward"),
            (&format!("{prefix}.1.TargetGroupArn"), &a),
            (&format!("{prefix}.1.Weight"), "1"),
            (&format!("{prefix}.2.TargetGroupArn"), &b),
            (&format!("{prefix}.2.Weight"), "1"),
        ],
    )
    .await
    .refused("TooManyTargetGroups");
}

#[tokio::test]
async fn policies_and_limits_are_listed() {
    let api = Api::quick();
    let policies = api.elb(
        "DescribeSSLPolicies",
        &[("Names.member.1", "ELBSecurityPolicy-2016-08")],
    );
    assert_eq!(policies.await.ok().texts("SslProtocols").len(), 1);
    api.elb("DescribeSSLPolicies", &[("Names.member.1", "x")])
        .await
        .refused("SSLPolicyNotFound");
    let limits = api.elb("DescribeAccountLimits", &[]).await.ok();
    assert!(
        limits
            .xml
            .contains("<Name>network-load-balancers</Name><Max>50</Max>")
    );
}
