//! Settings of the node that break announcing and are easily overlooked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;

use herald_core::ServiceKey;
use herald_net::Interface;

use crate::events::Note;
use crate::metrics::{Metrics, TrapLabel};

/// The interface on which kube-proxy in ipvs mode puts every VIP.
const IPVS: &str = "kube-ipvs0";

/// A setting that stands in the way of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trap {
    /// kube-proxy has every VIP on an interface of every node, and the kernel
    /// answers on any interface for addresses of all.
    StrictArpOff,
    /// The address is on this interface of the node, and the kernel answers for
    /// it whoever owns it.
    OnHost(String),
    /// Packets to this interface are dropped unless their answers leave by it,
    /// which those to other networks do not.
    StrictReversePath(String),
}

impl Trap {
    /// The reason of its event.
    const fn reason(&self) -> &'static str {
        match self {
            Self::StrictArpOff => "StrictArpOff",
            Self::OnHost(_) => "AddressOnHost",
            Self::StrictReversePath(_) => "StrictReversePath",
        }
    }

    fn label(&self) -> TrapLabel {
        let (trap, interface) = match self {
            Self::StrictArpOff => ("strict_arp_off", IPVS),
            Self::OnHost(interface) => ("address_on_host", interface.as_str()),
            Self::StrictReversePath(interface) => ("strict_reverse_path", interface.as_str()),
        };
        TrapLabel {
            trap,
            interface: interface.to_owned(),
        }
    }

    fn text(&self, node: &str, addresses: &str) -> String {
        match self {
            Self::StrictArpOff => format!(
                "kube-proxy in ipvs mode makes every node's kernel answer ARP for {addresses}, so \
                 clients reach random nodes; set strictARP: true in kube-proxy's configuration"
            ),
            Self::OnHost(interface) => format!(
                "{addresses} is configured on interface {interface} of node {node}, whose kernel \
                 answers for it whichever node announces it; take it off that interface"
            ),
            Self::StrictReversePath(interface) => format!(
                "node {node} drops packets to {addresses} from other networks, as rp_filter is 1 on \
                 {interface} and the default route leaves by another interface; set \
                 net.ipv4.conf.{interface}.rp_filter=2 (and that of all, if it is 1)"
            ),
        }
    }
}

/// What the kernel says of an interface that is announced on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings {
    name: String,
    /// As the kernel heeds them: the larger one of the interface's and that of
    /// `all` (kernel documentation, ip-sysctl).
    arp_ignore: u32,
    rp_filter: u32,
    /// The IPv4 default route leaves by it, or there is none.
    default_route: bool,
}

impl Settings {
    /// Whether the kernel answers ARP on this interface for an address that
    /// another one has.
    const fn answers_for_others(&self) -> bool {
        matches!(self.arp_ignore, 0 | 3)
    }

    /// Whether it answers for an address that this interface has.
    const fn answers_for_own(&self) -> bool {
        self.arp_ignore < 8
    }
}

/// An address to look at.
pub(crate) struct Subject<'a> {
    pub(crate) address: IpAddr,
    pub(crate) service: &'a ServiceKey,
    pub(crate) uid: &'a str,
    /// Interfaces that carry it or would.
    pub(crate) ports: BTreeSet<u32>,
    /// Whether this node owns it.
    pub(crate) own: bool,
}

/// Looks for traps, and tells of each once for as long as it is there.
#[derive(Default)]
pub(crate) struct Traps {
    /// Of the interfaces that are announced on.
    ports: BTreeMap<u32, Settings>,
    /// Addresses of the node, and which interfaces have them.
    configured: HashMap<IpAddr, Vec<(u32, String)>>,
    ipvs: bool,
    /// What was told, with the Service's UID.
    told: BTreeSet<(String, Trap)>,
}

impl Traps {
    /// Reads the settings anew. `interfaces` are all of the node's, `ports` those
    /// that are announced on.
    pub(crate) fn read<'a>(
        &mut self,
        interfaces: impl Iterator<Item = &'a Interface>,
        ports: &BTreeSet<u32>,
    ) {
        let default_routes = default_routes();
        self.ports.clear();
        self.configured.clear();
        self.ipvs = false;
        for interface in interfaces {
            let name = &interface.name;
            if ports.contains(&interface.index) {
                self.ports.insert(
                    interface.index,
                    Settings {
                        name: name.clone(),
                        arp_ignore: setting(name, "arp_ignore", 1),
                        rp_filter: setting(name, "rp_filter", 0),
                        default_route: default_routes.is_empty() || default_routes.contains(name),
                    },
                );
            }
            if name == IPVS {
                self.ipvs = true;
                continue;
            }
            for (address, _) in &interface.addresses {
                let on = self.configured.entry(*address).or_default();
                on.push((interface.index, name.clone()));
            }
        }
    }

    /// Reads again what tells nobody when it changes.
    pub(crate) fn refresh(&mut self) {
        let default_routes = default_routes();
        for settings in self.ports.values_mut() {
            settings.arp_ignore = setting(&settings.name, "arp_ignore", 1);
            settings.rp_filter = setting(&settings.name, "rp_filter", 0);
            settings.default_route =
                default_routes.is_empty() || default_routes.contains(&settings.name);
        }
    }

    /// The traps of an address.
    fn of(&self, subject: &Subject) -> BTreeSet<Trap> {
        let mut traps = BTreeSet::new();
        let v4 = subject.address.is_ipv4();
        for (index, port) in subject
            .ports
            .iter()
            .filter_map(|i| self.ports.get_key_value(i))
        {
            if v4 && subject.own {
                if self.ipvs && port.answers_for_others() {
                    traps.insert(Trap::StrictArpOff);
                }
                if port.rp_filter == 1 && !port.default_route {
                    traps.insert(Trap::StrictReversePath(port.name.clone()));
                }
            }
            for (on, name) in self.configured.get(&subject.address).into_iter().flatten() {
                let answered = if on == index {
                    // NDP knows only the interface's own addresses.
                    !v4 || port.answers_for_own()
                } else {
                    v4 && port.answers_for_others()
                };
                if answered {
                    traps.insert(Trap::OnHost(name.clone()));
                }
            }
        }
        traps
    }

    /// Looks at all addresses; returns what is new to their Services' owners, one
    /// note for each Service and trap.
    pub(crate) fn look<'a>(
        &mut self,
        node: &str,
        subjects: impl Iterator<Item = Subject<'a>>,
        metrics: &Metrics,
    ) -> Vec<Note> {
        let mut found: BTreeMap<(String, Trap), (ServiceKey, Vec<IpAddr>)> = BTreeMap::new();
        for subject in subjects {
            for trap in self.of(&subject) {
                let key = (subject.uid.to_owned(), trap);
                let entry = found.entry(key);
                let (_, addresses) = entry.or_insert_with(|| (subject.service.clone(), Vec::new()));
                addresses.push(subject.address);
            }
        }
        self.count(&found, metrics);
        let told = std::mem::take(&mut self.told);
        let mut notes = Vec::new();
        for ((uid, trap), (service, addresses)) in found {
            if !told.contains(&(uid.clone(), trap.clone())) {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let text = trap.text(node, &addresses.join(" and "));
                tracing::error!(%service, "{text}");
                notes.push(Note {
                    service,
                    uid: uid.clone(),
                    warning: true,
                    reason: trap.reason(),
                    text,
                });
            }
            self.told.insert((uid, trap));
        }
        notes
    }

    fn count(
        &self,
        found: &BTreeMap<(String, Trap), (ServiceKey, Vec<IpAddr>)>,
        metrics: &Metrics,
    ) {
        let mut counts: BTreeMap<&Trap, usize> = BTreeMap::new();
        for ((_, trap), (_, addresses)) in found {
            *counts.entry(trap).or_default() += addresses.len();
        }
        for (_, trap) in &self.told {
            counts.entry(trap).or_default();
        }
        for (trap, count) in counts {
            let gauge = metrics.traps.get_or_create(&trap.label()).clone();
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// A setting as the kernel heeds it; `harmless` where it can't be read, so that
/// nobody is alarmed without cause.
fn setting(interface: &str, name: &str, harmless: u32) -> u32 {
    let read = |interface: &str| -> Option<u32> {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/{name}");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    match (read("all"), read(interface)) {
        (Some(all), Some(own)) => all.max(own),
        _ => harmless,
    }
}

/// The interfaces by which an IPv4 default route of the main table leaves.
fn default_routes() -> BTreeSet<String> {
    routes(&fs::read_to_string("/proc/net/route").unwrap_or_default())
}

/// Of `/proc/net/route`: name, destination, gateway, ..., mask at the eighth.
fn routes(text: &str) -> BTreeSet<String> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let any = |at: usize| fields.get(at).is_some_and(|field| *field == "00000000");
            let name = fields.first().filter(|_| any(1) && any(7))?;
            Some((*name).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use herald_telemetry::Registry;

    use super::*;

    const VIP: &str = "10.20.100.0";

    fn traps() -> Traps {
        let lan0 = Settings {
            name: "lan0".into(),
            arp_ignore: 0,
            rp_filter: 0,
            default_route: false,
        };
        Traps {
            ports: [(3, lan0)].into(),
            ..Traps::default()
        }
    }

    fn found(traps: &Traps, address: &str, own: bool) -> Vec<Trap> {
        let service = ServiceKey::new("default", "web");
        let subject = Subject {
            address: address.parse().unwrap(),
            service: &service,
            uid: "u",
            ports: [3].into(),
            own,
        };
        traps.of(&subject).into_iter().collect()
    }

    #[test]
    fn ipvs_needs_strict_arp() {
        let mut traps = traps();
        assert_eq!(found(&traps, VIP, true), []);
        traps.ipvs = true;
        assert_eq!(found(&traps, VIP, true), [Trap::StrictArpOff]);
        assert_eq!(found(&traps, VIP, false), [], "its owner tells");
        assert_eq!(found(&traps, "fd20::1:0", true), [], "NDP is not concerned");
        traps.ports.get_mut(&3).unwrap().arp_ignore = 1;
        assert_eq!(found(&traps, VIP, true), []);
    }

    #[test]
    fn an_address_on_the_host_is_a_trap_where_the_kernel_answers_for_it() {
        let mut traps = traps();
        let v6 = "fd20::1:0";
        for address in [VIP, v6] {
            let address = address.parse().unwrap();
            traps.configured.insert(address, vec![(1, "lo".into())]);
        }
        // Whoever owns it.
        assert_eq!(found(&traps, VIP, false), [Trap::OnHost("lo".into())]);
        assert_eq!(found(&traps, v6, true), []);
        traps.ports.get_mut(&3).unwrap().arp_ignore = 1;
        assert_eq!(found(&traps, VIP, true), [], "what arp_ignore is for");
        for address in [VIP, v6] {
            let address = address.parse().unwrap();
            traps.configured.insert(address, vec![(3, "lan0".into())]);
        }
        assert_eq!(found(&traps, VIP, true), [Trap::OnHost("lan0".into())]);
        assert_eq!(found(&traps, v6, true), [Trap::OnHost("lan0".into())]);
        traps.ports.get_mut(&3).unwrap().arp_ignore = 8;
        assert_eq!(found(&traps, VIP, true), []);
    }

    #[test]
    fn a_strict_reverse_path_is_a_trap_where_answers_leave_elsewhere() {
        let mut traps = traps();
        let port = traps.ports.get_mut(&3).unwrap();
        port.rp_filter = 2;
        assert_eq!(found(&traps, VIP, true), []);
        traps.ports.get_mut(&3).unwrap().rp_filter = 1;
        let trap = Trap::StrictReversePath("lan0".into());
        assert_eq!(found(&traps, VIP, true), [trap]);
        traps.ports.get_mut(&3).unwrap().default_route = true;
        assert_eq!(found(&traps, VIP, true), []);
    }

    #[test]
    fn default_routes_are_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                    eth0\t00000000\t01001EAC\t0003\t0\t0\t0\t00000000\t0\n\
                    lan0\t0000140A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n";
        assert_eq!(routes(text), BTreeSet::from(["eth0".to_owned()]));
        assert!(routes("").is_empty());
    }

    #[test]
    fn a_trap_is_told_once_while_it_is_there() {
        let mut traps = traps();
        traps.ipvs = true;
        let metrics = Metrics::register(&mut Registry::default());
        let service = ServiceKey::new("default", "web");
        let look = |traps: &mut Traps| {
            let subjects = [VIP, "10.20.100.1"].map(|address| Subject {
                address: address.parse().unwrap(),
                service: &service,
                uid: "u",
                ports: [3].into(),
                own: true,
            });
            traps.look("n1", subjects.into_iter(), &metrics)
        };
        let gauge = || {
            let label = Trap::StrictArpOff.label();
            metrics.traps.get_or_create(&label).get()
        };
        let notes = look(&mut traps);
        assert_eq!(notes.len(), 1, "one for both addresses");
        assert_eq!((notes[0].reason, notes[0].warning), ("StrictArpOff", true));
        assert!(notes[0].text.contains("10.20.100.0 and 10.20.100.1"));
        assert_eq!(gauge(), 2);
        assert!(look(&mut traps).is_empty());
        traps.ipvs = false;
        assert!(look(&mut traps).is_empty());
        assert_eq!(gauge(), 0);
        traps.ipvs = true;
        assert_eq!(look(&mut traps).len(), 1, "it is back");
    }
}
