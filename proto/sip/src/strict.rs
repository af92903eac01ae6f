//! The only parser of network input. It returns a verdict: accept the message, refuse it with a response that names
//! the fault, or drop and count it.
//!
//! Deliberately stricter than RFC 3261 in two points, because differences between parsers allow headers to be smuggled
//! past a proxy. Blanks before the colon of a header (allowed by section 25.1) and folded lines (allowed by section
//! 7.3.1; no PBX, SBC or carrier sends them) are refused with `400`.

use std::fmt;

use bytes::Bytes;

use crate::{
    Headers, Method, Request, Response,
    addr::{self, NameAddr},
    message::reason,
    uri::Uri,
    via::Via,
};

/// Maximum message size in bytes (the payload of one UDP datagram).
pub const MAX_MESSAGE: usize = 65_535;
/// Maximum length of a start line or header line, in bytes.
const MAX_LINE: usize = 8_192;
/// Maximum number of header lines.
const MAX_HEADERS: usize = 256;
/// Maximum number of Via elements (more are a loop, or an attack: every response copies them).
const MAX_VIAS: usize = 70;

/// Fault of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Only blanks: a keep-alive.
    KeepAlive,
    /// No SIP start line.
    Garbage,
    /// An invalid request or status line.
    StartLine,
    /// A version other than SIP/2.0.
    Version,
    /// Control characters, a bare CR or LF, or invalid UTF-8 in the headers.
    Characters,
    /// No empty line after the headers.
    Unfinished,
    /// A line or the message is too long, or there are too many headers.
    TooLarge,
    /// A folded header.
    Folding,
    /// A header line without a colon, with blanks before it, or with an empty name.
    HeaderLine,
    /// A mandatory header is missing.
    Missing(&'static str),
    /// A header that must occur once occurs several times.
    Repeated(&'static str),
    /// A header's value is invalid.
    Bad(&'static str),
    /// The method of CSeq differs from that of the request.
    MethodMismatch,
    /// Content-Length exceeds the body.
    ShortBody,
}

impl Fault {
    /// A short name for counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::KeepAlive => "keep_alive",
            Self::Garbage => "garbage",
            Self::StartLine => "start_line",
            Self::Version => "version",
            Self::Characters => "characters",
            Self::Unfinished => "unfinished",
            Self::TooLarge => "too_large",
            Self::Folding => "folding",
            Self::HeaderLine => "header_line",
            Self::Missing(_) => "missing_header",
            Self::Repeated(_) => "repeated_header",
            Self::Bad(_) => "bad_header",
            Self::MethodMismatch => "cseq_method",
            Self::ShortBody => "short_body",
        }
    }

    fn code(&self) -> u16 {
        match self {
            Self::Version => 505,
            Self::TooLarge => 513,
            _ => 400,
        }
    }
}

/// The reason phrase: names the fault for the reader of a trace at the peer.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepAlive => f.write_str("Keep-alive"),
            Self::Garbage => f.write_str("Not SIP"),
            Self::StartLine => f.write_str("Bad Request-Line"),
            Self::Version => f.write_str("Version Not Supported"),
            Self::Characters => f.write_str("Bad characters in headers"),
            Self::Unfinished => f.write_str("Headers do not end"),
            Self::TooLarge => f.write_str("Message Too Large"),
            Self::Folding => f.write_str("Folded header"),
            Self::HeaderLine => f.write_str("Bad header line"),
            Self::Missing(name) => write!(f, "Missing {name} header"),
            Self::Repeated(name) => write!(f, "Repeated {name} header"),
            Self::Bad(name) => write!(f, "Bad {name} header"),
            Self::MethodMismatch => f.write_str("CSeq method does not match"),
            Self::ShortBody => f.write_str("Content-Length exceeds body"),
        }
    }
}

/// Decision about a message.
#[derive(Debug)]
pub enum MessageVerdict {
    /// A valid request.
    Request(Request),
    /// A valid response.
    Response(Response),
    /// A bad request, and the response to send (without a To tag yet).
    Refuse(Box<Response>, Fault),
    /// A message that must not or cannot be answered.
    Drop(Fault),
}

/// Parses a datagram. Octets after the body announced by Content-Length are ignored. Without Content-Length all octets
/// are the body (RFC 3261 section 18.3).
pub fn read(data: &[u8]) -> MessageVerdict {
    read_from(data, Carrier::Datagram)
}

/// Parses a message framed from a stream. A body requires Content-Length.
pub fn read_framed(data: &[u8]) -> MessageVerdict {
    read_from(data, Carrier::Stream)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Datagram,
    Stream,
}

fn read_from(data: &[u8], carrier: Carrier) -> MessageVerdict {
    let data = trim_start(data);
    if data.is_empty() {
        return MessageVerdict::Drop(Fault::KeepAlive);
    }
    let (head, body, unfinished) = match data.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(end) => (&data[..end], &data[end + 4..], false),
        None => (data, &data[data.len()..], true),
    };
    let mut lines = Lines(Some(head));
    let start = match lines.next().map(StartLine::read) {
        Some(Ok(start)) => start,
        Some(Err(fault)) => return MessageVerdict::Drop(fault),
        None => return MessageVerdict::Drop(Fault::Garbage),
    };
    let (headers, mut fault) = read_headers(lines);
    if unfinished {
        fault.get_or_insert(Fault::Unfinished);
    }
    match start {
        StartLine::Request { method, uri, bad } => {
            let mut request = Request { method, uri: uri.to_owned(), headers, body: Bytes::new() };
            let checked = match bad.or(fault).or_else(|| check_size(data)) {
                Some(fault) => Err(fault),
                None => check_request(&request, body, carrier),
            };
            match checked {
                Ok(length) => {
                    request.body = Bytes::copy_from_slice(body.get(..length).unwrap_or_default());
                    MessageVerdict::Request(request)
                }
                Err(fault) => refuse(&request, fault),
            }
        }
        StartLine::Response { code, reason } => {
            let checked = match fault.or_else(|| check_size(data)) {
                Some(fault) => Err(fault),
                None => check_common(&headers).and_then(|()| body_length(&headers, body, carrier)),
            };
            match checked {
                Ok(length) => {
                    let body = Bytes::copy_from_slice(body.get(..length).unwrap_or_default());
                    MessageVerdict::Response(Response { code, reason: reason.to_owned(), headers, body })
                }
                Err(fault) => MessageVerdict::Drop(fault),
            }
        }
    }
}

/// Refuses a request; drops it if no answer is possible (no Via) or allowed (ACK).
fn refuse(request: &Request, fault: Fault) -> MessageVerdict {
    let answerable = request.method != Method::Ack && request.headers.top_via().is_some();
    if !answerable {
        return MessageVerdict::Drop(fault);
    }
    let mut response = request.respond(fault.code());
    if fault.code() == 400 {
        response.reason = fault.to_string();
    } else {
        response.reason = reason(fault.code()).to_owned();
    }
    MessageVerdict::Refuse(Box::new(response), fault)
}

fn trim_start(data: &[u8]) -> &[u8] {
    let blank = data.iter().take_while(|b| matches!(b, b'\r' | b'\n' | b' ' | b'\t' | 0)).count();
    &data[blank..]
}

fn check_size(data: &[u8]) -> Option<Fault> {
    (data.len() > MAX_MESSAGE).then_some(Fault::TooLarge)
}

enum StartLine<'a> {
    Request { method: Method, uri: &'a str, bad: Option<Fault> },
    Response { code: u16, reason: &'a str },
}

impl<'a> StartLine<'a> {
    /// An error means that the message cannot be answered: the sender may not use SIP at all.
    fn read(line: &'a [u8]) -> Result<Self, Fault> {
        let line = std::str::from_utf8(line).map_err(|_| Fault::Garbage)?;
        if line.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err(Fault::Garbage);
        }
        if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
            let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let code = (code.len() == 3).then(|| code.parse().ok()).flatten();
            return match code.filter(|c| (100..700).contains(c)) {
                Some(code) => Ok(Self::Response { code, reason }),
                None => Err(Fault::StartLine),
            };
        }
        let (method, rest) = line.split_once(' ').ok_or(Fault::Garbage)?;
        let (uri, version) = rest.rsplit_once(' ').ok_or(Fault::Garbage)?;
        if method.is_empty() || method.len() > 64 || !method.bytes().all(is_token) {
            return Err(Fault::Garbage);
        }
        if !version.get(..4).is_some_and(|v| v.eq_ignore_ascii_case("SIP/")) {
            return Err(Fault::Garbage);
        }
        let bad = if !version.eq_ignore_ascii_case("SIP/2.0") {
            Some(Fault::Version)
        } else if line.len() > MAX_LINE || Uri::parse(uri).is_none() {
            Some(Fault::StartLine)
        } else {
            None
        };
        Ok(Self::Request { method: Method::parse(method), uri, bad })
    }
}

/// Lines separated by CRLF.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        match rest.windows(2).position(|w| w == b"\r\n") {
            Some(end) => {
                self.0 = Some(&rest[end + 2..]);
                Some(&rest[..end])
            }
            None => {
                self.0 = None;
                Some(rest)
            }
        }
    }
}

/// The valid headers, and the first fault. Valid headers are returned even then: the refusal needs them.
fn read_headers(lines: Lines<'_>) -> (Headers, Option<Fault>) {
    let mut headers = Headers::default();
    let mut fault = None;
    for (n, line) in lines.enumerate() {
        if n >= MAX_HEADERS {
            fault.get_or_insert(Fault::TooLarge);
            break;
        }
        match read_header(line) {
            Ok((name, value)) => headers.push(name, value),
            Err(found) => {
                fault.get_or_insert(found);
            }
        }
    }
    (headers, fault)
}

fn read_header(line: &[u8]) -> Result<(&str, &str), Fault> {
    if line.len() > MAX_LINE {
        return Err(Fault::TooLarge);
    }
    let line = std::str::from_utf8(line).map_err(|_| Fault::Characters)?;
    if line.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
        return Err(Fault::Characters);
    }
    if line.starts_with([' ', '\t']) {
        return Err(Fault::Folding);
    }
    let (name, value) = line.split_once(':').ok_or(Fault::HeaderLine)?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(Fault::HeaderLine);
    }
    Ok((name, value.trim_matches([' ', '\t'])))
}

/// Whether this byte may be part of a token (RFC 3261 section 25.1).
pub fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b)
}

fn check_request(request: &Request, body: &[u8], carrier: Carrier) -> Result<usize, Fault> {
    let headers = &request.headers;
    check_common(headers)?;
    if headers.cseq_method() != request.method {
        return Err(Fault::MethodMismatch);
    }
    once(headers, "Max-Forwards")?;
    if headers.get("Max-Forwards").is_some_and(|v| v.parse::<u8>().is_err()) {
        return Err(Fault::Bad("Max-Forwards"));
    }
    for name in ["Expires", "Min-SE"] {
        once(headers, name)?;
        let seconds = |v: &str| v.split(';').next().unwrap_or_default().trim().parse::<u32>();
        if headers.get(name).is_some_and(|v| seconds(v).is_err()) {
            return Err(Fault::Bad(name));
        }
    }
    if matches!(request.method, Method::Invite | Method::Subscribe) && headers.get("Contact").is_none() {
        return Err(Fault::Missing("Contact"));
    }
    for name in ["Contact", "Route", "Record-Route", "Diversion", "P-Asserted-Identity", "Refer-To"] {
        for line in headers.all(name) {
            let readable = addr::quotes_closed(line)
                && addr::split_list(line).all(|e| NameAddr::parse(e).is_some() || (name == "Contact" && e == "*"));
            if !readable {
                return Err(Fault::Bad(name));
            }
        }
    }
    for name in ["History-Info", "Authorization", "Proxy-Authorization", "Event", "Content-Type"] {
        if headers.all(name).any(|line| !addr::quotes_closed(line)) {
            return Err(Fault::Bad(name));
        }
    }
    let length = body_length(headers, body, carrier)?;
    if length > 0 && headers.get("Content-Type").is_none() {
        return Err(Fault::Missing("Content-Type"));
    }
    Ok(length)
}

/// Checks common to requests and responses: the headers that identify transaction and dialog.
fn check_common(headers: &Headers) -> Result<(), Fault> {
    let mut vias = 0;
    for line in headers.all("Via") {
        if !addr::quotes_closed(line) {
            return Err(Fault::Bad("Via"));
        }
        for element in addr::split_list(line) {
            vias += 1;
            if Via::parse(element).is_none() || vias > MAX_VIAS {
                return Err(Fault::Bad("Via"));
            }
        }
    }
    if vias == 0 {
        return Err(Fault::Missing("Via"));
    }
    for name in ["From", "To", "Call-ID", "CSeq"] {
        if headers.get(name).is_none() {
            return Err(Fault::Missing(name));
        }
        once(headers, name)?;
    }
    for name in ["From", "To"] {
        let readable = headers.get(name).is_some_and(|v| addr::quotes_closed(v) && NameAddr::parse(v).is_some());
        if !readable {
            return Err(Fault::Bad(name));
        }
    }
    if headers.tag("From").is_none() {
        return Err(Fault::Bad("From"));
    }
    let call_id = headers.call_id();
    if call_id.is_empty() || call_id.len() > 512 || call_id.contains([' ', '\t']) {
        return Err(Fault::Bad("Call-ID"));
    }
    let mut cseq = headers.get("CSeq").unwrap_or_default().split_whitespace();
    let number = cseq.next().filter(|n| n.bytes().all(|b| b.is_ascii_digit())).and_then(|n| n.parse::<u32>().ok());
    let method = cseq.next().filter(|m| m.bytes().all(is_token));
    // RFC 3261 section 8.1.1.5: less than 2^31.
    match (number, method, cseq.next()) {
        (Some(number), Some(_), None) if number < 1 << 31 => Ok(()),
        _ => Err(Fault::Bad("CSeq")),
    }
}

fn once(headers: &Headers, name: &'static str) -> Result<(), Fault> {
    match headers.all(name).nth(1) {
        Some(_) => Err(Fault::Repeated(name)),
        None => Ok(()),
    }
}

/// Length of the body within the octets after the headers.
fn body_length(headers: &Headers, body: &[u8], carrier: Carrier) -> Result<usize, Fault> {
    once(headers, "Content-Length")?;
    once(headers, "Content-Type")?;
    match headers.get("Content-Length") {
        None if carrier == Carrier::Datagram => Ok(body.len()),
        None if headers.get("Content-Type").is_some() => Err(Fault::Missing("Content-Length")),
        None => Ok(0),
        Some(text) if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) => {
            Err(Fault::Bad("Content-Length"))
        }
        Some(text) => match text.parse::<usize>() {
            Ok(length) if length <= body.len() => Ok(length),
            _ => Err(Fault::ShortBody),
        },
    }
}
