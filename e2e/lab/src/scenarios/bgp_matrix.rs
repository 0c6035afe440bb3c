//! Herald's BGP engine with routers that are not ours. A column is a router, a row
//! is a feature; the columns run side by side, each with an announcer of its own.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::join_all;
use ipnet::IpNet;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::announcer::{Announcer, Order, Peer, Report, Routes, Settings};
use crate::network::batch;
use crate::plan::{self, Host};
use crate::router::{Announces, Neighbor, Route, Router, RouterConfig, Software};
use crate::scenario::{Context, wait};

/// How long a session that must not come up is waited for: routers dial each second.
const IN_VAIN: Duration = Duration::from_millis(2_500);
/// The community of routes that are kept as a last choice (RFC 9494 §3.3).
const LLGR_STALE: &str = "65535:6";
/// AS of the announcers.
pub(super) const OURS: u32 = 64512;
/// AS of the routers.
pub(super) const THEIRS: u32 = 64700;

/// A feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Ipv4,
    Ipv6,
    Ipv4OverIpv6,
    TheyDial,
    WeDial,
    Collision,
    Md5,
    Gtsm,
    Multihop,
    Refresh,
    GracefulRestart,
    LongLived,
    Drain,
    TheirHoldTimer,
    OurHoldTimer,
    Thousands,
}

const ROWS: [Row; 16] = [
    Row::Ipv4,
    Row::Ipv6,
    Row::Ipv4OverIpv6,
    Row::TheyDial,
    Row::WeDial,
    Row::Collision,
    Row::Md5,
    Row::Gtsm,
    Row::Multihop,
    Row::Refresh,
    Row::GracefulRestart,
    Row::LongLived,
    Row::Drain,
    Row::TheirHoldTimer,
    Row::OurHoldTimer,
    Row::Thousands,
];

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Ipv4OverIpv6 => "IPv4 over an IPv6 next hop",
            Self::TheyDial => "only the router dials",
            Self::WeDial => "only we dial",
            Self::Collision => "both dial, and reset",
            Self::Md5 => "TCP MD5",
            Self::Gtsm => "GTSM",
            Self::Multihop => "multihop, two hops",
            Self::Refresh => "route refresh",
            Self::GracefulRestart => "graceful restart",
            Self::LongLived => "long-lived",
            Self::Drain => "drain",
            Self::TheirHoldTimer => "hold time, we are silent",
            Self::OurHoldTimer => "hold time, the router is",
            Self::Thousands => "5,000 routes",
        })
    }
}

/// Why a router can't do something, in the version that Debian has.
const fn lacks(software: Software, row: Row) -> Option<&'static str> {
    match (software, row) {
        (Software::Openbgpd, Row::Ipv4OverIpv6) => {
            Some("OpenBGPD 7.7 does not know RFC 8950 (8.4 is the first)")
        }
        (Software::Gobgp, Row::Refresh) => {
            Some("GoBGP keeps all that it was told, and asks nobody for it again")
        }
        (Software::Openbgpd, Row::LongLived) => Some("OpenBGPD does not know RFC 9494"),
        _ => None,
    }
}

/// What came of a cell.
enum Cell {
    Passed(Duration),
    Lacks(&'static str),
    Failed(String),
}

/// Every row with every router.
pub(super) async fn matrix(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    for router in &routers {
        detour(router, ctx.lab().spec.router_count())?;
    }
    let columns = join_all(routers.iter().map(|router| column(ctx, router))).await;
    for router in &routers {
        router.stop().await?;
    }
    let mut failures = Vec::new();
    ctx.step(table(&routers, &columns));
    for (router, column) in routers.iter().zip(&columns) {
        for (row, cell) in ROWS.iter().zip(column) {
            match cell {
                Cell::Passed(_) => {}
                Cell::Lacks(why) => ctx.step(format!("{router}, {row}: not there: {why}")),
                Cell::Failed(why) => failures.push(format!("{router}, {row}: {why}")),
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// The routers of the lab whose software is there.
pub(super) fn routers(ctx: &Context) -> Result<Vec<Router>> {
    let mut routers = Vec::new();
    for (i, software) in (1..).zip(&ctx.lab().spec.routers) {
        let name = Host::Router(i).name();
        match crate::router::packages::ensure(*software) {
            Ok(_) => routers.push(Router::new(&name, *software)),
            Err(error) => ctx.step(format!("no column for {software}: {error:#}")),
        }
    }
    ensure!(!routers.is_empty(), "no router's software is there");
    Ok(routers)
}

fn table(routers: &[Router], columns: &[Vec<Cell>]) -> String {
    let mut text = format!("\n{:<28}", "");
    for router in routers {
        let _ = write!(text, "{:<12}", router.software);
    }
    for (i, row) in ROWS.iter().enumerate() {
        let _ = write!(text, "\n{row:<28}");
        for column in columns {
            let word = match column.get(i) {
                Some(Cell::Passed(took)) => format!("{:.1} s", took.as_secs_f64()),
                Some(Cell::Lacks(_)) => "not there".to_owned(),
                Some(Cell::Failed(_)) => "FAILED".to_owned(),
                None => String::new(),
            };
            let _ = write!(text, "{word:<12}");
        }
    }
    text
}

/// Where a router's announcer is: on the LAN, and outside of the cluster, so that it
/// is not in the way of a node's own speaker.
fn host(router: &Router) -> Result<Host> {
    Ok(Host::Client(router.number()?))
}

fn ours(router: &Router) -> Result<(Ipv4Addr, Ipv6Addr)> {
    host(router)?.lan(0).context("a client is on LAN 0")
}

fn theirs(router: &Router) -> Result<(Ipv4Addr, Ipv6Addr)> {
    Host::Router(router.number()?)
        .lan(0)
        .context("a router is on LAN 0")
}

/// The way round from the announcer to the router's loopback.
fn detour(router: &Router, of: u8) -> Result<()> {
    let i = router.number()?;
    let (loop4, loop6) = plan::loopback(i);
    let (via4, via6) = Host::Router(crate::router::between(i, of))
        .lan(0)
        .context("on LAN 0")?;
    batch(
        Some(&host(router)?.name()),
        &format!("route replace {loop4}/32 via {via4}\nroute replace {loop6}/128 via {via6}\n"),
    )
}

async fn column(ctx: &Context, router: &Router) -> Vec<Cell> {
    let mut cells = Vec::new();
    for row in ROWS {
        let begin = Instant::now();
        let cell = match lacks(router.software, row) {
            Some(why) => Cell::Lacks(why),
            None => match cell(ctx, router, row).await {
                Ok(()) => Cell::Passed(begin.elapsed()),
                Err(error) => Cell::Failed(format!("{error:#}")),
            },
        };
        if let Cell::Failed(why) = &cell {
            ctx.step(format!("{router}, {row}: FAILED: {why}"));
        }
        cells.push(cell);
    }
    cells
}

/// A router and an announcer that are told of each other.
pub(super) struct Pair<'a> {
    ctx: &'a Context,
    router: &'a Router,
    pub(super) neighbor: Neighbor,
    pub(super) settings: Settings,
    next_hop: IpAddr,
    pub(super) announces: Announces,
}

impl<'a> Pair<'a> {
    pub(super) fn new(ctx: &'a Context, router: &'a Router, v6: bool) -> Result<Self> {
        let (our4, our6) = ours(router)?;
        let (their4, their6) = theirs(router)?;
        let (our, their): (IpAddr, IpAddr) = if v6 {
            (our6.into(), their6.into())
        } else {
            (our4.into(), their4.into())
        };
        let mut neighbor = Neighbor::new(our, OURS);
        neighbor.local = Some(their);
        let settings = Settings {
            asn: OURS,
            id: our4,
            peers: vec![Peer::new(their, our, THEIRS)],
            routes: Routes::of(&[route(v6, 1)?, route(v6, 2)?]),
        };
        Ok(Self {
            ctx,
            router,
            neighbor,
            settings,
            next_hop: our,
            announces: Announces::default(),
        })
    }

    pub(super) fn peer(&mut self) -> Result<&mut Peer> {
        self.settings.peers.first_mut().context("there is a peer")
    }

    async fn start_router(&self) -> Result<()> {
        let config = RouterConfig {
            asn: THEIRS,
            id: theirs(self.router)?.0,
            neighbors: vec![self.neighbor.clone()],
            announces: self.announces,
        };
        self.router.start(&config, self.ctx.lab().logs()).await
    }

    async fn start_announcer(&self) -> Result<Announcer> {
        Announcer::start(&host(self.router)?.name(), &self.settings).await
    }

    /// Both started. The announcer listens before the router dials: some wait long
    /// before they try again.
    async fn start(&self) -> Result<Announcer> {
        // As it was set up before.
        self.router.stop().await?;
        let announcer = self.start_announcer().await?;
        self.start_router().await?;
        Ok(announcer)
    }

    /// Both started, the session up, and the routes in the router's table.
    pub(super) async fn up(&self) -> Result<Announcer> {
        let mut announcer = self.start().await?;
        is_up(&mut announcer).await?;
        self.has(&self.settings.routes).await?;
        Ok(announcer)
    }

    /// Both started, and the router dials; it has no session, whatever we may think.
    /// (Dialled, `OpenBGPD` 7.7 takes unsigned segments.)
    async fn in_vain(&mut self, without: &str) -> Result<()> {
        self.peer()?.passive = true;
        let _announcer = self.start().await?;
        self.peer()?.passive = false;
        sleep(IN_VAIN).await;
        let sessions = self.router.sessions().await?;
        ensure!(
            sessions.iter().all(|session| !session.established),
            "a session is up without {without}"
        );
        Ok(())
    }

    /// Waits until the router's table has just these, with our address as next hop.
    pub(super) async fn has(&self, routes: &Routes) -> Result<()> {
        let wanted: BTreeSet<IpNet> = routes.iter().collect();
        let router = self.router;
        wait::until_for(
            Duration::from_secs(20),
            &format!("{router} to have {} routes", wanted.len()),
            || async {
                let seen = router.routes().await?;
                let prefixes: BTreeSet<IpNet> = seen.iter().map(|route| route.prefix).collect();
                let few: Vec<&Route> = seen.iter().take(3).collect();
                ensure!(prefixes == wanted, "{} routes: {few:?} ...", seen.len());
                let strange = seen.iter().find(|route| route.next_hop != self.next_hop);
                ensure!(strange.is_none(), "the next hop of {strange:?}");
                Ok(())
            },
        )
        .await
    }
}

async fn is_up(announcer: &mut Announcer) -> Result<()> {
    announcer
        .report("the session to be up", |report| {
            matches!(report, Report::Up { .. }).then_some(())
        })
        .await
}

async fn is_down(announcer: &mut Announcer) -> Result<String> {
    announcer
        .report("the session to end", |report| match report {
            Report::Down { why, .. } => Some(why.clone()),
            _ => None,
        })
        .await
}

/// A network of the scenario's, of a family.
fn route(v6: bool, i: u8) -> Result<IpNet> {
    let text = if v6 {
        format!("fd60::{i}/128")
    } else {
        format!("10.60.0.{i}/32")
    };
    Ok(text.parse()?)
}

async fn cell(ctx: &Context, router: &Router, row: Row) -> Result<()> {
    let mut pair = Pair::new(ctx, router, matches!(row, Row::Ipv6 | Row::Ipv4OverIpv6))?;
    match row {
        Row::Ipv4 | Row::Ipv6 => come_and_go(&pair).await,
        Row::Ipv4OverIpv6 => {
            pair.neighbor.v4 = true;
            pair.neighbor.extended_next_hop = true;
            pair.peer()?.v4 = true;
            pair.settings.routes = Routes::of(&[route(false, 1)?, route(true, 1)?]);
            pair.up().await.map(drop)
        }
        Row::TheyDial => {
            pair.peer()?.passive = true;
            pair.up().await.map(drop)
        }
        Row::WeDial => {
            pair.neighbor.passive = true;
            pair.up().await.map(drop)
        }
        Row::Collision => collision(&pair).await,
        Row::Md5 => md5(&mut pair).await,
        Row::Gtsm => gtsm(&mut pair).await,
        Row::Multihop => multihop(&mut pair).await,
        Row::Refresh => refresh(&pair).await,
        Row::GracefulRestart => graceful_restart(&mut pair).await,
        Row::LongLived => long_lived(&mut pair).await,
        Row::Drain => drain(&pair).await,
        Row::TheirHoldTimer => they_time_out(&mut pair).await,
        Row::OurHoldTimer => we_time_out(&mut pair).await,
        Row::Thousands => {
            pair.settings.routes = Routes::hosts(5_000);
            pair.up().await.map(drop)
        }
    }
}

/// Routes come, and each goes alone.
pub(super) async fn come_and_go(pair: &Pair<'_>) -> Result<()> {
    let mut announcer = pair.up().await?;
    let [first, second] = pair.settings.routes.prefixes.as_slice() else {
        bail!("there are two routes");
    };
    let gone = Order::Withdraw(Routes::of(&[*first]));
    announcer.order(&gone).await?;
    pair.has(&Routes::of(&[*second])).await?;
    announcer
        .order(&Order::Announce(Routes::of(&[*first])))
        .await?;
    pair.has(&pair.settings.routes).await
}

/// Both dial at once; one connection is left, and again after resets.
async fn collision(pair: &Pair<'_>) -> Result<()> {
    let mut announcer = pair.up().await?;
    for _ in 0..2 {
        pair.router.reset().await?;
        is_down(&mut announcer).await?;
        is_up(&mut announcer).await?;
        pair.has(&pair.settings.routes).await?;
    }
    let sessions = pair.router.sessions().await?;
    let up = sessions
        .iter()
        .filter(|session| session.established)
        .count();
    ensure!(up == 1, "{up} sessions are up: {sessions:?}");
    Ok(())
}

/// The router wants signed segments.
async fn md5(pair: &mut Pair<'_>) -> Result<()> {
    pair.neighbor.password = Some("secret".into());
    pair.in_vain("the password").await?;
    pair.peer()?.password = Some("secret".into());
    pair.up().await.map(drop)
}

/// The router wants packets that no router has forwarded.
async fn gtsm(pair: &mut Pair<'_>) -> Result<()> {
    pair.neighbor.ttl_security = true;
    pair.in_vain("a TTL of 255").await?;
    pair.peer()?.ttl_security = true;
    pair.up().await.map(drop)
}

/// The router's loopback, with another router between.
async fn multihop(pair: &mut Pair<'_>) -> Result<()> {
    let (loopback, _) = plan::loopback(pair.router.number()?);
    pair.neighbor.local = Some(loopback.into());
    pair.neighbor.multihop = Some(4);
    let peer = pair.peer()?;
    peer.address = loopback.into();
    peer.hops = 4;
    pair.up().await.map(drop)
}

async fn refresh(pair: &Pair<'_>) -> Result<()> {
    let mut announcer = pair.up().await?;
    pair.router.refresh().await?;
    announcer
        .report("a route refresh", |report| {
            matches!(report, Report::Refresh { .. }).then_some(())
        })
        .await?;
    pair.has(&pair.settings.routes).await
}

/// We restart without a word: the routes stay, and what is not announced again goes.
async fn graceful_restart(pair: &mut Pair<'_>) -> Result<()> {
    pair.neighbor.graceful_restart = Some(60);
    pair.peer()?.graceful_restart = Some(60);
    leave(pair).await?;
    let router = pair.router;
    let kept: BTreeSet<IpNet> = router.routes().await?.iter().map(|r| r.prefix).collect();
    let wanted: BTreeSet<IpNet> = pair.settings.routes.iter().collect();
    ensure!(kept == wanted, "the router kept {kept:?} of {wanted:?}");
    come_back(pair).await
}

/// Away for longer than the restart time (RFC 9494 §4.2).
async fn long_lived(pair: &mut Pair<'_>) -> Result<()> {
    (pair.neighbor.graceful_restart, pair.neighbor.long_lived) = (Some(2), Some(60));
    let peer = pair.peer()?;
    (peer.graceful_restart, peer.long_lived) = (Some(2), Some(60));
    leave(pair).await?;
    let (router, wanted) = (pair.router, pair.settings.routes.iter().count());
    wait::until(&format!("{router} to call the routes stale"), || async {
        let routes = router.routes().await?;
        let stale = |route: &&Route| route.communities.contains(LLGR_STALE);
        let stale = routes.iter().filter(stale).count();
        ensure!(stale == wanted, "{routes:?}");
        Ok(())
    })
    .await?;
    come_back(pair).await
}

/// The session comes up and ends without a word.
async fn leave(pair: &Pair<'_>) -> Result<()> {
    let mut announcer = pair.up().await?;
    announcer.order(&Order::Restart).await?;
    announcer.ended().await?;
    let router = pair.router;
    wait::until(
        &format!("{router} to see that the session ended"),
        || async {
            let sessions = router.sessions().await?;
            ensure!(
                sessions.iter().all(|session| !session.established),
                "it is up"
            );
            Ok(())
        },
    )
    .await
}

/// The session is there again, with one route less: the other goes.
async fn come_back(pair: &mut Pair<'_>) -> Result<()> {
    pair.settings.routes = Routes::of(&[route(false, 1)?]);
    let mut announcer = pair.start_announcer().await?;
    is_up(&mut announcer).await?;
    pair.has(&pair.settings.routes).await
}

/// The paths are told to be going away, then they are withdrawn, then the session
/// ends.
async fn drain(pair: &Pair<'_>) -> Result<()> {
    let mut announcer = pair.up().await?;
    announcer.order(&Order::Drain { wait: 2_000 }).await?;
    let router = pair.router;
    wait::until(&format!("{router} to see 65535:0"), || async {
        let routes = router.routes().await?;
        let told = |route: &Route| route.communities.contains("65535:0");
        ensure!(!routes.is_empty(), "the routes are gone");
        ensure!(routes.iter().all(told), "{routes:?}");
        Ok(())
    })
    .await?;
    pair.has(&Routes::default()).await?;
    announcer
        .report("the drain to be over", |report| {
            matches!(report, Report::Stopped { .. }).then_some(())
        })
        .await
}

async fn they_time_out(pair: &mut Pair<'_>) -> Result<()> {
    pair.neighbor.hold = 3;
    pair.peer()?.hold = 3;
    let announcer = pair.up().await?;
    announcer.signal(Signal::SIGSTOP)?;
    pair.has(&Routes::default()).await
}

async fn we_time_out(pair: &mut Pair<'_>) -> Result<()> {
    pair.neighbor.hold = 3;
    pair.peer()?.hold = 3;
    let mut announcer = pair.up().await?;
    pair.router.signal(Signal::SIGSTOP);
    let why = is_down(&mut announcer).await;
    pair.router.signal(Signal::SIGCONT);
    let why = why?;
    ensure!(
        why.to_lowercase().contains("hold"),
        "the session ended because {why}"
    );
    Ok(())
}
