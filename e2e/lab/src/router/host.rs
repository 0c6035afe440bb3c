//! A router's host: its programs run in its network namespace and in a mount
//! namespace of their own, where the unpacked packages lie over `/usr`.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Software, packages};
use crate::lab::LabSpec;
use crate::network::batch;
use crate::plan::{self, Host};
use crate::{isolate, process, setgroups};

/// Name of the hidden subcommand that calls [`become_program`].
pub const SUBCOMMAND: &str = "__router";

/// `program`, of the packages of `software`, on a host; not started yet.
pub fn command(host: &str, software: Software, program: &str) -> Result<Command> {
    let mut command = process::in_host(Some(host), &isolate::own_path()?);
    command.args([SUBCOMMAND, &software.to_string(), "--", program]);
    Ok(command)
}

/// Becomes a program of a router's packages.
pub fn become_program(software: Software, words: &[String]) -> Result<Infallible> {
    let root = packages::root(software);
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    lay_over(&root.join("usr"), Path::new("/usr"))?;
    // The daemons want users of their own; in the lab all of them are root.
    let accounts = directory("accounts");
    fs::create_dir_all(&accounts)?;
    for (file, more) in [
        (
            "passwd",
            "frr:x:0:0::/:/bin/false\n_openbgpd:x:0:0::/run/openbgpd:/bin/false\n",
        ),
        (
            "group",
            "frr:x:0:\nfrrvty:x:0:\nbird:x:0:\n_openbgpd:x:0:\n",
        ),
    ] {
        let target = Path::new("/etc").join(file);
        let private = accounts.join(format!("{file}-{}", std::process::id()));
        fs::write(&private, fs::read_to_string(&target)? + more)?;
        bind(&private, &target)?;
        // It stays mounted without its name.
        fs::remove_file(&private)?;
    }
    // OpenBGPD has one place for its socket.
    let name = std::env::var(ROUTER).unwrap_or_default();
    let run = directory(&name).join("openbgpd");
    fs::create_dir_all(&run)?;
    fs::create_dir_all("/run/openbgpd")?;
    bind(&run, Path::new("/run/openbgpd"))?;
    setgroups::run(words)
}

/// Names the router that a process belongs to.
pub const ROUTER: &str = "HERALD_LAB_ROUTER";

/// Where a router keeps its configuration, sockets and pids.
pub fn directory(name: &str) -> PathBuf {
    Path::new("/run/herald-lab/routers").join(name)
}

fn lay_over(upper: &Path, below: &Path) -> Result<()> {
    let options = format!("lowerdir={}:{}", upper.display(), below.display());
    mount(
        Some("overlay"),
        below,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(options.as_str()),
    )
    .with_context(|| format!("lay {} over {}", upper.display(), below.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {} to {}", from.display(), to.display()))
}

/// Cables behind the routers, loopbacks, and the routes between them and the nodes.
pub fn wire(spec: &LabSpec) -> Result<()> {
    let routers = spec.router_count();
    if routers > 0 && !(spec.families.has_v4() && spec.families.has_v6()) {
        bail!("labs with routers have both IP families");
    }
    for i in 1..=routers {
        let (router, client) = (Host::Router(i).name(), Host::Far(i).name());
        let (near4, near6) = plan::behind(i);
        let (far4, far6) = plan::far(i);
        let (own4, own6) = plan::loopback(i);
        batch(
            None,
            &format!("link add behind netns {router} type veth peer name far netns {client}\n"),
        )?;
        batch(
            Some(&router),
            &format!(
                "link set behind up\naddr add {near4}/24 dev behind\n\
                 addr add {near6}/64 dev behind nodad\n\
                 addr add {own4}/32 dev lo\naddr add {own6}/128 dev lo nodad\n"
            ),
        )?;
        batch(
            Some(&client),
            &format!(
                "link set lo up\nlink set far up\naddr add {far4}/24 dev far\n\
                 addr add {far6}/64 dev far nodad\n\
                 route add default via {near4}\nroute add default via {near6}\n"
            ),
        )?;
        by_detour(i, routers)?;
    }
    for node in (1..=spec.nodes).map(Host::Node) {
        let mut lines = String::new();
        for i in 1..=routers {
            lines += &routes_of_node(i, routers)?;
        }
        batch(Some(&node.name()), &lines)?;
    }
    Ok(())
}

/// Who stands between router `i`'s loopback and the nodes: the next router.
const fn between(i: u8, routers: u8) -> u8 {
    if i < routers { i + 1 } else { 1 }
}

fn address(i: u8) -> Result<(Ipv4Addr, Ipv6Addr)> {
    Host::Router(i).lan(0).context("a router is on LAN 0")
}

/// What leaves router `i`'s loopback takes a way round, as if it stood there.
fn by_detour(i: u8, routers: u8) -> Result<()> {
    let via = between(i, routers);
    if via == i {
        return Ok(());
    }
    let (own4, own6) = plan::loopback(i);
    let (via4, via6) = address(via)?;
    let (to4, to6) = address(i)?;
    batch(
        Some(&Host::Router(i).name()),
        &format!(
            "rule add from {own4} lookup 100\nroute add default via {via4} table 100\n\
             -6 rule add from {own6} lookup 100\n-6 route add default via {via6} table 100\n"
        ),
    )?;
    batch(
        Some(&Host::Router(via).name()),
        &format!("route add {own4}/32 via {to4}\nroute add {own6}/128 via {to6}\n"),
    )
}

fn routes_of_node(i: u8, routers: u8) -> Result<String> {
    let (via4, via6) = address(i)?;
    let (round4, round6) = address(between(i, routers))?;
    let (own4, own6) = plan::loopback(i);
    Ok(format!(
        "route add 10.30.{i}.0/24 via {via4}\nroute add fd31:0:0:{i:x}::/64 via {via6}\n\
         route add {own4}/32 via {round4}\nroute add {own6}/128 via {round6}\n"
    ))
}
