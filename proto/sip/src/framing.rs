//! Bounded framing of messages in a stream (RFC 3261 section 18.3).

use crate::strict::MAX_MESSAGE;

/// Maximum number of octets before the empty line.
const MAX_HEAD: usize = 32 * 1024;

/// A frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A complete message, for [`crate::strict::read_framed`].
    Message(Vec<u8>),
    /// A double CRLF (RFC 5626 section 3.5.1): answer with one CRLF.
    Ping,
    /// A message without a known end. Let [`crate::strict::read_framed`] refuse it, then close the stream.
    Lost(Vec<u8>),
}

/// Collects octets and splits them into messages. Never holds more than the largest message and one read.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
}

impl Framer {
    /// Adds received octets.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next frame, if it is complete.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.drain(..4);
            return Some(Frame::Ping);
        }
        let blank = self.buffer.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if blank > 0 && blank < self.buffer.len() {
            self.buffer.drain(..blank);
        } else if blank > 0 {
            // May be the first half of a ping; more octets are dropped.
            self.buffer.truncate(3);
            return None;
        }
        let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
            return (self.buffer.len() > MAX_HEAD).then(|| self.lost());
        };
        let Some(length) = self.buffer.get(..end).and_then(content_length) else {
            return Some(self.lost());
        };
        // A length near the largest number would wrap to a small one.
        let total = length.checked_add(end + 4).filter(|total| end <= MAX_HEAD && *total <= MAX_MESSAGE);
        let Some(total) = total else { return Some(self.lost()) };
        (self.buffer.len() >= total).then(|| Frame::Message(self.buffer.drain(..total).collect()))
    }

    fn lost(&mut self) -> Frame {
        Frame::Lost(std::mem::take(&mut self.buffer))
    }
}

/// Length of the body by these header lines. A stream needs Content-Length (section 20.14). Without Content-Length and
/// Content-Type there is no body. Two lengths, or one that is not a number, leave the end of the message unknown.
fn content_length(head: &[u8]) -> Option<usize> {
    let (mut found, mut typed) = (None, false);
    for line in head.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let is = |full: &[u8], short: &[u8]| {
            let name = name.trim_ascii();
            name.eq_ignore_ascii_case(full) || name.eq_ignore_ascii_case(short)
        };
        typed |= is(b"content-type", b"c");
        if !is(b"content-length", b"l") {
            continue;
        }
        let value = std::str::from_utf8(value.get(1..)?).ok()?.trim();
        if found.is_some() || value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        found = Some(value.parse().ok()?);
    }
    found.or((!typed).then_some(0))
}
