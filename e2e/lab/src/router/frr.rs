//! FRR: zebra, bfdd and bgpd; asked by vtysh, which answers in JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Neighbor, Place, Program, Route, Router, RouterConfig, SessionState};
use crate::scenario::wait;

pub(super) fn prepare(router: &Router, config: &RouterConfig) -> Result<Vec<Program>> {
    router.write(
        "vtysh.conf",
        "no service integrated-vtysh-config\nusername root nopassword\n",
    )?;
    router.write("zebra.conf", "")?;
    router.write("bfdd.conf", &bfd(config)?)?;
    router.write("bgpd.conf", &text(config)?)?;
    let daemon = |name: &'static str, program: &'static str, more: &[String]| -> Program {
        let mut arguments = vec![
            "-u".to_owned(),
            "root".to_owned(),
            "-g".to_owned(),
            "root".to_owned(),
            "--log".to_owned(),
            "stdout".to_owned(),
            "-f".to_owned(),
            router.path(&format!("{name}.conf")),
            "-i".to_owned(),
            router.path(&format!("{name}.pid")),
            "-z".to_owned(),
            router.path("zserv"),
            "--vty_socket".to_owned(),
            router.path(""),
        ];
        arguments.extend(more.iter().cloned());
        (program, arguments)
    };
    let control = ["--bfdctl".to_owned(), router.path("bfdd.sock")];
    Ok(vec![
        daemon("zebra", "/usr/lib/frr/zebra", &[]),
        daemon("bfdd", "/usr/lib/frr/bfdd", &control),
        daemon("bgpd", "/usr/lib/frr/bgpd", &[]),
    ])
}

/// Returns when the next program may be started: they look for zebra at once, and again
/// only after 10 s.
pub(super) async fn started(router: &Router, program: &str) -> Result<()> {
    if !program.ends_with("zebra") {
        return Ok(());
    }
    wait::until(&format!("zebra of {router} to listen"), || async {
        let socket = tokio::net::UnixStream::connect(router.path("zserv")).await;
        socket.map(drop).context("connect to it")
    })
    .await
}

fn bfd(config: &RouterConfig) -> Result<String> {
    let mut text = String::from("bfd\n");
    if let Some(bfd) = config.neighbors.iter().find_map(|neighbor| neighbor.bfd) {
        writeln!(
            text,
            " profile herald\n  detect-multiplier {}\n  receive-interval {1}\n  transmit-interval {1}",
            bfd.multiplier, bfd.interval
        )?;
    }
    Ok(text)
}

fn text(config: &RouterConfig) -> Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "router bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
         no bgp network import-check\n no bgp suppress-duplicates",
        config.asn, config.id
    )?;
    let restart = config.neighbors.iter().find_map(|n| n.graceful_restart);
    match restart {
        Some(seconds) => writeln!(
            text,
            " bgp graceful-restart\n bgp graceful-restart restart-time {seconds}"
        )?,
        None => writeln!(text, " bgp graceful-restart-disable")?,
    }
    if let Some(seconds) = config.neighbors.iter().find_map(|n| n.long_lived) {
        writeln!(
            text,
            " bgp long-lived-graceful-restart stale-time {seconds}"
        )?;
    }
    for neighbor in &config.neighbors {
        settings(&mut text, neighbor)?;
    }
    for (family, wanted) in [
        ("ipv4", (|n| n.v4) as fn(&Neighbor) -> bool),
        ("ipv6", |n| n.v6),
    ] {
        writeln!(text, " address-family {family} unicast")?;
        if family == "ipv4" {
            for i in 0..config.announces.hosts_v4 {
                let address = std::net::Ipv4Addr::from(0x0b00_0000 + i);
                writeln!(text, "  network {address}/32")?;
            }
        }
        writeln!(text, "  maximum-paths 16")?;
        for neighbor in config.neighbors.iter().filter(|n| wanted(n)) {
            writeln!(text, "  neighbor {} activate", name(neighbor))?;
        }
        writeln!(text, " exit-address-family")?;
    }
    Ok(text)
}

fn name(neighbor: &Neighbor) -> String {
    match &neighbor.place {
        Place::Address(address) => address.to_string(),
        Place::Interface(name) => name.clone(),
    }
}

fn settings(text: &mut String, neighbor: &Neighbor) -> Result<()> {
    let name = name(neighbor);
    let mut line = |rest: String| writeln!(text, " neighbor {name} {rest}");
    match neighbor.place {
        Place::Address(_) => line(format!("remote-as {}", neighbor.asn))?,
        Place::Interface(_) => line(format!("interface remote-as {}", neighbor.asn))?,
    }
    line(format!("timers {} {}", neighbor.hold / 3, neighbor.hold))?;
    line("timers connect 1".into())?;
    if let Some(local) = neighbor.local {
        line(format!("update-source {local}"))?;
    }
    if neighbor.passive {
        line("passive".into())?;
    }
    if let Some(password) = &neighbor.password {
        line(format!("password {password}"))?;
    }
    if neighbor.ttl_security {
        line("ttl-security hops 1".into())?;
    }
    if let Some(hops) = neighbor.multihop {
        line(format!("ebgp-multihop {hops}"))?;
    }
    if neighbor.extended_next_hop {
        line("capability extended-nexthop".into())?;
    }
    if neighbor.bfd.is_some() {
        line("bfd".into())?;
        line("bfd profile herald".into())?;
    }
    Ok(())
}

async fn vtysh(router: &Router, command: &str) -> Result<String> {
    commands(router, &[command]).await
}

/// Several commands, one after the other.
async fn commands(router: &Router, all: &[&str]) -> Result<String> {
    let directory = router.path("");
    let mut arguments = vec!["--config_dir", &directory, "--vty_socket", &directory];
    for command in all {
        arguments.extend(["-c", command]);
    }
    router.ask("vtysh", &arguments).await
}

async fn json(router: &Router, command: &str) -> Result<Value> {
    let said = vtysh(router, command).await?;
    serde_json::from_str(&said).with_context(|| format!("{command:?} said {said:?}"))
}

pub(super) async fn reset(router: &Router) -> Result<()> {
    vtysh(router, "clear bgp *").await.map(drop)
}

pub(super) async fn refresh(router: &Router) -> Result<()> {
    vtysh(router, "clear bgp * soft in").await.map(drop)
}

pub(super) async fn shut_down(router: &Router, neighbor: IpAddr) -> Result<()> {
    let said = json(router, "show bgp summary json").await?;
    let asn = said["ipv4Unicast"]["as"].as_u64();
    let asn = asn.context("it has an AS")?;
    commands(
        router,
        &[
            "configure terminal",
            &format!("router bgp {asn}"),
            &format!("neighbor {neighbor} shutdown"),
        ],
    )
    .await
    .map(drop)
}

pub(super) async fn prefixes_received(router: &Router) -> Result<u64> {
    let said = json(router, "show bgp summary json").await?;
    let peers = said["ipv4Unicast"]["peers"].as_object();
    let counts = peers.into_iter().flatten().map(|(_, peer)| &peer["pfxRcd"]);
    Ok(counts.filter_map(Value::as_u64).sum())
}

pub(super) async fn sessions(router: &Router) -> Result<Vec<SessionState>> {
    let said = json(router, "show bgp summary json").await?;
    Ok(read_sessions(&said))
}

fn read_sessions(said: &Value) -> Vec<SessionState> {
    let mut sessions: Vec<SessionState> = Vec::new();
    for family in ["ipv4Unicast", "ipv6Unicast"] {
        for (name, peer) in said[family]["peers"].as_object().into_iter().flatten() {
            if sessions.iter().all(|session| session.neighbor != *name) {
                sessions.push(SessionState {
                    neighbor: name.clone(),
                    established: peer["state"] == "Established",
                });
            }
        }
    }
    sessions
}

pub(super) async fn bfd_up(router: &Router) -> Result<usize> {
    let said = json(router, "show bfd peers json").await?;
    let peers = said.as_array().context("a list of BFD peers")?;
    Ok(peers.iter().filter(|peer| peer["status"] == "up").count())
}

pub(super) async fn routes(router: &Router) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let said = json(router, &format!("show bgp {family} unicast json detail")).await?;
        routes.extend(read_routes(&said)?);
    }
    Ok(routes)
}

fn read_routes(said: &Value) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for (prefix, entry) in said["routes"].as_object().into_iter().flatten() {
        // FRR 8 has a list of paths here, later ones an object that holds it.
        let paths = entry.as_array().or_else(|| entry["paths"].as_array());
        for path in paths.into_iter().flatten() {
            // The first entry of FRR 8's list is about the network, and has none.
            let Some(hops) = path["nexthops"].as_array() else {
                continue;
            };
            let global = hops.iter().find(|hop| hop["scope"] != "link-local");
            let hop = global.or(hops.first()).context("a path has a next hop")?;
            let communities = path["community"]["list"].as_array().into_iter().flatten();
            routes.push(Route {
                prefix: prefix.parse()?,
                next_hop: hop["ip"]
                    .as_str()
                    .context("a next hop has an address")?
                    .parse()?,
                communities: communities
                    .filter_map(Value::as_str)
                    .map(|name| match name {
                        "gracefulShutdown" | "graceful-shutdown" => "65535:0".to_owned(),
                        "llgrStale" | "llgr-stale" => "65535:6".to_owned(),
                        other => other.to_owned(),
                    })
                    .collect::<BTreeSet<_>>(),
            });
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_read_from_either_shape_of_its_json() {
        let path = json!({
            "community": {"list": ["64512:7", "gracefulShutdown"]},
            "nexthops": [
                {"ip": "fe80::1", "scope": "link-local"},
                {"ip": "fd20::11", "scope": "global"},
            ],
        });
        let network = json!({"prefix": "fd60::1/128", "version": 1});
        for entry in [json!([network, path]), json!({"paths": [path]})] {
            let routes = read_routes(&json!({"routes": {"fd60::1/128": entry}})).unwrap();
            let [route] = routes.as_slice() else {
                panic!("one path, not {routes:?}");
            };
            assert_eq!(route.next_hop.to_string(), "fd20::11");
            assert!(route.communities.contains("65535:0"));
        }
    }
}
