//! Suggestions for mistyped words.

/// The candidate with the smallest edit distance, if it is small enough for a typing mistake.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (strsim::levenshtein(word, candidate), *candidate))
        .filter(|(d, candidate)| *d <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean 'word'?` if a candidate is near, or nothing.
pub(crate) fn hint(word: &str, candidates: &[&str]) -> String {
    nearest(word, candidates).map_or(String::new(), |near| format!("; did you mean '{near}'?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_error_gets_a_hint_and_nonsense_none() {
        let words = ["number", "name", "pin", "timezone"];
        for (word, expected) in [
            ("nmae", Some("name")),
            ("time-zone", Some("timezone")),
            ("pins", Some("pin")),
            ("numbre", Some("number")),
            ("extension", None),
        ] {
            assert_eq!(nearest(word, &words), expected, "{word}");
        }
        assert_eq!(hint("nmae", &words), "; did you mean 'name'?");
        assert_eq!(hint("extension", &words), "");
    }
}
