//! Whole sessions between two speakers, in virtual time, over connections that
//! hold only so many bytes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::*;
use crate::attribute::{Attribute, Context};
use crate::community::Community;
use crate::config::PeerAs;
use crate::export::NextHop;
use crate::family::{Families, Family};
use crate::message::{Frame, MAX_EXTENDED_MESSAGE, MessageType, RefreshKind, RouteRefresh};
use crate::nlri::Prefixes;
use crate::offers::Peers;
use crate::session::{Down, State};
use crate::update::Update;

const SECOND: Duration = Duration::from_secs(1);
/// One way, through a connection or through its opening.
const LATENCY: Duration = Duration::from_millis(1);
const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    bytes: Vec<u8>,
    /// Whether its writer has closed it.
    closed: bool,
    /// Whether its reader does not read.
    stuck: bool,
}

/// A connection: by end, its name there and what flows from there.
#[derive(Debug)]
struct Link {
    names: [ConnectionId; 2],
    pipes: [Pipe; 2],
    wants: [bool; 2],
    open: [bool; 2],
}

/// What a router keeps: routes, and which of them are stale.
#[derive(Debug, Default)]
struct Table {
    routes: BTreeMap<IpNet, Vec<Community>>,
    stale: BTreeMap<IpNet, Vec<Community>>,
    ends: Vec<Family>,
    marks: Vec<RefreshKind>,
    updates: usize,
    withdrawals: usize,
}

struct End {
    speaker: Speaker,
    peer: PeerId,
    log: Vec<Output>,
    /// What the other end's bytes came to; only end 1 has one that is looked
    /// at.
    table: Table,
    rest: BTreeMap<ConnectionId, Vec<u8>>,
    listens: bool,
}

impl End {
    fn new(number: u8, config: PeerConfig, now: Instant) -> Self {
        let mut speaker = Speaker::new(number.into());
        let peer = speaker.add_peer(config, now).unwrap();
        speaker.set_complete();
        Self {
            speaker,
            peer,
            log: Vec::new(),
            table: Table::default(),
            rest: BTreeMap::new(),
            listens: true,
        }
    }

    fn session(&self) -> &Session {
        self.speaker.session(self.peer).unwrap()
    }

    fn ups(&self) -> usize {
        self.log
            .iter()
            .filter(|o| matches!(o, Output::Up(_)))
            .count()
    }

    fn downs(&self) -> Vec<String> {
        let downs = self.log.iter().filter_map(|output| match output {
            Output::Down(down) => Some(down.to_string()),
            _ => None,
        });
        downs.collect()
    }
}

struct World {
    now: Instant,
    ends: [End; 2],
    links: Vec<Link>,
    /// Openings under way: when they are through, by whom, and their name.
    dialled: Vec<(Instant, usize, ConnectionId)>,
    capacity: usize,
    passed: usize,
    /// In what order things are done that happen at the same time.
    random: fastrand::Rng,
}

fn config(number: u8, other: u8) -> PeerConfig {
    let peer_as = PeerAs::Exactly(64_500 + u32::from(other));
    let id = Ipv4Addr::new(10, 0, 0, number);
    let mut config = PeerConfig::new(64_500 + u32::from(number), peer_as, id);
    config.next_hop_v6 = Some(NextHop::V6("2001:db8::1".parse().unwrap()));
    config.extended_messages = false;
    config
}

impl World {
    fn new(change: impl Fn(usize, &mut PeerConfig)) -> Self {
        let now = Instant::now();
        let mut configs = [config(1, 2), config(2, 1)];
        for (number, config) in configs.iter_mut().enumerate() {
            change(number, config);
        }
        let [one, two] = configs;
        Self {
            now,
            ends: [End::new(1, one, now), End::new(2, two, now)],
            links: Vec::new(),
            dialled: Vec::new(),
            capacity: 65_536,
            passed: 0,
            random: fastrand::Rng::with_seed(1),
        }
    }

    fn usual() -> Self {
        Self::new(|_, _| ())
    }

    fn up() -> Self {
        let mut world = Self::usual();
        world.run(5 * SECOND);
        assert!(world.is_up());
        world
    }

    fn is_up(&self) -> bool {
        self.ends
            .iter()
            .all(|end| end.session().state() == State::Established)
    }

    fn table(&self) -> &Table {
        &self.ends[1].table
    }

    fn announce(&mut self, prefix: IpNet) {
        let offer = Offer {
            peers: Peers::All,
            attributes: PathAttributes::default(),
        };
        let End { speaker, .. } = &mut self.ends[0];
        speaker.announce(prefix, &[offer], self.now).unwrap();
    }

    fn withdraw(&mut self, prefix: IpNet) {
        self.ends[0].speaker.withdraw(prefix, self.now);
    }

    /// Does all that can be done now.
    fn settle(&mut self) {
        loop {
            let before = self.passed;
            for number in 0..2 {
                self.outputs(number);
            }
            let pipes = 0..self.links.len() * 2;
            let mut turns: Vec<_> = pipes
                .flat_map(|pipe| [(pipe, true), (pipe, false)])
                .collect();
            self.random.shuffle(&mut turns);
            for (pipe, writes) in turns {
                if writes {
                    self.write(pipe / 2, pipe % 2);
                } else {
                    self.read(pipe / 2, pipe % 2);
                }
            }
            let quiet = self.ends.iter().all(|end| end.speaker.outputs.is_empty());
            if self.passed == before && quiet {
                return;
            }
        }
    }

    fn outputs(&mut self, number: usize) {
        while let Some((peer, output)) = self.ends[number].speaker.poll_output() {
            assert_eq!(peer, self.ends[number].peer);
            match &output {
                Output::Connect(name) => {
                    self.dialled.push((self.now + LATENCY, number, *name));
                }
                Output::Transmit(name) => {
                    if let Some(link) = self.link(number, *name) {
                        self.links[link].wants[number] = true;
                    }
                }
                Output::Close { connection, last } => {
                    self.dialled
                        .retain(|(_, by, name)| (*by, name) != (number, connection));
                    if let Some(link) = self.link(number, *connection) {
                        let pipe = &mut self.links[link].pipes[number];
                        let room = self.capacity.saturating_sub(pipe.bytes.len());
                        pipe.bytes.extend_from_slice(&last[..last.len().min(room)]);
                        pipe.closed = true;
                        self.links[link].open[number] = false;
                        self.passed += 1;
                    }
                }
                Output::Down(_) => {
                    // As a router that does graceful restart would.
                    let table = &mut self.ends[number].table;
                    table.stale = std::mem::take(&mut table.routes);
                    table.ends.clear();
                }
                _ => {}
            }
            self.ends[number].log.push(output);
        }
    }

    fn link(&self, number: usize, name: ConnectionId) -> Option<usize> {
        let ours = |link: &Link| link.names[number] == name && link.open[number];
        self.links.iter().position(ours)
    }

    /// What one end has to send, as far as the pipe takes it.
    fn write(&mut self, link: usize, number: usize) {
        let Link {
            names,
            pipes,
            wants,
            open,
        } = &mut self.links[link];
        let End { speaker, peer, .. } = &mut self.ends[number];
        while wants[number] && open[number] {
            let pending = speaker.pending(*peer, names[number], self.now);
            let pipe = &mut pipes[number];
            let room = self.capacity.saturating_sub(pipe.bytes.len());
            let count = pending.len().min(room);
            if pending.is_empty() {
                wants[number] = false;
            }
            if count == 0 {
                return;
            }
            pipe.bytes.extend_from_slice(&pending[..count]);
            speaker.transmitted(*peer, names[number], count, self.now);
            self.passed += count;
        }
    }

    /// What has come from the other end of `number`'s pipe.
    fn read(&mut self, link: usize, number: usize) {
        let Link {
            names, pipes, open, ..
        } = &mut self.links[link];
        let reader = 1 - number;
        let pipe = &mut pipes[number];
        if pipe.stuck || !open[reader] {
            return;
        }
        let bytes = std::mem::take(&mut pipe.bytes);
        let end = &mut self.ends[reader];
        let connection = names[reader];
        if !bytes.is_empty() {
            self.passed += bytes.len();
            let rest = end.rest.entry(connection).or_default();
            rest.extend_from_slice(&bytes);
            end.table.hear(rest);
            let input = Input::Received {
                connection,
                bytes: &bytes,
            };
            end.speaker.handle(end.peer, input, self.now);
        }
        if pipe.closed && open[reader] {
            self.passed += 1;
            open[reader] = false;
            end.speaker
                .handle(end.peer, Input::Closed { connection }, self.now);
        }
    }

    fn open(&mut self, by: usize, name: ConnectionId) {
        let other = 1 - by;
        if !self.ends[other].listens {
            let why = "connection refused";
            let input = Input::ConnectFailed {
                connection: name,
                why,
            };
            let End { speaker, peer, .. } = &mut self.ends[by];
            return speaker.handle(*peer, input, self.now);
        }
        let End { speaker, peer, .. } = &mut self.ends[other];
        let there = speaker.accept(*peer, ADDRESSES[other], self.now).unwrap();
        let names = if by == 0 {
            [name, there]
        } else {
            [there, name]
        };
        self.links.push(Link {
            names,
            pipes: Default::default(),
            wants: [false; 2],
            open: [true; 2],
        });
        let input = Input::Connected {
            connection: name,
            local: ADDRESSES[by],
        };
        let End { speaker, peer, .. } = &mut self.ends[by];
        speaker.handle(*peer, input, self.now);
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.settle();
            let timers = self
                .ends
                .iter()
                .filter_map(|end| end.speaker.poll_timeout());
            let openings = self.dialled.iter().map(|(at, ..)| *at);
            let Some(next) = timers.chain(openings).min().filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            let (due, rest) = std::mem::take(&mut self.dialled)
                .into_iter()
                .partition(|(at, ..)| *at <= self.now);
            self.dialled = rest;
            let due: Vec<_> = due;
            for (_, by, name) in due {
                self.open(by, name);
            }
            for end in &mut self.ends {
                end.speaker.handle_timeout(self.now);
            }
        }
        self.now = until;
    }

    /// Everything between the two is lost from now on, and nothing tells.
    fn cut(&mut self) {
        for link in &mut self.links {
            for pipe in &mut link.pipes {
                pipe.stuck = true;
            }
        }
    }

    /// End 0 is another process now, with the same settings.
    fn restart_process(&mut self, change: impl Fn(&mut PeerConfig)) {
        self.settle();
        let mut config = self.ends[0].session().config().clone();
        change(&mut config);
        let now = self.now;
        let mut end = End::new(1, config, now);
        // Its first routes are not known at once.
        end.speaker = Speaker::new(7);
        end.peer = end
            .speaker
            .add_peer(end_config(&self.ends[0]), now)
            .unwrap();
        self.ends[0] = end;
        self.links.retain(|link| link.open[1]);
    }
}

fn end_config(end: &End) -> PeerConfig {
    end.session().config().clone()
}

impl Table {
    fn hear(&mut self, rest: &mut Vec<u8>) {
        let mut at = 0;
        while let Some(frame) = Frame::parse(&rest[at..], MAX_EXTENDED_MESSAGE).unwrap() {
            at += frame.length();
            match frame.kind {
                MessageType::Update => self.update(frame.body),
                MessageType::RouteRefresh => {
                    let refresh = RouteRefresh::parse(frame.body).unwrap().unwrap();
                    self.marks.push(refresh.kind);
                }
                _ => {}
            }
        }
        rest.drain(..at);
    }

    fn update(&mut self, body: &[u8]) {
        let context = Context {
            four_octet_as: true,
            internal: false,
        };
        let update = Update::parse(body).unwrap();
        let received = update.check(context).unwrap();
        assert_eq!(received.error, None);
        self.updates += 1;
        if let Some(family) = received.end_of_rib {
            self.ends.push(family);
            // RFC 4724 §4.2: what was not told again is gone.
            self.stale
                .retain(|prefix, _| Family::of_prefix(*prefix) != family);
            return;
        }
        let mut come: Vec<_> = Prefixes::new(Family::Ipv4, update.nlri).collect();
        let mut gone: Vec<_> = Prefixes::new(Family::Ipv4, update.withdrawn).collect();
        let mut communities = Vec::new();
        for raw in update.attributes() {
            match Attribute::parse(raw.unwrap(), context).unwrap() {
                Attribute::Communities(list) => {
                    let number = |octets: &[u8]| {
                        let octets = octets.try_into().unwrap();
                        Community(u32::from_be_bytes(octets))
                    };
                    communities = list.chunks(4).map(number).collect();
                }
                Attribute::MpReach {
                    family: Some(family),
                    nlri,
                    ..
                } => come.extend(Prefixes::new(family, nlri)),
                Attribute::MpUnreach {
                    family: Some(family),
                    withdrawn,
                } => gone.extend(Prefixes::new(family, withdrawn)),
                _ => {}
            }
        }
        self.withdrawals += gone.len();
        for prefix in gone {
            assert!(self.routes.remove(&prefix.unwrap()).is_some());
        }
        for prefix in come {
            self.stale.remove(&prefix.unwrap());
            self.routes.insert(prefix.unwrap(), communities.clone());
        }
    }

    /// What traffic is sent by.
    fn usable(&self) -> usize {
        self.routes.len() + self.stale.len()
    }
}

fn host(number: u32) -> IpNet {
    IpNet::new_assert(Ipv4Addr::from(0x0a00_0000 + number).into(), 32)
}

fn host_v6(number: u32) -> IpNet {
    let address = 0x2001_0db8_u128 << 96 | u128::from(number);
    IpNet::new_assert(std::net::Ipv6Addr::from(address).into(), 128)
}

/// RFC 4271 §6.8: both dial at the same instant, and one session comes of it,
/// whatever arrives first.
#[test]
fn two_that_dial_each_other_have_one_session() {
    for seed in 0..200 {
        let mut world = World::usual();
        world.random = fastrand::Rng::with_seed(seed);
        world.run(5 * SECOND);
        assert!(world.is_up(), "seed {seed}");
        assert!(world.links.len() >= 2, "they did collide");
        let open = world.links.iter().filter(|link| link.open == [true; 2]);
        assert_eq!(open.count(), 1);
        for end in &world.ends {
            assert_eq!((end.ups(), end.downs().len()), (1, 0), "seed {seed}");
            assert!(end.log.iter().all(|o| !matches!(o, Output::Failed(_))));
        }
    }
}

#[test]
fn routes_of_both_families_arrive_within_the_gathering_time() {
    let mut world = World::up();
    world.announce(host(1));
    world.announce(host_v6(1));
    world.run(GATHER);
    assert_eq!(world.table().routes.len(), 2);
    assert_eq!(world.table().ends, Family::ALL);
    world.withdraw(host(1));
    world.run(GATHER);
    assert_eq!(world.table().routes.len(), 1);
    assert_eq!(world.ends[0].speaker.told(world.ends[0].peer), 1);
}

#[test]
fn the_first_change_goes_at_once_and_a_burst_after_it_is_few_messages() {
    let mut world = World::up();
    let before = world.table().updates;
    world.announce(host(0));
    world.run(LATENCY);
    assert_eq!(world.table().routes.len(), 1);
    for number in 1..2000 {
        world.announce(host(number));
        world.run(Duration::from_micros(4));
    }
    world.run(GATHER);
    assert_eq!(world.table().routes.len(), 2000);
    assert_eq!(world.table().updates - before, 4);
}

/// RFC 4271 §6.5: a peer that is gone without a word is noticed by both.
#[test]
fn a_cut_line_is_noticed_after_the_hold_time() {
    let mut world = World::up();
    let began = world.now;
    world.cut();
    for end in &mut world.ends {
        end.listens = false;
    }
    while world.ends.iter().any(|end| end.downs().is_empty()) {
        world.run(SECOND);
    }
    let took = world.now.duration_since(began);
    assert!((60 * SECOND..=91 * SECOND).contains(&took), "{took:?}");
    for end in &mut world.ends {
        end.listens = true;
    }
    world.links.clear();
    world.run(31 * SECOND);
    assert!(world.is_up());
}

/// RFC 4724: a new process, the routes never gone.
#[test]
fn a_restart_is_not_seen_in_the_routes() {
    let mut world = World::up();
    for number in 0..10 {
        world.announce(host(number));
    }
    world.run(SECOND);
    world.ends[0].speaker.restart(world.now);
    world.settle();
    assert_eq!(world.ends[1].downs().len(), 1);
    assert!(world.ends[1].downs()[0].contains("without a word"));
    assert_eq!(
        (world.table().routes.len(), world.table().usable()),
        (0, 10)
    );
    world.restart_process(|_| ());
    world.run(5 * SECOND);
    assert!(world.is_up());
    let terms = world.ends[1].session().established().unwrap().0;
    let told = terms.graceful_restart.clone().unwrap();
    assert!(told.restarted && told.families.iter().all(|f| f.forwarding));
    // The new process learns of its routes bit by bit, and one is not among
    // them any more.
    for number in 1..10 {
        world.announce(host(number));
        world.run(SECOND);
        assert_eq!((world.table().usable(), world.table().ends.len()), (10, 0));
    }
    world.ends[0].speaker.set_complete();
    world.run(GATHER);
    assert_eq!(world.table().usable(), 9);
    assert_eq!(world.table().stale.len(), 0);
}

/// A change of what is gathered when a session comes up is in it before its
/// End-of-RIB.
#[test]
fn nothing_is_missing_at_the_end_of_the_table() {
    let mut world = World::usual();
    while !world.is_up() {
        world.announce(host(1));
        world.withdraw(host(1));
        world.announce(host(1));
        world.run(LATENCY / 4);
    }
    world.settle();
    assert_eq!(world.table().ends, Family::ALL);
    assert_eq!(world.table().routes.len(), 1);
}

/// RFC 8326, RFC 9003, RFC 8538: first told, then withdrawn, then ended.
#[test]
fn a_drain_has_its_steps() {
    let mut world = World::up();
    world.announce(host(1));
    world.announce(host_v6(1));
    world.run(SECOND);
    let drain = Drain {
        wait: 10 * SECOND,
        text: "node drain: worker-1".into(),
    };
    let End { speaker, peer, .. } = &mut world.ends[0];
    speaker.drain(*peer, drain, world.now);
    world.run(9 * SECOND);
    let going = vec![Community::GRACEFUL_SHUTDOWN];
    assert!(world.table().routes.values().all(|c| *c == going));
    assert_eq!(world.table().routes.len(), 2);
    // A route that comes meanwhile is going away too.
    world.announce(host(2));
    world.run(GATHER);
    assert_eq!(world.table().routes[&host(2)], going);
    assert!(world.is_up());
    world.run(SECOND);
    assert_eq!((world.table().withdrawals, world.table().usable()), (3, 0));
    assert_eq!(
        world.ends[1].downs(),
        ["the peer ended it: hard reset: administrative shutdown (6/2): \"node drain: worker-1\""]
    );
    assert_eq!(world.ends[0].log.last(), Some(&Output::Stopped));
    world.run(100 * SECOND);
    assert_eq!(world.ends[0].ups(), 1);
}

#[test]
fn a_drain_does_not_wait_for_who_does_not_read() {
    let mut world = World::up();
    world.announce(host(1));
    world.run(SECOND);
    world.cut();
    world.capacity = 0;
    let drain = Drain {
        wait: SECOND,
        text: "bye".into(),
    };
    let End { speaker, peer, .. } = &mut world.ends[0];
    speaker.drain(*peer, drain, world.now);
    world.run(7 * SECOND);
    assert!(world.ends[0].log.contains(&Output::Stopped));
}

#[test]
fn a_drain_without_a_session_ends_at_once() {
    let mut world = World::usual();
    world.ends[1].listens = false;
    world.settle();
    let drain = Drain {
        wait: SECOND,
        text: "bye".into(),
    };
    let End { speaker, peer, .. } = &mut world.ends[0];
    speaker.drain(*peer, drain, world.now);
    world.settle();
    assert!(world.ends[0].log.contains(&Output::Stopped));
}

/// RFC 9687: who does not read is left in the end, even if it says all the
/// time that it is there.
#[test]
fn a_peer_that_does_not_read_is_left() {
    let mut world = World::new(|number, config| {
        if number == 0 {
            config.send_hold_time = Some(90 * SECOND);
        }
    });
    world.run(5 * SECOND);
    assert!(world.is_up());
    world.capacity = 1000;
    let link = world.links.iter().position(|link| link.open == [true; 2]);
    let link = link.unwrap();
    world.links[link].pipes[0].stuck = true;
    let connection = world.links[link].names[1];
    for number in 0..5000 {
        world.announce(host(number));
    }
    let mut keepalive = Vec::new();
    crate::message::encode_keepalive(&mut keepalive);
    let began = world.now;
    while world.ends[0].downs().is_empty() {
        // So that it is not end 1 that gives up first.
        let End { speaker, peer, .. } = &mut world.ends[1];
        let bytes = &keepalive;
        speaker.handle(*peer, Input::Received { connection, bytes }, world.now);
        world.run(SECOND);
        assert!(world.now.duration_since(began) < 200 * SECOND);
    }
    let took = world.now.duration_since(began);
    assert!((89 * SECOND..=92 * SECOND).contains(&took), "{took:?}");
    assert!(world.ends[0].downs()[0].contains("reads nothing"));
}

/// A peer that takes nothing keeps nobody else from anything, and when it
/// takes something again it gets the newest.
#[test]
fn a_peer_that_does_not_read_holds_nobody() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    speaker.set_complete();
    let mut greeting = Vec::new();
    let open = crate::open::Open {
        my_as: 64_502,
        hold_time: 0,
        identifier: [10, 0, 0, 2].into(),
        capabilities: vec![crate::capability::Capability::FourOctetAs(64_502)],
    };
    open.encode(&mut greeting);
    crate::message::encode_keepalive(&mut greeting);
    let mut add = |_| {
        let mut config = config(1, 2);
        config.passive = true;
        let peer = speaker.add_peer(config, now).unwrap();
        let connection = speaker.accept(peer, ADDRESSES[0], now).unwrap();
        let bytes = &greeting;
        speaker.handle(peer, Input::Received { connection, bytes }, now);
        (peer, connection)
    };
    let [stuck, reads] = [0, 1].map(&mut add);
    let mut tables = [Table::default(), Table::default()];
    let mut take = |speaker: &mut Speaker, (peer, connection), table: usize| {
        let mut bytes = Vec::new();
        loop {
            let pending = speaker.pending(peer, connection, now);
            let count = pending.len();
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(pending);
            speaker.transmitted(peer, connection, count, now);
        }
        tables[table].hear(&mut bytes);
        tables[table].routes.len()
    };
    take(&mut speaker, stuck, 0);
    take(&mut speaker, reads, 1);
    for round in 0..20 {
        let at = now + GATHER * (round + 1);
        for number in 0..1000 {
            let offer = Offer {
                peers: Peers::All,
                attributes: PathAttributes {
                    med: Some(round),
                    ..PathAttributes::default()
                },
            };
            speaker.announce(host(number), &[offer], at).unwrap();
        }
        speaker.announce(host(1000 + round), &[], at).unwrap();
        speaker.handle_timeout(at);
        // It is given its bytes, and takes none of them.
        assert!(!speaker.pending(stuck.0, stuck.1, now).is_empty());
        assert_eq!(take(&mut speaker, reads, 1), 1000);
    }
    assert_eq!(take(&mut speaker, stuck, 0), 1000);
    // What was made for it before it stopped, and the newest: not all twenty.
    assert_eq!(tables[0].updates, 5);
    assert!(tables[1].updates > 40);
}

/// RFC 2918, RFC 7313.
#[test]
fn a_refresh_is_answered_between_marks_without_a_reset() {
    let mut world = World::up();
    for number in 0..1000 {
        world.announce(host(number));
    }
    world.run(SECOND);
    let updates = world.table().updates;
    world.ends[1].table.routes.clear();
    let link = world.links.iter().position(|link| link.open == [true; 2]);
    let connection = world.links[link.unwrap()].names[0];
    let mut bytes = Vec::new();
    RouteRefresh {
        family: Family::Ipv4,
        kind: RefreshKind::Request,
    }
    .encode(&mut bytes);
    let End { speaker, peer, .. } = &mut world.ends[0];
    let input = Input::Received {
        connection,
        bytes: &bytes,
    };
    speaker.handle(*peer, input, world.now);
    world.run(SECOND);
    assert_eq!(world.table().routes.len(), 1000);
    assert_eq!(world.table().updates - updates, 2);
    assert_eq!(world.table().marks, [RefreshKind::Begin, RefreshKind::End]);
    assert_eq!((world.ends[0].ups(), world.is_up()), (1, true));
}

#[test]
fn settings_change_without_a_reset_where_they_can() {
    let mut world = World::up();
    world.announce(host(1));
    world.run(SECOND);
    let mut config = end_config(&world.ends[0]);
    config.policy.communities = vec![Community(7)];
    let End { speaker, peer, .. } = &mut world.ends[0];
    let change = speaker.set_peer(*peer, config.clone(), world.now);
    assert_eq!(change, Ok(Change::Live));
    world.run(GATHER);
    assert_eq!(world.table().routes[&host(1)], [Community(7)]);
    config.families = Family::Ipv4.into();
    let End { speaker, peer, .. } = &mut world.ends[0];
    let change = speaker.set_peer(*peer, config, world.now);
    assert_eq!(change, Ok(Change::Reset));
    world.run(5 * SECOND);
    assert_eq!(
        world.ends[1].downs(),
        ["the peer ended it: other configuration change (6/6)"]
    );
    let terms = world.ends[0].session().established().unwrap().0;
    assert_eq!(terms.families, Families::from(Family::Ipv4));
    assert_eq!(world.table().routes.len(), 1);
}

#[test]
fn a_wrong_as_is_told_in_words_at_both_ends() {
    let mut world = World::new(|number, config| {
        if number == 0 {
            config.peer_as = PeerAs::Exactly(65_000);
        }
    });
    world.run(20 * SECOND);
    assert!(!world.is_up());
    let words = |end: &End| end.session().last_error().unwrap().to_string();
    assert!(words(&world.ends[0]).contains("AS 64502; AS 65000 is configured"));
    assert_eq!(
        words(&world.ends[1]),
        "the peer ended it: bad peer AS (2/2)"
    );
    // Two that can't agree do not try all the time.
    let before = world.links.len();
    world.run(600 * SECOND);
    assert!(
        world.links.len() - before < 80,
        "{}",
        world.links.len() - before
    );
}

#[test]
fn a_removed_peer_is_told_and_forgotten() {
    let mut world = World::up();
    let End { speaker, peer, .. } = &mut world.ends[0];
    speaker.remove_peer(*peer, &Stop::Deconfigured, world.now);
    assert_eq!(speaker.peers().count(), 0);
    world.settle();
    assert!(world.ends[1].downs()[0].contains("peer de-configured (6/3)"));
}

/// 100,000 routes and back, in as few messages as there can be, through a
/// connection that takes them bit by bit.
#[test]
fn a_hundred_thousand_routes_arrive_in_the_fewest_messages() {
    let mut world = World::up();
    world.capacity = 30_000;
    let before = world.table().updates;
    for number in 0..100_000 {
        world.announce(host(number));
    }
    world.run(SECOND);
    assert_eq!(world.table().routes.len(), 100_000);
    assert_eq!(world.table().updates - before, 124);
    let before = world.table().updates;
    for number in 0..100_000 {
        world.withdraw(host(number));
    }
    world.run(SECOND);
    assert_eq!(world.table().routes.len(), 0);
    assert_eq!(world.table().updates - before, 123);
    assert!(world.is_up());
}

/// Extended messages, when both have them (RFC 8654).
#[test]
fn long_messages_carry_more() {
    let mut world = World::new(|_, config| config.extended_messages = true);
    world.run(5 * SECOND);
    let before = world.table().updates;
    for number in 0..100_000 {
        world.announce(host(number));
    }
    world.run(SECOND);
    assert_eq!(world.table().routes.len(), 100_000);
    assert_eq!(world.table().updates - before, 8);
}

/// What the other end did last shows in words when it restarts without us
/// having noticed.
#[test]
fn a_peer_that_comes_back_early_is_taken() {
    let mut world = World::up();
    world.announce(host(1));
    world.run(SECOND);
    // End 0 is gone without closing anything.
    for link in &mut world.links {
        link.open[0] = false;
    }
    world.restart_process(|_| ());
    world.run(5 * SECOND);
    assert_eq!(world.ends[1].downs(), [Down::Replaced.to_string()]);
    assert_eq!((world.is_up(), world.table().usable()), (true, 1));
}

#[test]
fn a_route_that_can_not_be_sent_is_refused_in_words() {
    let mut world = World::up();
    let offer = Offer {
        peers: Peers::All,
        attributes: PathAttributes {
            prepend: 200,
            ..PathAttributes::default()
        },
    };
    let End { speaker, .. } = &mut world.ends[0];
    let error = speaker.announce(host(1), &[offer], world.now).unwrap_err();
    assert_eq!(
        error.to_string(),
        "route 10.0.0.1/32: the AS is to be prepended 200 times; at most 64 are allowed"
    );
    assert_eq!(speaker.routes(), 0);
}
