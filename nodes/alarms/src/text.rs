//! Text from other sources, shortened and put on one line for storage and display.

/// Maximum length of a subject, in bytes.
const SUBJECT: usize = 128;
/// Maximum length of a detail, in bytes.
const DETAIL: usize = 512;

/// Text made fit as a subject.
pub fn subject(text: &str) -> String {
    fit(text, SUBJECT)
}

/// Text made fit as a detail.
pub fn detail(text: &str) -> String {
    fit(text, DETAIL)
}

fn fit(text: &str, longest: usize) -> String {
    let mut fit = String::with_capacity(text.len().min(longest));
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if fit.len() + c.len_utf8() > longest {
            break;
        }
        fit.push(c);
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shortened_and_put_on_one_line() {
        for (text, fits) in [(" one\ntwo\u{7} ", "one two "), ("", ""), ("häuser", "häuser")] {
            assert_eq!(subject(text), fits);
        }
        assert_eq!(detail(&"ä".repeat(1_000)).len(), DETAIL);
        assert_eq!(subject(&format!("x{}", "ä".repeat(1_000))).len(), SUBJECT - 1);
    }
}
