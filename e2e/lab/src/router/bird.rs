//! BIRD 2: one program; its answers are text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{Neighbor, Place, Program, Route, Router, RouterConfig, SessionState};

pub(super) fn prepare(router: &Router, config: &RouterConfig) -> Result<Vec<Program>> {
    let file = router.write("bird.conf", &text(config)?)?;
    let arguments = [
        "-f",
        "-c",
        &file,
        "-s",
        &router.path("bird.ctl"),
        "-P",
        &router.path("bird.pid"),
    ];
    Ok(vec![("bird", arguments.map(str::to_owned).into())])
}

fn text(config: &RouterConfig) -> Result<String> {
    let mut text = format!(
        "log stderr all;\nrouter id {};\nprotocol device {{ scan time 1; }}\nprotocol bfd {{ }}\n\
         protocol direct {{ ipv4; ipv6; interface \"lan0\", \"behind\"; }}\n",
        config.id
    );
    for family in ["ipv4", "ipv6"] {
        writeln!(
            text,
            "protocol kernel {{ {family} {{ export where source = RTS_BGP; import none; }}; \
             merge paths on; }}"
        )?;
    }
    if config.announces.hosts_v4 > 0 {
        text.push_str("protocol static hosts { ipv4;\n");
        for i in 0..config.announces.hosts_v4 {
            let address = std::net::Ipv4Addr::from(0x0b00_0000 + i);
            writeln!(text, " route {address}/32 blackhole;")?;
        }
        text.push_str("}\n");
    }
    for (i, neighbor) in config.neighbors.iter().enumerate() {
        protocol(&mut text, config, i, neighbor)?;
    }
    Ok(text)
}

fn protocol(text: &mut String, config: &RouterConfig, i: usize, neighbor: &Neighbor) -> Result<()> {
    write!(text, "protocol bgp b{i} {{\n local")?;
    if let Some(local) = neighbor.local {
        write!(text, " {local}")?;
    }
    writeln!(text, " as {};", config.asn)?;
    match &neighbor.place {
        Place::Address(address) => writeln!(text, " neighbor {address} as {};", neighbor.asn)?,
        // It needs the address; there are no unnumbered neighbours.
        Place::Interface(name) => writeln!(
            text,
            " interface \"{name}\"; neighbor range fe80::/10 as {};",
            neighbor.asn
        )?,
    }
    match neighbor.multihop {
        Some(hops) => writeln!(text, " multihop {hops};")?,
        None => writeln!(text, " direct;")?,
    }
    writeln!(
        text,
        " hold time {}; connect delay time 1; connect retry time 2; error wait time 1,2;",
        neighbor.hold
    )?;
    if neighbor.passive {
        writeln!(text, " passive on;")?;
    }
    if let Some(password) = &neighbor.password {
        writeln!(text, " password \"{password}\";")?;
    }
    if neighbor.ttl_security {
        writeln!(text, " ttl security on;")?;
    }
    match neighbor.graceful_restart {
        Some(seconds) => writeln!(
            text,
            " graceful restart on; graceful restart time {seconds};"
        )?,
        None => writeln!(text, " graceful restart off;")?,
    }
    if let Some(seconds) = neighbor.long_lived {
        writeln!(
            text,
            " long lived graceful restart on; long lived stale time {seconds};"
        )?;
    }
    if let Some(bfd) = neighbor.bfd {
        writeln!(
            text,
            " bfd {{ interval {} ms; multiplier {}; }};",
            bfd.interval, bfd.multiplier
        )?;
    }
    let export = if config.announces.hosts_v4 > 0 {
        "where proto = \"hosts\""
    } else {
        "none"
    };
    // Without the import table a refresh is asked of the neighbour.
    if neighbor.v4 {
        let extended = if neighbor.extended_next_hop {
            "extended next hop on; "
        } else {
            ""
        };
        writeln!(text, " ipv4 {{ import all; export {export}; {extended}}};")?;
    }
    if neighbor.v6 {
        writeln!(text, " ipv6 {{ import all; export none; }};")?;
    }
    text.push_str("}\n");
    Ok(())
}

async fn birdc(router: &Router, words: &[&str]) -> Result<String> {
    let socket = router.path("bird.ctl");
    let mut arguments = vec!["-s", &socket];
    arguments.extend(words);
    router.ask("birdc", &arguments).await
}

pub(super) async fn reset(router: &Router) -> Result<()> {
    birdc(router, &["restart", "\"b*\""]).await.map(drop)
}

pub(super) async fn refresh(router: &Router) -> Result<()> {
    birdc(router, &["reload", "in", "\"b*\""]).await.map(drop)
}

/// Written to the socket by ourselves: a client's start would be measured too. Returns
/// when it is done: BIRD drops what it has read of a connection that is closed.
pub(super) async fn withdraw_hosts(router: &Router) -> Result<()> {
    let socket = tokio::net::UnixStream::connect(router.path("bird.ctl")).await?;
    let mut socket = BufReader::new(socket);
    socket.write_all(b"disable hosts\n").await?;
    let mut lines = socket.lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("0009-hosts: disabled") || line.starts_with("0008-hosts: already") {
            return Ok(());
        }
        // The greeting is 0001; errors are 8000 and above.
        ensure!(!line.starts_with(['8', '9']), "BIRD: {line}");
    }
    bail!("BIRD closed its socket before it had disabled the hosts")
}

pub(super) async fn sessions(router: &Router) -> Result<Vec<SessionState>> {
    let said = birdc(router, &["show", "protocols", "all", "\"b*\""]).await?;
    Ok(read_sessions(&said))
}

pub(super) async fn bfd_up(router: &Router) -> Result<usize> {
    let said = birdc(router, &["show", "bfd", "sessions"]).await?;
    let up = |line: &&str| line.split_whitespace().nth(2) == Some("Up");
    Ok(said.lines().filter(up).count())
}

/// ```text
/// b0         BGP        ---        up     13:46:22.652  Established
///   BGP state:          Established
///     Neighbor address: 10.20.0.11
/// ```
fn read_sessions(said: &str) -> Vec<SessionState> {
    let mut sessions = Vec::new();
    let mut established = false;
    for line in said.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("BGP"), Some("state:"), Some(state)) => established = state == "Established",
            (Some("Neighbor"), Some("address:"), Some(address)) => sessions.push(SessionState {
                neighbor: address.to_owned(),
                established,
            }),
            _ => {}
        }
    }
    sessions
}

pub(super) async fn routes(router: &Router) -> Result<Vec<Route>> {
    let said = birdc(
        router,
        &["show", "route", "all", "where", "source = RTS_BGP"],
    )
    .await?;
    read_routes(&said)
}

/// ```text
/// 10.60.0.1/32         unicast [b0 13:46:22.652] * (100) [AS64512i]
///         via 10.20.0.11 on lan0
///         Type: BGP univ
///         BGP.next_hop: fd20::11 fe80::1
///         BGP.community: (65535,0) (64512,1)
///                      unicast [b1 13:46:22.652] (100) [AS64512i]
/// ```
fn read_routes(said: &str) -> Result<Vec<Route>> {
    let mut routes: Vec<Route> = Vec::new();
    let mut prefix = None;
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [first, kind, ..] if kind.ends_with("cast") || *kind == "unreachable" => {
                prefix = first.parse().ok().or(prefix);
            }
            ["BGP.next_hop:", next_hop, ..] => routes.push(Route {
                prefix: prefix.context("a route has a network")?,
                next_hop: next_hop.parse()?,
                communities: BTreeSet::new(),
            }),
            ["BGP.community:", communities @ ..] => {
                let route = routes.last_mut().context("a community is of a route")?;
                route.communities.extend(
                    communities
                        .iter()
                        .map(|word| word.trim_matches(['(', ')']).replace(',', ":")),
                );
            }
            _ => {}
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_and_sessions_are_read_from_its_text() {
        let said = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.60.0.1/32         unicast [b0 13:46:22.652] * (100) [AS64512i]\n\
            \tvia 10.20.0.11 on lan0\n\tType: BGP univ\n\tBGP.origin: IGP\n\
            \tBGP.next_hop: 10.20.0.11\n\tBGP.community: (65535,0) (64512,1)\n\
            \x20                    unicast [b1 13:46:22.652] (100) [AS64512i]\n\
            \tvia 10.20.0.12 on lan0\n\tBGP.next_hop: 10.20.0.12\n";
        let routes = read_routes(said).unwrap();
        assert_eq!(routes.len(), 2);
        assert_eq!(
            routes[1].prefix,
            "10.60.0.1/32".parse::<ipnet::IpNet>().unwrap()
        );
        assert!(routes[0].communities.contains("65535:0"));
        let said = "b0         BGP        ---        up     13:46:22.652  Established\n\
            \x20 BGP state:          Established\n    Neighbor address: 10.20.0.11\n\
            b1         BGP        ---        start  13:46:22.652  Active\n\
            \x20 BGP state:          Active\n    Neighbor address: 10.20.0.12\n";
        let up: Vec<bool> = read_sessions(said).iter().map(|s| s.established).collect();
        assert_eq!(up, [true, false]);
    }
}
