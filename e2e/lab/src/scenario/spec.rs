//! What a scenario is: its name, what it needs, and what it does.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::Context;
use crate::plan::Families;
use crate::router::Software;

/// kube-proxy's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// nftables, the usual one.
    Nftables,
    /// iptables.
    Iptables,
    /// IPVS, which needs modules that not every kernel has.
    Ipvs,
}

impl fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
        })
    }
}

impl FromStr for ProxyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "nftables" => Ok(Self::Nftables),
            "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            other => Err(format!("{other:?} is none of nftables, iptables, ipvs")),
        }
    }
}

/// How Herald is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// `deploy/overlays/bare-metal`.
    BareMetal,
    /// `deploy/overlays/fake-cloud`.
    FakeCloud,
    /// `deploy/overlays/aws`, with AWS's stand-in beside the cluster.
    Aws,
}

impl Overlay {
    /// The folder's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BareMetal => "bare-metal",
            Self::FakeCloud => "fake-cloud",
            Self::Aws => "aws",
        }
    }
}

/// Which kernel the lab runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// The host's own.
    Host,
    /// A stock kernel in a virtual machine, for what the host's lacks.
    Vm,
}

/// Whether a scenario bears company in its lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// It leaves the lab as it found it: others with the same needs run in
    /// the same lab, before and after.
    Shared,
    /// It breaks nodes, Herald or the API server: a lab for itself.
    Own,
}

/// What a lab must offer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Needs {
    /// Nodes of the cluster; none: no cluster.
    pub nodes: u8,
    /// Clients outside of it.
    pub clients: u8,
    /// IP families.
    pub families: Families,
    /// kube-proxy's mode.
    pub proxy_mode: ProxyMode,
    /// How Herald is installed.
    pub overlay: Overlay,
    /// What runs on the routers.
    pub routers: Vec<Software>,
    /// A way to limit a process's CPU time.
    pub limits_cpu: bool,
}

impl Needs {
    /// The kernel on which it can be had.
    pub const fn kernel(&self) -> Kernel {
        match self.proxy_mode {
            ProxyMode::Ipvs => Kernel::Vm,
            ProxyMode::Nftables | ProxyMode::Iptables => Kernel::Host,
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families = match self.families {
            Families::Ipv4 => "IPv4",
            Families::Ipv6 => "IPv6",
            Families::Dual => "dual-stack",
        };
        let plural = if self.clients == 1 { "" } else { "s" };
        let clients = self.clients;
        if self.nodes == 0 {
            write!(f, "no cluster, {clients} client{plural}, {families}")?;
        } else {
            let (nodes, mode) = (self.nodes, self.proxy_mode);
            let overlay = self.overlay.name();
            write!(
                f,
                "{nodes} nodes, {clients} client{plural}, {families}, {mode}, {overlay}"
            )?;
        }
        for (i, software) in self.routers.iter().enumerate() {
            let before = if i == 0 { "routers" } else { "and" };
            write!(f, ", {before} {software}")?;
        }
        Ok(())
    }
}

/// A scenario: a test of the whole path, seen from a client outside.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line and in figures.
    pub name: &'static str,
    /// What holds when it passes, in a sentence.
    pub title: &'static str,
    /// Nodes of the cluster; none: no cluster, for what is shown without Kubernetes.
    pub nodes: u8,
    /// Clients outside of it.
    pub clients: u8,
    /// IP families.
    pub families: Families,
    /// It runs once with each of these.
    pub proxy_modes: &'static [ProxyMode],
    /// How Herald is installed.
    pub overlay: Overlay,
    /// What runs on the routers `r1`, `r2`, ... outside of the cluster. It is
    /// skipped where none of them can be had.
    pub routers: &'static [Software],
    /// Whether it limits a process's CPU time. It is skipped where that can't be done.
    pub limits_cpu: bool,
    /// Whether it bears company.
    pub isolation: Isolation,
    /// Whether it measures something worth a bench.
    pub measures: bool,
    /// Whether it does nothing but measure: it runs in a bench and where it is
    /// named, and is no part of all scenarios.
    pub only_bench: bool,
    /// What it does.
    pub run: for<'a> fn(&'a mut Context) -> BoxFuture<'a, Result<()>>,
}

impl Scenario {
    /// What most scenarios need; the list says only what differs.
    pub const BASE: Self = Self {
        name: "",
        title: "",
        nodes: 3,
        clients: 1,
        families: Families::Dual,
        proxy_modes: &[ProxyMode::Nftables],
        overlay: Overlay::BareMetal,
        routers: &[],
        limits_cpu: false,
        isolation: Isolation::Shared,
        measures: false,
        only_bench: false,
        run: |_| Box::pin(async { Ok(()) }),
    };

    /// What it needs with one of its kube-proxy modes.
    pub fn needs(&self, proxy_mode: ProxyMode) -> Needs {
        let ipvs = matches!(proxy_mode, ProxyMode::Ipvs);
        Needs {
            // In a virtual machine each node costs minutes, and two are enough
            // for a VIP to move.
            nodes: if ipvs && self.nodes > 2 {
                2
            } else {
                self.nodes
            },
            clients: self.clients,
            families: self.families,
            proxy_mode,
            overlay: self.overlay,
            routers: self.routers.to_vec(),
            limits_cpu: self.limits_cpu,
        }
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One run of a scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The scenario's name.
    pub scenario: String,
    /// Which repetition, from 1.
    pub round: u32,
    /// The lab it runs in.
    pub needs: Needs,
}

impl Case {
    /// The scenario's name, with the kube-proxy mode and the round where they
    /// are not the usual ones.
    pub fn label(&self) -> String {
        let mode = match self.needs.proxy_mode {
            ProxyMode::Nftables => String::new(),
            mode => format!(" ({mode})"),
        };
        let round = match self.round {
            1 => String::new(),
            round => format!(" #{round}"),
        };
        format!("{}{mode}{round}", self.scenario)
    }

    /// The label as a folder's name.
    pub fn folder(&self) -> String {
        self.label()
            .replace([' ', '#'], "-")
            .replace(['(', ')'], "")
            .replace("--", "-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_folders_tell_the_mode_and_the_round() {
        let scenario = Scenario {
            name: "expose",
            ..Scenario::BASE
        };
        let mut case = Case {
            scenario: "expose".into(),
            round: 1,
            needs: scenario.needs(ProxyMode::Nftables),
        };
        assert_eq!(
            (case.label().as_str(), case.folder().as_str()),
            ("expose", "expose")
        );
        case.round = 2;
        assert_eq!(case.folder(), "expose-2");
        case.needs.proxy_mode = ProxyMode::Iptables;
        assert_eq!(case.label(), "expose (iptables) #2");
        assert_eq!(case.folder(), "expose-iptables-2");
    }
}
