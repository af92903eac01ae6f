//! Session descriptions (RFC 8866) and offer/answer (RFC 3264) for one audio stream of G.711.
//!
//! Parsing is lenient (line ends, order, unknown lines) and bounded; writing is plain.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use twinbox_rtp::Codec;

/// The media type.
pub const CONTENT_TYPE: &str = "application/sdp";
/// Payload type offered for telephone-event.
const OUR_DTMF: u8 = 101;
const MAX_BODY: usize = 32 * 1024;
const MAX_MEDIA: usize = 32;
const MAX_FORMATS: usize = 64;

/// Error of a session description. All but [`SdpError::Unreadable`] mean `488`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// The body is not a session description.
    #[error("the body is no session description")]
    Unreadable,
    /// There is no audio stream over plain RTP.
    #[error("no audio stream over RTP/AVP is offered")]
    NoAudio,
    /// There is audio, but neither PCMU nor PCMA.
    #[error("neither PCMU nor PCMA is offered")]
    NoCommonCodec,
    /// One side names an IPv4 address, the other one an IPv6 address: each would send to where the other cannot listen.
    #[error("the audio is at an address of the other IP version")]
    IpVersion,
}

impl SdpError {
    /// The Warning header field of the `488` (RFC 3261 section 20.43).
    pub fn warning(&self) -> String {
        let code = if *self == Self::IpVersion { 301 } else { 305 };
        format!("{code} twinbox \"{self}\"")
    }
}

/// Direction of audio, as seen from the describing side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Both.
    SendRecv,
    /// The describing side only sends: its peer is on hold.
    SendOnly,
    /// The describing side only receives.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    fn parse(attribute: &str) -> Option<Self> {
        Some(match attribute {
            "sendrecv" => Self::SendRecv,
            "sendonly" => Self::SendOnly,
            "recvonly" => Self::RecvOnly,
            "inactive" => Self::Inactive,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    /// The same direction as seen from the other side (RFC 3264 section 6.1).
    fn reversed(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            other => other,
        }
    }
}

/// The negotiated audio stream, by the peer's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Destination of audio; `None` if the peer names no address (a host name, or `0.0.0.0`).
    pub remote: Option<SocketAddr>,
    /// Destination of RTCP, if the peer names it (RFC 3605); else the port above.
    #[serde(default)]
    pub rtcp: Option<SocketAddr>,
    /// RTCP shares the RTP port (RFC 5761): offered by the peer and accepted in the answer.
    #[serde(default)]
    pub rtcp_mux: bool,
    /// The codec.
    pub codec: Codec,
    /// Its payload type.
    pub payload_type: u8,
    /// The payload type of the other codec, if the peer lists both: it may send either (RFC 3264 section 7).
    #[serde(default)]
    pub other: Option<(u8, Codec)>,
    /// The payload type of telephone-event, if supported by the peer.
    pub dtmf: Option<u8>,
    /// The payload type of telephone-event in the description of this side, if the peer supports it: the peer may send that
    /// one (RFC 3264 section 6.1).
    #[serde(default)]
    pub own_dtmf: Option<u8>,
    /// The peer names the null address, as RFC 2543 puts a call on hold.
    #[serde(default)]
    pub null: bool,
    /// The peer's direction; a null address counts as a hold (RFC 3264 section 8.4).
    pub direction: Direction,
}

impl Stream {
    /// Refuses an address of this side that has another IP version than the peer's.
    fn check_ip_version(&self, own: IpAddr) -> Result<(), SdpError> {
        let is_ipv4 = |ip: IpAddr| ip.to_canonical().is_ipv4();
        match self.remote {
            Some(remote) if is_ipv4(remote.ip()) != is_ipv4(own) => Err(SdpError::IpVersion),
            _ => Ok(()),
        }
    }

    /// Whether the peer receives audio.
    pub fn peer_listens(&self) -> bool {
        matches!(self.direction, Direction::SendRecv | Direction::RecvOnly)
    }

    /// Whether the peer sends audio.
    pub fn peer_speaks(&self) -> bool {
        matches!(self.direction, Direction::SendRecv | Direction::SendOnly)
    }
}

/// Local side of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// RTP address announced to the peer.
    pub address: IpAddr,
    /// RTP port announced to the peer.
    pub port: u16,
    /// Session ID of `o=`, fixed for the call.
    pub session: u64,
    /// Version of `o=`, incremented with every sent description.
    pub version: u64,
}

/// A parsed description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sdp {
    media: Vec<Media>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Media {
    kind: String,
    port: u16,
    protocol: String,
    formats: Vec<String>,
    rtpmaps: Vec<(u8, String)>,
    connection: Option<Connection>,
    direction: Option<Direction>,
    /// `a=rtcp`: the port, and the address if it differs.
    rtcp: Option<(u16, Option<Connection>)>,
    rtcp_mux: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Address(IpAddr),
    Name,
}

impl Sdp {
    /// Parses a description.
    pub fn parse(body: &[u8]) -> Result<Self, SdpError> {
        if body.len() > MAX_BODY {
            return Err(SdpError::Unreadable);
        }
        let text = String::from_utf8_lossy(body);
        let mut lines = text.split(['\r', '\n']).filter(|l| !l.is_empty());
        if lines.next().map(str::trim) != Some("v=0") {
            return Err(SdpError::Unreadable);
        }
        let mut connection = None;
        let mut direction = None;
        let mut media: Vec<Media> = Vec::new();
        for line in lines {
            let Some((kind, value)) = line.split_once('=') else { continue };
            let value = value.trim();
            let full = media.len() >= MAX_MEDIA;
            match (kind.trim(), media.last_mut()) {
                ("m", _) if full => return Err(SdpError::Unreadable),
                ("m", _) => media.push(Media::parse(value).ok_or(SdpError::Unreadable)?),
                ("c", Some(m)) => m.connection = m.connection.or_else(|| Connection::parse(value)),
                ("c", None) => connection = connection.or_else(|| Connection::parse(value)),
                ("a", Some(m)) => m.attribute(value),
                ("a", None) => direction = Direction::parse(value).or(direction),
                _ => {}
            }
        }
        for m in &mut media {
            m.connection = m.connection.or(connection);
            m.direction = m.direction.or(direction);
        }
        Ok(Self { media })
    }

    /// The first usable audio stream, read as an answer to an offer without rtcp-mux.
    pub fn audio(&self) -> Result<Stream, SdpError> {
        self.choose().map(|(_, stream)| Stream { rtcp_mux: false, ..stream })
    }

    /// The first usable audio stream of this answer to an offer of this side.
    pub fn answers(&self, offer: &str) -> Result<Stream, SdpError> {
        let (_, stream) = self.choose()?;
        let offered = Self::parse(offer.as_bytes()).and_then(|offer| offer.choose()).map(|(_, offered)| offered)?;
        if let Some(own) = offered.remote {
            stream.check_ip_version(own.ip())?;
        }
        let own_dtmf = offered.dtmf.filter(|_| stream.dtmf.is_some());
        Ok(Stream { rtcp_mux: stream.rtcp_mux && offered.rtcp_mux, own_dtmf, ..stream })
    }

    fn choose(&self) -> Result<(usize, Stream), SdpError> {
        let mut error = SdpError::NoAudio;
        for (n, m) in self.media.iter().enumerate() {
            let usable = m.kind == "audio" && m.port != 0 && m.protocol.eq_ignore_ascii_case("RTP/AVP");
            if usable {
                match m.stream() {
                    Some(stream) => return Ok((n, stream)),
                    None => error = SdpError::NoCommonCodec,
                }
            }
        }
        Err(error)
    }

    /// The answer to this offer, and the resulting stream. Other streams are declined (port 0).
    pub fn answer(&self, local: &Local) -> Result<(Stream, String), SdpError> {
        let (chosen, stream) = self.choose()?;
        stream.check_ip_version(local.address)?;
        let mut out = local.head();
        for (n, m) in self.media.iter().enumerate() {
            if n == chosen {
                let codecs = [(stream.payload_type, stream.codec)];
                local.audio(&mut out, &codecs, stream.dtmf, stream.direction.reversed());
                if stream.rtcp_mux {
                    out.push_str("a=rtcp-mux\r\n");
                }
            } else {
                m.decline(&mut out);
            }
        }
        // The answer names one codec, and events by the peer's number.
        Ok((Stream { other: None, own_dtmf: stream.dtmf, ..stream }, out))
    }
}

impl Local {
    /// An offer of both codecs and telephone-event.
    pub fn offer(&self) -> String {
        let mut out = self.head();
        let codecs = Codec::ALL.map(|c| (c.payload_type(), c));
        self.audio(&mut out, &codecs, Some(OUR_DTMF), Direction::SendRecv);
        out
    }

    /// A new offer of both codecs within a session that this side described last by `described`: its streams stay in their places,
    /// and payload types keep their meaning (RFC 3264 section 8).
    pub fn offer_again(&self, described: &str) -> String {
        let Ok(before) = Sdp::parse(described.as_bytes()) else { return self.offer() };
        let Ok((chosen, stream)) = before.choose() else { return self.offer() };
        let mut codecs = vec![(stream.payload_type, stream.codec)];
        codecs.extend(stream.other);
        let missing = Codec::ALL.into_iter().filter(|codec| codecs.iter().all(|(_, known)| known != codec));
        let missing: Vec<_> = missing.map(|codec| (codec.payload_type(), codec)).collect();
        codecs.extend(missing);
        let mut out = self.head();
        for (n, m) in before.media.iter().enumerate() {
            if n != chosen {
                m.decline(&mut out);
                continue;
            }
            let free = Some(OUR_DTMF).filter(|ours| codecs.iter().all(|(used, _)| used != ours));
            self.audio(&mut out, &codecs, stream.dtmf.or(free), Direction::SendRecv);
            if stream.rtcp_mux {
                out.push_str("a=rtcp-mux\r\n");
            }
        }
        out
    }

    fn head(&self) -> String {
        let family = if self.address.is_ipv4() { "IP4" } else { "IP6" };
        let (session, version, address) = (self.session, self.version, self.address);
        format!(
            "v=0\r\no=twinbox {session} {version} IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n"
        )
    }

    fn audio(&self, out: &mut String, codecs: &[(u8, Codec)], dtmf: Option<u8>, direction: Direction) {
        let _ = write!(out, "m=audio {} RTP/AVP", self.port);
        for payload_type in codecs.iter().map(|(pt, _)| *pt).chain(dtmf) {
            let _ = write!(out, " {payload_type}");
        }
        out.push_str("\r\n");
        for (payload_type, codec) in codecs {
            let _ = write!(out, "a=rtpmap:{payload_type} {}/8000\r\n", codec.name());
        }
        if let Some(pt) = dtmf {
            let _ = write!(out, "a=rtpmap:{pt} telephone-event/8000\r\na=fmtp:{pt} 0-15\r\n");
        }
        let _ = write!(out, "a=ptime:20\r\na={}\r\n", direction.as_str());
    }
}

impl Connection {
    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split_whitespace();
        let (net, _family, address) = (parts.next()?, parts.next()?, parts.next()?);
        if net != "IN" {
            return None;
        }
        // A slash and a multicast TTL may follow.
        let address = address.split('/').next().unwrap_or_default();
        Some(address.parse().map_or(Self::Name, Self::Address))
    }
}

impl Media {
    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split_whitespace();
        let kind = token(parts.next()?)?;
        let port = parts.next()?.split('/').next()?.parse().ok()?;
        let protocol = token(parts.next()?)?;
        let formats = parts.take(MAX_FORMATS).map(token).collect::<Option<Vec<_>>>()?;
        Some(Self {
            kind,
            port,
            protocol,
            formats,
            rtpmaps: Vec::new(),
            connection: None,
            direction: None,
            rtcp: None,
            rtcp_mux: false,
        })
    }

    /// Writes the stream as declined.
    fn decline(&self, out: &mut String) {
        let format = self.formats.first().map_or("0", String::as_str);
        let _ = write!(out, "m={} 0 {} {format}\r\n", self.kind, self.protocol);
    }

    fn attribute(&mut self, value: &str) {
        if let Some(direction) = Direction::parse(value) {
            self.direction = Some(direction);
        } else if value == "rtcp-mux" {
            self.rtcp_mux = true;
        } else if let Some(rtcp) = value.strip_prefix("rtcp:") {
            let (port, address) = rtcp.split_once(' ').unwrap_or((rtcp, ""));
            self.rtcp = port.parse().ok().filter(|port| *port != 0).map(|port| (port, Connection::parse(address)));
        } else if let Some(map) = value.strip_prefix("rtpmap:")
            && self.rtpmaps.len() < MAX_FORMATS
            && let Some((pt, encoding)) = map.split_once(' ')
            && let Ok(pt) = pt.parse()
        {
            self.rtpmaps.push((pt, encoding.trim().to_ascii_lowercase()));
        }
    }

    /// Encoding of a payload type: by its rtpmap, else by the static table.
    fn encoding(&self, pt: u8) -> &str {
        match self.rtpmaps.iter().find(|(p, _)| *p == pt) {
            Some((_, encoding)) => encoding.strip_suffix("/1").unwrap_or(encoding),
            None if pt == 0 => "pcmu/8000",
            None if pt == 8 => "pcma/8000",
            None => "",
        }
    }

    fn stream(&self) -> Option<Stream> {
        let types = || self.formats.iter().filter_map(|f| f.parse::<u8>().ok()).filter(|pt| *pt < 128);
        let mut codecs = types().filter_map(|pt| match self.encoding(pt) {
            "pcmu/8000" => Some((pt, Codec::Pcmu)),
            "pcma/8000" => Some((pt, Codec::Pcma)),
            _ => None,
        });
        let (payload_type, codec) = codecs.next()?;
        let other = codecs.find(|(_, other)| *other != codec);
        let dtmf = types().find(|pt| self.encoding(*pt) == "telephone-event/8000");
        let ip = |connection| match connection {
            Some(Connection::Address(ip)) => Some(ip),
            _ => None,
        };
        let address = ip(self.connection);
        let null = address.is_some_and(|ip| ip.is_unspecified());
        let mut direction = self.direction.unwrap_or(Direction::SendRecv);
        if null {
            direction = match direction {
                Direction::SendRecv => Direction::SendOnly,
                Direction::RecvOnly => Direction::Inactive,
                other => other,
            };
        }
        let remote = address.filter(|_| !null).map(|ip| SocketAddr::new(ip, self.port));
        let rtcp = self.rtcp.and_then(|(port, own)| {
            let ip = ip(own.or(self.connection)).filter(|ip| !ip.is_unspecified())?;
            Some(SocketAddr::new(ip, port))
        });
        let rtcp_mux = self.rtcp_mux;
        Some(Stream { remote, rtcp, rtcp_mux, codec, payload_type, other, dtmf, own_dtmf: None, null, direction })
    }
}

fn token(text: &str) -> Option<String> {
    let ok = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
    ok.then(|| text.to_owned())
}

/// The session description in a body: the body itself, or the first such part of `multipart/mixed` (RFC 5621). `None`
/// if there is none.
pub fn in_body<'a>(content_type: &str, body: &'a [u8]) -> Option<&'a [u8]> {
    let (media, params) = content_type.split_at(content_type.find(';').unwrap_or(content_type.len()));
    if media.trim().eq_ignore_ascii_case(CONTENT_TYPE) {
        return Some(body);
    }
    if !media.trim().to_ascii_lowercase().starts_with("multipart/") {
        return None;
    }
    let boundary = crate::addr::params(params)
        .find(|(key, _)| key.eq_ignore_ascii_case("boundary"))
        .and_then(|(_, value)| value)
        .map(crate::addr::unquote)
        .filter(|boundary| !boundary.is_empty())?;
    let delimiter = format!("--{boundary}");
    let mut rest = body;
    for _ in 0..16 {
        let start = find(rest, delimiter.as_bytes())? + delimiter.len();
        rest = rest.get(start..)?;
        let head_end = find(rest, b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(rest.get(..head_end)?).to_ascii_lowercase();
        let part = rest.get(head_end..)?;
        let end = find(part, delimiter.as_bytes())?;
        if head.lines().any(|l| l.starts_with("content-type:") && l.contains(CONTENT_TYPE)) {
            return part.get(..end);
        }
    }
    None
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    haystack.windows(needle.len()).position(|w| w == needle)
}
