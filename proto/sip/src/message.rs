//! Messages: a start line, headers in their order, a body of octets.
//!
//! Header values are stored and written unchanged: a value that must be returned to a peer (Via, Record-Route, the URI
//! of a Contact) goes back byte for byte.

use std::{borrow::Cow, fmt};

use bytes::Bytes;

use crate::{
    Method,
    addr::{self, NameAddr},
    via::Via,
};

/// Headers in message order. Names are compared case-insensitively; compact forms are expanded when pushed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

/// Full names stored without an allocation, with their compact form (RFC 3261 section 7.3.3 and others).
const KNOWN: &[(&str, Option<&str>)] = &[
    ("Via", Some("v")),
    ("From", Some("f")),
    ("To", Some("t")),
    ("Call-ID", Some("i")),
    ("CSeq", None),
    ("Contact", Some("m")),
    ("Max-Forwards", None),
    ("Content-Type", Some("c")),
    ("Content-Length", Some("l")),
    ("Content-Encoding", Some("e")),
    ("Record-Route", None),
    ("Route", None),
    ("Require", None),
    ("Supported", Some("k")),
    ("Unsupported", None),
    ("Allow", None),
    ("Accept", None),
    ("Event", Some("o")),
    ("Allow-Events", Some("u")),
    ("Expires", None),
    ("Min-Expires", None),
    ("Session-Expires", Some("x")),
    ("Min-SE", None),
    ("Subscription-State", None),
    ("Diversion", None),
    ("History-Info", None),
    ("P-Asserted-Identity", None),
    ("P-Preferred-Identity", None),
    ("Privacy", None),
    ("Refer-To", Some("r")),
    ("Referred-By", Some("b")),
    ("Subject", Some("s")),
    ("Reason", None),
    ("Retry-After", None),
    ("User-Agent", None),
    ("Server", None),
    ("Timestamp", None),
    ("Authorization", None),
    ("Proxy-Authorization", None),
    ("WWW-Authenticate", None),
    ("Proxy-Authenticate", None),
    ("Proxy-Require", None),
    ("Info-Package", None),
];

fn canonical(name: &str) -> Cow<'static, str> {
    KNOWN
        .iter()
        .find(|(full, short)| {
            full.eq_ignore_ascii_case(name) || short.is_some_and(|s| s.eq_ignore_ascii_case(name))
        })
        .map_or_else(|| Cow::Owned(name.to_owned()), |(full, _)| Cow::Borrowed(*full))
}

impl Headers {
    /// Appends a header.
    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((canonical(name), value.into()));
    }

    /// Prepends a header.
    pub fn push_front(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(0, (canonical(name), value.into()));
    }

    /// Replaces all headers of this name by one.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter().position(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some(at) => {
                let mut seen = 0;
                self.0.retain(|(n, _)| {
                    seen += 1;
                    seen - 1 <= at || !n.eq_ignore_ascii_case(name)
                });
                if let Some(slot) = self.0.get_mut(at) {
                    slot.1 = value;
                }
            }
            None => self.push(name, value),
        }
    }

    /// Replaces the first header of this name and leaves the others; does nothing without such a header.
    pub fn set_first(&mut self, name: &str, value: impl Into<String>) {
        if let Some((_, slot)) = self.0.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            *slot = value.into();
        }
    }

    /// Removes all headers of this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// The value of the first header of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The values of all headers of this name, one per line.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The elements of a header that is a comma-separated list, over all its lines.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(addr::split_list)
    }

    /// Whether a list header (Supported, Require, Allow …) names this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|t| t.eq_ignore_ascii_case(token))
    }

    /// All headers in message order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_ref(), v.as_str()))
    }

    /// Number of header lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The Call-ID; empty if missing (never in a message accepted by [`crate::strict`]).
    pub fn call_id(&self) -> &str {
        self.get("Call-ID").unwrap_or_default()
    }

    /// The number of CSeq; 0 if missing.
    pub fn cseq(&self) -> u32 {
        self.get("CSeq").and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// The method of CSeq.
    pub fn cseq_method(&self) -> Method {
        Method::parse(self.get("CSeq").and_then(|v| v.split_whitespace().nth(1)).unwrap_or_default())
    }

    /// The tag of From or To.
    pub fn tag(&self, name: &str) -> Option<&str> {
        NameAddr::parse(self.get(name)?)?.param("tag")?.filter(|t| !t.is_empty())
    }

    /// The topmost Via.
    pub fn top_via(&self) -> Option<Via<'_>> {
        Via::parse(addr::split_list(self.get("Via")?).next()?)
    }

    fn write(&self, out: &mut Vec<u8>, body: &[u8]) {
        for (name, value) in self.iter().filter(|(n, _)| *n != "Content-Length") {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
    }
}

/// A request.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The Request-URI, unchanged.
    pub uri: String,
    /// The headers.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

/// A response.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code, 100 to 699.
    pub code: u16,
    /// The reason phrase.
    pub reason: String,
    /// The headers.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// A response with this code and its default reason. Via, From, To, Call-ID and CSeq are those of the request
    /// (RFC 3261 section 8.2.6.2); the caller of this function adds the To tag.
    pub fn respond(&self, code: u16) -> Response {
        let mut headers = Headers::default();
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            for value in self.headers.all(name) {
                headers.push(name, value);
            }
        }
        if code == 100
            && let Some(timestamp) = self.headers.get("Timestamp")
        {
            headers.push("Timestamp", timestamp);
        }
        Response { code, reason: reason(code).to_owned(), headers, body: Bytes::new() }
    }

    /// The encoded message, Content-Length included.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(format!("{} {} SIP/2.0\r\n", self.method, self.uri).as_bytes());
        self.headers.write(&mut out, &self.body);
        out.into()
    }

    /// Media type of the body, in lower case, without parameters.
    pub fn content_type(&self) -> Option<String> {
        media_type(&self.headers)
    }
}

impl Response {
    /// Adds a header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Adds a body.
    pub fn with_body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.headers.set("Content-Type", content_type);
        self.body = body.into();
        self
    }

    /// Adds the To tag if it is missing.
    pub fn with_to_tag(mut self, tag: &str) -> Self {
        if self.headers.tag("To").is_none()
            && let Some(to) = self.headers.get("To")
        {
            let to = format!("{to};tag={tag}");
            self.headers.set("To", to);
        }
        self
    }

    /// The encoded message, Content-Length included.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(format!("SIP/2.0 {} {}\r\n", self.code, self.reason).as_bytes());
        self.headers.write(&mut out, &self.body);
        out.into()
    }

    /// Whether the code is 1xx.
    pub fn is_provisional(&self) -> bool {
        self.code < 200
    }

    /// Whether the code is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

fn media_type(headers: &Headers) -> Option<String> {
    let value = headers.get("Content-Type")?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

// Messages contain callers' numbers: debug output shows only the kind of message.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} headers, {} octets)", self.method, self.headers.len(), self.body.len())
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ({} headers)", self.code, self.headers.cseq_method(), self.headers.len())
    }
}

/// Default reason phrase of a code.
pub fn reason(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        469 => "Bad Info Package",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        _ if code < 200 => "Session Progress",
        _ if code < 300 => "OK",
        _ if code < 400 => "Redirected",
        _ if code < 500 => "Request Failure",
        _ if code < 600 => "Server Failure",
        _ => "Global Failure",
    }
}
