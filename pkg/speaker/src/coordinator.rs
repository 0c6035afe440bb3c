//! What this node announces on which interface. One task owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_core::ServiceKey;
use herald_l2::{CheckEvent, Event, Source, Verdict};
use herald_net::{Interface, LinkError, Links, News as LinkNews};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::duties::{Duties, Duty, Role};
use crate::events::Note;
use crate::metrics::{Metrics, ServiceLabel};
use crate::port::{Plan, Port, PortEvent};
use crate::traps::{Subject, Traps};
use crate::{Config, SpeakerError, chain};

/// How long a VIP is answered for after another node became its owner, if that
/// one is not heard. Packets that still come are forwarded all the same.
const YIELD: Duration = Duration::from_secs(2);

/// How long an address counts as new to everybody, so that a port that is busy
/// sees it as such.
const FRESH: Duration = Duration::from_secs(1);

/// Settings of the kernel tell nobody when they change.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The kernel cuts a list short when something changes meanwhile.
const LIST_TRIES: u32 = 5;
const LIST_RETRY: Duration = Duration::from_millis(50);

/// A VIP that this node announces.
struct Announced {
    service: ServiceKey,
    uid: String,
    /// Indexes of interfaces; none where none can carry it.
    ports: BTreeSet<u32>,
}

/// Addresses of a Service that came to this node.
struct News<'a> {
    duty: &'a Duty,
    announced: Vec<IpAddr>,
    ports: BTreeSet<u32>,
    /// Those that no interface can carry.
    stranded: Vec<IpAddr>,
}

impl<'a> News<'a> {
    const fn new(duty: &'a Duty) -> Self {
        Self {
            duty,
            announced: Vec::new(),
            ports: BTreeSet::new(),
            stranded: Vec::new(),
        }
    }
}

fn join(parts: impl IntoIterator<Item = impl ToString>, between: &str) -> String {
    parts
        .into_iter()
        .map(|part| part.to_string())
        .collect::<Vec<_>>()
        .join(between)
}

/// An interface in use.
struct Running {
    interface: Interface,
    /// Counts its links: another number, and everything is announced anew.
    link: u64,
    plan: watch::Sender<Plan>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct Coordinator {
    config: Config,
    duties: watch::Receiver<Arc<Duties>>,
    notes: mpsc::Sender<Note>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    links: Links,
    ports: BTreeMap<u32, Running>,
    own: Arc<BTreeSet<[u8; 6]>>,
    announced: BTreeMap<IpAddr, Announced>,
    events: (
        mpsc::UnboundedSender<PortEvent>,
        mpsc::UnboundedReceiver<PortEvent>,
    ),
    traps: Traps,
    /// How often the duties were published. From the second time on, an address
    /// that is new in them had no owner before.
    published: u64,
    /// The duties of the last time.
    before: Arc<Duties>,
    /// Addresses that no node had before, and since when.
    fresh: BTreeMap<IpAddr, Instant>,
}

impl Coordinator {
    pub(crate) fn new(
        config: Config,
        duties: watch::Receiver<Arc<Duties>>,
        notes: mpsc::Sender<Note>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<Self, SpeakerError> {
        Ok(Self {
            config,
            duties,
            notes,
            metrics,
            stop,
            links: Links::subscribe()?,
            ports: BTreeMap::new(),
            own: Arc::default(),
            announced: BTreeMap::new(),
            events: mpsc::unbounded_channel(),
            traps: Traps::default(),
            published: 0,
            before: Arc::default(),
            fresh: BTreeMap::new(),
        })
    }

    /// Runs until it is stopped, and then until every VIP is handed over.
    pub(crate) async fn run(mut self) -> Result<(), SpeakerError> {
        self.follow_links(&LinkNews::default()).await?;
        let mut look = tokio::time::interval(LOOK_AGAIN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            self.settle();
            self.look_for_traps();
            tokio::select! {
                changed = self.duties.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.published += 1;
                }
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
                _ = look.tick() => self.traps.refresh(),
                Some(event) = self.events.1.recv() => self.heard(event),
                () = self.stop.cancelled() => {}
            }
        }
        self.drain().await;
        Ok(())
    }

    /// Hands everything over: answers on until the successors are heard or time
    /// is up, and announces nothing any more. What nobody else could have is
    /// given up at once.
    async fn drain(&mut self) {
        tracing::info!(announced = self.announced.len(), "stopping: handing over");
        // A little longer than the ports take by themselves.
        let end = tokio::time::sleep(self.config.drain_timeout + Duration::from_millis(100));
        tokio::pin!(end);
        loop {
            self.settle();
            let ports: Vec<_> = self
                .ports
                .values_mut()
                .map(|port| &mut port.task)
                // One that has ended must not be asked again.
                .filter(|task| !task.is_finished())
                .collect();
            let handed_over = futures::future::join_all(ports);
            tokio::select! {
                _ = handed_over => return,
                () = &mut end => return,
                changed = self.duties.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(event) = self.events.1.recv() => self.heard(event),
            }
        }
    }

    /// Makes the ports those of the interfaces that can announce.
    async fn follow_links(&mut self, news: &LinkNews) -> Result<(), SpeakerError> {
        let interfaces = self.list().await?;
        self.own = Arc::new(
            interfaces
                .values()
                .filter_map(|interface| interface.mac)
                .collect(),
        );
        let excluded = &self.config.exclude_interfaces;
        let usable: BTreeMap<u32, Interface> = interfaces
            .iter()
            .filter(|(_, interface)| interface.can_announce())
            .filter(|(_, interface)| !excluded.iter().any(|name| name.is_match(&interface.name)))
            .map(|(index, interface)| (*index, interface.clone()))
            .collect();
        self.traps
            .read(interfaces.values(), &usable.keys().copied().collect());
        self.ports.retain(|index, port| {
            let stays = usable.contains_key(index) && !port.task.is_finished();
            if !stays {
                tracing::info!(
                    interface = port.interface.name,
                    "interface not in use any more"
                );
            }
            stays
        });
        for (index, interface) in usable {
            let Some(mac) = interface.mac else { continue };
            if let Some(port) = self.ports.get_mut(&index) {
                let flapped = port.interface.carrier_changes != interface.carrier_changes;
                port.link += u64::from(flapped || news.notify_peers.contains(&index));
                port.interface = interface;
                continue;
            }
            let plan = Plan {
                mac,
                ..Plan::default()
            };
            let (sender, receiver) = watch::channel(plan);
            let events = self.events.0.clone();
            match Port::open(
                &interface.name,
                index,
                self.config.announcing,
                self.config.check,
                receiver,
                events,
                &self.metrics,
            ) {
                Ok(port) => {
                    tracing::info!(interface = interface.name, "interface in use");
                    let task = tokio::spawn(port.run());
                    self.ports.insert(
                        index,
                        Running {
                            interface,
                            link: 0,
                            plan: sender,
                            task,
                        },
                    );
                }
                Err(error) => tracing::error!(
                    interface = interface.name,
                    error = chain(&error),
                    "interface left out"
                ),
            }
        }
        Ok(())
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

    /// Brings the ports in line with the duties and the interfaces.
    fn settle(&mut self) {
        let duties = self.duties.borrow_and_update().clone();
        let draining = self.stop.is_cancelled();
        let fresh = self.fresh(&duties);
        let mut holds: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut yielding = BTreeSet::new();
        let mut announced = BTreeMap::new();
        let mut news: BTreeMap<&ServiceKey, News> = BTreeMap::new();
        for (address, duty) in duties.iter() {
            match duty.role {
                Role::Yield => {
                    yielding.insert(*address);
                }
                Role::Own { successor } if draining => {
                    if successor {
                        yielding.insert(*address);
                    }
                }
                Role::Own { .. } => {
                    let ports = choose(&self.ports, &duty.interfaces, address);
                    if self.is_news(address, duty, &ports) {
                        let news = news.entry(&duty.service).or_insert_with(|| News::new(duty));
                        if ports.is_empty() {
                            news.stranded.push(*address);
                        } else {
                            news.announced.push(*address);
                            news.ports.extend(&ports);
                        }
                    }
                    for index in &ports {
                        holds.entry(*index).or_default().insert(*address);
                    }
                    let (service, uid) = (duty.service.clone(), duty.uid.clone());
                    announced.insert(
                        *address,
                        Announced {
                            service,
                            uid,
                            ports,
                        },
                    );
                }
            }
        }
        for news in news.values() {
            self.tell_news(news);
        }
        let yielding = Arc::new(yielding);
        for (index, port) in &self.ports {
            let plan = Plan {
                mac: port.interface.mac.unwrap_or_default(),
                link: port.link,
                source: source(&port.interface),
                fresh: fresh.clone(),
                check: if draining {
                    Arc::default()
                } else {
                    checked(&duties, *index, &self.ports)
                },
                peers: Arc::default(),
                hold: holds.remove(index).unwrap_or_default(),
                yielding: yielding.clone(),
                grace: if draining {
                    self.config.drain_timeout
                } else {
                    YIELD
                },
                own: self.own.clone(),
                ending: draining,
            };
            port.plan.send_if_modified(|before| {
                let changed = *before != plan;
                *before = plan;
                changed
            });
        }
        self.announced = announced;
        self.count();
    }

    /// The addresses that no node had before. What is there when the speaker
    /// starts has been used, for all it knows.
    fn fresh(&mut self, duties: &Arc<Duties>) -> Arc<BTreeSet<IpAddr>> {
        let now = Instant::now();
        self.fresh.retain(|_, since| *since + FRESH > now);
        if self.published > 1 && !Arc::ptr_eq(duties, &self.before) {
            let new = duties
                .iter()
                .filter(|(_, duty)| matches!(duty.role, Role::Own { .. }))
                .filter(|(address, _)| !self.before.contains_key(address));
            self.fresh.extend(new.map(|(address, _)| (*address, now)));
        }
        self.before = duties.clone();
        Arc::new(self.fresh.keys().copied().collect())
    }

    /// Tells of settings that stand in the way of an address.
    fn look_for_traps(&mut self) {
        let (duties, ports) = (self.before.clone(), &self.ports);
        let subjects = duties.iter().map(|(address, duty)| Subject {
            address: *address,
            service: &duty.service,
            uid: &duty.uid,
            ports: choose(ports, &duty.interfaces, address),
            own: matches!(duty.role, Role::Own { .. }),
        });
        let notes = self.traps.look(&self.config.node, subjects, &self.metrics);
        for note in notes {
            self.send(note);
        }
    }

    /// Whether this address was not announced before, or not been able to be.
    fn is_news(&self, address: &IpAddr, duty: &Duty, ports: &BTreeSet<u32>) -> bool {
        self.announced.get(address).is_none_or(|before| {
            before.uid != duty.uid || before.ports.is_empty() != ports.is_empty()
        })
    }

    /// Tells the Service's owner, once for all of its addresses: events that
    /// come together are counted as one, whatever their text.
    fn tell_news(&self, news: &News) {
        let (node, service) = (&self.config.node, &news.duty.service);
        if !news.announced.is_empty() {
            let names = news
                .ports
                .iter()
                .filter_map(|index| self.ports.get(index))
                .map(|port| port.interface.name.as_str());
            let (addresses, interfaces) = (join(&news.announced, " and "), join(names, ", "));
            tracing::info!(%service, addresses, interfaces, "announcing");
            let text = format!("announcing {addresses} from node {node} on {interfaces}");
            self.tell(service, &news.duty.uid, false, "Announcing", text);
        }
        if !news.stranded.is_empty() {
            let addresses = join(&news.stranded, " and ");
            let cause = if news.duty.interfaces.is_empty() {
                "none of its interfaces can announce".to_owned()
            } else {
                let names = join(&news.duty.interfaces, " or ");
                format!("it has no interface {names} that is up")
            };
            tracing::warn!(%service, addresses, "owned, but {cause}");
            let text = format!(
                "node {node} should announce {addresses}, but {cause}; see interfaces and \
                 nodeSelectors of the L2Advertisement"
            );
            self.tell(service, &news.duty.uid, true, "NoInterface", text);
        }
    }

    /// What a port has to say.
    fn heard(&self, event: PortEvent) {
        match event {
            PortEvent::Announcing(event) => self.heard_announcing(event),
            PortEvent::Checked(CheckEvent::Verdict { address, verdict }) => {
                self.heard_verdict(address, verdict);
            }
            PortEvent::Checked(CheckEvent::Answer { .. }) => {}
        }
    }

    fn heard_announcing(&self, event: Event) {
        match event {
            Event::Succeeded { address, mac } => {
                tracing::info!(%address, %mac, "handed over");
            }
            Event::Unclaimed { address } => {
                tracing::warn!(%address, "given up, but its new owner was not heard here");
            }
            Event::Contested { address, mac } => {
                tracing::warn!(%address, %mac, "another speaker announces the address too");
            }
            Event::Conflict { address, mac } => self.warn(
                address,
                "AddressConflict",
                format!(
                    "a host with hardware address {mac} also claims {address}, which node {} announces; \
                     find it and take the address off it, or take the address out of the pool",
                    self.config.node
                ),
            ),
            Event::InUse { address, mac } => self.warn(
                address,
                "AddressInUse",
                format!(
                    "{address} is not announced: a host with hardware address {mac} has it already; \
                     find it and take the address off it, or take the address out of the pool"
                ),
            ),
            Event::ConflictEnded { address } => {
                tracing::info!(%address, "no other host claims the address any more");
            }
        }
    }

    /// How an address is answered for that another node should have.
    fn heard_verdict(&self, address: IpAddr, verdict: Verdict) {
        let node = &self.config.node;
        match verdict {
            Verdict::Answered(mac) => tracing::debug!(%address, %mac, "answered for"),
            Verdict::Silent => self.warn(
                address,
                "AddressUnanswered",
                format!(
                    "nobody answers for {address} when node {node} asks, though another node should; \
                     see whether that node's speaker is well and what the switch filters"
                ),
            ),
            Verdict::Several(one, other) => self.warn(
                address,
                "AddressAnsweredTwice",
                format!(
                    "hosts with hardware addresses {one} and {other} both answer for {address} when \
                     node {node} asks; only one node should"
                ),
            ),
        }
    }

    /// Warns the owner of the Service that has an address.
    fn warn(&self, address: IpAddr, reason: &'static str, text: String) {
        let Some(duty) = self.before.get(&address) else {
            return;
        };
        tracing::error!(service = %duty.service, %address, "{text}");
        self.tell(&duty.service, &duty.uid, true, reason, text);
    }

    fn tell(
        &self,
        service: &ServiceKey,
        uid: &str,
        warning: bool,
        reason: &'static str,
        text: String,
    ) {
        let (service, uid) = (service.clone(), uid.to_owned());
        self.send(Note {
            service,
            uid,
            warning,
            reason,
            text,
        });
    }

    fn send(&self, note: Note) {
        if let Err(error) = self.notes.try_send(note) {
            let note = error.into_inner();
            tracing::debug!(service = %note.service, reason = note.reason, "too many events at once");
        }
    }

    fn count(&self) {
        let mut counts: BTreeMap<&ServiceKey, i64> = BTreeMap::new();
        for announced in self
            .announced
            .values()
            .filter(|announced| !announced.ports.is_empty())
        {
            *counts.entry(&announced.service).or_default() += 1;
        }
        self.metrics.announced.clear();
        for (service, count) in counts {
            let label = ServiceLabel {
                namespace: service.namespace.clone(),
                service: service.name.clone(),
            };
            self.metrics.announced.get_or_create(&label).set(count);
        }
    }
}

/// The addresses of other nodes that this interface would carry.
fn checked(duties: &Duties, index: u32, ports: &BTreeMap<u32, Running>) -> Arc<BTreeSet<IpAddr>> {
    let others = duties.iter().filter(|(_, duty)| duty.role == Role::Yield);
    let here =
        others.filter(|(address, duty)| choose(ports, &duty.interfaces, address).contains(&index));
    Arc::new(here.map(|(address, _)| *address).collect())
}

/// The addresses that questions on an interface come from.
fn source(interface: &Interface) -> Source {
    let mut source = Source::default();
    for (address, _) in &interface.addresses {
        match address {
            IpAddr::V4(address) if source.v4.is_unspecified() => source.v4 = *address,
            IpAddr::V6(address) if address.is_unicast_link_local() => source.v6 = *address,
            _ => {}
        }
    }
    source
}

/// The interfaces for an address: those that are named, or else those that have
/// a subnet with the address, or else, where none has, all of them.
fn choose(
    ports: &BTreeMap<u32, Running>,
    names: &BTreeSet<String>,
    address: &IpAddr,
) -> BTreeSet<u32> {
    let interfaces: Vec<_> = ports
        .iter()
        .map(|(index, port)| (*index, &port.interface))
        .collect();
    select(&interfaces, names, address)
}

fn select(
    interfaces: &[(u32, &Interface)],
    names: &BTreeSet<String>,
    address: &IpAddr,
) -> BTreeSet<u32> {
    let pick = |wanted: &dyn Fn(&Interface) -> bool| -> BTreeSet<u32> {
        let picked = interfaces.iter().filter(|(_, interface)| wanted(interface));
        picked.map(|(index, _)| *index).collect()
    };
    if !names.is_empty() {
        return pick(&|interface| names.contains(&interface.name));
    }
    let reaching = pick(&|interface| interface.reaches(address));
    if reaching.is_empty() {
        return pick(&|_| true);
    }
    reaching
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, subnets: &[(&str, u8)]) -> Interface {
        Interface {
            index: 0,
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running: true,
            no_arp: false,
            loopback: false,
            enslaved: false,
            carrier_changes: 0,
            addresses: subnets
                .iter()
                .map(|(ip, len)| (ip.parse().unwrap(), *len))
                .collect(),
        }
    }

    fn chosen(names: &[&str], address: &str) -> Vec<u32> {
        let eth0 = interface("eth0", &[("172.30.1.1", 16)]);
        let lan0 = interface("lan0", &[("10.20.1.1", 16), ("fd20::1", 64)]);
        let lan1 = interface("lan1", &[("10.21.1.1", 16)]);
        let interfaces = [(2, &eth0), (3, &lan0), (4, &lan1)];
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        select(&interfaces, &names, &address.parse().unwrap())
            .into_iter()
            .collect()
    }

    #[test]
    fn the_interface_with_the_subnet_is_preferred() {
        assert_eq!(chosen(&[], "10.20.100.0"), [3]);
        assert_eq!(chosen(&[], "fd20::1:0"), [3]);
        assert_eq!(chosen(&[], "192.0.2.1"), [2, 3, 4], "without any, all");
    }

    #[test]
    fn named_interfaces_are_taken_as_they_are() {
        assert_eq!(chosen(&["lan1", "eth0"], "10.20.100.0"), [2, 4]);
        assert!(chosen(&["lan9"], "10.20.100.0").is_empty());
    }
}
