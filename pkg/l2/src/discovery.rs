//! Which router is at the other end of an interface (RFC 4861 §6): what an
//! unnumbered BGP peer is found by, and what such a peer finds us by.
//!
//! We solicit, listen to advertisements, and send our own: routers learn of their
//! neighbour by those. Ours have a router lifetime of 0, so that no host takes this
//! one for its default router.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::ethernet::Mac;
use crate::router::{RouterAdvertisement, RouterMessage, RouterSolicitation};

/// `RTR_SOLICITATION_INTERVAL`.
const SOLICIT_EVERY: Duration = Duration::from_secs(4);
/// `MAX_RTR_SOLICITATIONS`.
const SOLICITATIONS: u32 = 3;
/// Within `MinRtrAdvInterval` and `MaxRtrAdvInterval` for 10 s, which is what
/// routers have on links with unnumbered peers. One that was started anew knows of
/// us after so long at the latest.
const ADVERTISE_EVERY: Duration = Duration::from_secs(10);
/// `MIN_DELAY_BETWEEN_RAS`.
const ADVERTISE_GAP: Duration = Duration::from_secs(3);
/// After so long a router that was asked has answered: two solicitations, and the
/// most that it may wait before it answers.
const ANSWERED: Duration = Duration::from_secs(8);
/// Until then it is no wonder that no router is known.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that is no default router says nothing of how long it is there: the longest
/// time between two advertisements, `MaxRtrAdvInterval`.
const SILENT: Duration = Duration::from_mins(30);
/// Routers on a link that are remembered: whoever sends more is up to something.
const MOST: usize = 16;
/// A message that the kernel would not send is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the other end of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbor {
    /// The router there, by its link-local address; none if none was heard.
    pub router: Option<Ipv6Addr>,
    /// Other routers that advertise themselves there.
    pub others: Vec<Ipv6Addr>,
    /// The router has not advertised itself for longer than it said it would.
    pub silent: bool,
    /// None was heard, and that is no wonder yet.
    pub waiting: bool,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterTransmit {
    /// A group on the link.
    pub to: Ipv6Addr,
    /// The `ICMPv6` message, without its checksum.
    pub message: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    first: Instant,
    last: Instant,
    until: Instant,
    /// Whether it is a default router.
    default: bool,
}

/// Finds the router at the other end of one interface.
#[derive(Debug)]
pub struct RouterDiscovery {
    mac: Mac,
    routers: BTreeMap<Ipv6Addr, Heard>,
    chosen: Option<Ipv6Addr>,
    /// When a router came up beside the one that we have: by then that has answered,
    /// or is gone.
    judge: Option<(Instant, Instant)>,
    solicit: Option<(Instant, u32)>,
    advertise: Instant,
    advertised: Option<Instant>,
    patience: Instant,
    now: Instant,
    transmits: VecDeque<RouterTransmit>,
}

impl RouterDiscovery {
    /// The link has just come up. `mac` is the interface's own.
    pub fn new(mac: Mac, now: Instant) -> Self {
        let mut discovery = Self {
            mac,
            routers: BTreeMap::new(),
            chosen: None,
            judge: None,
            solicit: None,
            advertise: now,
            advertised: None,
            patience: now + PATIENCE,
            now,
            transmits: VecDeque::new(),
        };
        discovery.link_came_up(now);
        discovery
    }

    /// The link was away; who is there may be another.
    pub fn link_came_up(&mut self, now: Instant) {
        self.solicit = Some((now, SOLICITATIONS));
        self.advertise = now;
        self.handle_timeout(now);
    }

    /// A message could not be sent.
    pub fn not_sent(&mut self, now: Instant) {
        let left = self.solicit.map_or(1, |(_, left)| left.max(1));
        self.solicit = Some((now + RETRY, left));
        self.advertise = now + RETRY;
    }

    /// Takes in an `ICMPv6` message with its IPv6 source and hop limit; what is not
    /// well formed, or was forwarded, is dropped.
    pub fn handle(&mut self, source: Ipv6Addr, hops: u8, message: &[u8], now: Instant) {
        self.now = now;
        if hops != 255 {
            return;
        }
        match RouterMessage::parse(message) {
            Ok(RouterMessage::Solicitation(_)) => {
                // RFC 4861 §6.2.6.
                let soonest = self.advertised.map_or(now, |at| at + ADVERTISE_GAP);
                self.advertise = self.advertise.min(soonest.max(now));
            }
            Ok(RouterMessage::Advertisement(advertisement)) => {
                if source.is_unicast_link_local() {
                    self.heard(source, &advertisement, now);
                }
            }
            Err(_) => {}
        }
        self.handle_timeout(now);
    }

    fn heard(&mut self, source: Ipv6Addr, advertisement: &RouterAdvertisement, now: Instant) {
        let default = !advertisement.lifetime.is_zero();
        let stays = if default {
            advertisement.lifetime
        } else {
            SILENT
        };
        let until = now + stays;
        if let Some(known) = self.routers.get_mut(&source) {
            (known.last, known.until, known.default) = (now, until, default);
            self.solicit = self.solicit.filter(|_| self.judge.is_some());
            return;
        }
        self.routers
            .retain(|address, heard| heard.until > now || Some(*address) == self.chosen);
        if self.routers.len() >= MOST {
            return;
        }
        let heard = Heard {
            first: now,
            last: now,
            until,
            default,
        };
        self.routers.insert(source, heard);
        if self.chosen.is_some() && self.judge.is_none() {
            self.judge = Some((now, now + ANSWERED));
            self.solicit = Some((now, SOLICITATIONS));
        } else if self.judge.is_none() {
            self.solicit = None;
        }
    }

    /// When to come back for [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.chosen.is_none() && self.patience > self.now;
        let silence = self.chosen.and_then(|it| self.routers.get(&it));
        let due = [
            Some(self.advertise),
            self.solicit.map(|(at, _)| at),
            self.judge.map(|(_, at)| at),
            waits.then_some(self.patience),
            silence.map(|heard| heard.until).filter(|at| *at > self.now),
        ];
        due.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if let Some((since, at)) = self.judge
            && at <= now
        {
            self.judge = None;
            let gone = self.chosen.and_then(|it| self.routers.get(&it));
            if gone.is_some_and(|heard| heard.last < since) {
                self.routers.retain(|_, heard| heard.last >= since);
            }
        }
        self.choose(now);
        if let Some((at, left)) = self.solicit
            && at <= now
        {
            self.solicit = (left > 1).then(|| (now + SOLICIT_EVERY, left - 1));
            let message = RouterSolicitation {
                source_link: Some(self.mac),
            };
            self.transmits.push_back(RouterTransmit {
                to: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2),
                message: message.to_message(),
            });
        }
        if self.advertise <= now {
            self.advertise = now + ADVERTISE_EVERY;
            self.advertised = Some(now);
            let message = RouterAdvertisement {
                lifetime: Duration::ZERO,
                source_link: Some(self.mac),
            };
            self.transmits.push_back(RouterTransmit {
                to: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
                message: message.to_message(),
            });
        }
    }

    /// Keeps the router that we have while it is there. A default router goes before
    /// one that says it is none, and what is there before what was.
    fn choose(&mut self, now: Instant) {
        let rank = |address: &Ipv6Addr, heard: &Heard| {
            let there = heard.until > now;
            let ours = Some(*address) == self.chosen;
            (there, heard.default, ours, std::cmp::Reverse(heard.first))
        };
        let best = self.routers.iter().max_by_key(|(a, heard)| rank(a, heard));
        self.chosen = best.map(|(address, _)| *address);
    }

    /// What to send.
    pub fn poll_transmit(&mut self) -> Option<RouterTransmit> {
        self.transmits.pop_front()
    }

    /// What is known, as of the last call.
    pub fn neighbor(&self) -> Neighbor {
        let there = |heard: &Heard| heard.until > self.now;
        let others = self.routers.iter();
        let others = others.filter(|(it, heard)| Some(**it) != self.chosen && there(heard));
        let chosen = self.chosen.and_then(|it| self.routers.get(&it));
        Neighbor {
            router: self.chosen,
            others: others.map(|(address, _)| *address).collect(),
            silent: chosen.is_some_and(|heard| !there(heard)),
            waiting: self.chosen.is_none() && self.patience > self.now,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn router(i: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, i)
    }

    fn advertisement(seconds: u64) -> Vec<u8> {
        let advertisement = RouterAdvertisement {
            lifetime: Duration::from_secs(seconds),
            source_link: None,
        };
        advertisement.to_message()
    }

    /// The kinds of what is sent until then, with the second.
    fn run(discovery: &mut RouterDiscovery, start: Instant, until: Duration) -> Vec<(u8, u64)> {
        let mut sent = Vec::new();
        loop {
            let now = discovery.now;
            while let Some(transmit) = discovery.poll_transmit() {
                sent.push((transmit.message[0], (now - start).as_secs()));
            }
            match discovery.poll_timeout() {
                Some(due) if due <= start + until => {
                    assert!(due > now, "it does not stand still");
                    discovery.handle_timeout(due);
                }
                _ => return sent,
            }
        }
    }

    #[test]
    fn it_asks_thrice_and_tells_of_itself_on_and_on() {
        let start = Instant::now();
        let mut discovery = RouterDiscovery::new(MAC, start);
        assert!(discovery.neighbor().waiting);
        let sent = run(&mut discovery, start, Duration::from_secs(25));
        let of = |kind| sent.iter().filter(move |s| s.0 == kind).map(|s| s.1);
        assert!(of(133).eq([0, 4, 8]));
        assert!(of(134).eq([0, 10, 20]));
        assert_eq!(discovery.neighbor(), Neighbor::default());
    }

    #[test]
    fn a_router_that_advertises_itself_is_found_and_missed() {
        let start = Instant::now();
        let mut discovery = RouterDiscovery::new(MAC, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        discovery.handle(router(1), 64, &advertisement(30), at(1));
        discovery.handle("fd20::1".parse().unwrap(), 255, &advertisement(30), at(1));
        assert_eq!(discovery.neighbor().router, None);
        discovery.handle(router(1), 255, &advertisement(30), at(1));
        assert_eq!(discovery.neighbor().router, Some(router(1)));
        let sent = run(&mut discovery, start, Duration::from_secs(25));
        assert!(sent.iter().filter(|s| s.0 == 133).count() <= 1, "{sent:?}");
        assert!(!discovery.neighbor().silent);
        run(&mut discovery, start, Duration::from_secs(40));
        let neighbor = discovery.neighbor();
        assert!(neighbor.silent && neighbor.router == Some(router(1)));
        discovery.handle(router(1), 255, &advertisement(30), at(50));
        assert!(!discovery.neighbor().silent);
    }

    #[test]
    fn another_router_counts_when_the_first_answers_no_more() {
        for answers in [true, false] {
            let start = Instant::now();
            let mut discovery = RouterDiscovery::new(MAC, start);
            let at = |seconds| start + Duration::from_secs(seconds);
            discovery.handle(router(1), 255, &advertisement(1800), at(1));
            run(&mut discovery, start, Duration::from_secs(29));
            discovery.handle(router(2), 255, &advertisement(1800), at(30));
            let neighbor = discovery.neighbor();
            assert_eq!(neighbor.router, Some(router(1)));
            assert_eq!(neighbor.others, [router(2)]);
            let asked = run(&mut discovery, start, Duration::from_secs(31));
            assert!(asked.contains(&(133, 30)));
            if answers {
                discovery.handle(router(1), 255, &advertisement(1800), at(31));
            }
            run(&mut discovery, start, Duration::from_secs(45));
            let neighbor = discovery.neighbor();
            if answers {
                assert_eq!(neighbor.router, Some(router(1)));
                assert_eq!(neighbor.others, [router(2)]);
            } else {
                assert_eq!(neighbor.router, Some(router(2)));
                assert!(neighbor.others.is_empty());
            }
        }
    }

    #[test]
    fn a_default_router_goes_before_one_that_is_none() {
        let start = Instant::now();
        let mut discovery = RouterDiscovery::new(MAC, start);
        discovery.handle(router(1), 255, &advertisement(0), start);
        assert_eq!(discovery.neighbor().router, Some(router(1)));
        discovery.handle(router(2), 255, &advertisement(30), start);
        assert_eq!(discovery.neighbor().router, Some(router(2)));
    }

    /// RFC 4861 §6.2.6.
    #[test]
    fn who_asks_is_answered_and_not_too_often() {
        let start = Instant::now();
        let mut discovery = RouterDiscovery::new(MAC, start);
        let ask = RouterSolicitation { source_link: None }.to_message();
        run(&mut discovery, start, Duration::ZERO);
        for milliseconds in [1000, 1100, 1200] {
            let now = start + Duration::from_millis(milliseconds);
            discovery.handle(router(1), 255, &ask, now);
        }
        let sent = run(&mut discovery, start, Duration::from_secs(9));
        let told: Vec<u64> = sent.iter().filter(|s| s.0 == 134).map(|s| s.1).collect();
        assert_eq!(told, [3]);
    }

    #[test]
    fn what_was_not_sent_is_sent_again() {
        let start = Instant::now();
        let mut discovery = RouterDiscovery::new(MAC, start);
        while discovery.poll_transmit().is_some() {}
        discovery.not_sent(start);
        let sent = run(&mut discovery, start, Duration::from_secs(1));
        assert_eq!(sent, [(133, 1), (134, 1)]);
    }

    proptest! {
        #[test]
        fn any_neighbours_leave_it_bounded_and_sane(
            steps in proptest::collection::vec((0u16..40, 0u64..100, 0u64..5000, any::<bool>()), 0..200)
        ) {
            let start = Instant::now();
            let mut discovery = RouterDiscovery::new(MAC, start);
            let mut now = start;
            for (who, lifetime, wait, up) in steps {
                now += Duration::from_millis(wait);
                discovery.handle_timeout(now);
                if up {
                    discovery.link_came_up(now);
                }
                discovery.handle(router(who), 255, &advertisement(lifetime), now);
                let neighbor = discovery.neighbor();
                prop_assert!(neighbor.router.is_some() && !neighbor.silent);
                prop_assert!(discovery.routers.len() <= MOST);
                prop_assert!(discovery.poll_timeout().is_some_and(|due| due > now));
                while discovery.poll_transmit().is_some() {}
            }
        }
    }
}
