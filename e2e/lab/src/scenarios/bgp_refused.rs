//! Peers that are set up wrongly, and one that comes and goes: each is told of in
//! words, and the others go on.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use herald_api::BGPPeer;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::bgp_fabric::{self as fabric, has};
use super::bgp_matrix::{THEIRS, routers};
use crate::plan::Host;
use crate::scenario::Context;

/// An AS that nobody is in.
const NOBODYS: u32 = 64999;
/// How often the router goes and comes.
const FLAPS: u32 = 10;

/// FRR is a good peer, BIRD is in another AS than its `BGPPeer` says, `GoBGP` has
/// another password; one's Secret is not there, and where another should be is nobody.
pub(super) async fn told_in_words(ctx: &mut Context) -> Result<()> {
    let all = routers(ctx)?;
    let [good, elsewhere, secretive] = all.as_slice() else {
        bail!("three routers are needed");
    };
    fabric::start(ctx, good, |neighbor| neighbor.graceful_restart = Some(60)).await?;
    fabric::start(ctx, elsewhere, |_| {}).await?;
    fabric::start(ctx, secretive, |neighbor| {
        neighbor.password = Some("right".into());
    })
    .await?;
    fabric::secret(ctx, "bgp-password", "wrong").await?;
    let soon = |more: Value| {
        let mut all = json!({"connectTime": "2s"});
        for (field, value) in more.as_object().into_iter().flatten() {
            all[field] = value.clone();
        }
        all
    };
    // The bad ones first: the good one comes up among them.
    let as_of_nobody = soon(json!({"peerASN": NOBODYS}));
    fabric::peer(ctx, elsewhere, as_of_nobody).await?;
    let password = soon(json!({"passwordSecret": {"name": "bgp-password"}}));
    fabric::peer(ctx, secretive, password).await?;
    let (nobody, _) = Host::Client(1).lan(0).context("a client is on LAN 0")?;
    fabric::peer_at(ctx, "no-router", nobody.into(), soon(json!({}))).await?;
    let unknown = soon(json!({"passwordSecret": {"name": "no-such-secret"}}));
    let free = Host::Router(9).lan(0).context("a router is on LAN 0")?;
    fabric::peer_at(ctx, "no-secret", free.0.into(), unknown).await?;
    fabric::peer(ctx, good, soon(json!({}))).await?;

    let address = fabric::serve(ctx, good, 2).await?;
    let nodes = fabric::nodes(ctx)?;
    ctx.step("the good peer has the routes");

    says(
        ctx,
        elsewhere.name(),
        &format!("the peer is in AS {THEIRS}"),
    )
    .await?;
    says(ctx, secretive.name(), "no connection to the peer").await?;
    says(ctx, "no-router", "refused").await?;
    says(ctx, "no-secret", "there is no Secret").await?;
    let up_since = fabric::since(ctx, good).await?;

    let right = json!({"peerASN": THEIRS});
    change_peer(ctx, elsewhere.name(), &right).await?;
    let right = json!({"passwordSecret": null, "password": "right"});
    change_peer(ctx, secretive.name(), &right).await?;
    for router in [elsewhere, secretive] {
        has(router, address, &nodes).await?;
    }
    ctx.step("set up rightly, the others have them too");
    ensure!(
        fabric::since(ctx, good).await? == up_since,
        "the good peer's sessions ended meanwhile"
    );

    let others = [
        fabric::since(ctx, elsewhere).await?,
        fabric::since(ctx, secretive).await?,
    ];
    for i in 1..=FLAPS {
        good.stop().await?;
        fabric::start(ctx, good, |neighbor| neighbor.graceful_restart = Some(60)).await?;
        // In every state of a session once.
        sleep(Duration::from_millis(u64::from(i) * 100)).await;
    }
    has(good, address, &nodes).await?;
    fabric::told(ctx, 3).await?;
    ensure!(
        [
            fabric::since(ctx, elsewhere).await?,
            fabric::since(ctx, secretive).await?
        ] == others,
        "other peers' sessions ended meanwhile"
    );
    ctx.step(format!(
        "{good} went and came {FLAPS} times, has the routes, and no other noticed"
    ));
    for router in &all {
        router.stop().await?;
    }
    fabric::clean(ctx, &["bgp-password"]).await
}

/// Waits until every node says this of a peer.
async fn says(ctx: &Context, peer: &str, words: &str) -> Result<()> {
    fabric::told_of(ctx, peer, &format!("{words:?}"), |session| {
        let said = session.problem.iter().chain(&session.last_error);
        said.into_iter().any(|text| text.contains(words))
    })
    .await?;
    let statuses = fabric::statuses(ctx).await?;
    let session = statuses
        .iter()
        .flat_map(|status| &status.peers)
        .find(|session| session.peer == peer)
        .context("it is told of")?;
    let said = session.problem.as_ref().or(session.last_error.as_ref());
    ctx.step(format!("{peer}: {}", said.map_or("", String::as_str)));
    Ok(())
}

async fn change_peer(ctx: &Context, name: &str, spec: &Value) -> Result<()> {
    let peers: Api<BGPPeer> = ctx.herald_api();
    peers
        .patch(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": spec})),
        )
        .await
        .with_context(|| format!("change BGPPeer {name}"))?;
    Ok(())
}
