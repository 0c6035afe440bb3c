//! Two operators in one cluster.

use anyhow::{Context as _, Result, ensure};
use herald_api::names::{CLASS_BARE_METAL, CLASS_FAKE};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::api::{Api, ObjectMeta, PostParams};
use serde_json::json;

use crate::scenario::workloads::is_rolled_out;
use crate::scenario::{Context, herald, wait};

const SECOND: &str = "herald-operator-fake";

/// One gives addresses from pools, the other load balancers of the pretend cloud.
pub(super) async fn two_operators(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo("web", 2).await?;
    let cloud = ctx.cloud()?;
    second_operator(ctx).await?;

    for (name, class) in [("pooled", CLASS_BARE_METAL), ("cloudy", CLASS_FAKE)] {
        let exposing = ctx.expose(name).in_front_of("web").class(class);
        exposing.create().await?;
    }
    ctx.condition("pooled", "True", "AddressAssigned").await?;
    ctx.condition("cloudy", "True", "Provisioned").await?;
    let mut before = Vec::new();
    for name in ["pooled", "cloudy"] {
        for address in ctx.addresses(name).await? {
            ctx.client().curl(address).await?;
        }
        before.push(ctx.service(name).await?.resource_version());
    }
    // Both begin a term among the other's Services.
    ctx.restart("deployment", herald::OPERATOR).await?;
    ctx.restart("deployment", SECOND).await?;
    ctx.expose("last")
        .in_front_of("web")
        .class(CLASS_BARE_METAL)
        .create()
        .await?;
    ctx.condition("last", "True", "AddressAssigned").await?;
    for (name, before) in ["pooled", "cloudy"].into_iter().zip(&before) {
        let now = ctx.service(name).await?.resource_version();
        ensure!(now == *before, "Service {name} was written to without need");
    }
    ctx.step("neither touches the other's Services");

    // Kubernetes lets a class be changed by way of another type.
    let balancer = ctx
        .service("cloudy")
        .await?
        .uid()
        .context("a Service has a UID")?;
    ctx.change_service("cloudy", json!({"spec": {"type": "ClusterIP"}}))
        .await?;
    ctx.no_addresses("cloudy").await?;
    let moved = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": CLASS_BARE_METAL}});
    ctx.change_service("cloudy", moved).await?;
    ctx.condition("cloudy", "True", "AddressAssigned").await?;
    for address in ctx.addresses("cloudy").await? {
        ctx.client().curl(address).await?;
    }
    wait::until("the load balancer and the finalizer to go", || async {
        ensure!(
            cloud.of_service(&balancer).await.is_err(),
            "the load balancer outlives its Service's class"
        );
        let service = ctx.service("cloudy").await?;
        ensure!(
            service.finalizers().is_empty(),
            "it has {:?}",
            service.finalizers()
        );
        Ok(())
    })
    .await?;
    let back = json!({"spec": {"type": "ClusterIP"}});
    ctx.change_service("pooled", back).await?;
    ctx.no_addresses("pooled").await?;
    let moved = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": CLASS_FAKE}});
    ctx.change_service("pooled", moved).await?;
    ctx.condition("pooled", "True", "Provisioned").await?;
    ctx.step("a Service moves from either to the other, and leaves nothing behind");
    for name in ["pooled", "cloudy", "last"] {
        ctx.delete_service(name).await?;
    }
    cloud.is_empty().await
}

/// Splits the installed operator, which has both providers, into two.
async fn second_operator(ctx: &Context) -> Result<()> {
    let deployments: Api<Deployment> = ctx.herald_api();
    let mut second = deployments.get(herald::OPERATOR).await?;
    ctx.lab()
        .kubectl(&[
            "-n",
            "herald-system",
            "create",
            "role",
            SECOND,
            "--verb=get,update",
            "--resource=leases.coordination.k8s.io",
            &format!("--resource-name={SECOND}"),
        ])
        .await?;
    ctx.lab()
        .kubectl(&[
            "-n",
            "herald-system",
            "create",
            "rolebinding",
            SECOND,
            &format!("--role={SECOND}"),
            "--serviceaccount=herald-system:herald-operator",
        ])
        .await?;
    // The first gives the cloud up before the second has it.
    ctx.operator_args(&[
        "--metrics-bind-address=[::]:7472",
        "--provider=baremetal",
        "--default-provider=baremetal",
        "--other-operators",
    ])
    .await?;
    second.metadata = ObjectMeta {
        name: Some(SECOND.into()),
        ..ObjectMeta::default()
    };
    second.status = None;
    let spec = second.spec.as_mut().context("a Deployment has a spec")?;
    let labels = [("app.kubernetes.io/name".to_owned(), SECOND.to_owned())];
    spec.selector.match_labels = Some(labels.clone().into());
    let metadata = spec.template.metadata.get_or_insert_default();
    metadata.labels = Some(labels.into());
    let pod = spec.template.spec.as_mut().context("it has a pod")?;
    pod.containers[0].args = Some(
        [
            "--metrics-bind-address=[::]:7472",
            "--provider=fake",
            "--default-provider=none",
            "--fakecloud-endpoint=$(FAKECLOUD_ENDPOINT)",
            "--leader-elect-lease-name=herald-operator-fake",
            "--other-operators",
        ]
        .map(str::to_owned)
        .into(),
    );
    deployments.create(&PostParams::default(), &second).await?;
    wait::object(
        deployments,
        SECOND,
        "the second operator to roll out",
        |second| is_rolled_out(second?).then_some(()),
    )
    .await
}
