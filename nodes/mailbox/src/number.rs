//! Numbers of mailboxes: digits, and the claim that gives a number to one mailbox (rule D6).

use std::fmt;

use twinbox_ids::MailboxId;
use twinbox_replication_core::{Edit, Key, Record};

use crate::{Mailbox, schema, value::set_text};

/// A mailbox number: 1 to 32 digits, nothing else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(String);

/// A text is not a mailbox number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNumber {
    /// It has no digit.
    #[error("a mailbox number needs at least one digit")]
    Empty,
    /// It has too many digits.
    #[error("a mailbox number has at most 32 digits")]
    TooLong,
    /// It has other characters than digits and the usual separators.
    #[error("a mailbox number has digits only (a leading '+', spaces, '-', '.', '(' and ')' are ignored)")]
    NotDigits,
}

impl Number {
    /// Extracts the digits of a number as people and PBXs write it: a leading `+` and separators are dropped, other
    /// characters are refused.
    pub fn normalise(text: &str) -> Result<Self, InvalidNumber> {
        let text = text.trim();
        let text = text.strip_prefix('+').unwrap_or(text);
        let mut digits = String::with_capacity(text.len().min(32));
        for c in text.chars() {
            match c {
                '0'..='9' if digits.len() == 32 => return Err(InvalidNumber::TooLong),
                '0'..='9' => digits.push(c),
                ' ' | '-' | '.' | '(' | ')' => {}
                _ => return Err(InvalidNumber::NotDigits),
            }
        }
        if digits.is_empty() { Err(InvalidNumber::Empty) } else { Ok(Self(digits)) }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The mailboxes that claim the number of this record, the earliest claim first; see [`Self::holder`].
    pub fn claimants(record: &Record) -> Vec<MailboxId> {
        let (first, later) = (record.claim(schema::number::HOLDER), record.losers(schema::number::HOLDER));
        first.into_iter().chain(later).filter_map(MailboxId::from_slice).collect()
    }

    /// The mailbox that holds the number: the earliest claimant that still has it; `get` reads a record. A claim may stay
    /// behind a mailbox: its removal, or its next number, came from a node that did not know of the claim. A mailbox that
    /// this release cannot read counts as having the number, so that no other gets it.
    pub fn holder<E>(&self, get: impl Fn(&Key) -> Result<Option<Record>, E>) -> Result<Option<MailboxId>, E> {
        let claims = get(&schema::number_key(self))?.unwrap_or_default();
        for id in Self::claimants(&claims) {
            let key = schema::mailbox_key(id);
            let Some(record) = get(&key)?.filter(|record| !record.is_empty()) else { continue };
            let has_it = match Mailbox::read(&key, &record) {
                Ok(mailbox) => mailbox.is_some_and(|read| Self::normalise(&read.number).as_ref() == Ok(self)),
                Err(_) => true,
            };
            if has_it {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Whether a mailbox that has this number holds it. Its record is not read again if no claim is earlier.
    pub fn is_held_by<E>(
        &self,
        mailbox: MailboxId,
        get: impl Fn(&Key) -> Result<Option<Record>, E>,
    ) -> Result<bool, E> {
        let claims = get(&schema::number_key(self))?.unwrap_or_default();
        let is_first = claims.claim(schema::number::HOLDER).and_then(MailboxId::from_slice) == Some(mailbox);
        Ok(is_first || self.holder(get)? == Some(mailbox))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The edits of a mailbox's record that give it a number, which is to be claimed in the same commit.
pub fn renumber(number: &Number) -> Vec<Edit> {
    vec![set_text(schema::mailbox::NUMBER, number.as_str())]
}

/// The edits of a number's record that claim it for a mailbox.
pub fn claim(mailbox: MailboxId) -> Vec<Edit> {
    vec![Edit::Claim(schema::number::HOLDER, mailbox.to_bytes().to_vec())]
}

/// The edits of a number's record that withdraw the claim.
pub fn release(mailbox: MailboxId) -> Vec<Edit> {
    vec![Edit::Unclaim(schema::number::HOLDER, mailbox.to_bytes().to_vec())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reduced_to_their_digits() {
        let long = "1".repeat(33);
        for (text, expected) in [
            ("1001", Ok("1001")),
            (" +1 (555) 010-0.1 ", Ok("155501001")),
            ("", Err(InvalidNumber::Empty)),
            ("+", Err(InvalidNumber::Empty)),
            ("10+01", Err(InvalidNumber::NotDigits)),
            ("alice", Err(InvalidNumber::NotDigits)),
            ("١٠٠١", Err(InvalidNumber::NotDigits)),
            (&long, Err(InvalidNumber::TooLong)),
        ] {
            assert_eq!(
                Number::normalise(text).as_ref().map(Number::as_str),
                expected.as_ref().copied(),
                "{text:?}"
            );
        }
    }
}
