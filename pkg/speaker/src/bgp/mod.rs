//! The node's BGP sessions: which peers it has, and what it tells them.
//!
//! ```text
//!  index ──> orders (pure: peers of this node, routes) ──watch channel──> engine
//!  API ──Secrets──> secrets ──passwords, watch channel──────────────────────┤
//!  API <── desk: BGPStatus <────────────────────────status, watch channel───┤
//!                    bfd <──paths to watch, watch channel; news, mpsc───────┘
//! ```
//!
//! The engine has a thread of its own: neither the API nor another peer delays it. So
//! has BFD, which neither the API nor BGP delays.

mod bfd;
mod engine;
mod neighbors;
mod report;
mod routes;
mod secrets;
mod settings;
mod stop;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use herald_api::names::TAINT_UNSCHEDULABLE;
use herald_api::{BFDProfileSpec, BGPAdvertisementSpec, BGPPeerSpec, any_or_empty};
use herald_core::Node;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::events::PeerNote;
use crate::index::Index;
use routes::Routes;

/// How a speaker's BGP is set up.
#[derive(Clone, Copy, Debug)]
pub struct BgpConfig {
    /// The port that peers are listened for on; 0: they are only dialled.
    pub listen_port: u16,
    /// How long peers have to find other paths before this node's are withdrawn.
    pub drain_wait: Duration,
}

/// A peer as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerView {
    pub(crate) spec: Arc<BGPPeerSpec>,
    pub(crate) uid: String,
}

/// An advertisement as it is written.
pub(crate) type BgpAdvertisementView = Arc<BGPAdvertisementSpec>;

/// What this node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    /// The peers of this node, by name.
    pub(crate) peers: BTreeMap<String, PeerView>,
    /// What names stand for.
    pub(crate) aliases: BTreeMap<String, String>,
    /// Those that peers of this node refer to.
    pub(crate) profiles: BTreeMap<String, BFDProfileSpec>,
    pub(crate) router_id: Ipv4Addr,
    /// The node's own addresses in the cluster.
    pub(crate) addresses: Vec<std::net::IpAddr>,
    pub(crate) routes: Arc<Routes>,
    /// Why the node is to be left alone, in words.
    pub(crate) drain: Option<String>,
    /// Whether Kubernetes calls the node Ready.
    pub(crate) ready: bool,
    /// What is wrong beside the sessions.
    pub(crate) problems: Vec<String>,
}

/// What this node is to do, as a function of the index; none while the node is not
/// known.
pub(crate) fn orders(index: &Index, name: &str) -> Option<Orders> {
    let me = &index.nodes.known().get(name)?.node;
    let peers: BTreeMap<String, PeerView> = index
        .peers
        .known()
        .iter()
        .filter(|(_, peer)| any_or_empty(&peer.spec.node_selectors, &me.labels))
        .map(|(name, peer)| (name.clone(), peer.clone()))
        .collect();
    let aliases = index
        .communities
        .known()
        .values()
        .flatten()
        .cloned()
        .collect();
    let used = |name: &String| {
        let refers = |peer: &PeerView| peer.spec.bfd_profile.as_ref() == Some(name);
        peers.values().any(refers)
    };
    let profiles = index.profiles.known().iter();
    let profiles = profiles.filter(|(name, _)| used(name));
    let profiles = profiles.map(|(name, spec)| (name.clone(), spec.clone()));
    let profiles = profiles.collect();
    let mut problems = shared_router_ids(index, me, &peers);
    let routes = if peers.is_empty() {
        Routes::default()
    } else {
        routes::compute(index, me, &peers, &aliases, &mut problems)
    };
    Some(Orders {
        drain: drain_reason(me, routes.needed),
        router_id: router_id(index, me),
        addresses: me.internal_addresses.clone(),
        ready: me.ready,
        peers,
        aliases,
        profiles,
        routes: Arc::new(routes),
        problems,
    })
}

/// Routers tell nodes by their identifiers, and may refuse one that has another's.
fn shared_router_ids(index: &Index, me: &Node, peers: &BTreeMap<String, PeerView>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, peer) in peers {
        let Some(id) = &peer.spec.router_id else {
            continue;
        };
        let mut others = index.nodes.known().values().map(|view| &view.node);
        let other = others.find(|node| {
            node.name != me.name && any_or_empty(&peer.spec.node_selectors, &node.labels)
        });
        if let Some(other) = other {
            problems.push(format!(
                "BGPPeer {name} gives node {} the routerID {id} too: take routerID out, or have a \
                 BGPPeer with nodeSelectors for each node",
                other.name
            ));
        }
    }
    problems
}

/// Whether the node is cordoned.
pub(crate) fn is_cordoned(node: &Node) -> bool {
    node.taints
        .iter()
        .any(|taint| taint.key == TAINT_UNSCHEDULABLE)
}

/// A cordoned node stays for what no other node could serve.
fn drain_reason(node: &Node, needed: bool) -> Option<String> {
    let name = &node.name;
    if node.deleting {
        Some(format!("node {name} is being deleted"))
    } else if node.excluded {
        Some(format!(
            "node {name} is excluded from external load balancers"
        ))
    } else if node.network_unavailable {
        Some(format!("the network of node {name} is unavailable"))
    } else if is_cordoned(node) && !needed {
        Some(format!("node {name} is cordoned"))
    } else {
        None
    }
}

/// The node's first IPv4 address. Without one a number made of its name, in
/// 240.0.0.0/4, where no router's address is; where two names make the same, the one
/// that sorts later takes the next.
fn router_id(index: &Index, me: &Node) -> Ipv4Addr {
    let v4 = |node: &Node| {
        node.internal_addresses
            .iter()
            .find_map(|address| match address {
                std::net::IpAddr::V4(address) => Some(*address),
                std::net::IpAddr::V6(_) => None,
            })
    };
    if let Some(address) = v4(me) {
        return address;
    }
    let mut taken = std::collections::BTreeSet::new();
    for node in index.nodes.known().values().map(|view| &view.node) {
        if v4(node).is_some() {
            continue;
        }
        // FNV-1a: the same on all nodes and in all versions.
        let mut id = node.name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        }) | 0xf000_0000;
        while id == u32::MAX || !taken.insert(id) {
            id = id.wrapping_add(1) | 0xf000_0000;
        }
        if node.name == me.name {
            return id.into();
        }
    }
    Ipv4Addr::new(240, 0, 0, 1)
}

/// What the speaker's BGP rests on.
pub(crate) struct Parts {
    /// For events on peers.
    pub(crate) notes: tokio::sync::mpsc::Sender<PeerNote>,
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) config: BgpConfig,
    pub(crate) orders: watch::Receiver<Option<Arc<Orders>>>,
    pub(crate) uid: watch::Receiver<String>,
    pub(crate) metrics: Arc<crate::metrics::Metrics>,
    pub(crate) stop: CancellationToken,
}

/// Runs until `stop` is cancelled, and then until the peers are told what they must
/// be.
pub(crate) async fn run(parts: Parts) {
    let (wanted, want) = watch::channel(std::collections::BTreeSet::new());
    let passwords = secrets::start(parts.client.clone(), &parts.namespace, want);
    let (status, told) = watch::channel(None);
    let (ending, end) = watch::channel(None);
    let (paths, unwatched) = bfd::start(parts.metrics.clone());
    let desk = report::Desk::new(&parts, told);
    let desk = tokio::spawn(desk.keep());
    let engine = engine::Engine::new(engine::Inputs {
        node: parts.node.clone(),
        namespace: parts.namespace.clone(),
        notes: parts.notes.clone(),
        config: parts.config,
        orders: parts.orders.clone(),
        passwords,
        wanted,
        paths,
        status,
        end,
        metrics: parts.metrics.clone(),
    });
    let (ended, done) = tokio::sync::oneshot::channel();
    let body = move || {
        herald_net::take_precedence();
        match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime.block_on(engine.run()),
            Err(error) => tracing::error!(%error, "no BGP: its thread has no runtime"),
        }
        let _ = ended.send(());
    };
    if let Err(error) = std::thread::Builder::new().name("bgp".into()).spawn(body) {
        tracing::error!(%error, "no BGP: its thread can't be started");
    }
    let told = async {
        parts.stop.cancelled().await;
        let orders = parts.orders.borrow().clone();
        let how = stop::how(&parts.client, &parts.namespace, orders.as_deref()).await;
        tracing::info!(?how, "stopping BGP");
        let _ = ending.send(Some(how));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = done => {}
        () = told => {}
    }
    // The peers of BFD are told that it ends, while the status is written.
    let last = async { tokio::join!(desk, unwatched) };
    let _ = tokio::time::timeout(crate::LAST_WORD, last).await;
}

/// For what must not be guessed, or not be in step with others.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        tracing::warn!("no random numbers: BFD's discriminators can be guessed");
    }
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests;
