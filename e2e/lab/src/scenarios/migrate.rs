//! `docs/migrate-from-metallb.md`, word for word: its commands are read from the page
//! and run as an administrator would run them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use herald_api::IPAddressPool;
use kube::ResourceExt as _;
use kube::api::Api;

use super::adopt::{self, ADOPTED, THEIRS};
use crate::isolate;
use crate::scenario::Context;

const PAGE: &str = include_str!("../../../../docs/migrate-from-metallb.md");

/// What a cluster with `MetalLB` has beside its objects.
const PROGRAMS: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: metallb-system}
spec:
  selector: {matchLabels: {component: controller}}
  template:
    metadata: {labels: {component: controller}}
    spec: {containers: [{name: controller, image: echo}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: metallb-system}
spec:
  selector: {matchLabels: {component: speaker}}
  template:
    metadata: {labels: {component: speaker}}
    spec: {containers: [{name: speaker, image: echo}]}
";

/// From a cluster that has never seen Herald to one that `MetalLB` has left.
pub(super) async fn word_for_word(ctx: &mut Context) -> Result<()> {
    let blocks = commands(PAGE);
    let [look, stop, install, compare, silence, own, rights] = &blocks[..] else {
        anyhow::bail!("the page has {} blocks of commands", blocks.len());
    };
    let here = Administrator::of(ctx)?;
    here.run(ctx, "kubectl delete --wait -k deploy/overlays/bare-metal")
        .await?;
    ctx.deploy_echo("web", 2).await?;
    adopt::metallb_is_there(ctx).await?;
    ctx.lab().apply(PROGRAMS).await?;
    let before = adopt::served_by_metallb(ctx).await?;
    ctx.expose("pending").in_front_of("web").create().await?;

    let objects = here.run(ctx, look).await?;
    ensure!(
        objects.contains("kind: IPAddressPool") && objects.contains("kind: BGPPeer"),
        "it would write:\n{objects}"
    );
    here.run(ctx, stop).await?;
    here.run(ctx, install).await?;
    ctx.forgive_denials()?;
    for name in before.keys() {
        ctx.condition(name, "True", "AddressAssigned").await?;
    }
    ctx.addresses("pending").await?;
    adopt::same_addresses(ctx, &before).await?;
    let seen = here.run(ctx, compare).await?;
    ensure!(seen.contains("lan") && seen.contains("pending"), "{seen}");
    ctx.step("installed beside MetalLB: every address is as it was");

    here.run(ctx, silence).await?;
    for address in before.values().flatten() {
        ctx.client().curl(*address).await?;
    }
    here.run(ctx, own).await?;
    here.run(ctx, rights).await?;
    let pool = Api::<IPAddressPool>::get(&ctx.herald_api(), "lan").await?;
    ensure!(
        !pool.labels().contains_key(ADOPTED),
        "the pool still follows MetalLB"
    );
    adopt::same_addresses(ctx, &before).await?;
    ctx.expose("after").in_front_of("web").create().await?;
    let after = ctx.addresses("after").await?;
    for address in before.values().flatten().chain(&after) {
        ctx.client().curl(*address).await?;
    }
    let left = here.run(ctx, "kubectl get crds -o name").await?;
    ensure!(!left.contains("metallb.io"), "it is left over: {left}");
    let namespaces = here.run(ctx, "kubectl get namespaces -o name").await?;
    ensure!(!namespaces.contains(THEIRS), "{THEIRS} is there");
    ctx.step("the page's commands, one after the other: MetalLB is gone, every address stays");
    Ok(())
}

/// The blocks of commands of a page.
fn commands(page: &str) -> Vec<&str> {
    page.split("```")
        .skip(1)
        .step_by(2)
        .map(str::trim)
        .collect()
}

/// Somebody with a shell, in a folder where `deploy` is, who may do everything.
struct Administrator {
    folder: PathBuf,
    path: String,
}

impl Administrator {
    fn of(ctx: &Context) -> Result<Self> {
        let folder = ctx.lab().folder("administrator")?;
        symlink(ctx.lab().deploy("")?, folder.join("deploy")).context("put deploy in place")?;
        let own = isolate::own_path()?;
        let folders = [ctx.lab().program("kubectl"), Some(&own)];
        let folders = folders.into_iter().flatten().filter_map(Path::parent);
        let path = folders.map(|folder| format!("{}:", folder.display()));
        let path = path.collect::<String>() + &std::env::var("PATH").unwrap_or_default();
        Ok(Self { folder, path })
    }

    /// Runs commands, the next only where one went well; returns their output.
    async fn run(&self, ctx: &Context, commands: &str) -> Result<String> {
        let output = ctx
            .lab()
            .administrator("sh")
            .args(["-ec", commands])
            .env("PATH", &self.path)
            .current_dir(&self.folder)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{commands}\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_commands_of_each_step() {
        let blocks = commands(PAGE);
        assert_eq!(blocks.len(), 7, "{blocks:?}");
        assert!(blocks[0].starts_with("herald-operator migrate"));
    }
}
