//! Distinguished names, compared as directories do: without regard to case and spaces (RFC 4514).

use std::fmt;

/// Maximum length of a distinguished name, in bytes.
const LONGEST: usize = 4_096;

/// A distinguished name in a form that equal names share: types and values in lower case, escapes resolved, spaces
/// reduced, the parts of a multi-valued component sorted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dn(Vec<Vec<(String, String)>>);

impl Dn {
    /// Reads a distinguished name of at most 4096 bytes; `None` if the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        if text.trim().is_empty() {
            return Some(Self(Vec::new()));
        }
        let (mut names, mut parts) = (Vec::new(), Vec::new());
        for (piece, delimiter) in pieces(text)? {
            let (kind, value) = piece.split_once('=')?;
            let kind = kind.trim().to_ascii_lowercase();
            let fine = kind.starts_with(|c: char| c.is_ascii_alphanumeric())
                && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
            if !fine {
                return None;
            }
            parts.push((kind, folded(&unescaped(value)?)));
            if delimiter != Some('+') {
                parts.sort();
                names.push(std::mem::take(&mut parts));
            }
        }
        Some(Self(names))
    }

    /// Whether it has no component, as the root of a directory.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

/// Names are private: they never go to a log.
impl fmt::Debug for Dn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

/// The parts of a name with the delimiter after each, still escaped; `None` for a form of LDAPv2 with quotes.
fn pieces(text: &str) -> Option<Vec<(&str, Option<char>)>> {
    let (mut found, mut begin, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return None,
            ',' | ';' | '+' => {
                found.push((text.get(begin..at)?, Some(c)));
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push((text.get(begin..)?, None));
    Some(found)
}

/// A value without its escapes; `None` if an escape is cut, or if the value is not UTF-8.
fn unescaped(raw: &str) -> Option<String> {
    let mut value = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            value.push(byte);
            continue;
        }
        let first = bytes.next()?;
        match hex(first) {
            Some(high) => value.push((high << 4) | hex(bytes.next()?)?),
            None => value.push(first),
        }
    }
    String::from_utf8(value).ok()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Lower case, with single spaces.
fn folded(value: &str) -> String {
    let words: Vec<String> = value.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}
