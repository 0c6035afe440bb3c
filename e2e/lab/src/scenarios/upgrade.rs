//! From one release to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use herald_api::IPAddressPool;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::churn;
use crate::scenario::Context;
use crate::scenario::herald::OPERATOR;

/// Objects as a release wrote them: a pool, and Services of the namespace `default`.
const POOL: &str = include_str!("../../../../pkg/operator/src/fixtures/pool-0.1.0.json");
const SERVICES: &str = include_str!("../../../../pkg/operator/src/fixtures/services-0.1.0.json");
/// Services that nobody touches while all others change.
const KEPT: u32 = 20;
const ROLL_OUTS: u32 = 3;

/// Today's manifests over objects of a former release; then the operator's roll-out
/// while Services come, change and go.
pub(super) async fn upgrade(ctx: &mut Context) -> Result<()> {
    over_older_objects(ctx).await?;
    rolled_out_in_churn(ctx).await
}

async fn over_older_objects(ctx: &mut Context) -> Result<()> {
    ctx.scale_operator(0).await?;
    let pools: Api<IPAddressPool> = ctx.herald_api();
    let pool: Value = serde_json::from_str(POOL)?;
    let name = "lan";
    put(&pools, name, pool).await?;
    let services: Api<Service> = ctx.api();
    let here = SERVICES.replace("default/", &format!("{}/", ctx.namespace()));
    let objects: Vec<Value> = serde_json::from_str(&here)?;
    let mut before = BTreeMap::new();
    for object in objects {
        // Who has a class of a cloud is not served here.
        if object["spec"]["loadBalancerClass"].is_string() {
            continue;
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let name = name.to_owned();
        let written = put(&services, &name, object).await?;
        before.insert(name, written.resource_version());
    }
    ensure!(before.len() > 2, "only {} older Services", before.len());
    let mark = ctx.audit_mark()?;
    ctx.lab().install("bare-metal").await?;
    ctx.operator_is_well().await?;
    ctx.crowd_one("late", json!({})).await?;
    ctx.addresses("late").await?;
    // Whatever it might still write.
    sleep(Duration::from_secs(3)).await;
    let written: Vec<String> = ctx
        .writes_since(mark)?
        .into_iter()
        .filter(|write| write.account == OPERATOR && write.resource.starts_with("services"))
        .map(|write| write.name)
        .collect();
    ensure!(
        written == ["late"],
        "after the upgrade the operator wrote to the Services {written:?}"
    );
    for (name, version) in &before {
        let now = ctx.service(name).await?.resource_version();
        ensure!(now == *version, "Service {name} is not as it was");
    }
    ctx.step(format!(
        "{} Services as a former release wrote them: nothing is written to any",
        before.len()
    ));
    ctx.crowd_leaves().await?;
    pools.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// An object of a fixture, with its status. Returns it as the API server has it then.
async fn put<K>(api: &Api<K>, name: &str, object: Value) -> Result<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let status = json!({"status": object["status"]});
    let mut fresh = object;
    let annotations = fresh["metadata"]["annotations"].take();
    fresh["metadata"] = json!({"name": name, "annotations": annotations});
    api.create(&PostParams::default(), &serde_json::from_value(fresh)?)
        .await?;
    let patch = Patch::Merge(status);
    Ok(api
        .patch_status(name, &PatchParams::default(), &patch)
        .await?)
}

async fn rolled_out_in_churn(ctx: &mut Context) -> Result<()> {
    churn::pools(ctx).await?;
    ctx.crowd("kept", KEPT).await?;
    let before = ctx.crowd_served(KEPT).await?;
    let roll_outs = async {
        for _ in 0..ROLL_OUTS {
            ctx.restart("deployment", OPERATOR).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let mark = ctx.audit_mark()?;
    tokio::select! {
        done = roll_outs => done?,
        churned = churn::churn(ctx) => churned?,
    }
    let writes = ctx.writes_since(mark)?.len();
    ctx.step(format!("{ROLL_OUTS} roll-outs among {writes} writes"));
    let count = churn::settled(ctx).await?;
    let services: Api<Service> = ctx.api();
    let mut kept = services.list(&ListParams::default()).await?.items;
    kept.retain(|service| before.contains_key(&service.name_any()));
    ensure!(kept.len() == before.len(), "{} are left", kept.len());
    for service in kept {
        let version = service.resource_version();
        let (_, was) = &before[&service.name_any()];
        ensure!(
            version.as_ref() == Some(was),
            "Service {} was written to",
            service.name_any()
        );
    }
    ctx.step(format!(
        "{count} load balancers have exactly what they should, and {KEPT} were not written to"
    ));
    ctx.crowd_leaves().await
}
