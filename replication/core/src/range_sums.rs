//! Sums of row hashes over ranges of keys. The rows of a bucket are spread over the whole disk, those of a range lie together: a comparison
//! reads the rows of the buckets that differ only in the ranges that differ.
//!
//! A range ends with a row whose bucket says so, so that nodes with the same rows have the same ranges. Where two nodes have other ranges,
//! these are joined up to the next end that both have.

use std::{collections::BTreeMap, ops::Bound};

use crate::buckets::RowHash;

/// Mean number of rows in a range: a row of one bucket in 512 ends one.
pub const SPACING: u16 = 512;

/// The sums of all ranges, by keys that sort as the rows do. A range takes some hundred bytes of memory.
///
/// Only a row behind all others makes an end: rows that are counted in the order of their keys have ends, and later ones join
/// the ranges that are there until all are counted again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSums {
    /// The last key of each range, with the sum of its rows.
    ends: BTreeMap<Vec<u8>, u128>,
    /// The sum of the rows behind the last end.
    rest: u128,
    /// No row was ever added behind this key.
    last: Vec<u8>,
}

/// Ranges with the sums of their rows, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeList<K> {
    /// The last key of each range, with the sum of its rows. The range begins behind the end before it.
    pub ends: Vec<(K, u128)>,
    /// The sum of the rows behind the last end; `None` when they may be divided further.
    pub rest: Option<u128>,
}

/// The keys behind the first one, up to the second; `None`: from the first or to the last row.
pub type Span<K> = (Option<K>, Option<K>);

impl RangeSums {
    /// A row is there now.
    pub fn add(&mut self, key: &[u8], row: RowHash) {
        let sum = self.sum_of(key);
        *sum = sum.wrapping_add(row.hash);
        if *key > self.last[..] {
            self.last.clear();
            self.last.extend_from_slice(key);
            if row.bucket.is_multiple_of(SPACING) {
                self.ends.insert(key.to_vec(), std::mem::take(&mut self.rest));
            }
        }
    }

    /// A row that was added is no longer there.
    pub fn remove(&mut self, key: &[u8], row: RowHash) {
        let sum = self.sum_of(key);
        *sum = sum.wrapping_sub(row.hash);
    }

    fn sum_of(&mut self, key: &[u8]) -> &mut u128 {
        let range = self.ends.range_mut::<[u8], _>((Bound::Included(key), Bound::Unbounded)).next();
        range.map_or(&mut self.rest, |(_, sum)| sum)
    }

    /// The ranges behind this end, at most `most`.
    pub fn list(&self, after: Option<&[u8]>, most: usize) -> RangeList<&[u8]> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.ends.range::<[u8], _>((from, Bound::Unbounded));
        let ends = behind.by_ref().take(most).map(|(end, sum)| (&end[..], *sum)).collect();
        RangeList { ends, rest: behind.next().is_none().then_some(self.rest) }
    }
}

/// The spans in which the rows of two nodes differ, in the order of their keys and as few as possible.
pub fn differing<K: Ord + Clone>(ours: &RangeList<K>, theirs: &RangeList<K>) -> Vec<Span<K>> {
    let (mut spans, mut begin) = (Vec::<Span<K>>::new(), None);
    let mut differs = |begin: &Option<K>, end: Option<K>| match spans.last_mut() {
        Some((_, upto)) if *upto == *begin => *upto = end,
        _ => spans.push((begin.clone(), end)),
    };
    // The sums up to here are subtracted: what is left is that of the rows since `begin`.
    let (mut left, mut others) = (0_u128, theirs.ends.iter().peekable());
    for (end, sum) in &ours.ends {
        left = left.wrapping_add(*sum);
        while let Some((_, sum)) = others.next_if(|(other, _)| other < end) {
            left = left.wrapping_sub(*sum);
        }
        if let Some((_, sum)) = others.next_if(|(other, _)| other == end) {
            if left != *sum {
                differs(&begin, Some(end.clone()));
            }
            (begin, left) = (Some(end.clone()), 0);
        }
    }
    let left = others.fold(left, |left, (_, sum)| left.wrapping_sub(*sum));
    let are_equal = |ours: u128, theirs: u128| left.wrapping_add(ours) == theirs;
    if !ours.rest.zip(theirs.rest).is_some_and(|(ours, theirs)| are_equal(ours, theirs)) {
        differs(&begin, None);
    }
    spans
}
