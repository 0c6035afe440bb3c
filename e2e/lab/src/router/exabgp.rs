//! `ExaBGP` 4: a speaker without a table. What it is told it tells a program, in JSON; the
//! program keeps that in a file, and the table is made of it here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use super::{Neighbor, Place, Program, Route, Router, RouterConfig, SessionState};

const SAID: &str = "said.json";

pub(super) fn prepare(router: &Router, config: &RouterConfig) -> Result<Vec<Program>> {
    // Its output stays open: without one ExaBGP takes it for dead.
    let script = format!("cat >> {}\n", router.path(SAID));
    let script = router.write("keep.sh", &script)?;
    router.write(SAID, "")?;
    let file = router.write("exabgp.conf", &text(config, &script)?)?;
    let own = config.neighbors.iter().find_map(|neighbor| neighbor.local);
    let own = own.context("ExaBGP listens at its own address in a session")?;
    let arguments = [
        "exabgp.daemon.user=root".to_owned(),
        "exabgp.api.cli=false".to_owned(),
        "exabgp.tcp.port=179".to_owned(),
        format!("exabgp.tcp.bind={own}"),
        "/usr/sbin/python3-exabgp".to_owned(),
        file,
    ];
    Ok(vec![("env", arguments.into())])
}

fn text(config: &RouterConfig, script: &str) -> Result<String> {
    let mut text = format!("process keep {{\n run /bin/sh {script};\n encoder json;\n}}\n");
    for neighbor in &config.neighbors {
        one(&mut text, config, neighbor)?;
    }
    Ok(text)
}

fn one(text: &mut String, config: &RouterConfig, neighbor: &Neighbor) -> Result<()> {
    let (Place::Address(address), Some(local)) = (&neighbor.place, neighbor.local) else {
        bail!("ExaBGP needs both addresses of a session");
    };
    let others = neighbor.multihop.is_some()
        || neighbor.ttl_security
        || neighbor.password.is_some()
        || neighbor.extended_next_hop
        || neighbor.graceful_restart.is_some()
        || neighbor.bfd.is_some();
    if others {
        bail!("the lab asks ExaBGP for nothing but plain sessions");
    }
    writeln!(
        text,
        "neighbor {address} {{\n router-id {};\n local-address {local};\n local-as {};\n \
         peer-as {};\n hold-time {};\n passive {};",
        config.id, config.asn, neighbor.asn, neighbor.hold, neighbor.passive
    )?;
    let families = [("ipv4", neighbor.v4), ("ipv6", neighbor.v6)];
    let families = families.iter().filter(|(_, wanted)| *wanted);
    let families: Vec<String> = families.map(|(f, _)| format!("{f} unicast;")).collect();
    writeln!(text, " family {{ {} }}", families.join(" "))?;
    text.push_str(" api { processes [ keep ]; neighbor-changes; receive { parsed; update; } }\n");
    text.push_str(" static {\n");
    for (i, attribute) in config.announces.odd.iter().enumerate() {
        writeln!(
            text,
            "  route 10.61.0.{i}/32 next-hop {local} attribute [ {attribute} ];"
        )?;
    }
    text.push_str(" }\n}\n");
    Ok(())
}

pub(super) fn sessions(router: &Router) -> Result<Vec<SessionState>> {
    let (sessions, _) = read(&said(router)?)?;
    let sessions = sessions.into_iter();
    Ok(sessions
        .map(|(neighbor, established)| SessionState {
            neighbor,
            established,
        })
        .collect())
}

pub(super) fn routes(router: &Router) -> Result<Vec<Route>> {
    let (_, routes) = read(&said(router)?)?;
    Ok(routes.into_values().collect())
}

fn said(router: &Router) -> Result<String> {
    std::fs::read_to_string(router.path(SAID)).context("read what ExaBGP was told")
}

/// Whether each neighbour's session is established.
type Sessions = BTreeMap<String, bool>;
/// By neighbour and network.
type Table = BTreeMap<(String, IpNet), Route>;

/// Takes in line after line; one that is half written waits for its end.
fn read(said: &str) -> Result<(Sessions, Table)> {
    let mut sessions = Sessions::new();
    let mut table = Table::new();
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    for line in whole.lines() {
        let line: Value = serde_json::from_str(line).context("a line of ExaBGP's")?;
        let neighbor = &line["neighbor"];
        let Some(peer) = neighbor["address"]["peer"].as_str() else {
            continue;
        };
        match line["type"].as_str() {
            Some("state") => {
                sessions.insert(peer.to_owned(), neighbor["state"] == "up");
                if neighbor["state"] != "up" {
                    table.retain(|(of, _), _| of != peer);
                }
            }
            Some("update") => update(&mut table, peer, &neighbor["message"]["update"])?,
            _ => {}
        }
    }
    Ok((sessions, table))
}

/// ```json
/// {"attribute": {"community": [[64512, 7]]},
///  "announce": {"ipv4 unicast": {"10.20.1.1": [{"nlri": "10.60.0.1/32"}]}},
///  "withdraw": {"ipv4 unicast": [{"nlri": "10.60.0.2/32"}]}}
/// ```
fn update(table: &mut Table, peer: &str, update: &Value) -> Result<()> {
    let net = |entry: &Value| -> Result<IpNet> {
        let text = entry["nlri"].as_str().context("an entry has a network")?;
        text.parse().with_context(|| format!("the network {text}"))
    };
    let gone = update["withdraw"].as_object().into_iter().flatten();
    for entry in gone.filter_map(|(_, list)| list.as_array()).flatten() {
        table.remove(&(peer.to_owned(), net(entry)?));
    }
    let communities: BTreeSet<String> = update["attribute"]["community"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| format!("{}:{}", pair[0], pair[1]))
        .collect();
    let come = update["announce"].as_object().into_iter().flatten();
    let by_hop = come.filter_map(|(_, hops)| hops.as_object()).flatten();
    for (hop, list) in by_hop {
        let next_hop: IpAddr = hop.parse().with_context(|| format!("the next hop {hop}"))?;
        for entry in list.as_array().into_iter().flatten() {
            let prefix = net(entry)?;
            let route = Route {
                prefix,
                next_hop,
                communities: communities.clone(),
            };
            table.insert((peer.to_owned(), prefix), route);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_is_what_its_lines_add_up_to() {
        let line = |kind: &str, more: Value| {
            let mut neighbor = json!({"address": {"local": "10.20.4.1", "peer": "10.20.1.1"}});
            for (key, value) in more.as_object().unwrap() {
                neighbor[key] = value.clone();
            }
            json!({"type": kind, "neighbor": neighbor}).to_string() + "\n"
        };
        let update = |update: Value| line("update", json!({"message": {"update": update}}));
        let mut said = line("state", json!({"state": "connected"}));
        said += &line("state", json!({"state": "up"}));
        said += &update(json!({
            "attribute": {"community": [[64512, 7]]},
            "announce": {"ipv4 unicast": {"10.20.1.1": [
                {"nlri": "10.60.0.1/32"}, {"nlri": "10.60.0.2/32"},
            ]}},
        }));
        said += &update(json!({"withdraw": {"ipv4 unicast": [{"nlri": "10.60.0.2/32"}]}}));
        said += "{\"type\": \"half";
        let (sessions, table) = read(&said).unwrap();
        assert!(sessions["10.20.1.1"]);
        let routes: Vec<Route> = table.into_values().collect();
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].prefix.to_string(), "10.60.0.1/32");
        assert!(routes[0].communities.contains("64512:7"));
        said = said.replace("{\"type\": \"half", "");
        said += &line("state", json!({"state": "down"}));
        let (sessions, table) = read(&said).unwrap();
        assert!(!sessions["10.20.1.1"] && table.is_empty());
    }
}
