//! The life of one pod: network, volumes, containers, status, end.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::agent::Shared;
use super::container::{self, Plan};
use super::env::{self, Environment, PodFields};
use super::network::PodNetwork;
use super::status::{ContainerState, Phase, PodState};
use super::volumes;
use crate::process::{NODE, POD};

/// Tokens live for an hour; they are made anew well before.
const REFRESH: Duration = Duration::from_secs(40 * 60);
/// What could not be set up is tried again after this long.
const RETRY: Duration = Duration::from_millis(500);

/// A pod on this node.
struct Running {
    shared: Shared,
    pod: Pod,
    spec: PodSpec,
    api: Api<Pod>,
    directory: PathBuf,
    network: Option<PodNetwork>,
    pod_ips: Vec<String>,
    host_ips: Vec<String>,
    began: Timestamp,
    /// The last status that was written.
    written: Value,
}

/// Runs a pod from its binding to its end. `None` on the channel means that it
/// is gone from the API.
pub(super) async fn run(shared: Shared, mut updates: watch::Receiver<Option<Pod>>) {
    let Some(pod) = updates.borrow_and_update().clone() else { return };
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    if finished(&pod) {
        return;
    }
    let mut running = Running::new(shared, pod);
    if let Err(error) = running.live(&mut updates).await {
        eprintln!("pod {name}: {error:#}");
    }
    let _ = fs::remove_dir_all(&running.directory);
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}

impl Running {
    fn new(shared: Shared, pod: Pod) -> Self {
        let namespace = pod.namespace().unwrap_or_default();
        let directory = shared.spec.directory.join("pods").join(pod.uid().unwrap_or_default());
        let host_ips = shared.spec.internal_addresses.iter().map(ToString::to_string).collect();
        Self {
            api: Api::namespaced(shared.client.clone(), &namespace),
            spec: pod.spec.clone().unwrap_or_default(),
            shared,
            pod,
            directory,
            network: None,
            pod_ips: Vec::new(),
            host_ips,
            began: Timestamp::now(),
            written: Value::Null,
        }
    }

    async fn live(&mut self, updates: &mut watch::Receiver<Option<Pod>>) -> Result<()> {
        if self.pod.metadata.deletion_timestamp.is_none() {
            self.connect()?;
            let init = self.spec.init_containers.clone().unwrap_or_default();
            let mut done = Vec::new();
            for container in init {
                let plan = self.plan_when_possible(container, true, updates).await?;
                let Some(plan) = plan else { return self.finish().await };
                match self.run_init(plan, &mut done, updates).await? {
                    true => {}
                    false => return self.finish().await,
                }
            }
            let mut plans = Vec::new();
            for container in self.spec.containers.clone() {
                match self.plan_when_possible(container, false, updates).await? {
                    Some(plan) => plans.push(plan),
                    None => return self.finish().await,
                }
            }
            self.run_containers(plans, &done, updates).await?;
        }
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.finish().await?;
        }
        Ok(())
    }

    /// Gives the pod its network: the node's, or one of its own.
    fn connect(&mut self) -> Result<()> {
        fs::create_dir_all(&self.directory)?;
        if self.spec.host_network == Some(true) {
            self.pod_ips.clone_from(&self.host_ips);
            return Ok(());
        }
        let network = self.shared.networks.attach(&self.pod.uid().unwrap_or_default())?;
        self.pod_ips = network.addresses.iter().map(ToString::to_string).collect();
        self.network = Some(network);
        Ok(())
    }

    /// Plans a container, again while what it refers to is missing. `None` if
    /// the pod is deleted meanwhile.
    async fn plan_when_possible(
        &mut self,
        container: Container,
        init: bool,
        updates: &mut watch::Receiver<Option<Pod>>,
    ) -> Result<Option<Plan>> {
        loop {
            let error = match self.plan(&container, init).await {
                Ok(plan) => return Ok(Some(plan)),
                Err(error) => error,
            };
            let waiting = ContainerState {
                phase: Phase::Waiting {
                    reason: "CreateContainerConfigError",
                    message: format!("{error:#}"),
                },
                ..ContainerState::default()
            };
            let states = vec![waiting; self.spec.containers.len()];
            self.report(false, &[], &states).await;
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                gone = self.deleted(updates) => {
                    gone?;
                    return Ok(None);
                }
            }
        }
    }

    async fn plan(&self, container: &Container, init: bool) -> Result<Plan> {
        let node = &self.shared.spec;
        let namespace = self.pod.namespace().unwrap_or_default();
        let name = self.pod.name_any();
        let fields = self.fields();
        let base = Environment::from([
            ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("HOSTNAME".to_owned(), name.clone()),
            ("HOME".to_owned(), "/".into()),
            ("KUBERNETES_SERVICE_HOST".to_owned(), api_service(node.families.has_v4()).into()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), "443".into()),
            (POD.to_owned(), format!("{namespace}/{name}/{}", container.name)),
            (NODE.to_owned(), node.name.clone()),
        ]);
        let environment =
            env::resolve(&self.shared.client, &fields, container, base).await?;
        let image = image_name(container.image.as_deref().unwrap_or_default());
        let mut arguments: Vec<String> = Vec::new();
        let mut program = node.images.get(image).cloned();
        let words = container.command.iter().flatten().chain(container.args.iter().flatten());
        for word in words {
            arguments.push(env::expand(word, &environment));
        }
        // `command` names a program of the image; the image is one program, so
        // its path does not matter unless it is one of the node's own.
        if container.command.as_ref().is_some_and(|command| !command.is_empty()) {
            let first = PathBuf::from(arguments.remove(0));
            if first.is_absolute() && first.is_file() {
                program = program.map(|_| first);
            }
        }
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = self
                .spec
                .volumes
                .iter()
                .flatten()
                .find(|volume| volume.name == mount.name)
                .with_context(|| format!("no volume {:?}", mount.name))?;
            let mut source =
                volumes::prepare(&self.shared.client, &fields, volume, &self.directory).await?;
            if let Some(sub_path) = &mount.sub_path {
                source.push(sub_path);
            }
            let target = PathBuf::from(&mount.mount_path);
            mounts.push((source, target, mount.read_only.unwrap_or(false)));
        }
        Ok(Plan {
            pod_spec: self.spec.clone(),
            container: container.clone(),
            program,
            arguments,
            environment,
            mounts,
            network: self.network.as_ref().map(|network| network.namespace.clone()),
            address: self.address()?,
            directory: self.directory.join("containers").join(&container.name),
            log: node.logs.join(format!("{namespace}_{name}_{}.log", container.name)),
            init,
        })
    }

    fn fields(&self) -> PodFields<'_> {
        PodFields { pod: &self.pod, pod_ips: &self.pod_ips, host_ips: &self.host_ips }
    }

    fn address(&self) -> Result<IpAddr> {
        Ok(self.pod_ips.first().context("the pod has no address")?.parse()?)
    }

    /// Runs an init container to its end; says whether it ended well.
    async fn run_init(
        &mut self,
        plan: Plan,
        done: &mut Vec<ContainerState>,
        updates: &mut watch::Receiver<Option<Pod>>,
    ) -> Result<bool> {
        let (report, mut state) = watch::channel(ContainerState::default());
        let (stop, stopped) = watch::channel(None);
        let task = tokio::spawn(container::run(plan, report, stopped));
        let waiting = vec![ContainerState::default(); self.spec.containers.len()];
        loop {
            let now = state.borrow_and_update().clone();
            let ended = match &now.phase {
                Phase::Ended(exit) => Some(exit.code == 0),
                _ => None,
            };
            let mut states = done.clone();
            states.push(now.clone());
            self.report(false, &states, &waiting).await;
            if let Some(well) = ended {
                done.push(now);
                return Ok(well);
            }
            tokio::select! {
                changed = state.changed() => changed.context("an init container's task ended")?,
                gone = self.deleted(updates) => {
                    gone?;
                    stop.send_replace(Some(self.grace()));
                    task.await?;
                    return Ok(false);
                }
            }
        }
    }

    /// Runs the containers until all have ended for good or the pod is
    /// deleted.
    async fn run_containers(
        &mut self,
        plans: Vec<Plan>,
        init: &[ContainerState],
        updates: &mut watch::Receiver<Option<Pod>>,
    ) -> Result<()> {
        let (stop, stopped) = watch::channel(None);
        let (news, mut changed) = watch::channel(());
        let mut tasks = JoinSet::new();
        let mut states = Vec::new();
        for plan in plans {
            let (report, state) = watch::channel(ContainerState::default());
            let mut watched = state.clone();
            let news = news.clone();
            tasks.spawn(async move {
                while watched.changed().await.is_ok() {
                    news.send_replace(());
                }
            });
            tasks.spawn(container::run(plan, report, stopped.clone()));
            states.push(state);
        }
        let mut refresh = tokio::time::interval_at(tokio::time::Instant::now() + REFRESH, REFRESH);
        let mut deleted = false;
        loop {
            let now: Vec<ContainerState> =
                states.iter_mut().map(|state| state.borrow_and_update().clone()).collect();
            let all_ended = now.iter().all(|state| matches!(state.phase, Phase::Ended(_)));
            let saved = self.report(true, init, &now).await;
            if all_ended && saved {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY), if !saved => {}
                _ = changed.changed() => {}
                _ = refresh.tick() => self.refresh().await,
                gone = self.deleted(updates), if !deleted => {
                    // Gone without a grace period: nobody waits for us.
                    let grace = if gone.is_ok() { self.grace() } else { Duration::ZERO };
                    deleted = true;
                    stop.send_replace(Some(grace));
                    if gone.is_err() {
                        while tasks.join_next().await.is_some() {}
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn refresh(&self) {
        let fields = self.fields();
        for volume in self.spec.volumes.iter().flatten() {
            if let Err(error) =
                volumes::prepare(&self.shared.client, &fields, volume, &self.directory).await
            {
                eprintln!("pod {}: refreshing volume {}: {error:#}", self.pod.name_any(), volume.name);
            }
        }
    }

    /// Waits until the pod is deleted; an error if it is gone altogether.
    async fn deleted(&mut self, updates: &mut watch::Receiver<Option<Pod>>) -> Result<()> {
        loop {
            if self.pod.metadata.deletion_timestamp.is_some() {
                return Ok(());
            }
            updates.changed().await?;
            self.pod = updates.borrow_and_update().clone().context("the pod is gone")?;
        }
    }

    fn grace(&self) -> Duration {
        let seconds = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(30))
    }

    /// Writes the status if it has changed; says whether it stands as it
    /// should.
    async fn report(
        &mut self,
        initialized: bool,
        init_containers: &[ContainerState],
        containers: &[ContainerState],
    ) -> bool {
        let status = PodState {
            pod: &self.pod,
            pod_ips: &self.pod_ips,
            host_ips: &self.host_ips,
            began: self.began,
            initialized,
            init_containers,
            containers,
        }
        .status();
        if status == self.written {
            return true;
        }
        let patch = json!({"metadata": {"uid": self.pod.uid()}, "status": status});
        let name = self.pod.name_any();
        match self.api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(pod) => {
                // Transition times and others' conditions are now as written.
                self.pod.status = pod.status;
                self.written = status;
                true
            }
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => true,
            Err(error) => {
                eprintln!("pod {name}: status: {error}");
                false
            }
        }
    }

    /// Takes the pod out of the API once nothing of it runs.
    async fn finish(&mut self) -> Result<()> {
        self.network = None;
        if self.pod.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        loop {
            match self.api.delete(&self.pod.name_any(), &parameters).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => {
                    return Ok(());
                }
                Err(error) => {
                    eprintln!("pod {}: deleting: {error}", self.pod.name_any());
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Address of the Service `default/kubernetes`: the first of its range.
const fn api_service(v4: bool) -> &'static str {
    if v4 { "10.96.0.1" } else { "fd96::1" }
}

/// The last path component of an image, without tag and digest.
fn image_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let name = Path::new(image).file_name().and_then(|name| name.to_str()).unwrap_or(image);
    name.split(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_last_component() {
        for image in [
            "herald-operator",
            "herald-operator:v1",
            "registry.example:5000/herald/herald-operator:v0.1.0",
            "ghcr.io/x/herald-operator@sha256:0123",
        ] {
            assert_eq!(image_name(image), "herald-operator");
        }
    }
}
