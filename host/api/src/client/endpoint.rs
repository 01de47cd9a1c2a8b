//! Where a daemon listens, as `--host` and `DOCKER_HOST` write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The port of a daemon that is named without one: TLS is required over TCP (Docker's port for that).
const TLS_PORT: u16 = 2376;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A host's name or address, and a port.
    Tcp {
        /// Without brackets, if it is an IPv6 address.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Not an address of a daemon.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("unable to parse host {0:?}: expected unix://PATH or tcp://HOST[:PORT]")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let wrong = || EndpointError(text.to_owned());
        let text = text.trim();
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Endpoint::Unix(PathBuf::from(path))),
            Some(("tcp" | "https", address)) => tcp(address).ok_or_else(wrong),
            None if text.contains(':') => tcp(text).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

fn tcp(address: &str) -> Option<Endpoint> {
    let address = address.trim_end_matches('/');
    let (host, port) = if let Some(bracketed) = address.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']')?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    let port = port.map_or(Some(TLS_PORT), |port| port.parse().ok().filter(|port| *port != 0))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    host.bytes().all(plain).then(|| Endpoint::Tcp { host: host.to_owned(), port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Endpoint::Tcp { host, port } if host.contains(':') => write!(formatter, "tcp://[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(formatter, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_they_are_written() {
        for text in ["unix:///run/a socket", "tcp://host:1", "tcp://127.0.0.1:2375", "tcp://[::1]:99"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for (text, full) in [
            ("tcp://host", "tcp://host:2376"),
            ("tcp://host/", "tcp://host:2376"),
            ("host:77", "tcp://host:77"),
            (":77", "tcp://127.0.0.1:77"),
            ("https://[fe80::1]", "tcp://[fe80::1]:2376"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), full, "{text}");
        }
        for bad in [
            "",
            "unix://",
            "unix://relative",
            "ssh://host",
            "tcp://host:0",
            "tcp://host:x",
            "tcp://a b",
            "word",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
