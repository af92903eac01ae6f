//! Sums of row hashes: two stores with equal rows have equal sums, and where a sum differs a row does.
//!
//! Each row belongs to one of 65,536 buckets by its key, and each bucket to one of 256 groups. The hash of a row is added to
//! the sum of its bucket and subtracted again when the row changes, so that a sum costs the same however many rows there
//! are. The caller computes the hashes.

use std::{cmp::Ordering, iter::Peekable};

use crate::Key;

/// Number of buckets.
pub const BUCKETS: usize = 65_536;
/// Number of groups of buckets.
pub const GROUPS: usize = 256;
/// Number of buckets in a group.
pub const GROUP: usize = BUCKETS / GROUPS;

/// A row in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowHash {
    /// Its bucket, which depends on its key only.
    pub bucket: u16,
    /// Hash of key and content.
    pub hash: u128,
}

/// The sums of all buckets, in 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    sums: Box<[u128]>,
    rows: u64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { sums: vec![0; BUCKETS].into_boxed_slice(), rows: 0 }
    }
}

impl Buckets {
    /// A row is there now.
    pub fn add(&mut self, row: RowHash) {
        let sum = &mut self.sums[usize::from(row.bucket)];
        *sum = sum.wrapping_add(row.hash);
        self.rows += 1;
    }

    /// A row that was added is no longer there.
    pub fn remove(&mut self, row: RowHash) {
        let sum = &mut self.sums[usize::from(row.bucket)];
        *sum = sum.wrapping_sub(row.hash);
        self.rows = self.rows.saturating_sub(1);
    }

    /// Number of rows in all buckets.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The sum of each group, [`GROUPS`] in all.
    pub fn groups(&self) -> Vec<u128> {
        let sum = |buckets: &[u128]| buckets.iter().fold(0, |sum: u128, bucket| sum.wrapping_add(*bucket));
        self.sums.chunks(GROUP).map(sum).collect()
    }

    /// The sums of the buckets of one group, [`GROUP`] in all.
    pub fn of_group(&self, group: u8) -> &[u128] {
        let first = usize::from(group) * GROUP;
        &self.sums[first..first + GROUP]
    }
}

/// A set of buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSet(Box<[u8]>);

impl BucketSet {
    /// Length of [`Self::as_bytes`].
    pub const BYTES: usize = BUCKETS / 8;

    /// No bucket.
    pub fn none() -> Self {
        Self(vec![0; Self::BYTES].into_boxed_slice())
    }

    /// All buckets.
    pub fn all() -> Self {
        Self(vec![0xff; Self::BYTES].into_boxed_slice())
    }

    /// The set from [`Self::as_bytes`] or [`Self::numbers`]; `None` if the number of bytes is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() >= Self::BYTES {
            return (bytes.len() == Self::BYTES).then(|| Self(bytes.into()));
        }
        let (numbers, rest) = bytes.as_chunks::<2>();
        let mut set = Self::none();
        for bucket in numbers.iter().map(|number| u16::from_be_bytes(*number)) {
            set.0[usize::from(bucket / 8)] |= 1 << (bucket % 8);
        }
        rest.is_empty().then_some(set)
    }

    /// The number of each bucket in the set, the most significant byte first; `None` if that is not shorter than
    /// [`Self::as_bytes`].
    pub fn numbers(&self) -> Option<Vec<u8>> {
        let buckets = (0..=u16::MAX).filter(|bucket| self.contains(*bucket));
        (2 * self.len() < Self::BYTES).then(|| buckets.flat_map(u16::to_be_bytes).collect())
    }

    /// A bit for each bucket, the lowest bit of the first byte for the first.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True when the bucket is in the set.
    pub fn contains(&self, bucket: u16) -> bool {
        self.0[usize::from(bucket / 8)] & (1 << (bucket % 8)) != 0
    }

    /// Takes a bucket out.
    pub fn remove(&mut self, bucket: u16) {
        self.0[usize::from(bucket / 8)] &= !(1 << (bucket % 8));
    }

    /// Number of buckets in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// True when no bucket is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// The groups of which a bucket is in the set, ascending.
    pub fn groups(&self) -> Vec<u8> {
        let any = |group: &u8| {
            let first = usize::from(*group) * GROUP / 8;
            self.0[first..first + GROUP / 8].iter().any(|byte| *byte != 0)
        };
        (0..=u8::MAX).filter(any).collect()
    }

    /// Takes out the buckets of a group that have the same sum on both sides. Sums beyond the shorter list count as
    /// different.
    pub fn remove_equal(&mut self, group: u8, ours: &[u128], theirs: &[u128]) {
        for (number, (our, their)) in ours.iter().zip(theirs).take(GROUP).enumerate() {
            // Both are below 256.
            if let (true, Ok(number)) = (our == their, u8::try_from(number)) {
                self.remove(u16::from_be_bytes([group, number]));
            }
        }
    }

    /// Takes out a group.
    pub fn remove_group(&mut self, group: u8) {
        let first = usize::from(group) * GROUP / 8;
        self.0[first..first + GROUP / 8].fill(0);
    }
}

/// The keys of the rows that only one side lists, or that have another hash on the other side. Both lists ascend.
pub fn unequal(
    ours: impl IntoIterator<Item = (Key, u128)>,
    theirs: impl IntoIterator<Item = (Key, u128)>,
) -> impl Iterator<Item = Key> {
    Unequal { ours: ours.into_iter().peekable(), theirs: theirs.into_iter().peekable() }
}

struct Unequal<A: Iterator, B: Iterator> {
    ours: Peekable<A>,
    theirs: Peekable<B>,
}

impl<A: Iterator<Item = (Key, u128)>, B: Iterator<Item = (Key, u128)>> Iterator for Unequal<A, B> {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        loop {
            let order = match (self.ours.peek(), self.theirs.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((ours, _)), Some((theirs, _))) => ours.cmp(theirs),
            };
            let only = match order {
                Ordering::Less => self.ours.next(),
                Ordering::Greater => self.theirs.next(),
                Ordering::Equal => {
                    let (ours, theirs) = (self.ours.next(), self.theirs.next());
                    if ours == theirs {
                        continue;
                    }
                    ours
                }
            };
            return only.map(|(key, _)| key);
        }
    }
}
