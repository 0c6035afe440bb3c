//! What this node announces on which interface. One task owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_core::ServiceKey;
use herald_l2::Event;
use herald_net::{Interface, LinkError, Links};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::duties::{Duties, Duty, Role};
use crate::events::Note;
use crate::metrics::{Metrics, ServiceLabel};
use crate::port::{Plan, Port};
use crate::{Config, SpeakerError, chain, traps};

/// How long a VIP is answered for after another node became its owner, if that
/// one is not heard. Packets that still come are forwarded all the same.
const YIELD: Duration = Duration::from_secs(2);

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
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    ipvs_told: bool,
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
            ipvs_told: false,
        })
    }

    /// Runs until it is stopped, and then until every VIP is handed over.
    pub(crate) async fn run(mut self) -> Result<(), SpeakerError> {
        self.follow_links().await?;
        while !self.stop.is_cancelled() {
            self.settle();
            tokio::select! {
                changed = self.duties.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                changed = self.links.changed() => {
                    if changed.is_err() {
                        // The socket's queue ran over or worse: begin anew.
                        self.links = Links::subscribe()?;
                    }
                    self.follow_links().await?;
                }
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
    async fn follow_links(&mut self) -> Result<(), SpeakerError> {
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
        let excluded = &self.config.exclude_interfaces;
        let usable: BTreeMap<u32, Interface> = interfaces
            .into_iter()
            .filter(|(_, interface)| interface.can_announce())
            .filter(|(_, interface)| !excluded.iter().any(|name| name.is_match(&interface.name)))
            .collect();
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
                receiver,
                events,
                self.metrics.clone(),
            ) {
                Ok(port) => {
                    tracing::info!(interface = interface.name, "interface in use");
                    let task = tokio::spawn(port.run());
                    self.ports.insert(
                        index,
                        Running {
                            interface,
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
    fn heard(&self, event: Event) {
        match event {
            Event::Succeeded { address, mac } => {
                tracing::info!(%address, %mac, "handed over");
            }
            Event::Unclaimed { address } => {
                tracing::warn!(%address, "given up, but its new owner was not heard here");
            }
            Event::Conflict { address, mac } => {
                let Some(announced) = self.announced.get(&address) else {
                    return;
                };
                let service = &announced.service;
                tracing::error!(%service, %address, %mac, "another host claims the address");
                let text = format!(
                    "a host with hardware address {mac} also claims {address}, which node {} announces; \
                     find it and take the address off it, or take the address out of the pool",
                    self.config.node
                );
                self.tell(service, &announced.uid, true, "AddressConflict", text);
            }
        }
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
        let note = Note {
            service,
            uid,
            warning,
            reason,
            text,
        };
        if let Err(error) = self.notes.try_send(note) {
            let note = error.into_inner();
            tracing::debug!(service = %note.service, reason, "too many events at once");
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
