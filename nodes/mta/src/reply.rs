//! Replies of servers (RFC 5321 section 4.2), read with bounds.

use std::fmt;

/// Maximum length of a reply line, in bytes without its end.
const MAX_LINE: usize = 2_000;
/// Maximum number of lines of one reply.
const MAX_LINES: usize = 100;
/// Maximum length of text from a server in reports, in characters.
const MAX_TEXT: usize = 300;

/// Enhanced status code of a reply (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnhancedStatus {
    /// 2 for success, 4 for a temporary failure, 5 for a permanent one.
    pub class: u16,
    /// Subject, 0 to 999: 1 for an address, 7 for security and so on.
    pub subject: u16,
    /// Detail within the subject, 0 to 999.
    pub detail: u16,
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// A complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Reply code, 200 to 599.
    pub code: u16,
    /// Text of each line, without control characters; at least one line.
    pub lines: Vec<String>,
}

impl Reply {
    /// Enhanced status at the beginning of the text, if it fits the reply code.
    pub fn enhanced(&self) -> Option<EnhancedStatus> {
        let word = self.lines.first()?.split(' ').next()?;
        let mut numbers = word.split('.').map(number);
        let status =
            EnhancedStatus { class: numbers.next()??, subject: numbers.next()??, detail: numbers.next()?? };
        (numbers.next().is_none() && status.class == self.code / 100).then_some(status)
    }

    /// Code and text in one line of limited length.
    pub fn summary(&self) -> String {
        shown(&format!("{} {}", self.code, self.lines.join(" ")))
    }
}

/// Text of a peer for reports: one line of limited length without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut visible = text.trim().chars().filter(|c| !c.is_control());
    let mut short: String = visible.by_ref().take(MAX_TEXT).collect();
    if visible.next().is_some() {
        short.push('…');
    }
    short
}

fn number(digits: &str) -> Option<u16> {
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// Reason why bytes are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplyError {
    #[error("a reply line is longer than {MAX_LINE} bytes")]
    LongLine,
    #[error("a reply has more than {MAX_LINES} lines")]
    ManyLines,
    #[error("a reply line does not begin with a reply code")]
    Code,
    #[error("the lines of one reply have different codes")]
    CodeChanged,
}

/// Reads replies from a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct ReplyReader {
    line: Vec<u8>,
    code: Option<u16>,
    lines: Vec<String>,
}

impl ReplyReader {
    /// Takes bytes up to the end of a reply. Returns the number of bytes taken, and the reply if it is complete.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        for (position, byte) in bytes.iter().enumerate() {
            if *byte != b'\n' {
                // One byte more: the carriage return.
                if self.line.len() > MAX_LINE {
                    return Err(ReplyError::LongLine);
                }
                self.line.push(*byte);
            } else if let Some(reply) = self.end_line()? {
                return Ok((position + 1, Some(reply)));
            }
        }
        Ok((bytes.len(), None))
    }

    fn end_line(&mut self) -> Result<Option<Reply>, ReplyError> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Code)?;
        let code = str::from_utf8(digits).ok().and_then(number).ok_or(ReplyError::Code)?;
        if !(200..600).contains(&code) {
            return Err(ReplyError::Code);
        }
        if self.code.is_some_and(|first| first != code) {
            return Err(ReplyError::CodeChanged);
        }
        let (more, text) = match rest.split_first() {
            None => (false, rest),
            Some((b' ', text)) => (false, text),
            Some((b'-', text)) => (true, text),
            Some(_) => return Err(ReplyError::Code),
        };
        if self.lines.len() >= MAX_LINES {
            return Err(ReplyError::ManyLines);
        }
        self.lines.push(String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect());
        self.code = more.then_some(code);
        Ok((!more).then(|| Reply { code, lines: std::mem::take(&mut self.lines) }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, ReplyError> {
        ReplyReader::default().read(bytes).map(|(_, reply)| reply)
    }

    fn reply(code: u16, lines: &[&str]) -> Reply {
        Reply { code, lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }

    #[test]
    fn complete_replies_are_read_with_all_their_lines() {
        for (bytes, expected) in [
            (&b"220 mail ESMTP\r\n"[..], reply(220, &["mail ESMTP"])),
            (b"250\r\n", reply(250, &[""])),
            (b"250-\r\n250 \r\n", reply(250, &["", ""])),
            (b"250-mail\r\n250-SIZE 100\n250 DSN\r\n", reply(250, &["mail", "SIZE 100", "DSN"])),
            (b"550 5.1.1 \x1b[31mno\x07 \xff\r\n", reply(550, &["5.1.1 [31mno \u{fffd}"])),
        ] {
            assert_eq!(read(bytes), Ok(Some(expected)), "{bytes:?}");
        }
    }

    #[test]
    fn incomplete_replies_wait_for_more_bytes() {
        for bytes in [&b""[..], b"2", b"250 ok", b"250-mail\r\n", b"250-mail\r\n250 ok\r"] {
            assert_eq!(read(bytes), Ok(None), "{bytes:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_reply_are_refused() {
        let long = [b"250 ".as_slice(), &[b'x'; 2_000], b"\r\n"].concat();
        let many = [b"250-x\r\n".repeat(100), b"250 x\r\n".to_vec()].concat();
        for (bytes, expected) in [
            (&b"\r\n"[..], ReplyError::Code),
            (b"25\r\n", ReplyError::Code),
            (b"HTTP/1.1 400 Bad Request\r\n", ReplyError::Code),
            (b"+50 ok\r\n", ReplyError::Code),
            (b"150 ok\r\n", ReplyError::Code),
            (b"650 ok\r\n", ReplyError::Code),
            (b"250_ok\r\n", ReplyError::Code),
            (b"250-ok\r\n251 ok\r\n", ReplyError::CodeChanged),
            (&long, ReplyError::LongLine),
            (&many, ReplyError::ManyLines),
        ] {
            assert_eq!(read(bytes), Err(expected), "{:?}", bytes.get(..20));
        }
        assert!(read(&many[7..]).expect("100 lines are allowed").is_some());
    }

    #[test]
    fn line_without_end_is_refused_before_it_fills_memory() {
        let mut reader = ReplyReader::default();
        let taken = (0..1_000).take_while(|_| reader.read(&[b'2'; 100]).is_ok()).count();
        assert_eq!(taken, 20);
    }

    #[test]
    fn enhanced_status_must_fit_the_reply_code() {
        for (code, text, expected) in [
            (550, "5.1.1 no such user", Some("5.1.1")),
            (250, "2.0.0", Some("2.0.0")),
            (550, "4.1.1 other class", None),
            (550, "5.1", None),
            (550, "5.1.1.1 x", None),
            (550, "5.+1.1 x", None),
            (550, "no such user", None),
        ] {
            let status = reply(code, &[text]).enhanced().map(|status| status.to_string());
            assert_eq!(status.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn summary_is_one_short_line() {
        let summary = reply(550, &["5.1.1 no", &"x".repeat(1_000)]).summary();
        assert!(summary.starts_with("550 5.1.1 no xxx") && summary.ends_with('…'), "{summary}");
        assert_eq!(summary.chars().count(), 301);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_result(bytes: Vec<u8>, cut in 0..200_usize) {
            let cut = cut.min(bytes.len());
            let mut reader = ReplyReader::default();
            let whole = read(&bytes);
            let first = reader.read(&bytes[..cut]);
            match first {
                Ok((used, None)) => {
                    prop_assert_eq!(used, cut);
                    prop_assert_eq!(reader.read(&bytes[cut..]).map(|(_, reply)| reply), whole);
                }
                other => prop_assert_eq!(other.map(|(_, reply)| reply), whole),
            }
        }

        #[test]
        fn written_replies_are_read_back(code in 200..600_u16, lines in prop::collection::vec("[ -~]{0,40}", 1..9)) {
            let last = lines.len() - 1;
            let line = |(i, text): (usize, &String)| format!("{code}{}{text}\r\n", if i == last { ' ' } else { '-' });
            let bytes: String = lines.iter().enumerate().map(line).collect();
            prop_assert_eq!(read(bytes.as_bytes()), Ok(Some(Reply { code, lines })));
        }
    }
}
