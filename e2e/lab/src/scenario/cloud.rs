//! The pretend cloud's account, seen by its owner: what exists, what was
//! called, and which call shall go wrong next (docs/fakecloud.md).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use hyper::body::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::exchange::exchange;
use super::{Context, wait};
use crate::lab::{FAKECLOUD_PORT, Lab};
use crate::plan::Host;

/// The pretend cloud.
#[derive(Clone, Copy, Debug)]
pub struct Cloud {
    address: SocketAddr,
}

/// A load balancer of the pretend cloud.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// Given by the cloud, never used twice.
    pub id: String,
    /// Given by the operator.
    pub name: String,
    /// Given by the operator.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `provisioning`, `active`, `failed`, `deleting`.
    pub state: String,
    /// Where it sends to.
    pub targets: Vec<Target>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A target of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Target {
    /// Where it is.
    pub address: IpAddr,
    /// The node's name.
    pub name: String,
    /// `initial`, `healthy`, `unhealthy`.
    pub health: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<LoadBalancer>,
}

#[derive(Deserialize)]
struct Faults {
    faults: Vec<Value>,
    held: Vec<Value>,
}

impl Context {
    /// The pretend cloud, for its owner.
    pub fn cloud(&self) -> Result<Cloud> {
        Cloud::of(self.lab())
    }
}

impl Cloud {
    /// The pretend cloud beside a lab's cluster.
    pub fn of(lab: &Lab) -> Result<Self> {
        let (v4, v6) = Host::Cloud
            .management()
            .context("the cloud is on management")?;
        let address = if lab.spec.families.has_v4() {
            v4.into()
        } else {
            v6.into()
        };
        Ok(Self {
            address: SocketAddr::new(address, FAKECLOUD_PORT),
        })
    }

    /// All load balancers.
    pub async fn load_balancers(&self) -> Result<Vec<LoadBalancer>> {
        let page: Page = self.get("/v1/load-balancers?pageSize=100").await?;
        Ok(page.items)
    }

    /// The one load balancer of the Service with this uid; an error if there
    /// are none or several.
    pub async fn of_service(&self, uid: &str) -> Result<LoadBalancer> {
        let mut mine: Vec<LoadBalancer> = self
            .load_balancers()
            .await?
            .into_iter()
            .filter(|balancer| balancer.tags.values().any(|value| value == uid))
            .collect();
        ensure!(
            mine.len() <= 1,
            "the Service has several load balancers: {mine:?}"
        );
        mine.pop()
            .with_context(|| format!("no load balancer has a tag with the uid {uid}"))
    }

    /// Waits until there is no load balancer.
    pub async fn is_empty(&self) -> Result<()> {
        wait::until("the cloud to have no load balancer", || async {
            let left = self.load_balancers().await?;
            ensure!(left.is_empty(), "there are {left:?}");
            Ok(())
        })
        .await
    }

    /// Makes the next call of an operation go wrong. `fault` holds `kind` and
    /// what belongs to it.
    pub async fn fault(&self, operation: &str, mut fault: Value) -> Result<()> {
        fault["operation"] = operation.into();
        self.call(Method::POST, "/v1/faults", Some(&fault))
            .await
            .map(drop)
    }

    /// Waits until a call hangs in a fault.
    pub async fn holds_a_call(&self) -> Result<()> {
        wait::until("a call to hang in the fault", || async {
            let faults: Faults = self.get("/v1/faults").await?;
            ensure!(!faults.held.is_empty(), "armed: {:?}", faults.faults);
            Ok(())
        })
        .await
    }

    /// Waits until no fault waits for a call any more.
    pub async fn faults_were_hit(&self) -> Result<()> {
        wait::until("every fault to be hit", || async {
            let faults: Faults = self.get("/v1/faults").await?;
            ensure!(faults.faults.is_empty(), "armed: {:?}", faults.faults);
            Ok(())
        })
        .await
    }

    /// Disarms all faults and lets held calls go.
    pub async fn no_faults(&self) -> Result<()> {
        self.call(Method::DELETE, "/v1/faults", None).await?;
        self.call(Method::POST, "/v1/faults/release", None)
            .await
            .map(drop)
    }

    /// Waits until no call hangs in a fault any more, because its caller has
    /// gone.
    pub async fn holds_no_call(&self) -> Result<()> {
        wait::until("the call that hangs to be abandoned", || async {
            let faults: Faults = self.get("/v1/faults").await?;
            ensure!(faults.held.is_empty(), "held: {:?}", faults.held);
            Ok(())
        })
        .await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let body = self.call(Method::GET, path, None).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("read the answer to GET {path}: {body:?}"))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = [("content-type", "application/json")];
        exchange(self.address, method, path, &headers, body).await
    }
}
