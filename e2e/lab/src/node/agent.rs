//! Watches the pods bound to this node and gives each a task of its own.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::WatchStreamExt as _;
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;

use super::network::PodNetworks;
use super::pod;
use super::spec::NodeSpec;

/// What every pod's task shares.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) spec: Arc<NodeSpec>,
    pub(super) networks: PodNetworks,
}

/// Runs pods until the watch ends, which it does not.
pub(super) async fn run(client: Client, spec: Arc<NodeSpec>) -> Result<()> {
    let pods: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", spec.name));
    let networks = PodNetworks::new(&spec)?;
    let shared = Shared { client, spec: spec.clone(), networks };
    // By uid: a pod made anew under its old name is another one.
    let mut tasks: HashMap<String, watch::Sender<Option<Pod>>> = HashMap::new();
    let events = watcher(pods, config).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                tasks.retain(|_, sender| !sender.is_closed());
                let uid = pod.uid().unwrap_or_default();
                match tasks.get(&uid) {
                    Some(sender) => {
                        sender.send_replace(Some(pod));
                    }
                    None => {
                        let (sender, receiver) = watch::channel(Some(pod));
                        tokio::spawn(pod::run(shared.clone(), receiver));
                        tasks.insert(uid, sender);
                    }
                }
            }
            Ok(Event::Delete(pod)) => {
                // Gone from the API without a grace period: its task ends.
                if let Some(sender) = tasks.remove(&pod.uid().unwrap_or_default()) {
                    sender.send_replace(None);
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => eprintln!("node {}: watching pods: {error}", spec.name),
        }
    }
    Ok(())
}
