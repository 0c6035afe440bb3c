//! Services that have one address together.

use anyhow::{Result, ensure};
use herald_api::names::{
    ANNOTATION_ALLOW_SHARED_IP, ANNOTATION_LOAD_BALANCER_IPS, ANNOTATION_METALLB_ALLOW_SHARED_IP,
};
use serde_json::json;

use crate::scenario::{Context, wait};

const KEY: &str = "counter";

/// Two at one address, by both spellings; a third is refused and joins later.
pub(super) async fn shared_address(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo("web", 1).await?;
    ctx.deploy_echo("admin", 1).await?;
    ctx.expose("web")
        .annotate(ANNOTATION_ALLOW_SHARED_IP, KEY)
        .port("http", "TCP", 80, 8080)
        .create()
        .await?;
    let addresses = ctx.addresses("web").await?;
    ctx.expose("admin")
        .annotate(ANNOTATION_METALLB_ALLOW_SHARED_IP, KEY)
        .port("http", "TCP", 81, 8080)
        .create()
        .await?;
    let shared = ctx.addresses("admin").await?;
    ensure!(shared == addresses, "{shared:?} is not {addresses:?}");
    for &address in &addresses {
        answers(ctx, address, 80, "web").await?;
        answers(ctx, address, 81, "admin").await?;
        let owner = ctx.client().owner(address).await?;
        ctx.step(format!("{owner} answers for both at {address}"));
    }

    let wish: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    ctx.expose("third")
        .in_front_of("admin")
        .annotate(ANNOTATION_ALLOW_SHARED_IP, KEY)
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, wish.join(","))
        .port("http", "TCP", 80, 8080)
        .create()
        .await?;
    let message = ctx.condition("third", "False", "AddressTaken").await?;
    let port = format!("port 80/TCP of {}", addresses[0]);
    let holder = format!("is taken by Service {}/web", ctx.namespace());
    ensure!(
        message.contains(&port) && message.contains(&holder),
        "the refusal does not say what is taken by whom: {message}"
    );
    ctx.step(format!("refused: {message}"));

    // What was in its way goes out of it.
    let ports = json!({"spec": {"ports": [
        {"name": "http", "protocol": "TCP", "port": 82, "targetPort": 8080},
    ]}});
    ctx.change_service("web", ports).await?;
    let joined = ctx.addresses("third").await?;
    ensure!(joined == addresses, "{joined:?} is not {addresses:?}");
    for &address in &addresses {
        answers(ctx, address, 80, "admin").await?;
        answers(ctx, address, 82, "web").await?;
    }

    // The address stays with those who are left.
    ctx.delete_service("web").await?;
    for &address in &addresses {
        answers(ctx, address, 81, "admin").await?;
    }
    ctx.expose("other")
        .in_front_of("admin")
        .annotate(ANNOTATION_ALLOW_SHARED_IP, "another key")
        .port("http", "TCP", 90, 8080)
        .create()
        .await?;
    let other = ctx.addresses("other").await?;
    ensure!(
        other.iter().all(|address| !addresses.contains(address)),
        "one with another key was given {other:?} too"
    );
    Ok(())
}

async fn answers(ctx: &Context, address: std::net::IpAddr, port: u16, app: &str) -> Result<()> {
    wait::until(
        &format!("{app} to answer at {address} port {port}"),
        || async {
            let reply = ctx.client().curl_port(address, port).await?;
            ensure!(
                reply.pod.starts_with(&format!("{app}-")),
                "answered by {}",
                reply.pod
            );
            Ok(())
        },
    )
    .await
}
