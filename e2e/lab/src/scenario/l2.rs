//! What the speakers say of their segments.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use herald_api::names::{ANNOTATION_REBALANCE, HEARTBEAT_KEY_PRIMARY, SECRET_HEARTBEAT_KEYS};
use herald_api::{L2Advertisement, L2Segment, L2Status};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::herald::SPEAKER;
use super::{Context, traffic, wait};

impl Context {
    /// Waits until a node's status object says that it owns an address because
    /// another lost it.
    pub async fn owns_since_lost(&self, node: &str, address: IpAddr, lost: &str) -> Result<()> {
        let what =
            format!("the status of {node} to say that it has {address} since {lost} was lost");
        let text = address.to_string();
        wait::object(self.herald_api(), node, &what, |status| {
            let status: &L2Status = status?;
            let mut addresses = status.status.as_ref()?.addresses.iter();
            addresses
                .any(|a| a.address == text && a.cause == "Lost" && a.from.as_deref() == Some(lost))
                .then_some(())
        })
        .await
    }

    /// Waits until an event on a Service says that this node announces it.
    pub async fn announced_by(&self, service: &str, node: &str) -> Result<()> {
        let from = format!(" from node {node} on ");
        wait::until(
            &format!("an event on Service {service} that {node} announces it"),
            || async {
                let told = self.events("Service", service, "Announcing").await?;
                let notes = told.iter().filter_map(|event| event.message.as_deref());
                ensure!(
                    notes.clone().any(|note| note.contains(&from)),
                    "there is {:?}",
                    notes.collect::<Vec<_>>()
                );
                Ok(())
            },
        )
        .await
    }

    /// Waits until every speaker is ready and hears every other one, and the one of
    /// the first node says so of all.
    pub async fn speakers_see_each_other(&self) -> Result<()> {
        for node in self.nodes() {
            let what = format!("the speaker of {node} to be ready");
            wait::object(self.herald_api(), &node, &what, |status| {
                lan(status?)?.ready.then_some(())
            })
            .await?;
        }
        self.speakers_hear_each_other().await?;
        let others = usize::from(self.node_count()) - 1;
        self.peers_seen("Up", others).await
    }

    /// Waits until the status object of the first node, whose speaker tells of the
    /// others as long as it lives, says of so many peers that they are seen like
    /// this.
    pub async fn peers_seen(&self, liveness: &str, count: usize) -> Result<()> {
        let first = self.nodes().into_iter().next().context("there are nodes")?;
        let what = format!("the speaker of {first} to tell of {count} peers {liveness}");
        wait::object(self.herald_api(), &first, &what, |status| {
            let seen = lan(status?)?.peers.iter();
            let seen = seen.filter(|peer| peer.liveness == liveness).count();
            (seen == count).then_some(())
        })
        .await
    }

    /// Waits until the speakers have taken in all that was written so far: what
    /// they do about a Service made now comes after it.
    pub async fn speakers_follow(&self) -> Result<()> {
        self.expose("follow").in_front_of("web").create().await?;
        for address in self.addresses("follow").await? {
            self.client().owner(address).await?;
        }
        self.delete_service("follow").await
    }

    /// Changes the scenario's `L2Advertisement`.
    pub async fn advertise(&self, spec: Value) -> Result<()> {
        self.patch_advertisement(&json!({"spec": spec})).await
    }

    /// Asks for addresses to go back to the nodes that should have them.
    pub async fn rebalance(&self, value: &str) -> Result<()> {
        let annotations = json!({ANNOTATION_REBALANCE: value});
        self.patch_advertisement(&json!({"metadata": {"annotations": annotations}}))
            .await
    }

    async fn patch_advertisement(&self, patch: &Value) -> Result<()> {
        let advertisements: Api<L2Advertisement> = self.herald_api();
        advertisements
            .patch(
                self.namespace(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .context("change the L2Advertisement")?;
        Ok(())
    }

    /// The key that heartbeats are sealed with.
    pub async fn heartbeat_key(&self) -> Result<ByteString> {
        let secrets: Api<Secret> = self.herald_api();
        let secret = secrets.get(SECRET_HEARTBEAT_KEYS).await?;
        let key = secret
            .data
            .and_then(|mut data| data.remove(HEARTBEAT_KEY_PRIMARY));
        key.context("the Secret has no primary key")
    }

    /// Sets entries of the Secret with the keys of heartbeats; one of `None` is
    /// taken out.
    pub async fn set_heartbeat_keys(&self, entries: &[(&str, Option<&ByteString>)]) -> Result<()> {
        let data: Value = entries
            .iter()
            .map(|(name, key)| ((*name).to_owned(), json!(key)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let secrets: Api<Secret> = self.herald_api();
        secrets
            .patch(
                SECRET_HEARTBEAT_KEYS,
                &PatchParams::default(),
                &Patch::Merge(&json!({"data": data})),
            )
            .await
            .context("change the keys of heartbeats")?;
        Ok(())
    }

    /// Waits until the speakers watch all again that they have ever watched, since
    /// then ([`Context::audit_mark`]). A watch that failed is tried again after a while.
    pub async fn speakers_follow_since(&self, mark: u64) -> Result<()> {
        let log = self.lab().audit_log();
        let all = traffic::watches(&log, SPEAKER, 0)?;
        wait::until("the speakers to follow the API again", || async {
            let again = traffic::watches(&log, SPEAKER, mark)?;
            let away: Vec<_> = all.difference(&again).collect();
            ensure!(away.is_empty(), "not watched: {away:?}");
            Ok(())
        })
        .await
    }
}

/// What a speaker says of LAN 0.
fn lan(status: &L2Status) -> Option<&L2Segment> {
    let segments = &status.status.as_ref()?.segments;
    segments.iter().find(|segment| segment.interface == "lan0")
}
