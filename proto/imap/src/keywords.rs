//! Keywords of mails that break the grammar: servers keep what another program once set, such as `a]b`.

use std::borrow::Cow;

/// Begin of a list of flags, in FETCH data and in the response code PERMANENTFLAGS.
const LIST: &[u8] = b"FLAGS (";

/// Longest announcement of a literal, in bytes.
const LONGEST_ANNOUNCEMENT: usize = 24;

/// The response with only those flags that begin with a backslash and have letters after it, such as `\Seen`: no others
/// matter here. Literals and quoted strings stay as they are.
pub(crate) fn without_keywords(response: &[u8]) -> Cow<'_, [u8]> {
    let (mut kept, mut copied, mut at, mut is_quoted) = (Vec::new(), 0, 0, false);
    while let Some(rest) = response.get(at..).filter(|rest| !rest.is_empty()) {
        // Most bytes are none of these.
        let next = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | b'{' | b'F' | b'f'));
        let Some(rest) = next.and_then(|next| rest.get(next..)) else { break };
        at = response.len() - rest.len();
        at += match rest.first() {
            // The character after it is part of the string.
            Some(b'\\') if is_quoted => 2,
            Some(b'"') => {
                is_quoted = !is_quoted;
                1
            }
            Some(b'{') if !is_quoted => literal(rest).unwrap_or(1),
            _ if !is_quoted && starts_list(rest) => {
                let flags = rest.get(LIST.len()..).unwrap_or_default();
                let end = flags.iter().position(|byte| *byte == b')').unwrap_or(flags.len());
                kept.extend_from_slice(response.get(copied..at + LIST.len()).unwrap_or_default());
                kept.extend(system_flags(flags.get(..end).unwrap_or_default()));
                copied = at + LIST.len() + end;
                LIST.len() + end
            }
            _ => 1,
        };
    }
    if copied == 0 {
        return Cow::Borrowed(response);
    }
    kept.extend_from_slice(response.get(copied..).unwrap_or_default());
    Cow::Owned(kept)
}

fn starts_list(rest: &[u8]) -> bool {
    rest.get(..LIST.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(LIST))
}

/// Length of a literal with its announcement.
fn literal(rest: &[u8]) -> Option<usize> {
    let begin = rest.get(..LONGEST_ANNOUNCEMENT).unwrap_or(rest);
    let end = begin.windows(3).position(|bytes| bytes == b"}\r\n")?;
    let digits = std::str::from_utf8(rest.get(1..end)?).ok()?;
    let length: usize = digits.parse().ok()?;
    length.checked_add(end + 3).filter(|length| *length <= rest.len())
}

/// The flags of a list that IMAP defines.
fn system_flags(flags: &[u8]) -> Vec<u8> {
    let is_fine = |flag: &&[u8]| {
        flag.strip_prefix(b"\\").is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_alphabetic))
    };
    flags.split(|byte| *byte == b' ').filter(is_fine).collect::<Vec<_>>().join(&b' ')
}
