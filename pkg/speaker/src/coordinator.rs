//! Which interfaces there are, and what each has to know. One task owns it, on
//! the thread of the segments.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use herald_core::chain;
use herald_election::Heartbeat;
use herald_net::{Interface, LinkError, Links, News as LinkNews};
use regex::Regex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::SpeakerError;
use crate::duties::Duties;
use crate::index::InterfaceView;
use crate::report::Report;
use crate::segment::{Common, Orders, Segment};
use crate::traps::{self, OnHost};
use crate::view::{self, SegmentView};

/// The kernel cuts a list short when something changes meanwhile.
const LIST_TRIES: u32 = 5;
const LIST_RETRY: Duration = Duration::from_millis(50);

/// The duties, and the number of the API's state that they rest on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decided {
    pub(crate) number: u64,
    /// None while they are not known.
    pub(crate) duties: Option<Arc<Duties>>,
}

/// The segments' views, by interface.
type Views = BTreeMap<u32, Arc<SegmentView>>;

/// An interface in use. Its segment ends by itself when its orders end.
struct Running {
    orders: watch::Sender<Orders>,
    strays: mpsc::UnboundedSender<Arc<Heartbeat>>,
    task: JoinHandle<()>,
}

/// Keeps a segment for each suitable interface.
pub(crate) struct Coordinator {
    common: Common,
    exclude: Vec<Regex>,
    decided: watch::Receiver<Decided>,
    stop: CancellationToken,
    links: Links,
    interfaces: BTreeMap<u32, Interface>,
    own: Arc<BTreeSet<[u8; 6]>>,
    on_host: Arc<OnHost>,
    segments: BTreeMap<u32, Running>,
    views: Views,
    /// What the views were computed from.
    seen: Option<Arc<Duties>>,
    stale: bool,
    computing: Option<JoinHandle<Views>>,
    /// The number of the duties that are being computed.
    number: u64,
    strays: mpsc::UnboundedReceiver<Arc<Heartbeat>>,
    ipvs_told: bool,
}

impl Coordinator {
    /// Follows the node's interfaces. Must be called within a tokio runtime.
    pub(crate) fn new(
        common: Common,
        strays: mpsc::UnboundedReceiver<Arc<Heartbeat>>,
        exclude: Vec<Regex>,
        decided: watch::Receiver<Decided>,
        stop: CancellationToken,
    ) -> Result<Self, SpeakerError> {
        Ok(Self {
            common,
            exclude,
            decided,
            stop,
            links: Links::subscribe()?,
            interfaces: BTreeMap::new(),
            own: Arc::default(),
            on_host: Arc::default(),
            segments: BTreeMap::new(),
            views: Views::new(),
            seen: None,
            stale: true,
            computing: None,
            number: 0,
            strays,
            ipvs_told: false,
        })
    }

    /// Runs until it is stopped, and then until everything is handed over.
    pub(crate) async fn run(mut self) -> Result<(), SpeakerError> {
        self.follow_links(&LinkNews::default()).await?;
        self.decided.mark_changed();
        while !self.stop.is_cancelled() {
            self.compute_if_stale();
            tokio::select! {
                changed = self.links.changed() => {
                    let news = if let Ok(news) = changed {
                        news
                    } else {
                        // The socket's queue ran over or worse: begin anew.
                        self.links = Links::subscribe()?;
                        LinkNews::default()
                    };
                    self.follow_links(&news).await?;
                }
                changed = self.decided.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.follow_duties();
                }
                views = computed(&mut self.computing) => self.take_views(views),
                Some(heartbeat) = self.strays.recv() => self.pass_on(&heartbeat),
                () = self.stop.cancelled() => {}
            }
        }
        self.drain().await;
        Ok(())
    }

    /// Lets every segment hand over what it has. Links and duties are left as they
    /// are.
    async fn drain(&mut self) {
        tracing::info!("stopping: handing over");
        self.order(|orders| orders.stop = true);
        // The segments keep to the time themselves.
        let end = tokio::time::sleep(self.common.drain_timeout + Duration::from_millis(500));
        tokio::pin!(end);
        loop {
            let tasks: Vec<_> = self
                .segments
                .values_mut()
                .map(|running| &mut running.task)
                // One that has ended must not be asked again.
                .filter(|task| !task.is_finished())
                .collect();
            let ended = futures::future::join_all(tasks);
            tokio::select! {
                _ = ended => return,
                () = &mut end => return,
                heartbeat = self.strays.recv() => {
                    let Some(heartbeat) = heartbeat else { return };
                    self.pass_on(&heartbeat);
                }
            }
        }
    }

    /// A last word that came by another interface.
    fn pass_on(&self, heartbeat: &Arc<Heartbeat>) {
        for running in self.segments.values() {
            let _ = running.strays.send(heartbeat.clone());
        }
    }

    /// Makes the segments those of the interfaces that can have any.
    async fn follow_links(&mut self, news: &LinkNews) -> Result<(), SpeakerError> {
        let interfaces = self.list().await?;
        if !self.ipvs_told && traps::ipvs_answers_arp(&interfaces) {
            self.ipvs_told = true;
            tracing::error!(
                "kube-proxy in ipvs mode makes every node's kernel answer ARP for every VIP, so \
                 clients reach random nodes; set strictARP: true in kube-proxy's configuration"
            );
        }
        self.own = Arc::new(
            interfaces
                .values()
                .filter_map(|interface| interface.mac)
                .collect(),
        );
        let on_host = OnHost::of(interfaces.values());
        if *self.on_host != on_host {
            self.on_host = Arc::new(on_host);
        }
        let exclude = &self.exclude;
        let usable: BTreeMap<u32, Interface> = interfaces
            .into_iter()
            .filter(|(_, interface)| interface.is_suitable())
            .filter(|(_, interface)| !exclude.iter().any(|name| name.is_match(&interface.name)))
            .collect();
        let before = std::mem::replace(&mut self.interfaces, usable);
        let shown = |interfaces: &BTreeMap<u32, Interface>| -> Vec<InterfaceView> {
            interfaces.values().map(view::shown).collect()
        };
        self.stale |= shown(&before) != shown(&self.interfaces);
        self.segments.retain(|index, running| {
            let stays = self.interfaces.contains_key(index) && !running.task.is_finished();
            if !stays {
                let orders = running.orders.borrow();
                tracing::info!(
                    interface = orders.interface.name,
                    "interface not in use any more"
                );
            }
            stays
        });
        for (index, interface) in self.interfaces.clone() {
            match self.segments.get(&index) {
                Some(running) => {
                    let (own, on_host) = (self.own.clone(), self.on_host.clone());
                    running.orders.send_if_modified(|orders| {
                        let flapped = orders.interface.carrier_changes != interface.carrier_changes;
                        let anew = flapped || news.notify_peers.contains(&index);
                        let changed = orders.interface != interface
                            || orders.own != own
                            || orders.on_host != on_host;
                        orders.link += u64::from(anew);
                        orders.interface = interface;
                        orders.own = own;
                        orders.on_host = on_host;
                        changed || anew
                    });
                }
                None => self.begin(index, interface),
            }
        }
        Ok(())
    }

    fn begin(&mut self, index: u32, interface: Interface) {
        let name = interface.name.clone();
        let (orders, follow) = watch::channel(Orders {
            view: self.views.get(&index).cloned(),
            number: self.decided.borrow().number,
            interface,
            link: 0,
            own: self.own.clone(),
            on_host: self.on_host.clone(),
            stop: false,
        });
        let (strays, more) = mpsc::unbounded_channel();
        match Segment::open(self.common.clone(), follow, more) {
            Ok(segment) => {
                tracing::info!(interface = name, "interface in use");
                let task = tokio::spawn(segment.run());
                let running = Running {
                    orders,
                    strays,
                    task,
                };
                self.segments.insert(index, running);
            }
            Err(error) => tracing::error!(
                interface = name,
                error = chain(&error),
                "interface left out"
            ),
        }
    }

    async fn list(&mut self) -> Result<BTreeMap<u32, Interface>, LinkError> {
        let mut tries = 1;
        loop {
            match self.links.list().await {
                Err(error) if tries < LIST_TRIES => {
                    tracing::debug!(%error, "listing interfaces again");
                    tries += 1;
                    tokio::time::sleep(LIST_RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// New duties are computed for each interface; a new number is passed on.
    fn follow_duties(&mut self) {
        let decided = self.decided.borrow_and_update().clone();
        let same = match (&self.seen, &decided.duties) {
            (Some(seen), Some(duties)) => Arc::ptr_eq(seen, duties),
            _ => false,
        };
        if !same {
            self.seen = decided.duties;
            self.stale = true;
        } else if !self.stale && self.computing.is_none() {
            self.order(|orders| orders.number = decided.number);
        }
    }

    /// Computes the views beside, as it takes a while with ten thousand addresses,
    /// and heartbeats must not wait.
    fn compute_if_stale(&mut self) {
        let Some(duties) = self.seen.clone().filter(|_| self.stale) else {
            return;
        };
        if self.computing.is_some() {
            return;
        }
        self.stale = false;
        self.number = self.decided.borrow().number;
        let node = self.common.node.clone();
        let interfaces = self.interfaces.clone();
        let before = self.views.clone();
        self.computing = Some(tokio::task::spawn_blocking(move || {
            let view = |(index, interface): (&u32, &Interface)| {
                let view = view::compute(&duties, 0, &node, interface)?;
                let same = before.get(index).filter(|before| ***before == view);
                Some((*index, same.cloned().unwrap_or_else(|| Arc::new(view))))
            };
            interfaces.iter().filter_map(view).collect()
        }));
    }

    fn take_views(&mut self, views: Views) {
        self.views = views;
        let number = self.number;
        for (index, running) in &self.segments {
            let view = self.views.get(index).cloned();
            running.orders.send_modify(|orders| {
                orders.view = view;
                orders.number = number;
            });
        }
        let expected = self.views.keys().filter_map(|index| {
            let running = self.segments.contains_key(index);
            running.then(|| self.interfaces.get(index).map(|i| i.name.clone()))?
        });
        let report = Report::Interfaces(
            self.interfaces.values().map(view::shown).collect(),
            expected.collect(),
        );
        let _ = self.common.reports.send(report);
    }

    fn order(&self, change: impl Fn(&mut Orders)) {
        for running in self.segments.values() {
            running.orders.send_modify(&change);
        }
    }
}

/// The views, when they are computed.
async fn computed(computing: &mut Option<JoinHandle<Views>>) -> Views {
    let Some(handle) = computing else {
        return pending().await;
    };
    let views = handle.await;
    *computing = None;
    match views {
        Ok(views) => views,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
