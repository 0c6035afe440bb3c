//! Herald itself: its pods, its leader, its processes.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::context::HERALD;
use super::workloads::{is_rolled_out, node_of};
use super::{Context, wait};
use crate::{faults, process, vm};

/// How long a roll-out may take; a virtual machine stretches it.
const ROLL_OUT: Duration = Duration::from_mins(3);

/// Name of the operator's Deployment, of its Lease and of its service account.
pub const OPERATOR: &str = "herald-operator";
/// Name of the speaker's `DaemonSet` and of its service account.
pub const SPEAKER: &str = "herald-speaker";

impl Context {
    /// Pods of the operator or of the speaker that are not being deleted.
    pub async fn herald_pods(&self, app: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = self.herald_api();
        let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={app}"));
        let mut pods = pods.list(&selector).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Name of the speaker's pod on a node.
    pub async fn speaker_on(&self, node: &str) -> Result<String> {
        self.herald_pods(SPEAKER)
            .await?
            .iter()
            .find(|pod| node_of(pod).is_ok_and(|on| on == node))
            .map(ResourceExt::name_any)
            .with_context(|| format!("node {node} has no speaker"))
    }

    /// Name of the operator's pod that holds the Lease; waits until one does.
    pub async fn leader(&self) -> Result<String> {
        self.leader_other_than(&[]).await
    }

    /// [`Context::leader`], another than these pods.
    pub async fn leader_other_than(&self, former: &[String]) -> Result<String> {
        wait::object(
            self.herald_api(),
            OPERATOR,
            "an operator to hold the Lease",
            |lease| {
                let lease: &Lease = lease?;
                let holder = lease.spec.as_ref()?.holder_identity.as_ref()?;
                // The identity begins with the pod's name.
                (!holder.is_empty() && !former.iter().any(|pod| holder.starts_with(pod.as_str())))
                    .then(|| holder.clone())
            },
        )
        .await
        .map(|holder| pod_of(&holder))
    }

    /// Sends a signal to a container of Herald.
    pub fn signal(&self, pod: &str, container: &str, signal: Signal) -> Result<()> {
        faults::signal_container(&format!("{HERALD}/{pod}/{container}"), signal)
    }

    /// Waits until a container of a pod of Herald's has been started again and
    /// is ready.
    pub async fn restarted(&self, pod: &str, container: &str) -> Result<()> {
        let what = format!("{container} of {pod} to be started again");
        wait::object(self.herald_api(), pod, &what, |pod| {
            let pod: &Pod = pod?;
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            let status = statuses.iter().find(|status| status.name == container)?;
            (status.ready && status.restart_count > 0).then_some(())
        })
        .await
    }

    /// Deletes a pod of Herald's at once, without a word to its process, as if
    /// its node had lost it.
    pub async fn kill_herald_pod(&self, pod: &str) -> Result<()> {
        let pods: Api<Pod> = self.herald_api();
        pods.delete(pod, &DeleteParams::default().grace_period(0))
            .await
            .with_context(|| format!("delete pod {pod}"))?;
        Ok(())
    }

    /// Another pod in the place of a speaker's whose container has ended and was
    /// started again: the next such start would wait, and this one's count tells
    /// no more whether there was one. Returns when all speakers are ready.
    pub async fn replace_speaker(&self, node: &str, pod: &str) -> Result<()> {
        self.restarted(pod, "speaker").await?;
        self.kill_herald_pod(pod).await?;
        wait::until(
            &format!("another speaker in the place of {pod}"),
            || async {
                let now = self.speaker_on(node).await?;
                anyhow::ensure!(now != pod, "it is there still");
                Ok(())
            },
        )
        .await?;
        self.speakers_are_well().await
    }

    /// Restarts a workload of Herald as `kubectl rollout restart` does, and
    /// waits until it has rolled out.
    pub async fn restart(&self, kind: &str, name: &str) -> Result<()> {
        let target = format!("{kind}/{name}");
        // kubectl tells restarts apart by the second, and refuses another in the same.
        wait::until(&format!("a restart of {target}"), || async {
            self.lab()
                .kubectl(&["-n", HERALD, "rollout", "restart", &target])
                .await
        })
        .await?;
        let limit = format!("--timeout={}s", (ROLL_OUT * vm::patience()).as_secs());
        self.lab()
            .kubectl(&["-n", HERALD, "rollout", "status", &target, &limit])
            .await?;
        Ok(())
    }

    /// Sets a flag of the operator, and waits until it has rolled out.
    pub async fn operator_flag(&self, flag: &str) -> Result<()> {
        self.operator_flags(&[flag]).await
    }

    /// Sets flags of the operator (`--name=value`, each in the place of one
    /// with its name), and waits until it has rolled out.
    pub async fn operator_flags(&self, flags: &[&str]) -> Result<()> {
        let deployments: Api<Deployment> = self.herald_api();
        let deployment = deployments
            .get(OPERATOR)
            .await
            .context("read the operator")?;
        let containers = deployment
            .spec
            .and_then(|spec| spec.template.spec)
            .map(|s| s.containers);
        let args = containers
            .iter()
            .flatten()
            .find(|container| container.name == "operator")
            .and_then(|container| container.args.clone())
            .unwrap_or_default();
        let args = with_flags(args, flags);
        self.set_args::<Deployment>(OPERATOR, "operator", &args)
            .await?;
        self.operator_is_well().await
    }

    /// Sets all flags of the operator, and waits until it has rolled out.
    pub async fn operator_args(&self, args: &[&str]) -> Result<()> {
        self.set_args::<Deployment>(OPERATOR, "operator", args)
            .await?;
        self.operator_is_well().await
    }

    /// Sets the arguments of a container of a workload in Herald's namespace; it rolls
    /// out then, which is not waited for.
    pub async fn set_args<K>(
        &self,
        name: &str,
        container: &str,
        args: &[impl Serialize + Sync],
    ) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": container, "args": args},
        ]}}}});
        self.herald_api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Strategic(&patch))
            .await
            .with_context(|| format!("set the arguments of {name}"))?;
        Ok(())
    }

    /// Sets flags of the speakers, as [`Context::operator_flags`] does.
    pub async fn speaker_flags(&self, flags: &[&str]) -> Result<()> {
        let daemons: Api<DaemonSet> = self.herald_api();
        let daemon = daemons.get(SPEAKER).await.context("read the speaker")?;
        let pod = daemon.spec.and_then(|spec| spec.template.spec);
        let containers = pod.map(|pod| pod.containers);
        let args = containers
            .iter()
            .flatten()
            .find(|container| container.name == "speaker")
            .and_then(|container| container.args.clone())
            .unwrap_or_default();
        let args = with_flags(args, flags);
        self.set_args::<DaemonSet>(SPEAKER, "speaker", &args)
            .await?;
        self.speakers_are_well().await
    }

    /// Sets the operator's number of replicas and waits until that is so.
    pub async fn scale_operator(&self, replicas: u32) -> Result<()> {
        let deployments: Api<Deployment> = self.herald_api();
        let patch = json!({"spec": {"replicas": replicas}});
        deployments
            .patch(OPERATOR, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .context("scale the operator")?;
        self.operator_is_well().await?;
        if replicas == 0 {
            // The status counts no pods that are ending; their processes may
            // still run.
            wait::until("the operators to end", || async {
                let running = process::all()
                    .iter()
                    .filter_map(|found| found.name(process::POD).map(str::to_owned))
                    .filter(|name| name.starts_with(&format!("{HERALD}/{OPERATOR}-")))
                    .count();
                anyhow::ensure!(running == 0, "{running} processes run");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the operator's Deployment is what it should be.
    pub async fn operator_is_well(&self) -> Result<()> {
        wait::object(
            self.herald_api(),
            OPERATOR,
            "the operator to be rolled out",
            |deployment| is_rolled_out(deployment?).then_some(()),
        )
        .await
    }

    /// Waits until every node's speaker is ready.
    pub async fn speakers_are_well(&self) -> Result<()> {
        wait::object(
            self.herald_api(),
            SPEAKER,
            "every node's speaker to be ready",
            |daemons| {
                let daemons: &DaemonSet = daemons?;
                let status = daemons.status.as_ref()?;
                let wanted = i32::from(self.node_count());
                (status.observed_generation >= daemons.metadata.generation
                    && status.desired_number_scheduled == wanted
                    && status.updated_number_scheduled == Some(wanted)
                    && status.number_ready == wanted)
                    .then_some(())
            },
        )
        .await
    }

    /// Resident memory of the largest process of a container of Herald's, in
    /// MiB.
    pub async fn memory_mib(&self, app: &str, container: &str) -> Result<f64> {
        let mut largest = 0;
        for pod in self.herald_pods(app).await? {
            let name = format!("{HERALD}/{}/{container}", pod.name_any());
            largest = largest.max(self.lab().rss_kib(&name));
        }
        let kib = u32::try_from(largest).context("a process of Herald's has over 4 TiB")?;
        Ok((f64::from(kib) / 1024.0 * 10.0).round() / 10.0)
    }
}

/// The pod's name in a Lease's holder, which may go on behind an underscore
/// (no pod's name has one).
fn pod_of(holder: &str) -> String {
    holder.split('_').next().unwrap_or(holder).to_owned()
}

/// Flags with others in the place of those with their names.
fn with_flags(mut args: Vec<String>, flags: &[&str]) -> Vec<String> {
    let name = |flag: &str| flag.split('=').next().unwrap_or(flag).to_owned();
    args.retain(|old| !flags.iter().any(|new| name(new) == name(old)));
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_takes_the_place_of_one_with_its_name() {
        let old = vec!["--a=1".to_owned(), "--ab=2".to_owned()];
        assert_eq!(with_flags(old, &["--a=3"]), ["--ab=2", "--a=3"]);
    }

    #[test]
    fn the_leaders_pod_is_found_in_its_identity() {
        assert_eq!(
            pod_of("herald-operator-7d-x2_0d3f"),
            "herald-operator-7d-x2"
        );
        assert_eq!(pod_of("herald-operator-7d-x2"), "herald-operator-7d-x2");
    }
}
