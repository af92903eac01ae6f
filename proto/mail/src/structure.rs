//! The parts of a received mail as a tree. Size, nesting and number of parts are limited while the tree is built, and
//! nothing is decoded before its part is known to be within the limits.

use crate::{
    decode,
    fields::{Fields, Kind},
    text,
};

/// Levels of nested mails in base64 or quoted-printable that are opened; RFC 2046 allows none.
const ENCODED_LEVELS: usize = 2;

/// Limits of a received mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Greatest size in bytes.
    pub bytes: usize,
    /// Greatest nesting of multiparts and nested mails.
    pub depth: usize,
    /// Greatest number of parts, containers included.
    pub parts: usize,
}

impl Default for Limits {
    /// 32 MiB, 32 levels, 200 parts.
    fn default() -> Self {
        Self { bytes: 32 << 20, depth: 32, parts: 200 }
    }
}

/// Error: a received mail is not read. The texts name the limit and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The mail is larger than the limit.
    #[error(
        "the mail has {bytes} bytes, more than {limit}: send a shorter message, or raise the limit of the mail size"
    )]
    TooLarge {
        /// Size of the mail in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The header of a part is larger than the limit.
    #[error(
        "a header of the mail has more than {limit} bytes: send the mail again with fewer or shorter header fields"
    )]
    HeaderTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Parts are nested deeper than the limit.
    #[error(
        "the mail has parts nested more than {limit} deep: forward the message itself, not a mail that contains it"
    )]
    TooDeep {
        /// The limit of nesting.
        limit: usize,
    },
    /// The mail has more parts than the limit.
    #[error("the mail has more than {limit} parts: send its attachments in several mails")]
    TooManyParts {
        /// The limit of parts.
        limit: usize,
    },
    /// The bytes have no header field.
    #[error("the mail has no header fields: send a mail of RFC 5322, which begins with fields such as 'From:'")]
    NoHeader,
}

/// A part of a mail; the root is the mail itself.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) fields: Fields,
    /// Its Content-Type, or the default of its place.
    pub(crate) kind: Kind,
    /// Its Content-Disposition.
    pub(crate) disposition: Option<Kind>,
    pub(crate) body: Body,
}

/// Content of a part.
#[derive(Debug)]
pub(crate) enum Body {
    /// Bytes without their transfer encoding.
    Leaf(Vec<u8>),
    /// The parts of a multipart.
    Parts(Vec<Part>),
    /// A nested mail.
    Message(Box<Part>),
}

/// The tree of a mail.
pub(crate) fn parse(mail: &[u8], limits: &Limits) -> Result<Part, ReadError> {
    if mail.len() > limits.bytes {
        return Err(ReadError::TooLarge { bytes: mail.len(), limit: limits.bytes });
    }
    let mut builder = Builder { limits, parts: 0, encoded: 0 };
    let root = builder.part(mail, 0, "text/plain")?;
    if root.fields.len() == 0 { Err(ReadError::NoHeader) } else { Ok(root) }
}

struct Builder<'l> {
    limits: &'l Limits,
    /// Parts so far.
    parts: usize,
    /// Encoded mails around the current part.
    encoded: usize,
}

impl Builder<'_> {
    fn part(&mut self, bytes: &[u8], depth: usize, default: &str) -> Result<Part, ReadError> {
        if depth > self.limits.depth {
            return Err(ReadError::TooDeep { limit: self.limits.depth });
        }
        self.parts += 1;
        if self.parts > self.limits.parts {
            return Err(self.too_many());
        }
        let (fields, content) = Fields::split(bytes)?;
        let kind = fields.kind("content-type").unwrap_or_else(|| Kind::plain(default));
        let disposition = fields.kind("content-disposition");
        let encoding = fields.word("content-transfer-encoding").unwrap_or_default();
        let body = match kind.name.as_str() {
            name if name.starts_with("multipart/") => {
                let default = if name == "multipart/digest" { "message/rfc822" } else { "text/plain" };
                let boundary = kind.parameter("boundary").unwrap_or_default().trim_end();
                let pieces = pieces(content, boundary.as_bytes(), self.limits.parts).ok_or(self.too_many())?;
                match pieces.is_empty() {
                    true => Body::Leaf(decode::transfer(content, &encoding)),
                    false => {
                        let part = |piece| self.part(piece, depth + 1, default);
                        Body::Parts(pieces.into_iter().map(part).collect::<Result<_, _>>()?)
                    }
                }
            }
            "message/rfc822" | "message/global" => {
                let is_encoded = matches!(encoding.as_str(), "base64" | "quoted-printable");
                match is_encoded {
                    false => Body::Message(Box::new(self.part(content, depth + 1, "text/plain")?)),
                    true if self.encoded < ENCODED_LEVELS => {
                        self.encoded += 1;
                        let nested = self.part(&decode::transfer(content, &encoding), depth + 1, "text/plain")?;
                        self.encoded -= 1;
                        Body::Message(Box::new(nested))
                    }
                    true => Body::Leaf(decode::transfer(content, &encoding)),
                }
            }
            _ => Body::Leaf(decode::transfer(content, &encoding)),
        };
        Ok(Part { fields, kind, disposition, body })
    }

    fn too_many(&self) -> ReadError {
        ReadError::TooManyParts { limit: self.limits.parts }
    }
}

/// The pieces between the lines of a boundary; none if it does not occur, `None` if there are more than `most`.
fn pieces<'a>(body: &'a [u8], boundary: &[u8], most: usize) -> Option<Vec<&'a [u8]>> {
    let mut pieces = Vec::new();
    if boundary.is_empty() {
        return Some(pieces);
    }
    let (mut begin, mut at) = (None, 0);
    for line in body.split_inclusive(|&b| b == b'\n') {
        let end = at + line.len();
        if let Some(last) = delimiter(line, boundary) {
            if let Some(begin) = begin {
                let piece = body.get(begin..at).unwrap_or_default();
                // The line break before a boundary belongs to the boundary.
                let piece = piece.strip_suffix(b"\n").unwrap_or(piece);
                pieces.push(piece.strip_suffix(b"\r").unwrap_or(piece));
            }
            if pieces.len() > most {
                return None;
            }
            begin = if last { None } else { Some(end) };
            if last {
                break;
            }
        }
        at = end;
    }
    if let Some(begin) = begin {
        pieces.push(body.get(begin..).unwrap_or_default());
    }
    Some(pieces)
}

/// Whether a line is a delimiter, and then whether it is the last one.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?.trim_ascii_end();
    match rest {
        b"" => Some(false),
        b"--" => Some(true),
        _ => None,
    }
}

impl Part {
    /// The leaves in order; those of nested mails too if `nested`.
    pub(crate) fn leaves(&self, nested: bool) -> Vec<(&Self, &[u8])> {
        let mut leaves = Vec::new();
        self.collect(nested, &mut leaves);
        leaves
    }

    fn collect<'a>(&'a self, nested: bool, leaves: &mut Vec<(&'a Self, &'a [u8])>) {
        match &self.body {
            Body::Leaf(bytes) => leaves.push((self, bytes)),
            Body::Parts(parts) => parts.iter().for_each(|part| part.collect(nested, leaves)),
            Body::Message(message) if nested => message.collect(nested, leaves),
            Body::Message(_) => {}
        }
    }

    /// Whether this is a report on the delivery of another mail (RFC 3464).
    pub(crate) fn is_delivery_report(&self) -> bool {
        self.kind.name == "multipart/report" && self.kind.is("report-type", "delivery-status")
    }

    /// The file name in its disposition or type, without folders.
    pub(crate) fn file_name(&self) -> Option<String> {
        let disposition = self.disposition.as_ref();
        let name = disposition.and_then(|d| d.parameter("filename")).or(self.kind.parameter("name"))?;
        Some(text::file_name(name)).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        let mut mail = String::from("From: a@b.example\r\n");
        for level in 0..levels {
            mail += &format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n");
        }
        mail
    }

    #[test]
    fn nesting_is_refused_one_level_above_the_limit() {
        let limits = Limits::default();
        assert!(parse(nested(32).as_bytes(), &limits).is_ok());
        assert_eq!(parse(nested(33).as_bytes(), &limits).unwrap_err(), ReadError::TooDeep { limit: 32 });
        assert_eq!(parse(nested(10_000).as_bytes(), &limits).unwrap_err(), ReadError::TooDeep { limit: 32 });
        let mails = "Content-Type: message/rfc822\r\n\r\n".repeat(10_000);
        assert_eq!(parse(mails.as_bytes(), &limits).unwrap_err(), ReadError::TooDeep { limit: 32 });
    }

    #[test]
    fn number_of_parts_and_size_are_limited() {
        let limits = Limits { bytes: 100_000, depth: 5, parts: 10 };
        let mail = |parts: usize| {
            let head = "Content-Type: multipart/mixed; boundary=x\r\n\r\n";
            format!("{head}{}--x--\r\n", "--x\r\n\r\na\r\n".repeat(parts))
        };
        assert!(parse(mail(9).as_bytes(), &limits).is_ok());
        assert_eq!(parse(mail(10).as_bytes(), &limits).unwrap_err(), ReadError::TooManyParts { limit: 10 });
        assert_eq!(parse(mail(5_000).as_bytes(), &limits).unwrap_err(), ReadError::TooManyParts { limit: 10 });
        assert!(matches!(parse(mail(20_000).as_bytes(), &limits), Err(ReadError::TooLarge { .. })));
        assert_eq!(parse(b"\r\nbody", &limits).unwrap_err(), ReadError::NoHeader);
    }

    #[test]
    fn boundary_that_begins_like_another_ends_no_part() {
        let mail = "Content-Type: multipart/mixed; boundary=ab\r\n\r\npreamble\r\n--ab\r\n\r\none\r\n--abc\r\ntwo\r\n\
            --ab  \r\nContent-Type: text/html\r\n\r\n<p>\r\n--ab--\r\nepilogue";
        let root = parse(mail.as_bytes(), &Limits::default()).unwrap();
        let leaves: Vec<_> =
            root.leaves(false).into_iter().map(|(part, bytes)| (&*part.kind.name, bytes)).collect();
        assert_eq!(leaves, [("text/plain", &b"one\r\n--abc\r\ntwo"[..]), ("text/html", &b"<p>"[..])]);
    }

    #[test]
    fn encoded_nested_mails_are_opened_two_levels_deep() {
        let mut mail = b"Subject: innermost\r\n\r\nx".to_vec();
        for _ in 0..4 {
            let encoded = crate::encode::base64_lines(&mail);
            let head = "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n";
            mail = format!("{head}{encoded}").into_bytes();
        }
        let mut part = parse(&mail, &Limits::default()).unwrap();
        for _ in 0..2 {
            let Body::Message(inner) = part.body else { panic!("{part:?}") };
            part = *inner;
        }
        assert!(matches!(part.body, Body::Leaf(_)));
    }
}
