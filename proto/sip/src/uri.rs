//! URIs (RFC 3261 section 19.1, `tel` of RFC 3966), parsed in place and on demand.

use std::net::IpAddr;

/// Maximum length of a URI, in bytes.
const MAX_URI: usize = 1024;

/// The parts of a URI, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uri<'a> {
    /// `sip`, `sips`, `tel` … as written.
    pub scheme: &'a str,
    /// The part before `@`, without a password; for `tel` the number.
    pub user: Option<&'a str>,
    /// The host; empty for `tel`. IPv6 without its brackets.
    pub host: &'a str,
    /// The port, if one is given.
    pub port: Option<u16>,
    params: &'a str,
    headers: &'a str,
}

impl<'a> Uri<'a> {
    /// Parses an absolute URI without angle brackets.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_URI || text.bytes().any(|b| b <= b' ' || b == 0x7f || matches!(b, b'<' | b'>' | b'"')) {
            return None;
        }
        let (scheme, rest) = text.split_once(':')?;
        let valid = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if scheme.is_empty() || !valid || rest.is_empty() {
            return None;
        }
        if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
            let (user, params) = split_before(rest, b";");
            return Some(Self { scheme, user: Some(user), host: "", port: None, params, headers: "" });
        }
        // An unescaped `@` is not allowed after the host, so the last one ends the user part.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo.split(':').next().unwrap_or_default()), rest),
            None => (None, rest),
        };
        if user.is_some_and(str::is_empty) {
            return None;
        }
        let (hostport, tail) = split_before(rest, b";?");
        let (params, headers) = split_before(tail, b"?");
        let HostPort { host, port } = HostPort::parse(hostport)?;
        Some(Self { scheme, user, host, port, params, headers: headers.trim_start_matches('?') })
    }

    /// Whether the scheme is `sip` or `sips`.
    pub fn is_sip(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("sip") || self.scheme.eq_ignore_ascii_case("sips")
    }

    /// A URI parameter: `None` if absent, `Some("")` without a value.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params.split(';').filter(|p| !p.is_empty()).find_map(|p| {
            let (key, value) = p.split_once('=').unwrap_or((p, ""));
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// A header of the URI (after `?`), still escaped.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.split('&').find_map(|h| {
            let (key, value) = h.split_once('=')?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The number to dial: the user part unescaped, without its parameters, and, if it is a telephone number, without
    /// visual separators. `None` without a user part, or if it cannot be dialled (other characters, longer than 64).
    pub fn number(&self) -> Option<String> {
        let user = unescape(self.user?.split(';').next().unwrap_or_default())?;
        let allowed =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'*' | b'#' | b'.' | b'-' | b'_' | b'(' | b')');
        if user.is_empty() || user.len() > 64 || !user.bytes().all(allowed) {
            return None;
        }
        let dialled = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'*' | b'#');
        let separator = |b: u8| matches!(b, b'.' | b'-' | b'(' | b')');
        if user.bytes().all(|b| dialled(b) || separator(b)) && user.bytes().any(dialled) {
            return Some(user.chars().filter(|c| !separator(*c as u8)).collect());
        }
        Some(user)
    }
}

/// `host` or `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// Name, IPv4 address, or IPv6 address without brackets.
    pub host: &'a str,
    /// The port, if one is given.
    pub port: Option<u16>,
}

impl<'a> HostPort<'a> {
    /// Parses `host`, `host:port`, `[v6]`, `[v6]:port`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return None,
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(ok) {
            return None;
        }
        let port = match port {
            Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => Some(p.parse().ok().filter(|&p: &u16| p != 0)?),
            Some(_) => return None,
            None => None,
        };
        Some(Self { host, port })
    }

    /// The host as an address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Decodes `%hh`; `None` if the result is not UTF-8 or an escape is broken.
pub fn unescape(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let hex = |b: Option<u8>| (b? as char).to_digit(16);
            out.push((hex(bytes.next())? * 16 + hex(bytes.next())?) as u8);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

/// Splits before the first of these bytes, which begins the second part.
fn split_before<'a>(text: &'a str, at: &[u8]) -> (&'a str, &'a str) {
    text.split_at(text.bytes().position(|b| at.contains(&b)).unwrap_or(text.len()))
}
