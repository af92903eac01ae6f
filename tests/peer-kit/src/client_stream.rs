//! An IMAP client's side of a connection (RFC 9051, section 4), read in pieces: lines, and parts of literals.

use std::io::{self, BufRead, Read};

/// Maximum length of a line and of a part of a literal, in bytes.
const LONGEST: u64 = 64 << 10;

/// Reads the pieces of a client's commands.
#[derive(Debug)]
pub(crate) struct ClientStream<R> {
    reader: R,
    /// Bytes of the current literal that have not been read yet.
    literal: u64,
    /// The next line belongs to the command before it.
    continued: bool,
}

/// A line, or a part of a literal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// The command that begins here; `None` in the middle of a command, and for lines without a tag, such as `DONE`.
    pub(crate) begins: Option<Begin>,
    /// Length of the literal that follows this line; `None` without one.
    pub(crate) literal: Option<u64>,
}

/// The begin of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begin {
    /// The tag.
    pub(crate) tag: String,
    /// The name in capital letters, such as `UID FETCH`.
    pub(crate) name: String,
}

impl<R: BufRead> ClientStream<R> {
    /// Reads from the begin of a connection.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, literal: 0, continued: false }
    }

    /// The next piece; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        let mut bytes = Vec::new();
        if self.literal > 0 {
            let part = self.literal.min(LONGEST);
            let read = self.reader.by_ref().take(part).read_to_end(&mut bytes)? as u64;
            self.literal = self.literal.saturating_sub(read);
            return Ok((read == part).then_some(Piece { bytes, begins: None, literal: None }));
        }
        self.reader.by_ref().take(LONGEST).read_until(b'\n', &mut bytes)?;
        if !bytes.ends_with(b"\n") {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&bytes).into_owned();
        let begins = if self.continued { None } else { begin(&line) };
        let literal = literal(&line);
        (self.literal, self.continued) = (literal.unwrap_or(0), literal.is_some());
        Ok(Some(Piece { bytes, begins, literal }))
    }
}

fn begin(line: &str) -> Option<Begin> {
    let mut words = line.split_ascii_whitespace();
    let (tag, first) = (words.next()?, words.next()?.to_ascii_uppercase());
    let name = match (first.as_str(), words.next()) {
        ("UID", Some(second)) => format!("UID {}", second.to_ascii_uppercase()),
        _ => first,
    };
    Some(Begin { tag: tag.to_owned(), name })
}

/// Length of the literal that follows a line: `{310}` or `{310+}` (RFC 7888).
fn literal(line: &str) -> Option<u64> {
    let (_, length) = line.trim_end().strip_suffix('}')?.rsplit_once('{')?;
    length.strip_suffix('+').unwrap_or(length).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_after_literals_and_lines_without_a_tag_are_none() {
        let text = b"a1 uid fetch 1:* (FLAGS)\r\na2 APPEND INBOX () {8+}\r\nx1 NOOP\n\r\na3 IDLE\r\nDONE\r\na4 NO";
        let mut stream = ClientStream::new(&text[..]);
        let mut found = Vec::new();
        while let Some(piece) = stream.next().expect("no error") {
            found.push((piece.begins.map(|begin| begin.name), piece.literal));
        }
        let named = |name: &str| Some(name.to_owned());
        let expected = [
            (named("UID FETCH"), None),
            (named("APPEND"), Some(8)),
            (None, None),
            (None, None),
            (named("IDLE"), None),
            (None, None),
        ];
        assert_eq!(found, expected);
    }
}
