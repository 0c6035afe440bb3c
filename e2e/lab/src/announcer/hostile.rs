//! A peer that does what no peer should, or what few do: each deed from an address of
//! its own, and what the speaker answers to it.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use herald_bgp::HEADER;
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use super::wire::{self, Open};

/// Name of the hidden subcommand that calls [`run`].
pub const SUBCOMMAND: &str = "__hostile-peer";

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nothing came for so long: what was under way is over.
const QUIET: Duration = Duration::from_millis(300);
/// UPDATEs of a flood.
const FLOOD: u32 = 200_000;
/// Connections of a storm.
const STORM: u32 = 500;

/// What it is set up with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hostile {
    /// The speaker.
    pub speaker: IpAddr,
    /// Its address for the first deed; the others have the next ones.
    pub source: Ipv4Addr,
    /// An address that no peer has.
    pub stranger: Ipv4Addr,
    /// Its AS, below 65536.
    pub asn: u16,
}

impl Hostile {
    /// Where a deed comes from.
    pub fn source_of(&self, deed: Deed) -> Ipv4Addr {
        let place = Deed::ALL.iter().position(|one| *one == deed);
        let place = place.and_then(|place| u32::try_from(place).ok());
        Ipv4Addr::from_bits(self.source.to_bits() + place.unwrap_or(0))
    }
}

/// What came of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The session is up, and tells its routes when it is asked to.
    Stays,
    /// A NOTIFICATION with this code and subcode.
    Notification(u8, u8),
    /// The connection was closed without a word.
    Closed,
    /// Nothing.
    Silence,
}

/// A line of the output.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    /// What was done.
    pub deed: Deed,
    /// What came of it.
    pub answer: Answer,
}

macro_rules! deeds {
    ($($deed:ident: $text:literal => $answer:expr;)*) => {
        /// What is done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the text of each says it")]
        pub enum Deed { $($deed,)* }

        impl Deed {
            /// All of them, in the order in which they are done.
            pub const ALL: &[Self] = &[$(Self::$deed,)*];

            /// What must come of it.
            pub const fn expected(self) -> Answer {
                match self { $(Self::$deed => $answer,)* }
            }
        }

        impl fmt::Display for Deed {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$deed => $text,)* })
            }
        }
    };
}

use Answer::{Closed, Notification, Stays};

deeds! {
    // RFC 4271 §6.1.
    Marker: "a marker that is not all ones" => Notification(1, 1);
    TooShort: "a message of 18 octets" => Notification(1, 2);
    TooLong: "a KEEPALIVE of 4,097 octets" => Notification(1, 2);
    Kind: "a message of type 99" => Notification(1, 3);
    // §6.2.
    Version: "an OPEN of version 5" => Notification(2, 1);
    OtherAs: "an OPEN from another AS" => Notification(2, 2);
    NoId: "an OPEN with identifier 0.0.0.0" => Notification(2, 3);
    ShortHold: "an OPEN with a hold time of 2 s" => Notification(2, 6);
    Overlong: "an OPEN whose parameters go on past its end" => Notification(2, 0);
    // §6.6, RFC 6608.
    NoOpen: "an UPDATE in the place of an OPEN" => Notification(5, 1);
    NoKeepalive: "an UPDATE in the place of the first KEEPALIVE" => Notification(5, 2);
    SecondOpen: "an OPEN in a session that is up" => Notification(5, 3);
    // §6.3, RFC 7606.
    Attributes: "attributes that go on past the UPDATE's end" => Notification(3, 1);
    WellKnown: "an unknown well-known attribute" => Notification(3, 2);
    Prefix: "a prefix of 33 bits" => Notification(3, 10);
    TwoReach: "MP_REACH_NLRI twice" => Notification(3, 1);
    Origin: "an ORIGIN of two octets" => Stays;
    NoNextHop: "a route without NEXT_HOP" => Stays;
    // RFC 7313 §5.
    Refresh: "a ROUTE-REFRESH of subtype 1 and five octets" => Notification(7, 1);
    Farewell: "a NOTIFICATION of code 99" => Closed;
    // Odd, and all right.
    OddOpen: "capabilities that nobody knows, in extended parameters" => Stays;
    OddUpdates: "unknown attributes, the default route, an AS_SET, families never agreed on" => Stays;
    Pieces: "each octet in a segment of its own" => Stays;
    AtOnce: "OPEN, KEEPALIVE and UPDATE in one segment" => Stays;
    // More than a peer needs.
    Flood: "200,000 UPDATEs" => Stays;
    HalfOpen: "500 connections and not a word" => Notification(6, 7);
    Storm: "500 connections, each closed at once" => Stays;
    Obstinate: "twelve bad OPENs in a row" => Notification(6, 5);
    Stranger: "500 connections from an address that is no peer" => Closed;
}

/// Does all of it; prints a [`Done`] for each.
pub async fn run(settings: &str) -> Result<()> {
    let hostile: Hostile = serde_json::from_str(settings).context("read the settings")?;
    for &deed in Deed::ALL {
        let answer = commit(&hostile, deed).await;
        let answer = answer.with_context(|| deed.to_string())?;
        println!("{}", serde_json::to_string(&Done { deed, answer })?);
    }
    Ok(())
}

async fn commit(hostile: &Hostile, deed: Deed) -> Result<Answer> {
    let source = hostile.source_of(deed);
    let open = Open::new(hostile.asn, source);
    match deed {
        Deed::HalfOpen => return half_open(hostile, source).await,
        Deed::Storm => {
            for _ in 0..STORM {
                drop(dial(hostile, source).await?);
            }
        }
        Deed::Obstinate => return obstinate(hostile, source).await,
        Deed::Stranger => {
            for _ in 1..STORM {
                drop(dial(hostile, hostile.stranger).await?);
            }
            return dial(hostile, hostile.stranger).await?.answer();
        }
        _ => {}
    }
    let mut peer = dial(hostile, source).await?;
    peer.until(wire::OPEN)?;
    if let Some(said) = instead_of_open(deed, &open) {
        peer.say(&said);
        return peer.answer();
    }
    peer.open(deed, &open)?;
    if deed.expected() != Stays {
        peer.settle()?;
        peer.say(&in_session(deed, &open));
        return peer.answer();
    }
    match deed {
        Deed::OddUpdates => odd_updates(&mut peer, &open)?,
        Deed::Flood => {
            let one = wire::update(&path(&open), &[32, 11, 1, 2, 3]);
            let many = one.repeat(1_000);
            for _ in 0..FLOOD / 1_000 {
                peer.stream.write_all(&many).context("flood the speaker")?;
            }
        }
        Deed::Origin | Deed::NoNextHop => peer.say(&in_session(deed, &open)),
        _ => {}
    }
    peer.asked()
}

/// What is said where an OPEN is waited for.
fn instead_of_open(deed: Deed, open: &Open) -> Option<Vec<u8>> {
    let mut keepalive = wire::message(wire::KEEPALIVE, &[]);
    let with = |change: fn(&mut Open)| {
        let mut other = Open::new(open.asn, open.id);
        change(&mut other);
        Some(other.message())
    };
    match deed {
        Deed::Marker => keepalive[0] = 0,
        Deed::TooShort => keepalive[17] = 18,
        Deed::TooLong => keepalive = wire::message(wire::KEEPALIVE, &[0; 4_097 - HEADER]),
        Deed::Kind => keepalive[18] = 99,
        Deed::Version => return with(|open| open.version = 5),
        Deed::OtherAs => {
            return with(|open| {
                open.asn += 1;
                open.capabilities = vec![1, 4, 0, 1, 0, 1];
            });
        }
        Deed::NoId => return with(|open| open.id = Ipv4Addr::UNSPECIFIED),
        Deed::ShortHold => return with(|open| open.hold = 2),
        Deed::Overlong => return Some(wire::message(wire::OPEN, &open.with(&[2, 200, 1]))),
        Deed::NoOpen => return Some(wire::update(&path(open), &[32, 11, 1, 2, 3])),
        Deed::NoKeepalive => {
            return Some([open.message(), wire::update(&path(open), &[24, 11, 1, 2])].concat());
        }
        _ => return None,
    }
    Some(keepalive)
}

/// What is said in a session that is up.
fn in_session(deed: Deed, open: &Open) -> Vec<u8> {
    let route = [24, 11, 1, 2];
    match deed {
        Deed::SecondOpen => open.message(),
        Deed::Attributes => wire::message(wire::UPDATE, &[0, 0, 0, 200, 0x40, 1, 1, 0]),
        Deed::WellKnown => {
            let unknown = [&path(open)[..], &[0x40, 99, 1, 0]].concat();
            wire::update(&unknown, &route)
        }
        Deed::Prefix => wire::update(&path(open), &[33, 11, 1, 2, 3, 4]),
        Deed::TwoReach => {
            let reach = [0x80, 14, 10, 0, 1, 1, 4, 10, 0, 0, 1, 0, 0];
            let two = [&path(open)[..], &reach, &reach].concat();
            wire::update(&two, &[])
        }
        Deed::Origin => {
            let mut attributes = path(open);
            attributes.splice(0..4, [0x40, 1, 2, 0, 0]);
            wire::update(&attributes, &route)
        }
        Deed::NoNextHop => {
            let attributes = path(open);
            let without = &attributes[..attributes.len() - 7];
            wire::update(without, &route)
        }
        Deed::Refresh => wire::message(wire::ROUTE_REFRESH, &[0, 1, 1, 1, 0]),
        Deed::Farewell => wire::message(wire::NOTIFICATION, &[99, 1]),
        _ => Vec::new(),
    }
}

/// ORIGIN, `AS_PATH` and `NEXT_HOP` of a route by this peer.
fn path(open: &Open) -> Vec<u8> {
    let [high, low] = open.asn.to_be_bytes();
    let [a, b, c, d] = open.id.octets();
    let origin = [0x40, 1, 1, 0];
    let as_path = [0x40, 2, 6, 2, 1, 0, 0, high, low];
    let next_hop = [0x40, 3, 4, a, b, c, d];
    [&origin[..], &as_path, &next_hop].concat()
}

fn odd_updates(peer: &mut Peer, open: &Open) -> Result<()> {
    let [high, low] = open.asn.to_be_bytes();
    let [a, b, c, d] = open.id.octets();
    // Optional, transitive, partial, and its length in two octets.
    let unknown = [&[0xf0, 200, 1, 44][..], &[7; 300]].concat();
    let set = [
        0x40, 2, 16, 2, 1, 0, 0, high, low, 1, 2, 0, 0, 0, 1, 0, 0, 0, 2,
    ];
    let as_set = [
        &[0x40, 1, 1, 2][..],
        &set,
        &[0x40, 3, 4, a, b, c, d],
        &unknown,
    ];
    let stranger = [0x80, 14, 9, 0, 25, 70, 4, 10, 0, 0, 1, 0];
    let other_family = [&path(open)[..], &stranger].concat();
    for said in [
        wire::update(&as_set.concat(), &[0]),
        wire::update(&as_set.concat(), &[0, 0, 0]),
        wire::update(&other_family, &[]),
        // Withdrawn, and was never there; the end of all routes, twice.
        wire::message(wire::UPDATE, &[0, 4, 24, 9, 9, 9, 0, 0]),
        wire::update(&[], &[]),
        wire::update(&[], &[]),
        wire::message(wire::ROUTE_REFRESH, &[0, 25, 0, 70]),
        wire::message(wire::ROUTE_REFRESH, &[0, 1, 77, 1]),
    ] {
        peer.stream.write_all(&said).context("say odd things")?;
    }
    Ok(())
}

/// A peer that dials again has given up what it dialled before: of many connections one
/// is kept.
async fn half_open(hostile: &Hostile, source: Ipv4Addr) -> Result<Answer> {
    let mut all = Vec::new();
    for _ in 0..STORM {
        all.push(dial(hostile, source).await?);
    }
    let first = all.first_mut().context("there is a first one")?.answer()?;
    let mut kept = 0;
    for mut peer in all.drain(1..) {
        let patience = Some(Duration::from_millis(20));
        peer.stream.set_read_timeout(patience)?;
        kept += u32::from(peer.answer()? == Answer::Silence);
    }
    ensure!(
        kept == 1,
        "the speaker keeps {kept} connections of one peer"
    );
    Ok(first)
}

/// After some bad connections the speaker has enough of a peer for a while.
async fn obstinate(hostile: &Hostile, source: Ipv4Addr) -> Result<Answer> {
    let mut last = Answer::Silence;
    for _ in 0..12 {
        let mut peer = dial(hostile, source).await?;
        let mut open = Open::new(hostile.asn, source);
        open.version = 5;
        peer.say(&open.message());
        last = peer.answer()?;
    }
    Ok(last)
}

struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

async fn dial(hostile: &Hostile, source: Ipv4Addr) -> Result<Peer> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source.into(), 0))?;
    let speaker = SocketAddr::new(hostile.speaker, 179);
    let stream = socket.connect(speaker).await;
    let stream = stream.context("dial the speaker")?.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Peer {
        stream,
        buffer: Vec::new(),
    })
}

impl Peer {
    /// Sends something; that the speaker has closed meanwhile shows when it is read.
    fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next message: its type and its body. None when nothing comes, an error when
    /// the connection is closed.
    fn next(&mut self) -> std::io::Result<Option<(u8, Vec<u8>)>> {
        let mut piece = [0; 4_096];
        loop {
            if let Some(message) = wire::whole(&self.buffer) {
                let found = (message[HEADER - 1], message[HEADER..].to_vec());
                let length = message.len();
                self.buffer.drain(..length);
                return Ok(Some(found));
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads up to a message of this type.
    fn until(&mut self, kind: u8) -> Result<()> {
        loop {
            match self.next()? {
                Some((found, _)) if found == kind => return Ok(()),
                Some((wire::NOTIFICATION, body)) => bail!("the speaker ended it: {body:?}"),
                Some(_) => {}
                None => bail!("no message of type {kind} came"),
            }
        }
    }

    /// Brings the session up.
    fn open(&mut self, deed: Deed, open: &Open) -> Result<()> {
        let mut said = match deed {
            Deed::OddOpen => odd_open(open),
            _ => open.message(),
        };
        said.extend(wire::message(wire::KEEPALIVE, &[]));
        match deed {
            Deed::Pieces => {
                for octet in said {
                    self.say(&[octet]);
                    sleep(Duration::from_millis(5));
                }
            }
            Deed::AtOnce => {
                said.extend(wire::update(&path(open), &[24, 11, 1, 2]));
                self.say(&said);
            }
            _ => self.say(&said),
        }
        self.until(wire::KEEPALIVE)
    }

    /// Reads what it is told, until nothing comes.
    fn settle(&mut self) -> Result<()> {
        self.stream.set_read_timeout(Some(QUIET))?;
        while let Some((kind, body)) = self.next()? {
            ensure!(kind != wire::NOTIFICATION, "the speaker ended it: {body:?}");
        }
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(())
    }

    /// Reads until the connection ends.
    fn answer(&mut self) -> Result<Answer> {
        loop {
            match self.next() {
                Ok(Some((wire::NOTIFICATION, body))) => {
                    let [code, subcode, ..] = body[..] else {
                        bail!("a NOTIFICATION is cut short: {body:?}");
                    };
                    return Ok(Notification(code, subcode));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Answer::Silence),
                Err(_) => return Ok(Closed),
            }
        }
    }

    /// Asks for the routes again: whoever answers is there.
    fn asked(&mut self) -> Result<Answer> {
        let before = self.settle();
        if before.is_ok() {
            self.say(&wire::message(wire::ROUTE_REFRESH, &[0, 1, 0, 1]));
            if self.until(wire::UPDATE).is_ok() {
                return Ok(Stays);
            }
        }
        bail!(
            "the session did not stay: {:?}, {:?}",
            before,
            self.answer()
        )
    }
}

/// RFC 9072: lengths of two octets, where none is needed. Capabilities that nobody
/// knows, and one of them twice.
fn odd_open(open: &Open) -> Vec<u8> {
    let mut capabilities = open.capabilities.clone();
    for _ in 0..2 {
        capabilities.extend([240, 100]);
        capabilities.extend([7; 100]);
    }
    let length = u16::try_from(capabilities.len()).unwrap_or(0);
    let parameter = [&[2][..], &length.to_be_bytes(), &capabilities].concat();
    let all = u16::try_from(parameter.len()).unwrap_or(0);
    let mut body = open.with(&[]);
    body.pop();
    body.extend([255, 255]);
    body.extend(all.to_be_bytes());
    body.extend(parameter);
    wire::message(wire::OPEN, &body)
}
