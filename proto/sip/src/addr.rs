//! `name-addr` and `addr-spec` with header parameters (RFC 3261 section 25.1): From, To, Contact, Route,
//! Diversion, History-Info, P-Asserted-Identity.

use std::borrow::Cow;

/// A display name, a URI, and header parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name, unquoted.
    pub display: Option<Cow<'a, str>>,
    /// The URI, unchanged.
    pub uri: &'a str,
    params: &'a str,
}

impl<'a> NameAddr<'a> {
    /// Parses one element. Without angle brackets, parameters belong to the header, not to the URI (section 20).
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let (display, rest) = if text.starts_with('"') {
            let end = quoted_end(text)?;
            let (quoted, rest) = text.split_at(end);
            (Some(unquote(quoted)), rest.trim_start())
        } else if let Some(open) = text.find('<') {
            let (name, rest) = text.split_at(open);
            let name = name.trim();
            if name.contains([';', ',', '"']) {
                return None;
            }
            ((!name.is_empty()).then_some(Cow::Borrowed(name)), rest)
        } else {
            let (uri, params) = text.split_at(text.find(';').unwrap_or(text.len()));
            return Some(Self { display: None, uri: nonempty(uri.trim_end())?, params: checked(params)? });
        };
        let (uri, params) = rest.strip_prefix('<')?.split_once('>')?;
        let params = params.trim();
        if !params.is_empty() && !params.starts_with(';') {
            return None;
        }
        Some(Self { display: display.filter(|d| !d.is_empty()), uri: nonempty(uri)?, params: checked(params)? })
    }

    /// A header parameter: outer `None` if absent, inner `None` without a value. A quoted value stays quoted.
    pub fn param(&self, name: &str) -> Option<Option<&'a str>> {
        params(self.params).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

fn nonempty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The parameters, if their quotes are closed.
fn checked(text: &str) -> Option<&str> {
    quotes_closed(text).then_some(text)
}

/// The `;key=value` parameters of a header.
pub fn params(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    split_outside(text, b';').map(str::trim).filter(|p| !p.is_empty()).map(|p| match p.split_once('=') {
        Some((key, value)) => (key.trim(), Some(value.trim())),
        None => (p, None),
    })
}

/// Elements of a comma-separated list; commas in quotes and angle brackets do not separate.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    split_outside(text, b',').map(str::trim).filter(|e| !e.is_empty())
}

/// Whether every quote is closed.
pub fn quotes_closed(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        let (_, quoted) = rest.split_at(at);
        match quoted_end(quoted) {
            Some(end) => rest = quoted.split_at(end).1,
            None => return false,
        }
    }
    true
}

/// Removes the quotes, and the backslashes within.
pub fn unquote(text: &str) -> Cow<'_, str> {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) if inner.contains('\\') => {
            let mut out = String::with_capacity(inner.len());
            let mut chars = inner.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\\' => out.extend(chars.next()),
                    c => out.push(c),
                }
            }
            Cow::Owned(out)
        }
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Borrowed(text),
    }
}

/// Length of the quoted string at the start of the text, both quotes included.
fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate().skip(1) {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(i + 1),
            _ => {}
        }
    }
    None
}

fn split_outside(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let (mut quoted, mut escaped, mut angle) = (false, false, false);
        for (i, b) in current.bytes().enumerate() {
            match b {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'<' => angle = true,
                b'>' => angle = false,
                b if b == separator && !angle => {
                    let (head, tail) = current.split_at(i);
                    rest = tail.get(1..);
                    return Some(head);
                }
                _ => {}
            }
        }
        rest = None;
        Some(current)
    })
}
