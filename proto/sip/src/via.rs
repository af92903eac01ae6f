//! Via (RFC 3261 section 20.42, RFC 3581).

use std::net::SocketAddr;

use crate::{addr, uri::HostPort};

/// Magic cookie of RFC 3261 branches.
pub const COOKIE: &str = "z9hG4bK";

/// One Via element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, `TLS` …
    pub transport: &'a str,
    /// The sent-by address of the sender.
    pub sent_by: HostPort<'a>,
    params: &'a str,
}

impl<'a> Via<'a> {
    /// Parses one element; blanks around the slashes are allowed (section 7.3.1).
    pub fn parse(text: &'a str) -> Option<Self> {
        let (head, params) = text.split_at(text.find(';').unwrap_or(text.len()));
        let mut parts = head.splitn(3, '/').map(str::trim);
        let (name, version, rest) = (parts.next()?, parts.next()?, parts.next()?);
        if !name.eq_ignore_ascii_case("SIP") || version != "2.0" || !addr::quotes_closed(params) {
            return None;
        }
        let (transport, sent_by) = rest.split_once([' ', '\t'])?;
        if transport.is_empty() || !transport.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return None;
        }
        let sent_by = sent_by.trim();
        // `host : port` with blanks is legal, but not used in practice, and not supported here.
        Some(Self { transport, sent_by: HostPort::parse(sent_by)?, params })
    }

    /// A parameter: outer `None` if absent, inner `None` without a value.
    pub fn param(&self, name: &str) -> Option<Option<&'a str>> {
        addr::params(self.params).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The branch.
    pub fn branch(&self) -> Option<&'a str> {
        self.param("branch").flatten().filter(|b| !b.is_empty())
    }

    /// UDP destination of the response to a request with this topmost Via: the source if `rport` is present (RFC 3581),
    /// else the source address and the port of sent-by (RFC 3261 section 18.2.2). `maddr` is ignored: it would let a
    /// stranger choose the destination of responses.
    pub fn reply_to(&self, source: SocketAddr) -> SocketAddr {
        match self.param("rport") {
            Some(_) => source,
            None => SocketAddr::new(source.ip(), self.sent_by.port.unwrap_or(5060)),
        }
    }
}

/// The Via header line with `received` and `rport` set on its first element (RFC 3581 section 4).
pub fn received(line: &str, source: SocketAddr) -> String {
    let first = addr::split_list(line).next().unwrap_or_default();
    let Some(via) = Via::parse(first) else { return line.to_owned() };
    let wants_rport = via.param("rport").is_some();
    let same_host = via.sent_by.ip().is_some_and(|ip| ip.to_canonical() == source.ip().to_canonical());
    let mut out = first.split(';').next().unwrap_or_default().trim_end().to_owned();
    for (key, value) in addr::params(via.params) {
        match value {
            _ if key.eq_ignore_ascii_case("received") => {}
            _ if key.eq_ignore_ascii_case("rport") => out.push_str(&format!(";rport={}", source.port())),
            Some(value) => out.push_str(&format!(";{key}={value}")),
            None => out.push_str(&format!(";{key}")),
        }
    }
    if wants_rport || !same_host {
        out.push_str(&format!(";received={}", source.ip().to_canonical()));
    }
    let rest = line.trim_start().get(first.len()..).unwrap_or_default();
    out + rest
}
