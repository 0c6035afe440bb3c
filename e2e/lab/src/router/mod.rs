//! Routers outside the cluster, run by software that is not ours: what they are
//! told ([`RouterConfig`]), how each is started, and what stands in its table.
//!
//! ```text
//!   nodes ── LAN 0 ── r1 ── f1     r<i>: a daemon; forwards by what it learns
//!                  └─ r2 ── f2     f<i>: a client that stands on no LAN
//! ```
//!
//! A file for each program writes its configuration and reads its answers.

mod bird;
mod config;
mod exabgp;
mod frr;
mod gobgp;
mod host;
mod openbgpd;
pub mod packages;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

pub use config::{Announces, Bfd, Neighbor, Place, RouterConfig};
pub use host::{SUBCOMMAND, become_program, between, wire};

use crate::process::{self, PROCESS};

/// What runs on a router.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Software {
    /// FRR: bgpd, zebra and bfdd.
    Frr,
    /// BIRD 2.
    Bird,
    /// `GoBGP`, which forwards nothing.
    Gobgp,
    /// `OpenBGPD`.
    Openbgpd,
    /// `ExaBGP`, which has no table of its own and sends whatever it is told.
    Exabgp,
}

impl Software {
    /// All that the lab knows.
    pub const ALL: [Self; 5] = [
        Self::Frr,
        Self::Bird,
        Self::Gobgp,
        Self::Openbgpd,
        Self::Exabgp,
    ];
    /// Those that are routers: they have a table, and tell others of it.
    pub const ROUTERS: [Self; 4] = [Self::Frr, Self::Bird, Self::Gobgp, Self::Openbgpd];

    /// Its Debian package.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Frr => "frr",
            Self::Bird => "bird2",
            Self::Gobgp => "gobgpd",
            Self::Openbgpd => "openbgpd",
            Self::Exabgp => "exabgp",
        }
    }
}

impl fmt::Display for Software {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Frr => "frr",
            Self::Bird => "bird",
            Self::Gobgp => "gobgp",
            Self::Openbgpd => "openbgpd",
            Self::Exabgp => "exabgp",
        })
    }
}

/// A route as it stands in a router's table, one for each way to a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The network.
    pub prefix: IpNet,
    /// The next hop, the global one where there are two.
    pub next_hop: IpAddr,
    /// Standard communities, `65535:0`.
    pub communities: BTreeSet<String>,
}

/// A session as a router sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The neighbour: an address, or an interface.
    pub neighbor: String,
    /// Whether it is established.
    pub established: bool,
}

/// A router of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    name: String,
    /// What runs there.
    pub software: Software,
}

/// A program to start: its name, and its arguments.
type Program = (&'static str, Vec<String>);

impl Router {
    /// The router of that name.
    pub fn new(name: &str, software: Software) -> Self {
        Self {
            name: name.to_owned(),
            software,
        }
    }

    /// Its name, `r1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, 1 of `r1`.
    pub fn number(&self) -> Result<u8> {
        let number = self.name.strip_prefix('r').and_then(|i| i.parse().ok());
        number.with_context(|| format!("{} is no router", self.name))
    }

    /// Where it keeps its files.
    fn directory(&self) -> PathBuf {
        host::directory(&self.name)
    }

    fn path(&self, file: &str) -> String {
        self.directory().join(file).to_string_lossy().into_owned()
    }

    /// Starts it, anew where it runs; returns when its programs run.
    pub async fn start(&self, config: &RouterConfig, logs: &std::path::Path) -> Result<()> {
        self.stop().await?;
        fs::create_dir_all(self.directory())?;
        let programs = match self.software {
            Software::Frr => frr::prepare(self, config)?,
            Software::Bird => bird::prepare(self, config)?,
            Software::Gobgp => gobgp::prepare(self, config)?,
            Software::Openbgpd => openbgpd::prepare(self, config)?,
            Software::Exabgp => exabgp::prepare(self, config)?,
        };
        for (program, arguments) in programs {
            let mut command = host::command(&self.name, self.software, program)?;
            command.args(arguments).env(host::ROUTER, &self.name);
            let log = process::log_path(logs, &format!("{}-{}", self.name, self.software));
            process::start(command, &self.name, &log)?;
            if self.software == Software::Frr {
                frr::started(self, program).await?;
            }
        }
        crate::scenario::wait::until(&format!("{self} to answer"), || async {
            self.sessions().await.map(drop)
        })
        .await
    }

    /// Ends it at once, without a word to its neighbours: their connections are
    /// closed by its kernel. Returns when it is gone.
    pub async fn stop(&self) -> Result<()> {
        let running = process::find(PROCESS, &self.name);
        self.signal(Signal::SIGKILL);
        crate::scenario::wait::until(&format!("{self} to end"), || async {
            // One that is ending has lost its name before its sockets.
            let left = running.iter().filter(|found| found.runs()).count();
            ensure!(left == 0, "{left} processes run");
            Ok(())
        })
        .await?;
        match fs::remove_dir_all(self.directory()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Sends a signal to all of its programs: with SIGSTOP it reads no more, and
    /// nobody is told.
    pub fn signal(&self, signal: Signal) {
        for found in process::find(PROCESS, &self.name) {
            found.signal(signal);
        }
    }

    /// Ends all its sessions by a Cease, and lets them come up again.
    pub async fn reset(&self) -> Result<()> {
        match self.software {
            Software::Frr => frr::reset(self).await,
            Software::Bird => bird::reset(self).await,
            Software::Gobgp => gobgp::reset(self).await,
            Software::Openbgpd => openbgpd::reset(self).await,
            Software::Exabgp => self.cannot("reset its sessions"),
        }
    }

    /// Asks all its neighbours to send their routes again (RFC 2918).
    pub async fn refresh(&self) -> Result<()> {
        match self.software {
            Software::Frr => frr::refresh(self).await,
            Software::Bird => bird::refresh(self).await,
            Software::Gobgp => gobgp::refresh(self).await,
            Software::Openbgpd => openbgpd::refresh(self).await,
            Software::Exabgp => self.cannot("ask for a refresh"),
        }
    }

    /// How many IPv4 prefixes its neighbours have sent it; not for BIRD and `ExaBGP`.
    pub async fn prefixes_received(&self) -> Result<u64> {
        match self.software {
            Software::Frr => frr::prefixes_received(self).await,
            Software::Gobgp => gobgp::prefixes_received(self).await,
            Software::Openbgpd => openbgpd::prefixes_received(self).await,
            Software::Bird | Software::Exabgp => self.cannot("count what it has learnt"),
        }
    }

    /// Takes away what its routes come from: its own hosts ([`Announces::hosts_v4`]) in
    /// BIRD, in the others the session with the neighbour that they learn them from.
    pub async fn lose_routes(&self, from: IpAddr) -> Result<()> {
        match self.software {
            Software::Bird => bird::withdraw_hosts(self).await,
            Software::Frr => frr::shut_down(self, from).await,
            Software::Gobgp => gobgp::shut_down(self, from).await,
            Software::Openbgpd => openbgpd::shut_down(self, from).await,
            Software::Exabgp => self.cannot("pass on routes"),
        }
    }

    /// What it has learnt, sorted.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = match self.software {
            Software::Frr => frr::routes(self).await,
            Software::Bird => bird::routes(self).await,
            Software::Gobgp => gobgp::routes(self).await,
            Software::Openbgpd => openbgpd::routes(self).await,
            Software::Exabgp => exabgp::routes(self),
        }
        .with_context(|| format!("read the routes of {self}"))?;
        routes.sort();
        Ok(routes)
    }

    /// Its sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionState>> {
        match self.software {
            Software::Frr => frr::sessions(self).await,
            Software::Bird => bird::sessions(self).await,
            Software::Gobgp => gobgp::sessions(self).await,
            Software::Openbgpd => openbgpd::sessions(self).await,
            Software::Exabgp => exabgp::sessions(self),
        }
        .with_context(|| format!("read the sessions of {self}"))
    }

    /// How many of its BFD sessions are up.
    pub async fn bfd_up(&self) -> Result<usize> {
        match self.software {
            Software::Frr => frr::bfd_up(self).await,
            Software::Bird => bird::bfd_up(self).await,
            Software::Gobgp | Software::Openbgpd | Software::Exabgp => self.cannot("speak BFD"),
        }
    }

    fn cannot<T>(&self, what: &str) -> Result<T> {
        anyhow::bail!("{self} can't be made to {what}")
    }

    /// Memory of its programs, in KiB.
    pub fn rss_kib(&self) -> u64 {
        process::find(PROCESS, &self.name)
            .iter()
            .filter_map(process::Found::rss_kib)
            .sum()
    }

    /// Runs one of its control programs, and returns what it prints.
    async fn ask(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = host::command(&self.name, self.software, program)?;
        command.args(arguments).env(host::ROUTER, &self.name);
        let output = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {}: {} {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a file into its directory, for its owner's eyes only, and returns
    /// its path.
    fn write(&self, file: &str, text: &str) -> Result<String> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.directory().join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

impl fmt::Display for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.software)
    }
}
