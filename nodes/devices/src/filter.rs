//! Conditions on a message.

use std::{fmt, str::FromStr};

use crate::MessageFacts;

/// Most patterns of callers in one filter.
const MOST_PATTERNS: usize = 50;

/// Conditions that a message must meet to be notified of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Urgent messages only.
    pub urgent_only: bool,
    /// Callers, any of these patterns; empty: all callers, also those without a number.
    pub callers: Vec<CallerPattern>,
    /// Minimum length of a message, in seconds.
    pub min_seconds: u32,
}

impl Filter {
    /// Whether the message meets all conditions.
    pub fn admits(&self, facts: &MessageFacts) -> bool {
        let caller = facts.caller.as_ref().map(|caller| caller.reveal().as_str()).unwrap_or_default();
        (facts.urgent || !self.urgent_only)
            && facts.length_ms >= u64::from(self.min_seconds) * 1_000
            && (self.callers.is_empty() || self.callers.iter().any(|pattern| pattern.matches(caller)))
    }
}

/// Pattern of a caller's number: digits, possibly after `+`, possibly with a trailing `*`.
#[derive(Clone, PartialEq, Eq)]
pub struct CallerPattern {
    digits: String,
    prefix: bool,
}

impl CallerPattern {
    /// Whether the number matches. An empty number (a caller without one) matches no pattern.
    pub fn matches(&self, number: &str) -> bool {
        match self.prefix {
            true => !number.is_empty() && number.starts_with(&self.digits),
            false => number == self.digits,
        }
    }

    /// The patterns of a text with commas.
    pub fn list(text: &str) -> Option<Vec<Self>> {
        let patterns: Vec<Self> = text.split(',').map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
        (patterns.len() <= MOST_PATTERNS).then_some(patterns)
    }

    /// The text of several patterns, as [`Self::list`] reads it.
    pub fn show(patterns: &[Self]) -> String {
        patterns.iter().map(Self::to_string).collect::<Vec<_>>().join(",")
    }
}

/// A text is not a pattern of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pattern of callers: give digits with a trailing * for any end, such as 0151*")]
pub struct CallerPatternError;

impl FromStr for CallerPattern {
    type Err = CallerPatternError;

    fn from_str(text: &str) -> Result<Self, CallerPatternError> {
        let (digits, prefix) = text.strip_suffix('*').map_or((text, false), |digits| (digits, true));
        let plain = digits.strip_prefix('+').unwrap_or(digits);
        let fine =
            plain.len() <= 32 && plain.bytes().all(|byte| byte.is_ascii_digit()) && (prefix || !plain.is_empty());
        fine.then(|| Self { digits: digits.to_owned(), prefix }).ok_or(CallerPatternError)
    }
}

impl fmt::Display for CallerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.digits, if self.prefix { "*" } else { "" })
    }
}

/// A number of a caller is private.
impl fmt::Debug for CallerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerPattern(•••)")
    }
}
