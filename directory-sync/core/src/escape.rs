//! Escaping of values in filters and names, so that text of a user stays a value.

/// Maximum length of a search filter, in bytes.
const LONGEST_FILTER: usize = 4_096;
/// Maximum depth of a search filter.
const DEEPEST_FILTER: usize = 16;

/// A value within a search filter (RFC 4515 section 3). Every byte except ASCII letters, digits and a few harmless
/// signs becomes `\` and two hexadecimal digits, so that no byte can end the value.
pub fn filter_value(value: &[u8]) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b' ' | b'-' | b'.' | b'@' | b'_' => {
                escaped.push(char::from(*byte));
            }
            byte => push_hex(&mut escaped, *byte),
        }
    }
    escaped
}

/// A value within a distinguished name (RFC 4514 section 2.4).
pub fn dn_value(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (at, c) in value.char_indices() {
        let edge = at == 0 || at + c.len_utf8() == value.len();
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => escaped.extend(['\\', c]),
            '#' if at == 0 => escaped.extend(['\\', c]),
            ' ' if edge => escaped.extend(['\\', c]),
            c if c.is_ascii_control() => push_hex(&mut escaped, c as u8),
            c => escaped.push(c),
        }
    }
    escaped
}

fn push_hex(text: &mut String, byte: u8) {
    text.push('\\');
    text.extend(char::from_digit(u32::from(byte >> 4), 16));
    text.extend(char::from_digit(u32::from(byte & 15), 16));
}

/// Whether the text has the shape of a search filter (RFC 4515): balanced parentheses, at most 16 deep, an item such as
/// `(uid=anna)` in each innermost pair, no control characters.
pub fn is_filter(text: &str) -> bool {
    if text.len() > LONGEST_FILTER || text.chars().any(char::is_control) {
        return false;
    }
    let (mut depth, mut item, mut ended) = (0_usize, None::<String>, false);
    for c in text.chars() {
        match c {
            _ if ended => return false,
            '(' => {
                // Before an inner pair stands an operator, or nothing after another pair.
                let fine = item.take().is_none_or(|before| matches!(before.trim(), "&" | "|" | "!"));
                depth += 1;
                if !fine || depth > DEEPEST_FILTER {
                    return false;
                }
                item = Some(String::new());
            }
            ')' => {
                let is_item = |text: String| text.split_once('=').is_some_and(|(name, _)| is_name(name));
                let fine = item.take().is_none_or(is_item);
                let Some(outer) = depth.checked_sub(1).filter(|_| fine) else { return false };
                depth = outer;
                ended = outer == 0;
            }
            c => match &mut item {
                Some(item) => item.push(c),
                None if c == ' ' && depth > 0 => {}
                None => return false,
            },
        }
    }
    ended
}

/// An attribute with the first half of its operator, as in `uid`, `age>` or `memberOf:1.2.840.113556.1.4.1941:`.
fn is_name(text: &str) -> bool {
    let first = text.trim_start().chars().next();
    first.is_some_and(|c| c.is_ascii_alphanumeric() || c == ':') && text.is_ascii()
}
