//! What a router's kernel does with the routes that its daemon has learnt: told by
//! netlink, so that nothing is asked and no time is lost.

use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::bgp_fabric::PATIENCE;
use crate::process;
use crate::router::Router;

/// The changes of a router's IPv4 routes, as its kernel tells them.
pub(super) struct RouteMonitor {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What became of a route.
pub(super) struct Reached {
    pub(super) at: Instant,
    /// How many next hops it has.
    pub(super) hops: usize,
}

impl RouteMonitor {
    /// Returns when it sees what changes from then on.
    pub(super) async fn start(router: &Router) -> Result<Self> {
        let host = router.name();
        let mut command = Command::from(process::in_host(Some(host), Path::new("ip")));
        let mut child = command
            .args(["-4", "-oneline", "monitor", "route"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("run ip monitor")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let mut monitor = Self {
            _child: child,
            lines: BufReader::new(output).lines(),
        };
        monitor.listens(host).await?;
        Ok(monitor)
    }

    /// Returns when it tells of a route that is made for this.
    async fn listens(&mut self, host: &str) -> Result<()> {
        let canary = "192.0.2.254";
        for _ in 0..50 {
            crate::network::batch(
                Some(host),
                &format!("route replace blackhole {canary}/32\n"),
            )?;
            crate::network::batch(Some(host), &format!("route del blackhole {canary}/32\n"))?;
            let told = async {
                while let Some(line) = self.lines.next_line().await? {
                    if line.contains(canary) {
                        return Ok(());
                    }
                }
                bail!("ip monitor ended")
            };
            if let Ok(told) = tokio::time::timeout(Duration::from_millis(200), told).await {
                return told;
            }
        }
        bail!("ip monitor tells nothing on {host}")
    }

    /// When an address's traffic no longer goes to this hop.
    pub(super) async fn is_without(&mut self, address: IpAddr, hop: IpAddr) -> Result<Instant> {
        let hop = hop.to_string();
        let reached = self.until(address, |hops| !hops.contains(&hop)).await?;
        Ok(reached.at)
    }

    /// When an address's traffic goes to so many hops.
    pub(super) async fn has(&mut self, address: IpAddr, hops: usize) -> Result<Instant> {
        let reached = self.until(address, |now| now.len() == hops).await?;
        Ok(reached.at)
    }

    /// When an address's traffic goes anywhere, and to how many hops.
    pub(super) async fn reaches(&mut self, address: IpAddr) -> Result<Reached> {
        self.until(address, |hops| !hops.is_empty()).await
    }

    async fn until(
        &mut self,
        address: IpAddr,
        is_so: impl Fn(&[String]) -> bool,
    ) -> Result<Reached> {
        let text = address.to_string();
        let told = async {
            while let Some(line) = self.lines.next_line().await? {
                let at = Instant::now();
                if let Some((about, hops)) = read(&line)
                    && about == text
                    && is_so(&hops)
                {
                    return Ok(Reached {
                        at,
                        hops: hops.len(),
                    });
                }
            }
            bail!("ip monitor ended")
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.with_context(|| format!("the kernel's route to {address} is not as it should"))?
    }
}

/// The route's destination and its next hops, none of one that was deleted.
///
/// ```text
/// Deleted 10.60.0.1 via 10.20.0.11 dev lan0 proto bird metric 32
/// 10.60.0.1 nhid 21 proto bgp metric 20 \ nexthop via 10.20.0.11 dev lan0 weight 1 \ ...
/// ```
fn read(line: &str) -> Option<(&str, Vec<String>)> {
    let (line, deleted) = line
        .strip_prefix("Deleted ")
        .map_or((line, false), |rest| (rest, true));
    let words: Vec<&str> = line.split_whitespace().collect();
    let hops = words.windows(2).filter(|pair| pair[0] == "via" && !deleted);
    Some((
        words.first()?,
        hops.map(|pair| pair[1].to_owned()).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_read_from_one_path_and_from_several() {
        let hops = |line: &str| {
            let (address, hops) = read(line).unwrap();
            assert_eq!(address, "10.60.0.1");
            hops
        };
        let two = "10.60.0.1 nhid 21 proto bgp metric 20 \\\tnexthop via 10.20.0.11 dev lan0 \
                   weight 1 \\\tnexthop via 10.20.0.12 dev lan0 weight 1 ";
        assert_eq!(hops(two), ["10.20.0.11", "10.20.0.12"]);
        let one = "10.60.0.1 via 10.20.0.11 dev lan0 proto bird metric 32 ";
        assert_eq!(hops(one), ["10.20.0.11"]);
        assert!(hops(&format!("Deleted {one}")).is_empty());
    }
}
