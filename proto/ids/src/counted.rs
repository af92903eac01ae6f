//! Numbers with their nouns, in texts for people.

use std::fmt::Display;

/// The number with its noun, as in `1 account` and `2 mailboxes`.
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let ending = match number == N::from(1_u8) {
        true => "",
        false if noun.ends_with('x') => "es",
        false => "s",
    };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_the_singular() {
        assert_eq!([0_u64, 1, 2].map(|n| counted(n, "account")), ["0 accounts", "1 account", "2 accounts"]);
        assert_eq!([1_usize, 12].map(|n| counted(n, "mailbox")), ["1 mailbox", "12 mailboxes"]);
    }
}
