//! A range of keys, read from its start or from its end.

use std::{
    cmp::Ordering,
    ops::{Bound, RangeBounds},
};

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

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        RangeBounds::<[u8]>::contains(&self.bounds(), key)
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
#[path = "../tests/unit/range.rs"]
mod tests;
