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

use crate::announcer::{Announcer, Order, Peer, Report, Routes, Settings};
use crate::network::batch;
use crate::plan::{self, Host};
use crate::router::{Announces, Neighbor, Route, Router, RouterConfig, Software};
use crate::scenario::{Context, wait};

/// Where the announcers are: on the LAN, and outside of the cluster, so that they
/// are not in the way of the node's own speaker.
const HOST: &str = "c1";
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
    Multihop,
    Refresh,
    GracefulRestart,
    Drain,
    TheirHoldTimer,
    OurHoldTimer,
    Thousands,
}

const ROWS: [Row; 13] = [
    Row::Ipv4,
    Row::Ipv6,
    Row::Ipv4OverIpv6,
    Row::TheyDial,
    Row::WeDial,
    Row::Collision,
    Row::Multihop,
    Row::Refresh,
    Row::GracefulRestart,
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
            Self::Multihop => "multihop, two hops",
            Self::Refresh => "route refresh",
            Self::GracefulRestart => "graceful restart",
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
        stand(router, ctx.lab().spec.router_count())?;
    }
    let columns = join_all(routers.iter().map(|router| column(ctx, router))).await;
    for router in &routers {
        router.stop().await?;
        leave(router)?;
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

/// The announcer's addresses for a router, of its own.
fn ours(router: &Router) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let i = router.number()?;
    Ok((
        Ipv4Addr::new(10, 20, 5, i),
        Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x500 + u16::from(i)),
    ))
}

fn theirs(router: &Router) -> Result<(Ipv4Addr, Ipv6Addr)> {
    Host::Router(router.number()?)
        .lan(0)
        .context("a router is on LAN 0")
}

/// Addresses for the announcer, and the way round to the router's loopback.
fn stand(router: &Router, of: u8) -> Result<()> {
    let (v4, v6) = ours(router)?;
    let i = router.number()?;
    let (loop4, loop6) = plan::loopback(i);
    let (via4, via6) = Host::Router(crate::router::between(i, of))
        .lan(0)
        .context("on LAN 0")?;
    batch(
        Some(HOST),
        &format!(
            "addr add {v4}/16 dev lan0\naddr add {v6}/64 dev lan0 nodad\n\
             route replace {loop4}/32 via {via4}\nroute replace {loop6}/128 via {via6}\n"
        ),
    )
}

fn leave(router: &Router) -> Result<()> {
    let (v4, v6) = ours(router)?;
    let (loop4, loop6) = plan::loopback(router.number()?);
    batch(
        Some(HOST),
        &format!(
            "addr del {v4}/16 dev lan0\naddr del {v6}/64 dev lan0\n\
             route del {loop4}/32\nroute del {loop6}/128\n"
        ),
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
struct Pair<'a> {
    ctx: &'a Context,
    router: &'a Router,
    neighbor: Neighbor,
    settings: Settings,
    next_hop: IpAddr,
}

impl<'a> Pair<'a> {
    fn new(ctx: &'a Context, router: &'a Router, v6: bool) -> Result<Self> {
        let (our4, our6) = ours(router)?;
        let (their4, their6) = theirs(router)?;
        let (our, their): (IpAddr, IpAddr) = if v6 {
            (our6.into(), their6.into())
        } else {
            (our4.into(), their4.into())
        };
        let mut neighbor = Neighbor::new(our, OURS);
        neighbor.local = Some(their);
        let peer = Peer {
            address: their,
            source: our,
            asn: THEIRS,
            passive: false,
            v4: !v6,
            v6,
            hold: 9,
            graceful_restart: None,
        };
        let settings = Settings {
            asn: OURS,
            id: our4,
            peers: vec![peer],
            routes: Routes::of(&[route(v6, 1)?, route(v6, 2)?]),
        };
        Ok(Self {
            ctx,
            router,
            neighbor,
            settings,
            next_hop: our,
        })
    }

    fn peer(&mut self) -> Result<&mut Peer> {
        self.settings.peers.first_mut().context("there is a peer")
    }

    async fn start_router(&self) -> Result<()> {
        let config = RouterConfig {
            asn: THEIRS,
            id: theirs(self.router)?.0,
            neighbors: vec![self.neighbor.clone()],
            announces: Announces::default(),
        };
        self.router.start(&config, self.ctx.lab().logs()).await
    }

    fn start_announcer(&self) -> Result<Announcer> {
        Announcer::start(HOST, &self.settings)
    }

    /// Both started, the session up, and the routes in the router's table.
    async fn up(&self) -> Result<Announcer> {
        // It listens before the router dials: some wait long before they try again.
        let mut announcer = self.start_announcer()?;
        self.start_router().await?;
        is_up(&mut announcer).await?;
        self.has(&self.settings.routes).await?;
        Ok(announcer)
    }

    /// Waits until the router's table has just these, with our address as next hop.
    async fn has(&self, routes: &Routes) -> Result<()> {
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
        Row::Multihop => multihop(&mut pair).await,
        Row::Refresh => refresh(&pair).await,
        Row::GracefulRestart => graceful_restart(&mut pair).await,
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
async fn come_and_go(pair: &Pair<'_>) -> Result<()> {
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

/// The router's loopback, with another router between.
async fn multihop(pair: &mut Pair<'_>) -> Result<()> {
    let (loopback, _) = plan::loopback(pair.router.number()?);
    pair.neighbor.local = Some(loopback.into());
    pair.neighbor.multihop = Some(4);
    pair.peer()?.address = loopback.into();
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
    .await?;
    let kept: BTreeSet<IpNet> = router.routes().await?.iter().map(|r| r.prefix).collect();
    let wanted: BTreeSet<IpNet> = pair.settings.routes.iter().collect();
    ensure!(kept == wanted, "the router kept {kept:?} of {wanted:?}");
    pair.settings.routes = Routes::of(&[route(false, 1)?]);
    let mut announcer = pair.start_announcer()?;
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
