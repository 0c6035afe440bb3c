//! Address pools of the scenario.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use herald_api::names::CONDITION_VALID;
use herald_api::{IPAddressPool, IPAddressPoolStatus, L2Advertisement};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::context::LABEL;
use super::{Context, Family, wait};

/// IPv4 addresses in a scenario's block: the lab's /22 holds 16 of them.
pub const BLOCK_V4: u32 = 64;
/// IPv6 addresses in a scenario's block.
pub const BLOCK_V6: u128 = 256;

impl Context {
    /// The address at a place of the scenario's own block, `offset` from 0 to
    /// 63.
    pub fn nth(&self, family: Family, offset: u8) -> IpAddr {
        match family {
            Family::V4 => {
                let first = u32::from(Ipv4Addr::new(10, 20, 100, 0));
                let block = u32::from(self.block() % 16) * BLOCK_V4;
                Ipv4Addr::from(first + block + u32::from(offset)).into()
            }
            Family::V6 => {
                let first = u128::from(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 1, 0));
                let block = u128::from(self.block()) * BLOCK_V6;
                Ipv6Addr::from(first + block + u128::from(offset)).into()
            }
        }
    }

    /// `count` addresses from a place of the scenario's own block, as a pool's
    /// range.
    pub fn range(&self, family: Family, offset: u8, count: u8) -> String {
        format!(
            "{}-{}",
            self.nth(family, offset),
            self.nth(family, offset + count - 1)
        )
    }

    /// A pool of `count` addresses of each of the cluster's families, and its
    /// announcement on the LAN.
    pub async fn pool(&self, name: &str, count: u8) -> Result<()> {
        self.pool_at(name, 0, count).await
    }

    /// [`Context::pool`] from another place of the scenario's block.
    pub async fn pool_at(&self, name: &str, offset: u8, count: u8) -> Result<()> {
        let ranges: Vec<String> = self
            .ip_families()
            .into_iter()
            .map(|family| self.range(family, offset, count))
            .collect();
        self.pool_of(name, &ranges).await?;
        self.announce().await
    }

    /// A pool of these CIDRs and ranges for the scenario's own namespace, not
    /// announced. Returns when the API server has taken it.
    pub async fn pool_of(&self, name: &str, addresses: &[String]) -> Result<()> {
        self.pool_with(name, addresses, json!({})).await
    }

    /// [`Context::pool_of`] with more in its specification, which goes before what
    /// the others have.
    pub async fn pool_with(&self, name: &str, addresses: &[String], more: Value) -> Result<()> {
        let mut spec = json!({
            "addresses": addresses,
            "serviceAllocation": {"namespaces": [self.namespace()]},
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let pools: Api<IPAddressPool> = self.herald_api();
        let pool = serde_json::from_value(json!({
            "apiVersion": "herald.dev/v1alpha1",
            "kind": "IPAddressPool",
            "metadata": {
                "name": self.pool_name(name),
                "labels": {LABEL: self.namespace()},
            },
            "spec": spec,
        }))?;
        pools
            .create(&PostParams::default(), &pool)
            .await
            .with_context(|| format!("create pool {name}"))?;
        Ok(())
    }

    /// Announces all of the scenario's pools on the LAN, present and future.
    pub async fn announce(&self) -> Result<()> {
        self.announce_from(json!([])).await
    }

    /// [`Context::announce`], only from nodes that one of these label
    /// selectors takes. Once a scenario.
    pub async fn announce_from(&self, node_selectors: Value) -> Result<()> {
        let advertisements: Api<L2Advertisement> = self.herald_api();
        if advertisements.get_opt(self.namespace()).await?.is_some() {
            return Ok(());
        }
        let advertisement = serde_json::from_value(json!({
            "apiVersion": "herald.dev/v1alpha1",
            "kind": "L2Advertisement",
            "metadata": {"name": self.namespace(), "labels": {LABEL: self.namespace()}},
            "spec": {
                "ipAddressPoolSelectors": [{"matchLabels": {LABEL: self.namespace()}}],
                "interfaces": ["lan0"],
                "nodeSelectors": node_selectors,
            },
        }))?;
        advertisements
            .create(&PostParams::default(), &advertisement)
            .await
            .context("create the L2Advertisement")?;
        Ok(())
    }

    /// A pool's name in Herald's namespace, where all scenarios' pools stand.
    pub fn pool_name(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace())
    }

    /// A pool of the scenario, as it stands.
    pub async fn get_pool(&self, name: &str) -> Result<IPAddressPool> {
        let pools: Api<IPAddressPool> = self.herald_api();
        Ok(pools.get(&self.pool_name(name)).await?)
    }

    /// Changes the specification of a pool (JSON merge patch).
    pub async fn change_pool(&self, name: &str, spec: Value) -> Result<()> {
        let pools: Api<IPAddressPool> = self.herald_api();
        let patch = Patch::Merge(json!({"spec": spec}));
        pools
            .patch(&self.pool_name(name), &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("change pool {name}"))?;
        Ok(())
    }

    /// Waits until a pool has a condition of this type, and returns its message.
    pub async fn pool_says(&self, name: &str, condition: &str, status: &str) -> Result<String> {
        let pools: Api<IPAddressPool> = self.herald_api();
        wait::object(
            pools,
            &self.pool_name(name),
            &format!("pool {name} to be {condition}={status}"),
            |pool| {
                let mut conditions = pool?.status.as_ref()?.conditions.iter();
                let found = conditions.find(|c| c.type_ == condition)?;
                (found.status == status).then(|| found.message.clone())
            },
        )
        .await
    }

    /// Waits until what a pool's status says is so.
    pub async fn pool_status(
        &self,
        name: &str,
        what: &str,
        check: impl Fn(&IPAddressPoolStatus) -> bool,
    ) -> Result<()> {
        let pools: Api<IPAddressPool> = self.herald_api();
        wait::object(
            pools,
            &self.pool_name(name),
            &format!("pool {name} to say {what}"),
            |pool| check(pool?.status.as_ref()?).then_some(()),
        )
        .await
    }

    /// Deletes a pool of the scenario.
    pub async fn delete_pool(&self, name: &str) -> Result<()> {
        let pools: Api<IPAddressPool> = self.herald_api();
        pools
            .delete(&self.pool_name(name), &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Waits until a pool of the scenario is gone.
    pub async fn pool_is_gone(&self, name: &str) -> Result<()> {
        let pools: Api<IPAddressPool> = self.herald_api();
        wait::object(
            pools,
            &self.pool_name(name),
            &format!("pool {name} to be gone"),
            |pool| pool.is_none().then_some(()),
        )
        .await
    }

    /// Waits until a pool's condition `Valid` has this status and reason, and
    /// returns its message.
    pub async fn pool_condition(&self, name: &str, status: &str, reason: &str) -> Result<String> {
        let pools: Api<IPAddressPool> = self.herald_api();
        wait::object(
            pools,
            &self.pool_name(name),
            &format!("pool {name} to be {CONDITION_VALID}={status} ({reason})"),
            |pool| {
                let conditions = &pool?.status.as_ref()?.conditions;
                let condition = conditions.iter().find(|c| c.type_ == CONDITION_VALID)?;
                (condition.status == status && condition.reason == reason)
                    .then(|| condition.message.clone())
            },
        )
        .await
    }

    /// Waits until no address of the scenario's pools is in use.
    pub(super) async fn pools_are_unused(&self) -> Result<()> {
        let pools: Api<IPAddressPool> = self.herald_api();
        let mine = format!("{LABEL}={}", self.namespace());
        wait::objects(
            pools,
            watcher::Config::default().labels(&mine),
            "the scenario's addresses to be given back",
            |pools| {
                pools
                    .values()
                    .all(|pool| {
                        pool.status
                            .as_ref()
                            .is_none_or(|s| s.assigned_ipv4 == 0 && s.assigned_ipv6 == 0)
                    })
                    .then_some(())
            },
        )
        .await
    }

    /// Deletes the scenario's pools and announcements.
    pub(super) async fn delete_pools(&self) -> Result<()> {
        let mine = ListParams::default().labels(&format!("{LABEL}={}", self.namespace()));
        let pools: Api<IPAddressPool> = self.herald_api();
        pools
            .delete_collection(&DeleteParams::default(), &mine)
            .await?;
        let advertisements: Api<L2Advertisement> = self.herald_api();
        advertisements
            .delete_collection(&DeleteParams::default(), &mine)
            .await?;
        Ok(())
    }
}
