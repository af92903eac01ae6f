//! SIP messages as text (RFC 3261): just enough to use SIP without the product's own code.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

/// A parsed message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Headers in order, names in lower case and long form.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Message {
    /// Reads one message from the front of `bytes`: the message and its length in bytes; `None` while it is incomplete.
    /// Without Content-Length the body is the rest (RFC 3261, section 18.3).
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
        let mut lines = text.split("\r\n");
        let start = lines.find(|l| !l.is_empty())?.to_owned();
        let mut headers = Vec::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            headers.push((long(name.trim()), value.trim().to_owned()));
        }
        let mut message = Self { start, headers, body: String::new() };
        let rest = bytes.len() - head - 4;
        let length = message.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(rest);
        let body = bytes.get(head + 4..head + 4 + length)?;
        message.body = String::from_utf8_lossy(body).into_owned();
        Some((message, head + 4 + length))
    }

    /// The first header of this name (lower case, long form).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All headers of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The status of a response; `None` for a request.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok()
    }

    /// The method of a request; `None` for a response.
    pub fn method(&self) -> Option<&str> {
        if self.start.starts_with("SIP/2.0 ") { None } else { self.start.split(' ').next() }
    }

    /// CSeq number and method.
    pub fn cseq(&self) -> Option<(u32, &str)> {
        let (number, method) = self.header("cseq")?.split_once(' ')?;
        Some((number.parse().ok()?, method.trim()))
    }

    /// The tag of From or To.
    pub fn tag(&self, header: &str) -> Option<&str> {
        let (_, tag) = self.header(header)?.split_once(";tag=")?;
        tag.split([';', '>', ',']).next()
    }

    /// The URI inside `<>` of a header.
    pub fn uri(&self, header: &str) -> Option<&str> {
        let value = self.header(header)?;
        match value.split_once('<') {
            Some((_, rest)) => rest.split_once('>').map(|(uri, _)| uri),
            None => value.split(';').next(),
        }
    }

    /// The response to this request with `status` and further header lines (each without its line end).
    pub fn answer(&self, status: &str, more: &[String], body: &str) -> String {
        let mut lines = vec![format!("SIP/2.0 {status}")];
        for name in ["via", "from", "to", "call-id", "cseq", "record-route"] {
            for value in self.all(name) {
                let tagless = name == "to" && !value.contains(";tag=");
                let tag = if tagless { format!(";tag={}", token()) } else { String::new() };
                lines.push(format!("{name}: {value}{tag}"));
            }
        }
        lines.extend_from_slice(more);
        lines.push(format!("Content-Length: {}", body.len()));
        format!("{}\r\n\r\n{body}", lines.join("\r\n"))
    }
}

/// A header's name in lower case and long form (RFC 3261, section 7.3.3).
fn long(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let long = match name.as_str() {
        "v" => "via",
        "f" => "from",
        "t" => "to",
        "i" => "call-id",
        "m" => "contact",
        "l" => "content-length",
        "c" => "content-type",
        "o" => "event",
        other => other,
    };
    long.to_owned()
}

/// A unique token for tags, branches and Call-IDs.
pub fn token() -> String {
    // The standard library's own source of randomness: a new key for every state.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_split_into_messages() {
        let text = b"SIP/2.0 200 OK\r\nv: x\r\nTo: <sip:a@b>;tag=7\r\nCSeq: 3 BYE\r\nl: 2\r\n\r\nhiSIP/2.0";
        let (message, length) = Message::read(text).expect("a whole message");
        assert_eq!((message.status(), message.cseq(), message.tag("to")), (Some(200), Some((3, "BYE")), Some("7")));
        assert_eq!((message.body.as_str(), &text[length..]), ("hi", &b"SIP/2.0"[..]));
        assert_eq!(message.uri("to"), Some("sip:a@b"));
        assert_eq!(Message::read(&text[..40]), None);
    }
}
