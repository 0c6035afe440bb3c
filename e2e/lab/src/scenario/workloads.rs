//! Pods of the scenario: the echo, its Deployments, where its pods are.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Context, wait};
use crate::vm;

/// Image of the echo.
pub const ECHO: &str = "ghcr.io/herald-lb/echo:v0.1.0";

impl Context {
    /// A Deployment of the echo, label `app: NAME`; returns when all of its
    /// pods are available.
    pub async fn deploy_echo(&self, name: &str, replicas: u32) -> Result<()> {
        self.deploy_echo_on(name, replicas, None).await
    }

    /// [`Context::deploy_echo`], all pods on one node.
    pub async fn deploy_echo_on(
        &self,
        name: &str,
        replicas: u32,
        node: Option<&str>,
    ) -> Result<()> {
        let deployments: Api<Deployment> = self.api();
        deployments
            .create(&PostParams::default(), &echo(name, replicas, node)?)
            .await
            .with_context(|| format!("create Deployment {name}"))?;
        self.rolled_out(name).await
    }

    /// Moves all pods of a Deployment to a node; returns when they are
    /// available there.
    pub async fn move_to(&self, name: &str, node: &str) -> Result<()> {
        self.patch_deployment(
            name,
            &json!({"spec": {"template": {"spec": {"nodeSelector": on(node)}}}}),
        )
        .await?;
        self.rolled_out(name).await
    }

    /// Changes the number of replicas; returns when they are available.
    pub async fn scale(&self, name: &str, replicas: u32) -> Result<()> {
        self.patch_deployment(name, &json!({"spec": {"replicas": replicas}}))
            .await?;
        self.rolled_out(name).await
    }

    async fn patch_deployment(&self, name: &str, patch: &Value) -> Result<()> {
        let deployments: Api<Deployment> = self.api();
        deployments
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("change Deployment {name}"))?;
        Ok(())
    }

    /// Waits until a Deployment is what it should be.
    pub async fn rolled_out(&self, name: &str) -> Result<()> {
        wait::object(
            self.api(),
            name,
            &format!("Deployment {name} to roll out"),
            |deployment| is_rolled_out(deployment?).then_some(()),
        )
        .await
    }

    /// Pods with label `app: NAME` that are not being deleted.
    pub async fn pods(&self, name: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = self.api();
        let selector = ListParams::default().labels(&format!("app={name}"));
        let mut pods = pods.list(&selector).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Deletes one pod at once, as if its node had lost it.
    pub async fn kill_pod(&self, name: &str) -> Result<()> {
        let pods: Api<Pod> = self.api();
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await?;
        Ok(())
    }

    /// Sets a label of a node, or takes it away.
    pub async fn label_node(&self, node: &str, label: &str, value: Option<&str>) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.kube());
        let patch = json!({"metadata": {"labels": {label: value}}});
        nodes
            .patch(node, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("label node {node}"))?;
        Ok(())
    }
}

impl Context {
    /// `kubectl drain`: no pod is put on the node any more, and those that are
    /// there, but for those of `DaemonSets`, go elsewhere. Returns when they have.
    pub async fn drain(&self, node: &str) -> Result<()> {
        let limit = format!("--timeout={}s", (wait::PATIENCE * vm::patience()).as_secs());
        self.kubectl(&[
            "drain",
            node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            &limit,
        ])
        .await
        .map(drop)
    }

    /// `kubectl uncordon`.
    pub async fn uncordon(&self, node: &str) -> Result<()> {
        self.kubectl(&["uncordon", node]).await.map(drop)
    }
}

/// Whether a Deployment's status is what its specification asks for.
pub fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
}

/// The node that a pod is bound to.
pub fn node_of(pod: &Pod) -> Result<String> {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .with_context(|| format!("pod {} is bound to no node", pod.name_any()))
}

fn on(node: &str) -> Value {
    json!({"kubernetes.io/hostname": node})
}

fn echo(name: &str, replicas: u32, node: Option<&str>) -> Result<Deployment> {
    let field = |variable: &str, path: &str| json!({"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeSelector": node.map(on),
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "echo",
                        "image": ECHO,
                        "env": [
                            field("POD_NAME", "metadata.name"),
                            field("NODE_NAME", "spec.nodeName"),
                        ],
                        "ports": [
                            {"name": "http", "containerPort": 8080},
                            {"name": "probe-udp", "containerPort": 9000, "protocol": "UDP"},
                            {"name": "probe-tcp", "containerPort": 9000, "protocol": "TCP"},
                        ],
                        "readinessProbe": {
                            "httpGet": {"path": "/readyz", "port": 8080},
                            "periodSeconds": 1,
                        },
                    }],
                },
            },
        },
    }))?)
}
