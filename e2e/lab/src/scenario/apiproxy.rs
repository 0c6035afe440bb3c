//! The operator talks to the API server through a proxy that fails.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::sleep;

use super::{Context, herald};
use crate::faults;

const PROCESS: &str = "api-proxy";
const PORT: u16 = 6444;

impl Context {
    /// Puts a proxy between the operator and the API server, by which `errors` of a
    /// hundred requests fail, and waits until the operator has rolled out so.
    pub async fn operator_behind_proxy(&self, errors: u8) -> Result<()> {
        self.lab().start_api_proxy(PORT, errors)?;
        let host = self.lab().api_server_host();
        self.operator_env(json!([
            {"name": "KUBERNETES_SERVICE_HOST", "value": host},
            {"name": "KUBERNETES_SERVICE_PORT", "value": PORT.to_string()},
        ]))
        .await
    }

    /// The proxy ends and is started again, which breaks every connection through it.
    pub async fn restart_api_proxy(&self, errors: u8) -> Result<()> {
        faults::signal_process(PROCESS, Signal::SIGKILL)?;
        sleep(Duration::from_millis(200)).await;
        self.lab().start_api_proxy(PORT, errors)
    }

    async fn operator_env(&self, env: serde_json::Value) -> Result<()> {
        let deployments: Api<Deployment> = self.herald_api();
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "operator", "env": env},
        ]}}}});
        deployments
            .patch(
                herald::OPERATOR,
                &PatchParams::default(),
                &Patch::Strategic(&patch),
            )
            .await
            .context("set the operator's environment")?;
        self.operator_is_well().await
    }
}
