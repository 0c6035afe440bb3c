//! Where a source is and how it is spoken to, as the operator's flag says.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use thiserror::Error;

/// How long a source may take for an answer, where it is not said.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that it may be given: a worker waits for it.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

/// One source, as `--source` names it:
/// `name=campus,url=https://ipam.example.com:8443,timeout=5s,ca=/etc/ca.crt,token=/etc/token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// What pools call it in `spec.source`.
    pub name: String,
    /// Where it is.
    pub url: SourceUrl,
    /// How long it may take for one answer, 1 to 30 seconds; 5 by default.
    pub timeout: Duration,
    /// Certificates that it is known by, PEM; for `https` only, and needed there.
    pub ca: Option<PathBuf>,
    /// A file with the token that it is shown, read at each call.
    pub token: Option<PathBuf>,
}

/// Where a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceUrl {
    /// `unix:///run/ipam/ipam.sock`.
    Unix(PathBuf),
    /// `http://` or `https://`.
    Tcp {
        /// Name or address.
        host: String,
        /// 1 to 65535.
        port: u16,
        /// Whether the connection is sealed.
        tls: bool,
        /// What stands before `/v1`; without a slash at the end.
        prefix: String,
    },
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp {
                host,
                port,
                tls,
                prefix,
            } => {
                let scheme = if *tls { "https" } else { "http" };
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}{prefix}")
                } else {
                    write!(f, "{scheme}://{host}:{port}{prefix}")
                }
            }
        }
    }
}

/// Why a text names no source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidSource {
    /// A part is no `KEY=VALUE`, or nobody knows the key.
    #[error("{0:?} is none of name=, url=, timeout=, ca=, token=")]
    Part(String),
    /// A part is missing.
    #[error("{0}= is missing")]
    Missing(&'static str),
    /// It is no place.
    #[error("url {0:?} must look like http://HOST:PORT, https://HOST:PORT or unix:///PATH")]
    Url(String),
    /// It is no time.
    #[error("timeout {0:?} must be whole seconds, 1s to 30s")]
    Timeout(String),
    /// Nobody is known by certificates there.
    #[error("ca= goes with https:// only, and https:// needs it")]
    Ca,
}

impl FromStr for SourceSettings {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut name, mut url, mut timeout, mut ca, mut token) = (None, None, TIMEOUT, None, None);
        for part in text.split(',') {
            let unknown = || InvalidSource::Part(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(unknown)?;
            match key {
                "name" if !value.is_empty() => name = Some(value.to_owned()),
                "url" => url = Some(value.parse()?),
                "timeout" => timeout = seconds(value)?,
                "ca" => ca = Some(PathBuf::from(value)),
                "token" => token = Some(PathBuf::from(value)),
                _ => return Err(unknown()),
            }
        }
        let url = url.ok_or(InvalidSource::Missing("url"))?;
        if matches!(url, SourceUrl::Tcp { tls: true, .. }) != ca.is_some() {
            return Err(InvalidSource::Ca);
        }
        Ok(Self {
            name: name.ok_or(InvalidSource::Missing("name"))?,
            url,
            timeout,
            ca,
            token,
        })
    }
}

fn seconds(text: &str) -> Result<Duration, InvalidSource> {
    text.strip_suffix('s')
        .and_then(|number| number.parse().ok())
        .map(Duration::from_secs)
        .filter(|timeout| !timeout.is_zero() && *timeout <= LONGEST_TIMEOUT)
        .ok_or_else(|| InvalidSource::Timeout(text.to_owned()))
}

impl FromStr for SourceUrl {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSource::Url(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            return path
                .is_absolute()
                .then_some(Self::Unix(path))
                .ok_or_else(invalid);
        }
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid()),
        };
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(invalid)?;
        if uri.query().is_some() {
            return Err(invalid());
        }
        Ok(Self::Tcp {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_and_written() {
        for (text, url) in [
            ("http://[fd00::1]:8090/ipam/", "http://[fd00::1]:8090/ipam"),
            ("unix:///run/ipam.sock", "unix:///run/ipam.sock"),
            ("http://ipam", "http://ipam:80"),
        ] {
            let source: SourceSettings = format!("name=campus,url={text}").parse().unwrap();
            assert_eq!(source.url.to_string(), url);
            assert_eq!(source.timeout, TIMEOUT);
        }
        let sealed = "name=a,url=https://ipam,ca=/ca.crt,token=/token,timeout=9s";
        let sealed: SourceSettings = sealed.parse().unwrap();
        assert_eq!(sealed.url.to_string(), "https://ipam:443");
        assert_eq!(sealed.timeout, Duration::from_secs(9));
    }

    #[test]
    fn what_is_no_source_is_told() {
        for (text, error) in [
            ("campus", InvalidSource::Part("campus".into())),
            ("name=a", InvalidSource::Missing("url")),
            ("url=http://a", InvalidSource::Missing("name")),
            ("name=a,url=ftp://a", InvalidSource::Url("ftp://a".into())),
            (
                "name=a,url=unix://run",
                InvalidSource::Url("unix://run".into()),
            ),
            (
                "name=a,url=http://a,timeout=0s",
                InvalidSource::Timeout("0s".into()),
            ),
            ("name=a,url=https://a", InvalidSource::Ca),
            ("name=a,url=http://a,ca=/ca", InvalidSource::Ca),
        ] {
            assert_eq!(text.parse::<SourceSettings>(), Err(error), "{text}");
        }
    }
}
