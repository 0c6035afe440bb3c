//! The AWS SDK for Rust against the stand-in: what it sends is understood, what
//! comes back is read, errors are the SDK's own types.

use aws_credential_types::Credentials;
use aws_sdk_elasticloadbalancingv2 as elbv2;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use elbv2::config::retry::RetryConfig;
use elbv2::config::{BehaviorVersion, Region};
use elbv2::types::{
    Action, ActionTypeEnum, Certificate, ForwardActionConfig, LoadBalancerAttribute,
    LoadBalancerSchemeEnum, LoadBalancerStateEnum, LoadBalancerTypeEnum, ProtocolEnum,
    SubnetMapping, Tag, TargetDescription, TargetGroupAttribute, TargetGroupTuple,
    TargetHealthReasonEnum, TargetHealthStateEnum,
};
use herald_fakeaws::fixtures::{NODE_GROUP, VPC, certificate, node_id};
use herald_fakeaws::{Config, Effect, FakeAws, Fault, Matching, ResourceKind};

fn client(fake: &FakeAws, attempts: u32) -> elbv2::Client {
    let config = elbv2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(fake.endpoint())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(attempts)
                .with_initial_backoff(std::time::Duration::from_millis(1)),
        )
        .http_client(
            Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .build_https(),
        )
        .build();
    elbv2::Client::from_conf(config)
}

async fn create(client: &elbv2::Client) -> Result<String, elbv2::Error> {
    let made = client
        .create_load_balancer()
        .name("web")
        .r#type(LoadBalancerTypeEnum::Network)
        .scheme(LoadBalancerSchemeEnum::InternetFacing)
        .subnet_mappings(
            SubnetMapping::builder()
                .subnet_id("subnet-public-a")
                .allocation_id("eipalloc-a")
                .build(),
        )
        .subnet_mappings(
            SubnetMapping::builder()
                .subnet_id("subnet-public-b")
                .allocation_id("eipalloc-b")
                .build(),
        )
        .security_groups(NODE_GROUP)
        .tags(
            Tag::builder()
                .key("herald.dev/cluster")
                .value("demo")
                .build(),
        )
        .send()
        .await?;
    Ok(made.load_balancers()[0]
        .load_balancer_arn()
        .unwrap()
        .to_owned())
}

#[tokio::test]
async fn a_load_balancer_from_cradle_to_grave() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let client = client(&fake, 1);
    let before = fake.snapshot();
    let lb = create(&client).await.unwrap();
    let group = client
        .create_target_group()
        .name("web-80")
        .protocol(ProtocolEnum::Tcp)
        .port(30080)
        .vpc_id(VPC)
        .health_check_protocol(ProtocolEnum::Http)
        .health_check_port("10256")
        .health_check_path("/healthz")
        .send()
        .await
        .unwrap();
    let group = &group.target_groups()[0];
    assert_eq!(group.matcher().unwrap().http_code(), Some("200-399"));
    assert_eq!(group.health_check_timeout_seconds(), Some(6));
    let group = group.target_group_arn().unwrap();
    client
        .modify_target_group_attributes()
        .target_group_arn(group)
        .attributes(
            TargetGroupAttribute::builder()
                .key("deregistration_delay.timeout_seconds")
                .value("30")
                .build(),
        )
        .send()
        .await
        .unwrap();
    client
        .modify_load_balancer_attributes()
        .load_balancer_arn(&lb)
        .attributes(
            LoadBalancerAttribute::builder()
                .key("load_balancing.cross_zone.enabled")
                .value("true")
                .build(),
        )
        .send()
        .await
        .unwrap();
    let forward = ForwardActionConfig::builder()
        .target_groups(TargetGroupTuple::builder().target_group_arn(group).build())
        .build();
    let listener = client
        .create_listener()
        .load_balancer_arn(&lb)
        .protocol(ProtocolEnum::Tls)
        .port(443)
        .certificates(
            Certificate::builder()
                .certificate_arn(certificate(1))
                .build(),
        )
        .alpn_policy("HTTP2Preferred")
        .default_actions(
            Action::builder()
                .r#type(ActionTypeEnum::Forward)
                .forward_config(forward)
                .build(),
        )
        .send()
        .await
        .unwrap();
    let listener = &listener.listeners()[0];
    assert_eq!(listener.alpn_policy(), ["HTTP2Preferred"]);
    assert_eq!(
        listener.default_actions()[0].target_group_arn(),
        Some(group)
    );
    client
        .register_targets()
        .target_group_arn(group)
        .set_targets(Some(
            (1..=3)
                .map(|n| TargetDescription::builder().id(node_id(n)).build())
                .collect(),
        ))
        .send()
        .await
        .unwrap();

    let seen = client
        .describe_load_balancers()
        .load_balancer_arns(&lb)
        .send()
        .await
        .unwrap();
    let seen = &seen.load_balancers()[0];
    assert_eq!(
        seen.state().unwrap().code(),
        Some(&LoadBalancerStateEnum::Provisioning)
    );
    assert!(seen.created_time().is_some());
    assert_eq!(seen.security_groups(), [NODE_GROUP]);
    let zone = &seen.availability_zones()[0];
    assert_eq!(
        zone.load_balancer_addresses()[0].ip_address(),
        Some("198.51.100.1")
    );

    let health = async || {
        let health = client
            .describe_target_health()
            .target_group_arn(group)
            .send()
            .await
            .unwrap();
        let first = health.target_health_descriptions()[0]
            .target_health()
            .unwrap()
            .clone();
        (first.state().cloned(), first.reason().cloned())
    };
    assert_eq!(
        health().await.1,
        Some(TargetHealthReasonEnum::RegistrationInProgress)
    );
    while fake.advance_to_next_event() {}
    assert_eq!(health().await, (Some(TargetHealthStateEnum::Healthy), None));

    let tags = client
        .describe_tags()
        .resource_arns(&lb)
        .send()
        .await
        .unwrap();
    assert_eq!(tags.tag_descriptions()[0].tags()[0].value(), Some("demo"));
    let capacity = client
        .describe_capacity_reservation()
        .load_balancer_arn(&lb)
        .send()
        .await
        .unwrap();
    assert_eq!(capacity.decrease_requests_remaining(), Some(2));

    client
        .delete_listener()
        .listener_arn(listener.listener_arn().unwrap())
        .send()
        .await
        .unwrap();
    client
        .delete_load_balancer()
        .load_balancer_arn(&lb)
        .send()
        .await
        .unwrap();
    while fake.advance_to_next_event() {}
    client
        .delete_target_group()
        .target_group_arn(group)
        .send()
        .await
        .unwrap();
    assert_eq!(fake.snapshot(), before);
    assert!(fake.calls().iter().all(|call| call.done));
}

#[tokio::test]
async fn errors_are_of_the_sdks_types() {
    let fake = FakeAws::start(Config::quick()).await.unwrap();
    let client = client(&fake, 1);
    let error = client
        .describe_load_balancers()
        .names("x")
        .send()
        .await
        .unwrap_err();
    assert!(
        error
            .into_service_error()
            .is_load_balancer_not_found_exception()
    );
    let error = client
        .delete_listener()
        .listener_arn("x")
        .send()
        .await
        .unwrap_err();
    assert!(error.into_service_error().is_listener_not_found_exception());
    create(&client).await.unwrap();
    let error = client
        .create_load_balancer()
        .name("web")
        .r#type(LoadBalancerTypeEnum::Network)
        .subnets("subnet-public-a")
        .send()
        .await
        .unwrap_err();
    assert!(
        error
            .into_service_error()
            .is_duplicate_load_balancer_name_exception()
    );
    let error = client
        .create_target_group()
        .name("x_")
        .send()
        .await
        .unwrap_err();
    assert_eq!(
        error.into_service_error().meta().code(),
        Some("ValidationError")
    );
}

#[tokio::test]
async fn the_sdk_retries_what_aws_would_have_it_retry() {
    let fake = FakeAws::start(Config::quick()).await.unwrap();
    let client = client(&fake, 3);
    for fault in [
        Fault::once(Matching::any(), Effect::Throttle).times(2),
        Fault::error(Matching::any(), 503, "ServiceUnavailable").times(2),
        Fault::once(Matching::any(), Effect::Cut).times(2),
    ] {
        fake.clear_calls();
        fake.inject(fault);
        client.describe_load_balancers().send().await.unwrap();
        assert_eq!(fake.counts().total(), 3);
    }
    // A lost answer of an idempotent creation leaves one load balancer.
    fake.inject(Fault::once(Matching::action("CreateLoadBalancer"), Effect::Cut).after());
    create(&client).await.unwrap();
    assert_eq!(fake.snapshot().count(ResourceKind::LoadBalancer), 1);
}

#[tokio::test]
async fn pages_are_walked_by_the_sdks_paginator() {
    let mut config = Config::quick();
    config.quotas.load_balancers = 100;
    let fake = FakeAws::start(config).await.unwrap();
    let client = client(&fake, 1);
    for n in 0..25 {
        client
            .create_load_balancer()
            .name(format!("web-{n}"))
            .r#type(LoadBalancerTypeEnum::Network)
            .subnets("subnet-public-a")
            .send()
            .await
            .unwrap();
    }
    fake.clear_calls();
    let mut pages = client
        .describe_load_balancers()
        .page_size(10)
        .into_paginator()
        .send();
    let mut seen = 0;
    while let Some(page) = pages.next().await {
        seen += page.unwrap().load_balancers().len();
    }
    assert_eq!((seen, fake.counts().reads), (25, 3));
}
