//! A node: its init, kube-proxy and the agent that runs the pods bound to it.

pub mod spec;

/// Joins the cluster and runs pods until killed.
pub async fn run(spec: spec::NodeSpec) -> anyhow::Result<()> {
    let _ = spec;
    std::future::pending().await
}
