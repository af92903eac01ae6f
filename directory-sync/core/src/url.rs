//! Addresses of servers as LDAP URLs (RFC 4516), without the parts that name entries.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// Port of LDAP.
const LDAP: u16 = 389;
/// Port of LDAP over TLS.
const LDAPS: u16 = 636;

/// Address of a server, such as `ldaps://ldap.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LdapUrl {
    /// Host name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS from the first byte.
    pub ldaps: bool,
}

/// A text is not the URL of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Neither `ldap://` nor `ldaps://`.
    #[error("it begins with neither ldap:// nor ldaps://")]
    Scheme,
    /// The host is missing or is no host.
    #[error("it names no host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// It has more than a host and a port.
    #[error("it has more than a host and a port: give the base and the filter as settings of their own")]
    Rest,
}

impl FromStr for LdapUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(InvalidUrl::Scheme)?;
        let ldaps = match scheme.to_ascii_lowercase().as_str() {
            "ldap" => false,
            "ldaps" => true,
            _ => return Err(InvalidUrl::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(InvalidUrl::Rest);
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(InvalidUrl::Host)?;
                let address: Ipv6Addr = host.parse().map_err(|_| InvalidUrl::Host)?;
                let port = match after {
                    "" => None,
                    after => Some(after.strip_prefix(':').ok_or(InvalidUrl::Port)?),
                };
                (address.to_string(), port)
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
                None => (rest.to_ascii_lowercase(), None),
            },
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let fine = host.contains(':') || host.bytes().all(plain);
        if !(1..=253).contains(&host.len()) || !fine || host.starts_with(['-', '.']) {
            return Err(InvalidUrl::Host);
        }
        let port = match port {
            None => standard_port(ldaps),
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(InvalidUrl::Port)?
            }
            Some(_) => return Err(InvalidUrl::Port),
        };
        Ok(Self { host, port, ldaps })
    }
}

impl fmt::Display for LdapUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ldaps { "ldaps://" } else { "ldap://" })?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if self.port == standard_port(self.ldaps) { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

const fn standard_port(ldaps: bool) -> u16 {
    if ldaps { LDAPS } else { LDAP }
}
