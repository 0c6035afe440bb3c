//! What is probed, as an URL.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// How a probe is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// One datagram there and one back.
    Udp,
    /// A connection, a line there and a line back.
    Tcp,
    /// A connection, nothing more: for servers that do not echo.
    Connect,
    /// `GET` of a path; any status below 500 is an answer.
    Http,
}

/// What is probed: `udp://192.0.2.1:9000`, `tcp://[2001:db8::1]:9000`,
/// `connect://192.0.2.1:443`, `http://192.0.2.1/healthz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How a probe is made.
    pub scheme: Scheme,
    /// Where it goes.
    pub address: SocketAddr,
    /// Path of an HTTP probe; `/` for the others.
    pub path: String,
}

/// A text that is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no target; write udp://ADDRESS:PORT, tcp://ADDRESS:PORT, connect://ADDRESS:PORT or http://ADDRESS[:PORT]/PATH (IPv6 addresses in brackets)"
)]
pub struct InvalidTarget(String);

impl Target {
    /// UDP probes to a port of an address.
    pub fn udp(address: IpAddr, port: u16) -> Self {
        Self::new(Scheme::Udp, address, port)
    }

    /// TCP echo probes to a port of an address.
    pub fn tcp(address: IpAddr, port: u16) -> Self {
        Self::new(Scheme::Tcp, address, port)
    }

    /// HTTP probes of `/` at a port of an address.
    pub fn http(address: IpAddr, port: u16) -> Self {
        Self::new(Scheme::Http, address, port)
    }

    fn new(scheme: Scheme, address: IpAddr, port: u16) -> Self {
        Self {
            scheme,
            address: SocketAddr::new(address, port),
            path: "/".into(),
        }
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTarget(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let scheme = match scheme {
            "udp" => Scheme::Udp,
            "tcp" => Scheme::Tcp,
            "connect" => Scheme::Connect,
            "http" => Scheme::Http,
            _ => return Err(invalid()),
        };
        let (host, path) = match rest.find('/') {
            Some(slash) if scheme == Scheme::Http => (&rest[..slash], &rest[slash..]),
            Some(_) => return Err(invalid()),
            None => (rest, "/"),
        };
        let address = match host.parse() {
            Ok(address) => address,
            Err(_) if scheme == Scheme::Http => {
                let bare = host
                    .strip_prefix('[')
                    .and_then(|inner| inner.strip_suffix(']'))
                    .unwrap_or(host);
                SocketAddr::new(bare.parse().map_err(|_| invalid())?, 80)
            }
            Err(_) => return Err(invalid()),
        };
        Ok(Self {
            scheme,
            address,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Udp => "udp",
            Scheme::Tcp => "tcp",
            Scheme::Connect => "connect",
            Scheme::Http => "http",
        };
        write!(f, "{scheme}://{}", self.address)?;
        if self.scheme == Scheme::Http {
            f.write_str(&self.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_back_as_written() {
        for text in [
            "udp://192.0.2.1:9000",
            "tcp://[2001:db8::1]:9000",
            "connect://192.0.2.1:443",
            "http://[2001:db8::1]:8080/a/b",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn http_has_a_default_port_and_path() {
        let target: Target = "http://[2001:db8::1]".parse().unwrap();
        assert_eq!(target.to_string(), "http://[2001:db8::1]:80/");
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "192.0.2.1:9000",
            "udp://192.0.2.1",
            "sctp://192.0.2.1:1",
            "udp://h:1/x",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?} was taken");
        }
    }
}
