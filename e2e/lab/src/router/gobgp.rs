//! `GoBGP`: one program, asked by its own client in the same namespace.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Neighbor, Place, Program, Route, Router, RouterConfig, SessionState};

pub(super) fn prepare(router: &Router, config: &RouterConfig) -> Result<Vec<Program>> {
    let file = router.write("gobgp.toml", &text(config)?)?;
    Ok(vec![("gobgpd", vec!["-f".to_owned(), file])])
}

fn text(config: &RouterConfig) -> Result<String> {
    let mut text = format!(
        "[global.config]\nas = {}\nrouter-id = \"{}\"\n",
        config.asn, config.id
    );
    for neighbor in &config.neighbors {
        one(&mut text, neighbor)?;
    }
    Ok(text)
}

fn one(text: &mut String, neighbor: &Neighbor) -> Result<()> {
    text.push_str("[[neighbors]]\n[neighbors.config]\n");
    match &neighbor.place {
        Place::Address(address) => writeln!(text, "neighbor-address = \"{address}\"")?,
        Place::Interface(name) => writeln!(text, "neighbor-interface = \"{name}\"")?,
    }
    writeln!(text, "peer-as = {}", neighbor.asn)?;
    if let Some(password) = &neighbor.password {
        writeln!(text, "auth-password = \"{password}\"")?;
    }
    writeln!(
        text,
        "[neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n\
         hold-time = {}\nkeepalive-interval = {}\n[neighbors.transport.config]\npassive-mode = {}",
        neighbor.hold,
        neighbor.hold / 3,
        neighbor.passive
    )?;
    if let Some(local) = neighbor.local {
        writeln!(text, "local-address = \"{local}\"")?;
    }
    if let Some(hops) = neighbor.multihop {
        writeln!(
            text,
            "[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = {hops}"
        )?;
    }
    if neighbor.ttl_security {
        writeln!(
            text,
            "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255"
        )?;
    }
    if let Some(seconds) = neighbor.graceful_restart {
        writeln!(
            text,
            "[neighbors.graceful-restart.config]\nenabled = true\nnotification-enabled = true\n\
             restart-time = {seconds}\nlong-lived-enabled = {}",
            neighbor.long_lived.is_some()
        )?;
    }
    for (family, wanted) in [("ipv4-unicast", neighbor.v4), ("ipv6-unicast", neighbor.v6)] {
        if wanted {
            writeln!(
                text,
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\""
            )?;
            if neighbor.graceful_restart.is_some() {
                writeln!(
                    text,
                    "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true"
                )?;
            }
            if let Some(seconds) = neighbor.long_lived {
                writeln!(
                    text,
                    "[neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\n\
                     restart-time = {seconds}"
                )?;
            }
        }
    }
    Ok(())
}

async fn json(router: &Router, words: &[&str]) -> Result<Value> {
    let mut all = vec!["-j"];
    all.extend(words);
    let said = router.ask("gobgp", &all).await?;
    if said.trim().is_empty() || said.trim() == "Network not in table" {
        return Ok(Value::Null);
    }
    serde_json::from_str(&said).with_context(|| format!("gobgp {} said {said:?}", words.join(" ")))
}

async fn neighbors(router: &Router) -> Result<Vec<String>> {
    Ok(sessions(router)
        .await?
        .into_iter()
        .map(|s| s.neighbor)
        .collect())
}

pub(super) async fn reset(router: &Router) -> Result<()> {
    // Its own `reset` is followed by half a minute of rest.
    for neighbor in neighbors(router).await? {
        for word in ["disable", "enable"] {
            router.ask("gobgp", &["neighbor", &neighbor, word]).await?;
        }
    }
    Ok(())
}

pub(super) async fn refresh(router: &Router) -> Result<()> {
    for neighbor in neighbors(router).await? {
        router
            .ask("gobgp", &["neighbor", &neighbor, "softresetin"])
            .await?;
    }
    Ok(())
}

pub(super) async fn shut_down(router: &Router, neighbor: IpAddr) -> Result<()> {
    let words = ["neighbor", &neighbor.to_string(), "disable"];
    router.ask("gobgp", &words).await.map(drop)
}

/// ```text
/// Table afi:AFI_IP safi:SAFI_UNICAST
/// Destination: 100000, Path: 100000
/// ```
pub(super) async fn prefixes_received(router: &Router) -> Result<u64> {
    let said = router.ask("gobgp", &["global", "rib", "summary"]).await?;
    let count = said.split("Path: ").nth(1).and_then(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits?.parse().ok()
    });
    count.with_context(|| format!("a number of paths in {said:?}"))
}

pub(super) async fn sessions(router: &Router) -> Result<Vec<SessionState>> {
    read_sessions(&json(router, &["neighbor"]).await?)
}

fn read_sessions(said: &Value) -> Result<Vec<SessionState>> {
    let mut sessions = Vec::new();
    for peer in said.as_array().into_iter().flatten() {
        let state = &peer["state"];
        sessions.push(SessionState {
            neighbor: state["neighbor_address"]
                .as_str()
                .or_else(|| peer["conf"]["neighbor_address"].as_str())
                .context("a neighbour has an address")?
                .to_owned(),
            // 6 is ESTABLISHED of its API.
            established: state["session_state"] == 6 || state["session_state"] == "ESTABLISHED",
        });
    }
    Ok(sessions)
}

pub(super) async fn routes(router: &Router) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in ["ipv4", "ipv6"] {
        routes.extend(read_routes(
            &json(router, &["global", "rib", "-a", family]).await?,
        )?);
    }
    Ok(routes)
}

fn read_routes(said: &Value) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for (prefix, paths) in said.as_object().into_iter().flatten() {
        for path in paths.as_array().into_iter().flatten() {
            let mut next_hop = None;
            let mut communities = BTreeSet::new();
            for attribute in path["attrs"].as_array().into_iter().flatten() {
                match attribute["type"].as_u64() {
                    Some(3 | 14) => {
                        next_hop = attribute["nexthop"]
                            .as_str()
                            .map(str::to_owned)
                            .or(next_hop);
                    }
                    Some(8) => {
                        let numbers = attribute["communities"].as_array().into_iter().flatten();
                        communities.extend(
                            numbers
                                .filter_map(Value::as_u64)
                                .map(|n| format!("{}:{}", n >> 16, n & 0xffff)),
                        );
                    }
                    _ => {}
                }
            }
            let Some(next_hop) = next_hop else {
                bail!("the route to {prefix} has no next hop: {path}");
            };
            routes.push(Route {
                prefix: prefix.parse()?,
                next_hop: next_hop.parse()?,
                communities,
            });
        }
    }
    Ok(routes)
}
