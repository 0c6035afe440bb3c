//! A peer that counts: it dials a speaker, takes all that it is told, and says
//! when the last of it had come. For benches, with any speaker at the other end.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use herald_bgp::HEADER;
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use super::wire;

/// Name of the hidden subcommand that calls [`run`].
pub const SUBCOMMAND: &str = "__sink";

/// What it is set up with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sink {
    /// The speaker.
    pub address: IpAddr,
    /// Our address.
    pub source: IpAddr,
    /// Our AS, below 65536.
    pub asn: u16,
    /// How many IPv4 prefixes it is told, and later withdrawn.
    pub prefixes: u32,
    /// Read nothing at all, and say each second that we are there.
    pub deaf: bool,
}

/// Octets that the kernel takes for one who does not read.
const SMALL: u32 = 4096;

/// One way of what it has seen.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// When the session was established, or the first withdrawal came: seconds
    /// since 1970.
    pub began: f64,
    /// When the last prefix had come: seconds since 1970.
    pub ended: f64,
    /// Messages that they came in.
    pub messages: u32,
}

/// Prints a [`Seen`] for the announcements, then one for the withdrawals.
pub async fn run(settings: &str) -> Result<()> {
    let sink: Sink = serde_json::from_str(settings).context("read the settings")?;
    let socket = TcpSocket::new_v4()?;
    if sink.deaf {
        socket.set_recv_buffer_size(SMALL)?;
    }
    socket.bind(SocketAddr::new(sink.source, 0))?;
    let stream = socket
        .connect(SocketAddr::new(sink.address, 179))
        .await
        .with_context(|| format!("dial {}", sink.address))?;
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_mins(2)))?;
    let IpAddr::V4(id) = sink.source else {
        bail!("the sink speaks IPv4");
    };
    stream.write_all(&wire::Open::new(sink.asn, id).message())?;
    let keepalive = wire::message(wire::KEEPALIVE, &[]);
    if sink.deaf {
        loop {
            let written = stream.write_all(&keepalive);
            written.context("the session is over")?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    let mut count = Count::default();
    let mut buffer = Vec::with_capacity(1 << 20);
    let mut piece = vec![0; 1 << 16];
    while count.withdrawn < sink.prefixes {
        let taken = stream.read(&mut piece).context("read what it is told")?;
        ensure!(taken > 0, "the speaker closed the connection: {count:?}");
        buffer.extend_from_slice(&piece[..taken]);
        let mut at = 0;
        while let Some(message) = wire::whole(&buffer[at..]) {
            at += message.len();
            if count.take(message, sink.prefixes)? {
                stream.write_all(&keepalive)?;
            }
        }
        buffer.drain(..at);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Count {
    established: f64,
    announced: u32,
    withdrawn: u32,
    messages: u32,
}

impl Count {
    /// Takes a message in; whether a KEEPALIVE is due.
    fn take(&mut self, message: &[u8], all: u32) -> Result<bool> {
        let body = &message[HEADER..];
        match message[HEADER - 1] {
            wire::OPEN => self.established = now()?,
            wire::UPDATE => {
                self.update(body, all)?;
                return Ok(false);
            }
            wire::NOTIFICATION => bail!("the speaker ended the session: {body:?}"),
            // Answered, so that neither side's hold time ends it.
            wire::KEEPALIVE => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn update(&mut self, body: &[u8], all: u32) -> Result<()> {
        let (withdrawn, rest) = sized(body).context("an UPDATE is cut short")?;
        let (_, routes) = sized(rest).context("an UPDATE is cut short")?;
        let gone = prefixes(withdrawn)?;
        let come = prefixes(routes)?;
        if gone > 0 && self.withdrawn == 0 {
            self.established = now()?;
            self.messages = 0;
        }
        if gone + come > 0 {
            self.messages += 1;
        }
        let before = (self.announced < all, self.withdrawn < all);
        self.announced += come;
        self.withdrawn += gone;
        if (before.0 && self.announced >= all) || (before.1 && self.withdrawn >= all) {
            let seen = Seen {
                began: self.established,
                ended: now()?,
                messages: self.messages,
            };
            println!("{}", serde_json::to_string(&seen)?);
        }
        Ok(())
    }
}

/// What its length in front says, and what is behind.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
    bytes.get(2..)?.split_at_checked(length)
}

fn prefixes(mut bytes: &[u8]) -> Result<u32> {
    let mut count = 0;
    while let [bits, rest @ ..] = bytes {
        let octets = usize::from(*bits).div_ceil(8);
        bytes = rest.get(octets..).context("a prefix is cut short")?;
        count += 1;
    }
    Ok(count)
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_counted_and_cut_ones_found() {
        assert_eq!(prefixes(&[32, 11, 0, 0, 1, 8, 10, 0]).unwrap(), 3);
        assert!(prefixes(&[32, 11, 0]).is_err());
    }
}
