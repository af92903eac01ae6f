//! Checks of fields of a user, the same for a new user and for a line of a table.

/// Maximum length of a name, an operator number and other short fields, in characters.
pub(crate) const LONGEST: usize = 128;

/// A text is not the name of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at most {longest} characters, on one line", longest = LONGEST)]
pub struct InvalidName;

/// A text is not the target of key `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a number without spaces, such as 0 or +4930123456, or a SIP URI")]
pub struct InvalidOperator;

/// Checks the name of a user: a table that has it must be read again.
pub fn check_name(text: &str) -> Result<(), InvalidName> {
    if is_line(text, LONGEST) { Ok(()) } else { Err(InvalidName) }
}

/// Whether a text has no control characters, and at most `longest` others.
pub(crate) fn is_line(text: &str, longest: usize) -> bool {
    text.chars().count() <= longest && !text.chars().any(char::is_control)
}

/// Checks the target of key `0`. A call cannot be transferred to a text that is refused here.
pub fn check_operator(text: &str) -> Result<(), InvalidOperator> {
    let in_uri = |b: u8| b > b' ' && b != 0x7f && !matches!(b, b'<' | b'>' | b'"');
    let valid = text.bytes().all(in_uri)
        && match text.split_once(':') {
            Some((scheme, rest)) => !rest.is_empty() && !scheme.is_empty() && scheme.bytes().all(is_scheme),
            // Parameters of a number follow a semicolon.
            None => text.split(';').next().is_some_and(is_dialled),
        };
    if valid && is_line(text, LONGEST) { Ok(()) } else { Err(InvalidOperator) }
}

fn is_scheme(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')
}

/// Whether a text is a number, or a name that the PBX knows as a number.
fn is_dialled(text: &str) -> bool {
    // `%` begins an escaped character.
    let dialled = |b: u8| b.is_ascii_alphanumeric() || b"+*#.-_()%".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(dialled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operator_that_no_call_can_reach_is_refused() {
        for text in ["0", "+4930123456", "*9", "desk", "a%41", "0;x=y", "sip:op@pbx:5080", "tel:+49"] {
            assert_eq!(check_operator(text), Ok(()), "{text}");
        }
        for text in ["", " ", "+49 30 99", "a b", "sip:", ":0", "op@pbx", "<sip:op@pbx>", "sip:o p@pbx", "0\n"] {
            assert_eq!(check_operator(text), Err(InvalidOperator), "{text:?}");
        }
        assert_eq!(check_operator(&"1".repeat(65)), Err(InvalidOperator));
    }

    #[test]
    fn name_of_several_lines_or_too_long_is_refused() {
        for name in ["", "Zo\u{eb} \u{141}ukasz"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["two\nlines", "red \u{1b}[31m"] {
            assert_eq!(check_name(name), Err(InvalidName), "{name:?}");
        }
        assert_eq!(check_name(&"\u{f6}".repeat(LONGEST)), Ok(()));
        assert_eq!(check_name(&"n".repeat(LONGEST + 1)), Err(InvalidName));
    }
}
