//! Settings of the node that break announcing and are easily overlooked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;

use herald_net::Interface;

use crate::duties::ServiceRef;
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

    /// Its name in the metric.
    const fn name(&self) -> &'static str {
        match self {
            Self::StrictArpOff => "strict_arp_off",
            Self::OnHost(_) => "address_on_host",
            Self::StrictReversePath(_) => "strict_reverse_path",
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

/// Whether the kernel of this node answers ARP for VIPs that it should leave to
/// us: kube-proxy has them on an interface, and `arp_ignore` is 0 on one that is
/// announced on.
pub(crate) fn ipvs_answers_arp(interfaces: &BTreeMap<u32, Interface>) -> bool {
    let answers = |interface: &Interface| Settings::read(&interface.name).answers_for_others();
    interfaces.values().any(|interface| interface.name == IPVS)
        && interfaces
            .values()
            .filter(|interface| interface.can_announce())
            .any(answers)
}

/// What the node's interfaces have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnHost {
    /// kube-proxy has every VIP on an interface.
    ipvs: bool,
    /// Addresses, and the interfaces that have them.
    addresses: HashMap<IpAddr, Vec<(u32, String)>>,
}

impl OnHost {
    pub(crate) fn of<'a>(interfaces: impl Iterator<Item = &'a Interface>) -> Self {
        let mut on_host = Self::default();
        for interface in interfaces {
            if interface.name == IPVS {
                on_host.ipvs = true;
                continue;
            }
            for (address, _) in &interface.addresses {
                let on = on_host.addresses.entry(*address).or_default();
                on.push((interface.index, interface.name.clone()));
            }
        }
        on_host
    }
}

/// What the kernel says of an interface that is announced on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Settings {
    /// As the kernel heeds them: the larger one of the interface's and that of
    /// `all` (kernel documentation, ip-sysctl).
    arp_ignore: u32,
    rp_filter: u32,
    /// The IPv4 default route leaves by it, or there is none.
    default_route: bool,
}

impl Settings {
    fn read(interface: &str) -> Self {
        let default_routes = default_routes();
        Self {
            arp_ignore: setting(interface, "arp_ignore", 1),
            rp_filter: setting(interface, "rp_filter", 0),
            default_route: default_routes.is_empty() || default_routes.contains(interface),
        }
    }

    /// Whether the kernel answers ARP on this interface for an address that
    /// another one has.
    const fn answers_for_others(self) -> bool {
        matches!(self.arp_ignore, 0 | 3)
    }

    /// Whether it answers for an address that this interface has.
    const fn answers_for_own(self) -> bool {
        self.arp_ignore < 8
    }
}

/// An address to look at.
pub(crate) struct Subject<'a> {
    pub(crate) address: IpAddr,
    pub(crate) service: &'a ServiceRef,
    /// Whether this node owns it.
    pub(crate) own: bool,
}

/// Traps found: of which Service, and for which addresses.
type Found<'a> = BTreeMap<(&'a str, Trap), (&'a ServiceRef, Vec<IpAddr>)>;

/// Looks for traps on one interface, and tells of each once for as long as it is
/// there.
pub(crate) struct Traps {
    node: String,
    index: u32,
    interface: String,
    /// What was told, with the Service's UID.
    told: BTreeSet<(String, Trap)>,
}

impl Traps {
    pub(crate) const fn new(node: String, index: u32, interface: String) -> Self {
        Self {
            node,
            index,
            interface,
            told: BTreeSet::new(),
        }
    }

    /// Reads the settings, which tell nobody when they change, and looks at all
    /// addresses. Returns what is new to their Services' owners, one note for
    /// each Service and trap.
    pub(crate) fn look<'a>(
        &mut self,
        on_host: &OnHost,
        subjects: impl Iterator<Item = Subject<'a>>,
        metrics: &Metrics,
    ) -> Vec<Note> {
        self.look_with(Settings::read(&self.interface), on_host, subjects, metrics)
    }

    fn look_with<'a>(
        &mut self,
        settings: Settings,
        on_host: &OnHost,
        subjects: impl Iterator<Item = Subject<'a>>,
        metrics: &Metrics,
    ) -> Vec<Note> {
        let mut found = Found::new();
        for subject in subjects {
            for trap in self.of(&subject, settings, on_host) {
                let entry = found.entry((subject.service.uid.as_str(), trap));
                let (_, addresses) = entry.or_insert_with(|| (subject.service, Vec::new()));
                addresses.push(subject.address);
            }
        }
        self.count(&found, metrics);
        let told = std::mem::take(&mut self.told);
        let mut notes = Vec::new();
        for ((uid, trap), (service, addresses)) in found {
            let key = (uid.to_owned(), trap);
            if !told.contains(&key) {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let text = key.1.text(&self.node, &addresses.join(" and "));
                tracing::error!(service = %service.key, "{text}");
                notes.push(Note {
                    service: service.key.clone(),
                    uid: service.uid.clone(),
                    warning: true,
                    reason: key.1.reason(),
                    text,
                });
            }
            self.told.insert(key);
        }
        notes
    }

    /// The traps of an address.
    fn of(&self, subject: &Subject, settings: Settings, on_host: &OnHost) -> BTreeSet<Trap> {
        let mut traps = BTreeSet::new();
        let v4 = subject.address.is_ipv4();
        if v4 && subject.own {
            if on_host.ipvs && settings.answers_for_others() {
                traps.insert(Trap::StrictArpOff);
            }
            if settings.rp_filter == 1 && !settings.default_route {
                traps.insert(Trap::StrictReversePath(self.interface.clone()));
            }
        }
        let on = on_host.addresses.get(&subject.address);
        for (index, name) in on.into_iter().flatten() {
            let answered = if *index == self.index {
                // NDP knows only the interface's own addresses.
                !v4 || settings.answers_for_own()
            } else {
                v4 && settings.answers_for_others()
            };
            if answered {
                traps.insert(Trap::OnHost(name.clone()));
            }
        }
        traps
    }

    fn count(&self, found: &Found, metrics: &Metrics) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, trap) in &self.told {
            counts.entry(trap.name()).or_default();
        }
        for ((_, trap), (_, addresses)) in found {
            *counts.entry(trap.name()).or_default() += addresses.len();
        }
        for (trap, count) in counts {
            let gauge = metrics.traps.get_or_create_owned(&TrapLabel {
                trap: trap.to_owned(),
                interface: self.interface.clone(),
            });
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
    use herald_core::ServiceKey;
    use herald_telemetry::Registry;

    use super::*;

    const VIP: &str = "10.20.100.0";
    const VIP6: &str = "fd20::1:0";
    /// Index of the interface that is announced on.
    const LAN: u32 = 3;

    fn service() -> ServiceRef {
        ServiceRef {
            key: ServiceKey::new("default", "web"),
            uid: "u".into(),
        }
    }

    fn traps() -> Traps {
        Traps::new("n1".into(), LAN, "lan0".into())
    }

    fn found(settings: Settings, on_host: &OnHost, address: &str, own: bool) -> Vec<Trap> {
        let subject = Subject {
            address: address.parse().unwrap(),
            service: &service(),
            own,
        };
        let found = traps().of(&subject, settings, on_host);
        found.into_iter().collect()
    }

    /// Both addresses on an interface.
    fn on(index: u32, name: &str) -> OnHost {
        let addresses = [VIP, VIP6].map(|address| {
            let address: IpAddr = address.parse().unwrap();
            (address, vec![(index, name.to_owned())])
        });
        OnHost {
            ipvs: false,
            addresses: addresses.into(),
        }
    }

    fn ignoring(arp_ignore: u32) -> Settings {
        Settings {
            arp_ignore,
            ..Settings::default()
        }
    }

    #[test]
    fn ipvs_needs_strict_arp() {
        let ipvs = OnHost {
            ipvs: true,
            ..OnHost::default()
        };
        let none = OnHost::default();
        assert_eq!(found(ignoring(0), &none, VIP, true), []);
        assert_eq!(found(ignoring(0), &ipvs, VIP, true), [Trap::StrictArpOff]);
        assert_eq!(found(ignoring(0), &ipvs, VIP, false), [], "its owner tells");
        assert_eq!(
            found(ignoring(0), &ipvs, VIP6, true),
            [],
            "not NDP's affair"
        );
        assert_eq!(found(ignoring(1), &ipvs, VIP, true), []);
    }

    #[test]
    fn an_address_on_the_host_is_a_trap_where_the_kernel_answers_for_it() {
        let lo = on(1, "lo");
        // Whoever owns it.
        assert_eq!(
            found(ignoring(0), &lo, VIP, false),
            [Trap::OnHost("lo".into())]
        );
        assert_eq!(found(ignoring(0), &lo, VIP6, true), []);
        assert_eq!(found(ignoring(1), &lo, VIP, true), [], "what it is for");
        let lan = on(LAN, "lan0");
        assert_eq!(
            found(ignoring(1), &lan, VIP, true),
            [Trap::OnHost("lan0".into())]
        );
        assert_eq!(
            found(ignoring(1), &lan, VIP6, true),
            [Trap::OnHost("lan0".into())]
        );
        assert_eq!(found(ignoring(8), &lan, VIP, true), []);
    }

    #[test]
    fn a_strict_reverse_path_is_a_trap_where_answers_leave_elsewhere() {
        let filter = |rp_filter, default_route| Settings {
            arp_ignore: 1,
            rp_filter,
            default_route,
        };
        let none = OnHost::default();
        assert_eq!(found(filter(2, false), &none, VIP, true), []);
        let trap = Trap::StrictReversePath("lan0".into());
        assert_eq!(found(filter(1, false), &none, VIP, true), [trap]);
        assert_eq!(found(filter(1, true), &none, VIP, true), []);
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
        let metrics = Metrics::register(&mut Registry::default());
        let service = service();
        let look = |traps: &mut Traps, arp_ignore| {
            let subjects = [VIP, "10.20.100.1"].map(|address| Subject {
                address: address.parse().unwrap(),
                service: &service,
                own: true,
            });
            let ipvs = OnHost {
                ipvs: true,
                ..OnHost::default()
            };
            traps.look_with(ignoring(arp_ignore), &ipvs, subjects.into_iter(), &metrics)
        };
        let gauge = || {
            let label = TrapLabel {
                trap: "strict_arp_off".into(),
                interface: "lan0".into(),
            };
            metrics.traps.get_or_create_owned(&label).get()
        };
        let notes = look(&mut traps, 0);
        assert_eq!(notes.len(), 1, "one for both addresses");
        assert_eq!((notes[0].reason, notes[0].warning), ("StrictArpOff", true));
        assert!(notes[0].text.contains("10.20.100.0 and 10.20.100.1"));
        assert_eq!(gauge(), 2);
        assert!(look(&mut traps, 0).is_empty());
        assert!(look(&mut traps, 1).is_empty());
        assert_eq!(gauge(), 0);
        assert_eq!(look(&mut traps, 0).len(), 1, "it is back");
    }
}
