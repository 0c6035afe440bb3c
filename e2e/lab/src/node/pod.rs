//! One pod: from the moment it is bound to this node until it is gone from the
//! API.
//!
//! ```text
//!   run ─┬─ live      network, volumes, init containers, containers; writes the board
//!        └─ publish   the board as status, whenever it changes
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::{Resource as _, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::agent::Shared;
use super::container::{self, Restart, Stop};
use super::network::PodNetwork;
use super::status::{self, Board, Ended, Report, Reporter, State};
use super::volumes::{self, Prepared};

/// How long to wait before what has failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// What a pod gets that is gone from the API without a grace period.
const SHORT_GRACE: Duration = Duration::from_secs(1);
/// What sidecars get at least after the others have ended, as with the kubelet.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

/// What a pod's containers share.
pub(super) struct PodContext {
    pub(super) shared: Shared,
    /// As it was when it was accepted.
    pub(super) pod: Pod,
    pub(super) addresses: Vec<IpAddr>,
    /// File of its network namespace; none is the node's.
    pub(super) network: Option<PathBuf>,
    /// Its private directory.
    pub(super) directory: PathBuf,
    pub(super) volumes: BTreeMap<String, Prepared>,
    board: watch::Sender<Board>,
}

impl PodContext {
    /// `namespace/name`.
    pub(super) fn title(&self) -> String {
        title(&self.pod)
    }

    /// Where a container's output goes.
    pub(super) fn log(&self, container: &str) -> PathBuf {
        let namespace = self.pod.namespace().unwrap_or_default();
        let name = self.pod.name_any();
        self.shared
            .spec
            .logs
            .join(format!("{namespace}_{name}_{container}.log"))
    }

    /// What was last reported of a container.
    pub(super) fn reported(&self, container: &str) -> Report {
        let board = self.board.borrow();
        let report = board.containers.get(container).cloned();
        report.unwrap_or_else(|| Report::new(0, None))
    }

    /// Reports a container.
    pub(super) fn report(&self, container: &str, report: Report) {
        self.board.send_modify(|board| {
            board.containers.insert(container.to_owned(), report);
        });
    }

    /// Tells the pod's owner by an event, in the background.
    pub(super) fn warn(&self, reason: &str, message: &str) {
        warn(&self.shared, &self.pod, reason, message);
    }
}

fn title(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

fn warn(shared: &Shared, pod: &Pod, reason: &str, message: &str) {
    let event = Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(message.chars().take(1000).collect()),
        action: reason.to_owned(),
        secondary: None,
    };
    let (events, pod) = (shared.events.clone(), pod.object_ref(&()));
    tokio::spawn(async move {
        // An event that does not get through is lost, as it is meant to be.
        let _ = events.publish(&event, &pod).await;
    });
}

/// Runs a pod until it is gone from the API.
pub(super) async fn run(shared: Shared, pod: Pod, mut updates: watch::Receiver<Option<Pod>>) {
    let over = matches!(
        pod.status
            .as_ref()
            .and_then(|status| status.phase.as_deref()),
        Some("Succeeded" | "Failed")
    );
    if !over && pod.metadata.deletion_timestamp.is_none() {
        serve(&shared, &pod, &mut updates).await;
    }
    let wanted = |pod: &Option<Pod>| {
        pod.as_ref()
            .is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    let deleted = match updates.wait_for(wanted).await {
        Ok(pod) => pod.is_some(),
        Err(_) => return,
    };
    if deleted {
        remove(&shared, &pod).await;
    }
}

/// Lets a pod live and publishes its status, until nothing of it runs.
async fn serve(shared: &Shared, pod: &Pod, updates: &mut watch::Receiver<Option<Pod>>) {
    let (board, mut boards) = watch::channel(Board {
        containers: earlier_reports(pod),
        ..Board::default()
    });
    let (stop, stopped) = watch::channel(None);
    let mut reporter = Reporter::new(shared.spec.internal_addresses.clone());
    let (patches, queue) = watch::channel(reporter.patch(pod, &boards.borrow()));
    let publisher = tokio::spawn(status::publish(shared.client.clone(), pod.clone(), queue));
    let mut life = tokio::spawn(live(shared.clone(), pod.clone(), board, Stop(stopped)));

    let mut latest = pod.clone();
    let mut first_asked = None;
    let mut gone = false;
    loop {
        tokio::select! {
            ended = &mut life => {
                if let Err(error) = ended {
                    eprintln!("pod {}: its task ended: {error}", title(pod));
                }
                break;
            }
            Ok(()) = boards.changed() => {}
            Ok(()) = updates.changed(), if !gone => {
                let Some(update) = updates.borrow_and_update().clone() else {
                    gone = true;
                    stop.send_replace(Some(Instant::now() + SHORT_GRACE));
                    continue;
                };
                if update.metadata.deletion_timestamp.is_some() {
                    let asked = *first_asked.get_or_insert_with(Instant::now);
                    let deadline = Some(asked + grace(&update));
                    stop.send_if_modified(|old| {
                        let changed = *old != deadline;
                        *old = deadline;
                        changed
                    });
                }
                latest = update;
                if reporter.is_contradicted_by(&latest) {
                    patches.send_modify(|_| {});
                }
            }
        }
        let patch = reporter.patch(&latest, &boards.borrow_and_update());
        send(&patches, patch);
    }
    send(
        &patches,
        reporter.patch(&latest, &boards.borrow_and_update()),
    );
    if gone {
        publisher.abort();
        return;
    }
    drop(patches);
    // It ends when the last status is written.
    let _ = publisher.await;
}

fn send(patches: &watch::Sender<serde_json::Value>, patch: serde_json::Value) {
    patches.send_if_modified(|old| {
        let changed = *old != patch;
        *old = patch;
        changed
    });
}

fn grace(pod: &Pod) -> Duration {
    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Ends the deletion: nothing of the pod is left on this node.
async fn remove(shared: &Shared, pod: &Pod) {
    let pods: Api<Pod> =
        Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let mut failing = false;
    loop {
        match pods.delete(&pod.name_any(), &parameters).await {
            Ok(_) => return,
            // Gone already, or another pod has its name.
            Err(kube::Error::Api(error)) if [404, 409].contains(&error.code) => return,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    eprintln!("pod {}: remove from the API: {error}", title(pod));
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The containers as they are before they start: what an agent before this one
/// left behind ended with it.
fn earlier_reports(pod: &Pod) -> BTreeMap<String, Report> {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let earlier = |name: &str| -> Option<ContainerStatus> {
        let all = [&status.container_statuses, &status.init_container_statuses];
        let mut all = all.into_iter().flat_map(|list| list.iter().flatten());
        all.find(|status| status.name == name).cloned()
    };
    containers(&spec)
        .map(|container| {
            let report = match earlier(&container.name) {
                Some(before) if ran(&before) => {
                    let now = jiff::Timestamp::now();
                    let lost = Ended {
                        exit_code: 255,
                        signal: None,
                        reason: "Unknown".into(),
                        message: "the node was restarted".into(),
                        since: now,
                        until: now,
                    };
                    Report::new(before.restart_count + 1, Some(lost))
                }
                _ => Report::new(0, None),
            };
            (container.name.clone(), report)
        })
        .collect()
}

fn ran(status: &ContainerStatus) -> bool {
    let ran_in = |state: &Option<_>| {
        state
            .as_ref()
            .is_some_and(|state: &k8s_openapi::api::core::v1::ContainerState| {
                state.running.is_some() || state.terminated.is_some()
            })
    };
    ran_in(&status.state) || ran_in(&status.last_state)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
}

/// A pod's life on this node: returns when nothing of it is left.
async fn live(shared: Shared, pod: Pod, board: watch::Sender<Board>, mut stop: Stop) {
    let spec = pod.spec.clone().unwrap_or_default();
    let directory = shared
        .spec
        .directory
        .join("pods")
        .join(pod.uid().unwrap_or_default());
    let mut context = PodContext {
        addresses: shared.spec.internal_addresses.clone(),
        shared,
        pod,
        network: None,
        directory,
        volumes: BTreeMap::new(),
        board,
    };
    let mut network = None;
    if spec.host_network != Some(true) {
        network = attach(&context, &mut stop).await;
        if let Some(network) = &network {
            context.addresses.clone_from(&network.addresses);
            context.network = Some(network.file());
        }
    }
    if spec.host_network == Some(true) || network.is_some() {
        let addresses = context.addresses.clone();
        context
            .board
            .send_modify(|board| board.addresses = addresses);
        if let Some(volumes) = prepare_volumes(&context, &mut stop).await {
            context.volumes = volumes;
            let context = Arc::new(context);
            run_containers(&context, &spec, &stop).await;
            end(&context, network).await;
            return;
        }
    }
    end(&context, network).await;
}

/// Leaves nothing of the pod on the node, and says so.
async fn end(context: &PodContext, network: Option<PodNetwork>) {
    if let Some(network) = network {
        // Its work is done by commands, which take their time.
        let _ = tokio::task::spawn_blocking(move || network.detach()).await;
    }
    let _ = fs::remove_dir_all(&context.directory);
    context.board.send_modify(|board| {
        for report in board.containers.values_mut() {
            report.ready = false;
            report.started = false;
        }
        board.over = true;
    });
}

async fn attach(context: &PodContext, stop: &mut Stop) -> Option<PodNetwork> {
    let uid = context.pod.uid().unwrap_or_default();
    patiently(context, stop, "FailedCreatePodSandBox", || {
        let (networks, uid) = (context.shared.networks.clone(), uid.clone());
        async move { tokio::task::spawn_blocking(move || networks.attach(&uid)).await? }
    })
    .await
}

async fn prepare_volumes(
    context: &PodContext,
    stop: &mut Stop,
) -> Option<BTreeMap<String, Prepared>> {
    patiently(context, stop, "FailedMount", || async {
        fs::create_dir_all(&context.directory)?;
        volumes::prepare(
            &context.shared.client,
            &context.fields(),
            &context.directory,
        )
        .await
    })
    .await
}

/// Tries until it works or the pod is to end; what is wrong is in the status
/// of the containers and in an event.
async fn patiently<T, F: Future<Output = Result<T>>>(
    context: &PodContext,
    stop: &mut Stop,
    reason: &str,
    mut attempt: impl FnMut() -> F,
) -> Option<T> {
    let mut last = Complaint::default();
    loop {
        if stop.deadline().is_some() {
            return None;
        }
        let result = tokio::select! {
            result = attempt() => result,
            _ = stop.asked() => return None,
        };
        match result {
            Ok(value) => return Some(value),
            Err(error) => complain(context, reason, &error, &mut last),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stop.asked() => return None,
        }
    }
}

/// What went wrong last, and whether it did so twice in a row.
#[derive(Default)]
struct Complaint {
    message: String,
    repeated: bool,
}

/// Puts an error into the status, and into an event when it comes again: the
/// first failure to read what was made together with the pod is no news, for
/// the API server's authorizer may not have seen the pod yet.
fn complain(context: &PodContext, reason: &str, error: &Error, last: &mut Complaint) {
    let message = format!("{error:#}");
    if last.message == message {
        if !last.repeated {
            last.repeated = true;
            context.warn(reason, &message);
        }
        return;
    }
    context.board.send_modify(|board| {
        for report in board.containers.values_mut() {
            report.state = State::Waiting {
                reason: "ContainerCreating".into(),
                message: message.clone(),
            };
        }
    });
    *last = Complaint {
        message,
        repeated: false,
    };
}

/// Init containers one after the other, then the others side by side; sidecars
/// end last.
async fn run_containers(context: &Arc<PodContext>, spec: &PodSpec, stop: &Stop) {
    let mut background = JoinSet::new();
    if let Some(period) = volumes::refresh_after(&context.pod) {
        background.spawn(refresh(context.clone(), period));
    }
    let policy = Restart::of(spec);
    let (stop_sidecars, sidecars_stop) = watch::channel(None);
    let mut sidecars = JoinSet::new();
    let mut initialized = true;
    for container in spec.init_containers.iter().flatten() {
        if status::is_sidecar(container) {
            let own_stop = Stop(sidecars_stop.clone());
            spawn(&mut sidecars, context, container, Restart::Always, own_stop);
            initialized = started(context, &container.name, &mut stop.clone()).await;
        } else {
            let restart = match policy {
                Restart::Never => Restart::Never,
                _ => Restart::OnFailure,
            };
            initialized = container::run(context, container, restart, stop.clone()).await;
        }
        if !initialized {
            break;
        }
    }
    let mut main = JoinSet::new();
    if initialized {
        for container in &spec.containers {
            spawn(&mut main, context, container, policy, stop.clone());
        }
    }
    while main.join_next().await.is_some() {}
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    // Sidecars get what is left of the time, but a moment in any case.
    let limit = stop
        .deadline()
        .unwrap_or_else(|| Instant::now() + grace)
        .max(Instant::now() + SIDECAR_GRACE);
    stop_sidecars.send_replace(Some(limit));
    while sidecars.join_next().await.is_some() {}
}

fn spawn(
    tasks: &mut JoinSet<()>,
    context: &Arc<PodContext>,
    container: &Container,
    restart: Restart,
    stop: Stop,
) {
    let (context, container) = (context.clone(), container.clone());
    tasks.spawn(async move {
        container::run(&context, &container, restart, stop).await;
    });
}

/// Waits until a sidecar has started; false if the pod is to end first.
async fn started(context: &PodContext, container: &str, stop: &mut Stop) -> bool {
    let mut boards = context.board.subscribe();
    let started = |board: &Board| board.containers.get(container).is_some_and(|r| r.started);
    tokio::select! {
        found = boards.wait_for(started) => found.is_ok(),
        _ = stop.asked() => false,
    }
}

/// Asks for new tokens before the old ones die.
async fn refresh(context: Arc<PodContext>, period: Duration) {
    let mut pause = period;
    loop {
        tokio::time::sleep(pause).await;
        let fields = context.fields();
        let filled = volumes::prepare(&context.shared.client, &fields, &context.directory).await;
        pause = match filled {
            Ok(_) => period,
            Err(error) => {
                eprintln!("pod {}: refresh its tokens: {error:#}", context.title());
                RETRY
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_of_an_earlier_life_has_been_restarted() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2,
                 "state": {"running": {}}},
                {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"waiting": {}}},
            ]},
        }))
        .unwrap();
        let reports = earlier_reports(&pod);
        assert_eq!(reports["a"].restarts, 3);
        assert_eq!(reports["a"].last.as_ref().unwrap().exit_code, 255);
        assert_eq!(reports["b"], Report::new(0, None));
    }

    #[test]
    fn the_grace_period_is_the_deletion_s() {
        let mut pod = Pod::default();
        assert_eq!(grace(&pod).as_secs(), 30);
        pod.metadata.deletion_grace_period_seconds = Some(0);
        assert_eq!(grace(&pod).as_secs(), 0);
    }
}
