//! Secrets that texts of a server must not show: some servers repeat a refused command.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

use crate::folder::quoted;

/// Text in place of a secret.
const MASK: &str = "•••";

/// Length from which a secret is hidden inside a word too, in bytes.
const INSIDE_WORDS: usize = 4;

/// Length from which the begin of a secret is hidden too, in bytes: servers cut the commands that they repeat.
const PART: usize = 8;

/// Secrets of a sign-in, in each form in which a server may repeat them.
#[derive(Clone, Default)]
pub(crate) struct Hidden(Vec<Zeroizing<String>>);

impl Hidden {
    /// Hides a secret: as it is, as a quoted string, in base64 and as `decode` shows characters beyond ASCII.
    pub fn add(&mut self, secret: &str) {
        let plain = secret.bytes().map(|byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect();
        let escaped = quoted(secret).map(Zeroizing::new);
        let inner = escaped.as_deref().and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
        let forms =
            [secret.to_owned(), plain, inner.unwrap_or_default().to_owned(), STANDARD_NO_PAD.encode(secret)];
        self.0.extend(forms.into_iter().map(Zeroizing::new).filter(|form| !form.is_empty()));
    }

    /// The text without the secrets.
    pub fn masked(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let mut masked = String::with_capacity(text.len());
        let (mut rest, mut before) = (text, None);
        while let Some(first) = rest.chars().next() {
            let length = self.0.iter().map(|secret| shown_length(rest, secret, before)).max().unwrap_or(0);
            let size = if length == 0 { first.len_utf8() } else { length };
            let (taken, tail) = rest.split_at_checked(size).unwrap_or((rest, ""));
            masked.push_str(if length == 0 { taken } else { MASK });
            before = taken.chars().next_back();
            rest = tail;
        }
        masked
    }
}

/// Number of bytes at the begin of a text that show the secret. A short one counts only as a word of its own: the
/// password `a` does not hide each `a` of a message.
fn shown_length(text: &str, secret: &str, before: Option<char>) -> usize {
    let common = text.chars().zip(secret.chars()).take_while(|(a, b)| a == b);
    let common: usize = common.map(|(c, _)| c.len_utf8()).sum();
    let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    let after = text.get(common..).and_then(|rest| rest.chars().next());
    let a_word = common > 0 && outside(before) && outside(after);
    let whole = common == secret.len() && (common >= INSIDE_WORDS || a_word);
    if whole || common >= PART { common } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_secret_is_hidden() {
        for (secret, text, expected) in [
            ("hunter2", "unknown: LOGIN u hunter2", "unknown: LOGIN u •••"),
            ("hunter2", "LOGIN u xhunter2x", "LOGIN u x•••x"),
            ("hunter2", "aHVudGVyMg==", "•••=="),
            ("a\"b", "LOGIN \"u\" \"a\\\"b\"", "LOGIN \"u\" \"•••\""),
            ("pä", "LOGIN u p?? or pä", "LOGIN u ••• or •••"),
            ("correct horse", "LOGIN u \"correct ho", "LOGIN u \"•••"),
            ("a", "a bad day", "••• bad day"),
            ("", "fine", "fine"),
        ] {
            let mut hidden = Hidden::default();
            hidden.add(secret);
            assert_eq!(hidden.masked(text), expected);
        }
        assert_eq!(Hidden::default().masked("fine"), "fine");
    }
}
