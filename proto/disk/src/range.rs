//! A range of keys, read from its start or from its end.

use std::{cmp::Ordering, ops::Bound};

/// The end of a range that is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    Start,
    End,
}

impl ReadFrom {
    /// Order of two keys as they are read.
    pub(crate) fn compare(self, left: &[u8], right: &[u8]) -> Ordering {
        match self {
            Self::Start => left.cmp(right),
            Self::End => right.cmp(left),
        }
    }

    /// The same pairs in the order in which they are read; `pairs` ascends.
    pub(crate) fn read<'a, T: 'a>(
        self,
        pairs: impl DoubleEndedIterator<Item = T> + 'a,
    ) -> Box<dyn Iterator<Item = T> + 'a> {
        match self {
            Self::Start => Box::new(pairs),
            Self::End => Box::new(pairs.rev()),
        }
    }
}

/// A range of keys. It never ends before it begins, which maps and the index refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRange {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl KeyRange {
    /// The keys in `start..end`.
    pub(crate) fn between(start: &[u8], end: &[u8]) -> Self {
        Self { from: Bound::Included(start.to_vec()), to: Bound::Excluded(end.max(start).to_vec()) }
    }

    /// The keys that begin with `prefix` and are at or after `start`.
    pub(crate) fn prefix_from(prefix: &[u8], start: &[u8]) -> Self {
        let start = start.max(prefix);
        // The last byte that can be raised, raised: the first key after all that begin with the prefix.
        match prefix.iter().rposition(|byte| *byte < u8::MAX) {
            None => Self { from: Bound::Included(start.to_vec()), to: Bound::Unbounded },
            Some(at) => {
                let mut end: Vec<u8> = prefix.iter().take(at + 1).copied().collect();
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                Self::between(start, &end)
            }
        }
    }

    /// The keys that begin with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        Self::prefix_from(prefix, prefix)
    }

    /// The parts before, within and after the keys that begin with `prefix`; `None` for a part that can have no key.
    pub(crate) fn around(&self, prefix: &[u8]) -> (Option<Self>, Option<Self>, Option<Self>) {
        let within = Self::prefix(prefix);
        let end = match &within.to {
            Bound::Excluded(end) => Some(end.clone()),
            Bound::Included(_) | Bound::Unbounded => None,
        };
        let before = Self { from: Bound::Unbounded, to: Bound::Excluded(prefix.to_vec()) };
        let after = end.map(|end| Self { from: Bound::Included(end), to: Bound::Unbounded });
        (self.common(&before), self.common(&within), after.and_then(|after| self.common(&after)))
    }

    /// The keys that are in both.
    fn common(&self, other: &Self) -> Option<Self> {
        let from = [&self.from, &other.from].into_iter().max_by_key(|from| match from {
            Bound::Unbounded => None,
            Bound::Included(key) => Some((key, false)),
            Bound::Excluded(key) => Some((key, true)),
        })?;
        let to = [&self.to, &other.to].into_iter().min_by_key(|to| match to {
            Bound::Excluded(key) => (false, Some((key, false))),
            Bound::Included(key) => (false, Some((key, true))),
            Bound::Unbounded => (true, None),
        })?;
        let is_empty = match (from, to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
                from >= to
            }
            _ => false,
        };
        (!is_empty).then(|| Self { from: from.clone(), to: to.clone() })
    }

    /// The bounds, as maps and the index take them.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.from.as_ref().map(Vec::as_slice), self.to.as_ref().map(Vec::as_slice))
    }

    /// The part that is left once `key`, which is in the range, has been read from this end.
    pub(crate) fn rest(&self, from: ReadFrom, key: &[u8]) -> Self {
        match from {
            ReadFrom::Start => Self { from: Bound::Excluded(key.to_vec()), to: self.to.clone() },
            ReadFrom::End => Self { from: self.from.clone(), to: Bound::Excluded(key.to_vec()) },
        }
    }

    /// The part from this end to `key`, which is in the range, itself included.
    pub(crate) fn as_far_as(&self, from: ReadFrom, key: &[u8]) -> Self {
        match from {
            ReadFrom::Start => Self { from: self.from.clone(), to: Bound::Included(key.to_vec()) },
            ReadFrom::End => Self { from: Bound::Included(key.to_vec()), to: self.to.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeBounds;

    use super::KeyRange;

    fn has(range: &KeyRange, key: &[u8]) -> bool {
        let (from, to) = range.bounds();
        RangeBounds::<[u8]>::contains(&(from, to), key)
    }

    #[test]
    fn a_prefix_covers_its_keys_and_no_others() {
        for (prefix, inside, outside) in [
            (&b"ab"[..], vec![&b"ab"[..], b"ab\xff\xff\xff", b"abc"], vec![&b"aa"[..], b"ac", b"a", b"b"]),
            (&b"a\xff"[..], vec![&b"a\xff"[..], b"a\xff\xff"], vec![&b"a\xfe"[..], b"b"]),
            (&b"\xff\xff"[..], vec![&b"\xff\xff"[..], b"\xff\xff\xff"], vec![&b"\xff\xfe"[..], b"\xff"]),
            (&b""[..], vec![&b""[..], b"a", b"\xff"], vec![]),
        ] {
            let range = KeyRange::prefix(prefix);
            assert!(inside.iter().all(|key| has(&range, key)), "{prefix:?}");
            assert!(!outside.iter().any(|key| has(&range, key)), "{prefix:?}");
        }
    }

    #[test]
    fn each_key_of_a_range_is_in_one_part_around_a_prefix() {
        let keys = [&b"k"[..], b"kz", b"l", b"l\0", b"la", b"l\xff\xff", b"m", b"z"];
        let between = |(from, to): (&[u8], &[u8])| KeyRange::between(from, to);
        let pairs = keys.iter().flat_map(|from| keys.iter().map(|to| (*from, *to)));
        let mut ranges: Vec<KeyRange> = pairs.map(between).collect();
        ranges.push(KeyRange::prefix(b""));
        ranges.extend(keys.iter().map(|key| KeyRange::prefix(b"").rest(super::ReadFrom::Start, key)));
        ranges.extend(keys.iter().map(|key| KeyRange::prefix(b"").rest(super::ReadFrom::End, key)));
        for range in ranges {
            let (before, within, after) = range.around(b"l");
            for key in keys {
                let is_in = |part: &Option<KeyRange>| part.as_ref().is_some_and(|part| has(part, key));
                let place = (is_in(&before), is_in(&within), is_in(&after));
                let is_prefixed = key.starts_with(b"l");
                let is_before = !is_prefixed && key < &b"l"[..];
                let expected = match has(&range, key) {
                    true => (is_before, is_prefixed, !is_before && !is_prefixed),
                    false => (false, false, false),
                };
                assert_eq!(place, expected, "{key:?} of {range:?}");
            }
        }
    }

    #[test]
    fn a_range_that_would_end_before_it_begins_is_empty() {
        for range in [KeyRange::between(b"b", b"a"), KeyRange::prefix_from(b"a", b"b")] {
            assert!(![&b"a"[..], b"ab", b"b", b"c"].iter().any(|key| has(&range, key)), "{range:?}");
        }
    }
}
