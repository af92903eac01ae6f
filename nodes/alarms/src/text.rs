//! Words that come from elsewhere, made fit to be kept and shown: short, and on one line.

/// The longest subject, in bytes.
const SUBJECT: usize = 128;
/// The longest detail, in bytes.
const DETAIL: usize = 512;

/// Fit as a subject.
pub fn subject(text: &str) -> String {
    fit(text, SUBJECT)
}

/// Fit as a detail.
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
    fn words_are_short_and_on_one_line() {
        for (text, fits) in [(" one\ntwo\u{7} ", "one two "), ("", ""), ("häuser", "häuser")] {
            assert_eq!(subject(text), fits);
        }
        assert_eq!(detail(&"ä".repeat(1_000)).len(), DETAIL);
        assert_eq!(subject(&format!("x{}", "ä".repeat(1_000))).len(), SUBJECT - 1);
    }
}
