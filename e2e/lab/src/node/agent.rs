//! Watches the pods bound to this node and gives each a task of its own.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::Recorder;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use tokio::sync::{OnceCell, watch};

use super::env::Environment;
use super::network::PodNetworks;
use super::spec::NodeSpec;
use super::{ShortPause, WATCH_SECONDS, pod};

/// What every pod's task shares.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) spec: Arc<NodeSpec>,
    pub(super) networks: PodNetworks,
    pub(super) events: Recorder,
    /// Path of setpriv (package util-linux).
    pub(super) setpriv: Arc<Path>,
    /// Variables that lead a pod to the API server.
    api_server: Arc<OnceCell<Environment>>,
}

impl Shared {
    /// `KUBERNETES_SERVICE_HOST` and `_PORT`, from Service `kubernetes`.
    pub(super) async fn api_server(&self) -> Result<&Environment> {
        self.api_server
            .get_or_try_init(|| async {
                let services: Api<Service> = Api::namespaced(self.client.clone(), "default");
                let spec = services.get("kubernetes").await?.spec.unwrap_or_default();
                let host = spec
                    .cluster_ip
                    .context("Service kubernetes has no address")?;
                let port = spec
                    .ports
                    .iter()
                    .flatten()
                    .next()
                    .map_or(443, |port| port.port)
                    .to_string();
                Ok([
                    ("KUBERNETES_SERVICE_HOST", host),
                    ("KUBERNETES_SERVICE_PORT", port.clone()),
                    ("KUBERNETES_SERVICE_PORT_HTTPS", port),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into())
            })
            .await
    }
}

/// Runs pods until the watch ends, which it does not.
pub(super) async fn run(client: Client, spec: Arc<NodeSpec>) -> Result<()> {
    let pods: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default()
        .fields(&format!("spec.nodeName={}", spec.name))
        .timeout(WATCH_SECONDS);
    let shared = Shared {
        events: Recorder::new(
            client.clone(),
            kube::runtime::events::Reporter {
                controller: "herald-lab".into(),
                instance: Some(spec.name.clone()),
            },
        ),
        client,
        networks: PodNetworks::new(&spec)?,
        spec: spec.clone(),
        setpriv: super::which("setpriv")?.into(),
        api_server: Arc::default(),
    };
    let mut tasks = Tasks {
        shared,
        by_uid: HashMap::new(),
    };
    let mut listed = HashSet::new();
    let mut failing = false;
    let events = watcher(pods, config).backoff(ShortPause);
    pin_mut!(events);
    while let Some(event) = events.next().await {
        let failed_before = std::mem::replace(&mut failing, event.is_err());
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.insert(pod.uid().unwrap_or_default());
                tasks.apply(pod);
            }
            Ok(Event::InitDone) => tasks.retain(&listed),
            Ok(Event::Apply(pod)) => tasks.apply(pod),
            Ok(Event::Delete(pod)) => tasks.forget(&pod.uid().unwrap_or_default()),
            Err(_) if failed_before => {}
            Err(error) => eprintln!("node {}: watching pods: {error}", spec.name),
        }
    }
    Ok(())
}

/// The pods' tasks by uid: a pod made anew under its old name is another one.
/// A task is forgotten when its pod is gone from the API, not when it ends, so
/// that a late event starts nothing.
struct Tasks {
    shared: Shared,
    by_uid: HashMap<String, watch::Sender<Option<Pod>>>,
}

impl Tasks {
    fn apply(&mut self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        if let Some(task) = self.by_uid.get(&uid) {
            task.send_replace(Some(pod));
        } else {
            let (sender, updates) = watch::channel(Some(pod.clone()));
            tokio::spawn(pod::run(self.shared.clone(), pod, updates));
            self.by_uid.insert(uid, sender);
        }
    }

    /// The pod is gone from the API: nobody waits for its end.
    fn forget(&mut self, uid: &str) {
        if let Some(task) = self.by_uid.remove(uid) {
            task.send_replace(None);
        }
    }

    fn retain(&mut self, listed: &HashSet<String>) {
        let gone: Vec<String> = self
            .by_uid
            .keys()
            .filter(|uid| !listed.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.forget(&uid);
        }
    }
}
