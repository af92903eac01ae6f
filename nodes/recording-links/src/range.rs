//! One byte range of a request (RFC 9110 section 14).

use std::ops::Range;

/// Part of a recording that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: there is no range, or one that is to be ignored.
    Whole,
    /// These bytes.
    Bytes(Range<usize>),
    /// The range begins behind the end.
    Outside,
}

/// Reads the value of a header `Range` for `length` bytes. Several ranges, other units and malformed values are ignored.
pub(crate) fn part(value: &str, length: usize) -> Part {
    let Some((first, last)) = value.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Whole;
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Some(first), None) if last.is_empty() => first..length,
        (None, Some(suffix)) if first.is_empty() => length.saturating_sub(suffix)..length,
        _ => return Part::Whole,
    };
    if range.start < range.end { Part::Bytes(range) } else { Part::Outside }
}

fn number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_anything_else_is_ignored() {
        for (value, expected) in [
            ("bytes=0-9", Part::Bytes(0..10)),
            ("bytes=90-", Part::Bytes(90..100)),
            ("bytes=90-1000", Part::Bytes(90..100)),
            ("bytes=-10", Part::Bytes(90..100)),
            ("bytes=-1000", Part::Bytes(0..100)),
            ("bytes=100-", Part::Outside),
            ("bytes=100-200", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=9-0", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=0-9,20-29", Part::Whole),
            ("bytes=+1-9", Part::Whole),
            ("seconds=0-9", Part::Whole),
            ("bytes=0-99999999999999999999999", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(value, 100), expected, "{value}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Outside);
    }
}
