//! Herald's BGP engine and `ExaBGP`, which sends what routers do not.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::timeout;

use super::bgp_matrix::{Pair, come_and_go, routers};
use crate::announcer::{Order, Report, Routes};
use crate::scenario::Context;

/// Attributes that it sends, each with a route of its own: type, flags, value.
const ODD: &[&str] = &[
    // Unknown and optional, transitive or not (RFC 4271 §5).
    "0x99 0xc0 0x01020304",
    "0x99 0x80 0x0102",
    // MULTI_EXIT_DISC as if it were well-known, an AGGREGATOR of a length that there is
    // not, and communities that end in the middle (RFC 7606 §3, §7).
    "0x04 0x40 0x00000001",
    "0x07 0xc0 0x0102",
    "0x08 0xc0 0x010203",
];
/// In seconds.
const HOLD: u16 = 3;
/// So long nothing must happen: it has sent all by then, and KEEPALIVEs after them.
const WATCHED: Duration = Duration::from_secs(6);

/// It has what it is told, and what it sends does no harm.
pub(super) async fn odd_attributes(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    let router = routers.first().context("there is a router")?;
    let mut pair = Pair::new(ctx, router, false)?;
    come_and_go(&pair).await?;
    ctx.step("it has been told of routes, and of one that went and came");
    pair.announces.odd = ODD;
    pair.neighbor.hold = HOLD;
    pair.peer()?.hold = HOLD;
    let mut announcer = pair.up().await?;
    let over = announcer.report("the session to end", |report| match report {
        Report::Down { why, .. } => Some(why.clone()),
        _ => None,
    });
    if let Ok(why) = timeout(WATCHED, over).await {
        bail!("the session ended: {}", why?);
    }
    ctx.step(format!(
        "it sent {} odd attributes, and the session is up",
        ODD.len()
    ));
    let none = Order::Withdraw(pair.settings.routes.clone());
    announcer.order(&none).await?;
    pair.has(&Routes::default()).await?;
    router.stop().await
}
