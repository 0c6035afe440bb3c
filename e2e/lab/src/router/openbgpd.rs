//! `OpenBGPD`: one program that forks, asked by bgpctl, which answers in JSON.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Neighbor, Place, Program, Route, Router, RouterConfig, SessionState};

pub(super) fn prepare(router: &Router, config: &RouterConfig) -> Result<Vec<Program>> {
    let file = router.write("bgpd.conf", &text(config)?)?;
    let arguments = ["-d", "-f", &file].map(str::to_owned);
    Ok(vec![("/usr/sbin/bgpd", arguments.into())])
}

fn text(config: &RouterConfig) -> Result<String> {
    let mut text = format!(
        "AS {}\nrouter-id {}\nfib-update no\n",
        config.asn, config.id
    );
    for i in 0..config.announces.hosts_v4 {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + i);
        writeln!(text, "network {address}/32")?;
    }
    for neighbor in &config.neighbors {
        one(&mut text, neighbor)?;
    }
    text.push_str("allow from any\nallow to any\n");
    Ok(text)
}

fn one(text: &mut String, neighbor: &Neighbor) -> Result<()> {
    let Place::Address(address) = &neighbor.place else {
        bail!("OpenBGPD has no unnumbered neighbours");
    };
    writeln!(
        text,
        "neighbor {address} {{\n remote-as {}\n holdtime {}",
        neighbor.asn, neighbor.hold
    )?;
    if let Some(local) = neighbor.local {
        writeln!(text, " local-address {local}")?;
    }
    if neighbor.passive {
        writeln!(text, " passive")?;
    }
    if let Some(password) = &neighbor.password {
        writeln!(text, " tcp md5sig password \"{password}\"")?;
    }
    if neighbor.ttl_security {
        writeln!(text, " ttl-security yes")?;
    }
    if let Some(hops) = neighbor.multihop {
        writeln!(text, " multihop {hops}")?;
    }
    let word = |wanted| if wanted { "unicast" } else { "none" };
    writeln!(
        text,
        " announce IPv4 {}\n announce IPv6 {}\n announce restart {}\n announce refresh yes\n}}",
        word(neighbor.v4),
        word(neighbor.v6),
        if neighbor.graceful_restart.is_some() {
            "yes"
        } else {
            "no"
        }
    )?;
    Ok(())
}

async fn bgpctl(router: &Router, words: &[&str]) -> Result<String> {
    router.ask("bgpctl", words).await
}

async fn json(router: &Router, words: &[&str]) -> Result<Value> {
    let mut all = vec!["-j"];
    all.extend(words);
    let said = bgpctl(router, &all).await?;
    serde_json::from_str(&said).with_context(|| format!("bgpctl {} said {said:?}", words.join(" ")))
}

pub(super) async fn reset(router: &Router) -> Result<()> {
    for session in sessions(router).await? {
        bgpctl(router, &["neighbor", &session.neighbor, "clear"]).await?;
    }
    Ok(())
}

pub(super) async fn refresh(router: &Router) -> Result<()> {
    for session in sessions(router).await? {
        bgpctl(router, &["neighbor", &session.neighbor, "refresh"]).await?;
    }
    Ok(())
}

pub(super) async fn shut_down(router: &Router, neighbor: IpAddr) -> Result<()> {
    let words = ["neighbor", &neighbor.to_string(), "down"];
    bgpctl(router, &words).await.map(drop)
}

pub(super) async fn prefixes_received(router: &Router) -> Result<u64> {
    let said = json(router, &["show", "neighbor"]).await?;
    let neighbors = said["neighbors"].as_array().into_iter().flatten();
    let counts = neighbors.map(|neighbor| &neighbor["stats"]["prefixes"]["received"]);
    Ok(counts.filter_map(Value::as_u64).sum())
}

pub(super) async fn sessions(router: &Router) -> Result<Vec<SessionState>> {
    let said = json(router, &["show", "neighbor"]).await?;
    let neighbors = said["neighbors"].as_array().into_iter().flatten();
    neighbors
        .map(|neighbor| {
            Ok(SessionState {
                neighbor: neighbor["remote_addr"]
                    .as_str()
                    .context("a neighbour has an address")?
                    .to_owned(),
                established: neighbor["state"] == "Established",
            })
        })
        .collect()
}

pub(super) async fn routes(router: &Router) -> Result<Vec<Route>> {
    read_routes(&json(router, &["show", "rib", "detail"]).await?)
}

fn read_routes(said: &Value) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for entry in said["rib"].as_array().into_iter().flatten() {
        let text = |key: &str| {
            entry[key]
                .as_str()
                .with_context(|| format!("a route has {key}"))
        };
        let communities = entry["communities"].as_array().into_iter().flatten();
        routes.push(Route {
            prefix: text("prefix")?.parse()?,
            next_hop: text("exit_nexthop")?.parse()?,
            communities: communities
                .filter_map(Value::as_str)
                .map(|name| match name {
                    "GRACEFUL_SHUTDOWN" => "65535:0".to_owned(),
                    other => other.to_owned(),
                })
                .collect(),
        });
    }
    Ok(routes)
}
