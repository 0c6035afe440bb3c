//! What this node holds, and on which interfaces. One task owns it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_core::ServiceKey;
use herald_l2::{Claim, solicited_node};
use herald_net::{Groups, Interface, Links};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::duties::{Duties, Duty, Role};
use crate::events::Note;
use crate::metrics::{Metrics, ServiceLabel};
use crate::port::Port;
use crate::{Config, SpeakerError};

/// How long a VIP is answered for after another node became its owner, if that
/// one is not heard. Packets that still come are forwarded all the same.
const YIELD: Duration = Duration::from_secs(2);

/// A claim this recent is the successor's: it saw the change before we did.
const RECENT: Duration = Duration::from_secs(5);

/// A VIP that this node answers for.
struct Held {
    service: ServiceKey,
    ports: BTreeSet<u32>,
    /// Since when another should have it.
    yielding: Option<Instant>,
    claimed: Option<Instant>,
}

/// An interface in use.
struct Running {
    interface: Interface,
    addresses: watch::Sender<BTreeSet<IpAddr>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct Coordinator {
    config: Config,
    duties: watch::Receiver<Duties>,
    notes: mpsc::Sender<Note>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    links: Links,
    groups: Option<Groups>,
    ports: BTreeMap<u32, Running>,
    held: HashMap<IpAddr, Held>,
    /// VIPs of ours that no interface can carry, told once.
    stranded: BTreeSet<IpAddr>,
    claims: (mpsc::UnboundedSender<Claim>, mpsc::UnboundedReceiver<Claim>),
}

impl Coordinator {
    pub(crate) fn new(
        config: Config,
        duties: watch::Receiver<Duties>,
        notes: mpsc::Sender<Note>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<Self, SpeakerError> {
        let groups = Groups::new()
            .inspect_err(|error| tracing::info!(%error, "no IPv6 here; IPv6 VIPs are not announced"))
            .ok();
        Ok(Self {
            config,
            duties,
            notes,
            metrics,
            stop,
            links: Links::subscribe()?,
            groups,
            ports: BTreeMap::new(),
            held: HashMap::new(),
            stranded: BTreeSet::new(),
            claims: mpsc::unbounded_channel(),
        })
    }

    /// Runs until stopped and nothing is held any more.
    pub(crate) async fn run(mut self) -> Result<(), SpeakerError> {
        self.follow_links().await?;
        let mut deadline = None;
        loop {
            self.settle(Instant::now());
            if let Some(deadline) = deadline
                && (self.held.is_empty() || Instant::now() >= deadline)
            {
                return Ok(());
            }
            let wake = self.next_release().into_iter().chain(deadline).min();
            let timer = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(wake.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.duties.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                changed = self.links.changed() => {
                    changed?;
                    self.follow_links().await?;
                }
                Some(claim) = self.claims.1.recv() => self.heard(claim),
                () = timer => {}
                () = self.stop.cancelled(), if deadline.is_none() => {
                    tracing::info!(held = self.held.len(), "stopping: handing over");
                    deadline = Some(Instant::now() + self.config.drain_timeout);
                    // What the duties are now must be seen before "nothing is
                    // held" means anything.
                    if self.held.is_empty() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Makes the ports those of the interfaces that can announce.
    async fn follow_links(&mut self) -> Result<(), SpeakerError> {
        let interfaces = self.links.list().await?;
        let excluded = &self.config.exclude_interfaces;
        let usable: BTreeMap<u32, Interface> = interfaces
            .into_iter()
            .filter(|(_, interface)| interface.can_announce())
            .filter(|(_, interface)| {
                !excluded.iter().any(|prefix| interface.name.starts_with(prefix))
            })
            .collect();
        // Another name or hardware address makes another port, which announces
        // everything anew.
        self.ports.retain(|index, port| {
            usable.get(index).is_some_and(|interface| {
                interface.mac == port.interface.mac && interface.name == port.interface.name
            })
        });
        for (index, interface) in usable {
            if let Some(port) = self.ports.get_mut(&index) {
                port.interface = interface;
                continue;
            }
            let Some(mac) = interface.mac else { continue };
            match Port::open(&interface.name, index, mac, self.metrics.clone()) {
                Ok(port) => {
                    let (addresses, receiver) = watch::channel(BTreeSet::new());
                    let task = tokio::spawn(port.run(receiver, self.claims.0.clone()));
                    tracing::info!(interface = interface.name, "interface in use");
                    self.ports.insert(index, Running { interface, addresses, task });
                }
                Err(error) => {
                    tracing::error!(interface = interface.name, %error, "interface left out");
                }
            }
        }
        Ok(())
    }

    /// Brings what is held in line with the duties and the interfaces.
    fn settle(&mut self, now: Instant) {
        let duties = self.duties.borrow_and_update().clone();
        let draining = self.stop.is_cancelled();
        let limit = if draining { self.config.drain_timeout } else { YIELD };
        self.held.retain(|address, held| match duties.get(address) {
            None => false,
            Some(Duty { role: Role::Own, .. }) => {
                held.yielding = None;
                true
            }
            Some(Duty { role: Role::Yield, .. }) => {
                let since = *held.yielding.get_or_insert(now);
                let succeeded = held.claimed.is_some_and(|claimed| claimed + RECENT > since);
                !succeeded && now < since + limit
            }
        });
        self.stranded.retain(|address| duties.contains_key(address));
        for (address, duty) in &duties {
            let known = self.held.contains_key(address);
            if duty.role == Role::Own && !draining || known {
                self.hold(*address, duty, known);
            }
        }
        self.publish();
    }

    fn hold(&mut self, address: IpAddr, duty: &Duty, known: bool) {
        let ports = self.choose(&address, &duty.interfaces);
        if ports.is_empty() {
            self.held.remove(&address);
            if self.stranded.insert(address) {
                self.strand(address, duty);
            }
            return;
        }
        self.stranded.remove(&address);
        if known {
            if let Some(held) = self.held.get_mut(&address) {
                held.ports = ports;
            }
            return;
        }
        let names: Vec<&str> = ports
            .iter()
            .filter_map(|index| self.ports.get(index))
            .map(|port| port.interface.name.as_str())
            .collect();
        let text = format!(
            "announcing {address} from node {} on {}",
            self.config.node,
            names.join(", ")
        );
        tracing::info!(service = %duty.service, %address, interfaces = names.join(","), "announcing");
        self.tell(duty, false, "Announcing", text);
        self.held.insert(
            address,
            Held { service: duty.service.clone(), ports, yielding: None, claimed: None },
        );
    }

    /// The interfaces for an address: those asked for, and of these the ones in
    /// its subnet where there are any.
    fn choose(&self, address: &IpAddr, wanted: &BTreeSet<String>) -> BTreeSet<u32> {
        if address.is_ipv6() && self.groups.is_none() {
            return BTreeSet::new();
        }
        let named = || {
            self.ports
                .iter()
                .filter(|(_, port)| wanted.is_empty() || wanted.contains(&port.interface.name))
        };
        let reaching: BTreeSet<u32> = named()
            .filter(|(_, port)| port.interface.reaches(address))
            .map(|(index, _)| *index)
            .collect();
        if reaching.is_empty() { named().map(|(index, _)| *index).collect() } else { reaching }
    }

    fn strand(&self, address: IpAddr, duty: &Duty) {
        let wanted = if duty.interfaces.is_empty() {
            "no interface of it can announce".to_owned()
        } else {
            let names: Vec<&str> = duty.interfaces.iter().map(String::as_str).collect();
            format!("none of {} is there and up", names.join(", "))
        };
        let text = format!(
            "node {} owns {address}, but {wanted}; check spec.interfaces and nodeSelectors of the L2Advertisement",
            self.config.node
        );
        tracing::warn!(service = %duty.service, %address, "{text}");
        self.tell(duty, true, "NoInterface", text);
    }

    fn tell(&self, duty: &Duty, warning: bool, reason: &'static str, text: String) {
        let note = Note {
            service: duty.service.clone(),
            uid: duty.uid.clone(),
            warning,
            reason,
            text,
        };
        if self.notes.try_send(note).is_err() {
            tracing::debug!(service = %duty.service, reason, "too many events at once");
        }
    }

    /// Tells the ports what to answer for. A group is joined before its first
    /// announcement, so that a switch that snoops lets the questions through.
    fn publish(&mut self) {
        for (index, port) in &self.ports {
            let wanted: BTreeSet<IpAddr> = self
                .held
                .iter()
                .filter(|(_, held)| held.ports.contains(index))
                .map(|(address, _)| *address)
                .collect();
            let before = port.addresses.borrow().clone();
            if wanted == before {
                continue;
            }
            if let Some(groups) = &mut self.groups {
                for address in wanted.difference(&before) {
                    if let IpAddr::V6(address) = address
                        && let Err(error) = groups.join(*index, solicited_node(*address))
                    {
                        tracing::warn!(interface = port.interface.name, %address, %error,
                            "joining the solicited-node group");
                    }
                }
                for address in before.difference(&wanted) {
                    if let IpAddr::V6(address) = address {
                        groups.leave(*index, solicited_node(*address));
                    }
                }
            }
            port.addresses.send_replace(wanted);
        }
        self.metrics.announced.clear();
        for held in self.held.values() {
            let label = ServiceLabel {
                namespace: held.service.namespace.clone(),
                service: held.service.name.clone(),
            };
            self.metrics.announced.get_or_create(&label).inc();
        }
    }

    fn heard(&mut self, claim: Claim) {
        let Some(held) = self.held.get_mut(&claim.address) else { return };
        if held.yielding.is_none() {
            tracing::warn!(
                service = %held.service, address = %claim.address, mac = %claim.mac,
                "another host claims an address that this node announces"
            );
        }
        held.claimed = Some(Instant::now());
    }

    /// When the next VIP that another should have is given up.
    fn next_release(&self) -> Option<Instant> {
        let limit =
            if self.stop.is_cancelled() { self.config.drain_timeout } else { YIELD };
        self.held.values().filter_map(|held| Some(held.yielding? + limit)).min()
    }
}
