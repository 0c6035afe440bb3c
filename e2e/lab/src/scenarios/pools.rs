//! What pools say and do: whom they serve, what they keep back, how they are emptied.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use herald_api::names::{
    ANNOTATION_ADDRESS_POOL, ANNOTATION_LOAD_BALANCER_IPS, ANNOTATION_METALLB_ADDRESS_POOL,
    CONDITION_CONFLICTS, CONDITION_DRAINED, CONDITION_LIMIT_REACHED, CONDITION_SERVICES_WAITING,
};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::{Value, json};

use super::failover;
use crate::scenario::{Context, Family, wait};

/// The range of a pool with so many addresses of each of the cluster's families.
fn ranges(ctx: &Context, offset: u8, count: u8) -> Vec<String> {
    let families = ctx.ip_families().into_iter();
    families
        .map(|family| ctx.range(family, offset, count))
        .collect()
}

fn place(ctx: &Context, address: IpAddr, offset: u8, count: u8) -> bool {
    (offset..offset + count).any(|at| ctx.nth(Family::of(&address), at) == address)
}

/// A Service that asks for nothing gets its addresses from the pool at `offset`.
async fn gets(ctx: &Context, name: &str, offset: u8) -> Result<()> {
    for address in ctx.addresses(name).await? {
        ensure!(
            place(ctx, address, offset, 4),
            "{name} got {address}, which is not of the pool it should have"
        );
    }
    Ok(())
}

/// Which pool a Service gets its addresses from.
pub(super) async fn pool_choice(ctx: &mut Context) -> Result<()> {
    let here = ctx.namespace().to_owned();
    let own = json!({"kubernetes.io/metadata.name": here});
    // Each beside an open pool that comes last: without selectors, by name.
    let cases: [(&str, Value, Value, bool); 7] = [
        ("namespace", json!({"namespaces": [here]}), json!({}), true),
        (
            "priority",
            json!({"priority": 10, "namespaces": [here]}),
            json!({}),
            true,
        ),
        (
            "labels",
            json!({"namespaceSelectors": [{"matchLabels": own}]}),
            json!({}),
            true,
        ),
        (
            "either",
            json!({"namespaces": ["elsewhere"], "namespaceSelectors": [{"matchLabels": own}]}),
            json!({}),
            true,
        ),
        (
            "service",
            json!({"namespaces": [here], "serviceSelectors": [{"matchLabels": {"tier": "edge"}}]}),
            json!({"tier": "edge"}),
            true,
        ),
        (
            "other-service",
            json!({"namespaces": [here], "serviceSelectors": [{"matchLabels": {"tier": "edge"}}]}),
            json!({"tier": "core"}),
            false,
        ),
        (
            "other-namespace",
            json!({"namespaces": ["elsewhere"]}),
            json!({}),
            false,
        ),
    ];
    let last = json!({"serviceAllocation": {"priority": 90, "namespaces": [here]}});
    ctx.pool_with("z-last", &ranges(ctx, 0, 4), last).await?;
    for (name, allocation, labels, chosen) in cases {
        let mut allocation = allocation;
        if allocation.get("priority").is_none() {
            allocation["priority"] = json!(20);
        }
        let more = json!({"serviceAllocation": allocation});
        ctx.pool_with("case", &ranges(ctx, 8, 4), more).await?;
        ctx.pool_condition("case", "True", "Accepted").await?;
        ctx.expose(name).label_all(labels).create().await?;
        gets(ctx, name, if chosen { 8 } else { 0 }).await?;
        ctx.step(format!(
            "{name}: the pool {}",
            if chosen { "is chosen" } else { "is not" }
        ));
        ctx.delete_service(name).await?;
        ctx.delete_pool("case").await?;
        // Its addresses are another pool's in a moment.
        ctx.pool_is_gone("case").await?;
    }

    // By name, whether it gives addresses by itself or not, by both spellings.
    for (auto_assign, annotation) in [
        (true, ANNOTATION_ADDRESS_POOL),
        (false, ANNOTATION_METALLB_ADDRESS_POOL),
    ] {
        let more = json!({"autoAssign": auto_assign});
        ctx.pool_with("named", &ranges(ctx, 16, 4), more).await?;
        let name = format!("named-{auto_assign}");
        ctx.expose(&name)
            .annotate(annotation, ctx.pool_name("named"))
            .create()
            .await?;
        gets(ctx, &name, 16).await?;
        ctx.delete_service(&name).await?;
        ctx.delete_pool("named").await?;
        ctx.pool_is_gone("named").await?;
    }

    families(ctx).await
}

/// `PreferDualStack` and the other modes, from pools of one family and of two.
async fn families(ctx: &Context) -> Result<()> {
    let (v4, v6) = (ctx.range(Family::V4, 24, 4), ctx.range(Family::V6, 24, 4));
    ctx.delete_pool("z-last").await?;
    ctx.pool_is_gone("z-last").await?;
    ctx.pool_with("four", std::slice::from_ref(&v4), json!({}))
        .await?;
    ctx.expose("prefers").create().await?;
    let first = ctx.nth(Family::V4, 24);
    holds(ctx, "prefers", &[first]).await?;
    let requires = json!("RequireDualStack");
    ctx.expose("requires")
        .with("ipFamilyPolicy", requires)
        .create()
        .await?;
    ctx.condition("requires", "False", "NoPool").await?;
    // The pool gains the family, and both are served; the first keeps what it has.
    ctx.change_pool("four", json!({"addresses": [v4, v6]}))
        .await?;
    holds(ctx, "prefers", &[first, ctx.nth(Family::V6, 24)]).await?;
    ensure!(
        ctx.addresses("requires").await?.len() == 2,
        "one address for two families"
    );
    // A Service loses a family and gains it again.
    let single = json!({"spec": {
        "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": null,
    }});
    ctx.change_service("prefers", single).await?;
    holds(ctx, "prefers", &[first]).await?;
    let dual = json!({"spec": {
        "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
    }});
    ctx.change_service("prefers", dual).await?;
    let both = ctx.addresses("prefers").await?;
    ensure!(both[0] == first, "it lost {first}: {both:?}");
    ctx.pool_status("four", "two addresses of each family in use", |status| {
        status.assigned_ipv4 == 2 && status.assigned_ipv6 == 2 && status.available_ipv4 == 2
    })
    .await?;
    // Two pools, named both.
    let more = json!({"autoAssign": false});
    ctx.pool_with("six", &[ctx.range(Family::V6, 32, 4)], more.clone())
        .await?;
    ctx.pool_with("other-four", &[ctx.range(Family::V4, 32, 4)], more)
        .await?;
    let names = format!("{},{}", ctx.pool_name("other-four"), ctx.pool_name("six"));
    ctx.expose("two-pools")
        .annotate(ANNOTATION_ADDRESS_POOL, names)
        .create()
        .await?;
    let wanted = [ctx.nth(Family::V4, 32), ctx.nth(Family::V6, 32)];
    holds(ctx, "two-pools", &wanted).await
}

/// Waits until a Service has exactly these addresses.
pub(super) async fn holds(ctx: &Context, name: &str, addresses: &[IpAddr]) -> Result<()> {
    let wanted: BTreeSet<&IpAddr> = addresses.iter().collect();
    wait::until(&format!("{name} to have {addresses:?}"), || async {
        let now = ctx.addresses_now(name).await?;
        let has: BTreeSet<&IpAddr> = now.iter().collect();
        ensure!(has == wanted, "it has {now:?}");
        Ok(())
    })
    .await
}

/// Limits, reservations, exclusions, addresses of the cluster, a freed address.
pub(super) async fn pool_rules(ctx: &mut Context) -> Result<()> {
    let family = ctx.ip_families()[0];
    let nth = |at| ctx.nth(family, at);
    let more = json!({
        "excludedAddresses": [nth(0), format!("{}-{}", nth(1), nth(2))],
        "reservations": [
            {"namespace": ctx.namespace(), "name": "late", "addresses": [nth(3)]},
        ],
        "limits": {"servicesPerNamespace": 2},
    });
    ctx.pool_with("pool", &[ctx.range(family, 0, 8)], more)
        .await?;
    ctx.expose("early").only(family).create().await?;
    holds(ctx, "early", &[nth(4)]).await?;
    ctx.expose("late").only(family).create().await?;
    holds(ctx, "late", &[nth(3)]).await?;
    ctx.expose("greedy")
        .only(family)
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, nth(3).to_string())
        .create()
        .await?;
    ctx.condition("greedy", "False", "AddressReserved").await?;
    ctx.expose("third").only(family).create().await?;
    let message = ctx.condition("third", "False", "LimitReached").await?;
    ctx.step(format!("limit: {message}"));
    let message = ctx
        .pool_says("pool", CONDITION_LIMIT_REACHED, "True")
        .await?;
    ctx.step(format!("the pool: {message}"));
    let message = ctx
        .pool_says("pool", CONDITION_SERVICES_WAITING, "True")
        .await?;
    ensure!(
        message.contains("/third"),
        "who waits is not said: {message}"
    );

    // What is freed rests, and what is reserved comes back to whom it is for.
    ctx.delete_service("early").await?;
    holds(ctx, "third", &[nth(5)]).await?;
    ctx.delete_service("late").await?;
    ctx.expose("late").only(family).create().await?;
    holds(ctx, "late", &[nth(3)]).await?;
    ctx.pool_status("pool", "which address rests", |status| {
        status
            .freed
            .iter()
            .any(|freed| freed.address == nth(4).to_string())
    })
    .await?;

    conflicts(ctx, family).await
}

/// A pool with a node's address and one with the range of cluster IPs.
async fn conflicts(ctx: &Context, family: Family) -> Result<()> {
    let nodes: Api<Node> = Api::all(ctx.kube());
    let node = nodes.get(&ctx.nodes()[0]).await?;
    let addresses = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    let own: Vec<IpAddr> = addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .filter(|address| Family::of(address) == family)
        .collect();
    let own = own[0];
    ctx.pool_with("node", &[format!("{own}-{own}")], json!({}))
        .await?;
    let message = ctx.pool_says("node", CONDITION_CONFLICTS, "True").await?;
    ctx.step(format!("a node's address: {message}"));
    let by_name = |name: &str| {
        ctx.expose(name)
            .only(family)
            .annotate(ANNOTATION_ADDRESS_POOL, ctx.pool_name("node"))
    };
    by_name("by-itself").create().await?;
    ctx.condition("by-itself", "False", "PoolExhausted").await?;
    by_name("on-request")
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, own.to_string())
        .create()
        .await?;
    let message = ctx
        .warned("on-request", "is among the addresses of node")
        .await?;
    ctx.step(format!("on request: {message}"));
    ctx.delete_service("on-request").await?;

    let service = ctx.service("by-itself").await?;
    let cluster_ip = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .unwrap_or_default();
    ctx.pool_with(
        "cluster",
        &[format!("{cluster_ip}-{cluster_ip}")],
        json!({}),
    )
    .await?;
    let message = ctx
        .pool_says("cluster", CONDITION_CONFLICTS, "True")
        .await?;
    ensure!(
        message.contains("the cluster's Services"),
        "the range of cluster IPs is not named: {message}"
    );
    Ok(())
}

/// A pool drains under traffic, then the pools are deleted.
pub(super) async fn pool_draining(ctx: &mut Context) -> Result<()> {
    let family = ctx.ip_families()[0];
    let range = |offset| [ctx.range(family, offset, 4)];
    ctx.pool_with("old", &range(0), json!({})).await?;
    ctx.announce().await?;
    ctx.deploy_echo("web", 2).await?;
    ctx.expose("web").only(family).create().await?;
    ctx.expose("pinned")
        .only(family)
        .in_front_of("web")
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, ctx.nth(family, 2).to_string())
        .create()
        .await?;
    let old = ctx.address("web", family).await?;
    ctx.addresses("pinned").await?;
    ctx.client().curl(old).await?;

    ctx.pool_with("new", &range(8), json!({})).await?;
    let probing = failover::probe(ctx, &[old]).await?;
    let drain = json!({"state": "draining", "drain": {"interval": "1s", "overlap": "20s"}});
    ctx.change_pool("old", drain).await?;
    let new = ctx.nth(family, 8);
    holds(ctx, "web", &[new, old]).await?;
    // Both answer while clients learn of the new one.
    ctx.client().curl(new).await?;
    let (lost, _) = failover::worst(&failover::stop(ctx, probing).await?);
    ensure!(lost == 0, "{lost} probes of the old address were lost");
    ctx.step(format!("both {old} and {new} answer"));
    holds(ctx, "web", &[new]).await?;
    ctx.client().curl(new).await?;
    let message = ctx.warned("pinned", "is draining").await?;
    ctx.step(format!("one that asks for its address: {message}"));
    ctx.pool_says("old", CONDITION_DRAINED, "False").await?;
    ctx.delete_service("pinned").await?;
    ctx.pool_says("old", CONDITION_DRAINED, "True").await?;
    ctx.delete_pool("old").await?;

    // Without a pool a Service keeps its address and is told; with it all is well.
    ctx.delete_pool("new").await?;
    let message = ctx.warned("web", "is in no IPAddressPool any more").await?;
    ctx.step(format!("without a pool: {message}"));
    holds(ctx, "web", &[new]).await?;
    ctx.pool_with("again", &range(8), json!({})).await?;
    ctx.client().curl(new).await?;
    ctx.not_warned("web").await
}

/// Restarts with Services that wait, and the rules for what no pool holds.
pub(super) async fn outside_pools(ctx: &mut Context) -> Result<()> {
    let family = ctx.ip_families()[0];
    let nth = |at| ctx.nth(family, at);
    ctx.pool_with("small", &[ctx.range(family, 0, 2)], json!({}))
        .await?;
    for name in ["a", "b", "waits-1", "waits-2"] {
        ctx.expose(name).only(family).create().await?;
    }
    ctx.condition("waits-2", "False", "PoolExhausted").await?;
    let held: Vec<Vec<IpAddr>> = vec![ctx.addresses("a").await?, ctx.addresses("b").await?];
    for _ in 0..5 {
        ctx.restart("deployment", "herald-operator").await?;
        ctx.leader().await?;
        let now = vec![ctx.addresses_now("a").await?, ctx.addresses_now("b").await?];
        ensure!(now == held, "a restart made {now:?} of {held:?}");
    }
    ctx.step("five restarts with Services that wait: every address is where it was");

    ctx.operator_flag("--outside-pools=move").await?;
    ctx.pool_with("other", &[ctx.range(family, 8, 3)], json!({}))
        .await?;
    ctx.addresses("waits-1").await?;
    ctx.addresses("waits-2").await?;
    ctx.delete_pool("small").await?;
    // There is room for one more, and the other waits with what it has.
    wait::until("one Service to have moved", || async {
        let now = [ctx.addresses_now("a").await?, ctx.addresses_now("b").await?].concat();
        ensure!(now.len() == 2, "an address is lost: {now:?}");
        let moved = now.iter().filter(|ip| place(ctx, **ip, 8, 3)).count();
        ensure!(moved == 1, "{moved} moved: {now:?}");
        Ok(())
    })
    .await?;
    ctx.change_pool("other", json!({"addresses": [ctx.range(family, 8, 4)]}))
        .await?;
    wait::until("both to have moved", || async {
        let now = [ctx.addresses_now("a").await?, ctx.addresses_now("b").await?].concat();
        ensure!(now.iter().all(|ip| place(ctx, *ip, 8, 4)), "{now:?}");
        Ok(())
    })
    .await?;
    ctx.operator_flag("--outside-pools=release").await?;
    ctx.delete_pool("other").await?;
    for name in ["a", "b", "waits-1", "waits-2"] {
        ctx.no_addresses(name).await?;
        ctx.condition(name, "False", "NoPool").await?;
    }
    ctx.pool_with("small", &[format!("{0}-{0}", nth(0))], json!({}))
        .await?;
    ctx.pool_says("small", CONDITION_SERVICES_WAITING, "True")
        .await?;
    Ok(())
}
