//! Sets of numbers stored as ranges: the bytes of a recording that are here, the changes that a peer has.

use std::{collections::BTreeMap, ops::Range};

/// A set of `u64`, stored as disjoint ranges that do not touch. Cheap when the numbers are mostly contiguous.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds all numbers of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // The usual case: the last range grows.
        if let Some(mut last) = self.0.last_entry()
            && (*last.key()..=*last.get()).contains(&start)
        {
            let grown = end.max(*last.get());
            last.insert(grown);
            return;
        }
        // A range that overlaps or touches begins at or before our end; walk them from the last.
        while let Some((&s, &e)) = self.0.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Removes all numbers of `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.0.remove(&s);
            if e > range.end {
                self.0.insert(range.end, e);
            }
            if s < range.start {
                self.0.insert(s, range.start);
                break;
            }
        }
    }

    /// True when every number of `range` is in the set; always true for an empty range.
    pub fn covers(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.run_end(range.start) >= range.end
    }

    /// True when `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.run_end(number) > number
    }

    /// The first number at or after `from` that is not in the set.
    pub fn run_end(&self, from: u64) -> u64 {
        match self.0.range(..=from).next_back() {
            Some((_, &end)) if end > from => end,
            _ => from,
        }
    }

    /// The parts of `range` that are not in the set, ascending.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = self.run_end(range.start);
        while at < range.end {
            let next = self.0.range(at..).next().map_or(range.end, |(&start, _)| start.min(range.end));
            gaps.push(at..next);
            at = self.run_end(next);
        }
        gaps
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// One past the highest number; 0 for the empty set.
    pub fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, &end)| end)
    }

    /// Count of the numbers in the set.
    pub fn total(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// True when the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(iter: I) -> Self {
        let mut ranges = Self::new();
        iter.into_iter().for_each(|range| ranges.insert(range));
        ranges
    }
}
