//! The changes that a node has: gap-free prefixes and the ranges above them.

use std::{collections::BTreeMap, ops::RangeInclusive};

use twinbox_ids::Origin;

use crate::{Ranges, Vector};

/// Numbers of changes, by origin. Small: changes arrive mostly in order, so each origin has a range or two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings(BTreeMap<Origin, Ranges>);

impl From<BTreeMap<Origin, Ranges>> for Holdings {
    fn from(ranges: BTreeMap<Origin, Ranges>) -> Self {
        Self(ranges)
    }
}

impl Holdings {
    /// The changes of a vector.
    pub fn of(vector: &Vector) -> Self {
        let mut holdings = Self::default();
        holdings.add_vector(vector);
        holdings
    }

    /// True without any change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the changes of a vector.
    pub fn add_vector(&mut self, vector: &Vector) {
        vector.iter().for_each(|(origin, upto)| self.add(origin, 1..=upto));
    }

    /// Adds consecutive changes of one origin.
    pub fn add(&mut self, origin: Origin, seqs: RangeInclusive<u64>) {
        self.0.entry(origin).or_default().insert(*seqs.start()..seqs.end().saturating_add(1));
    }

    /// Adds one change; true when it is new.
    pub fn insert(&mut self, origin: Origin, seq: u64) -> bool {
        let new = !self.contains(origin, seq);
        if new {
            self.add(origin, seq..=seq);
        }
        new
    }

    /// True if this change is held.
    pub fn contains(&self, origin: Origin, seq: u64) -> bool {
        self.0.get(&origin).is_some_and(|ranges| ranges.contains(seq))
    }

    /// True when all of `others` are held.
    pub fn covers(&self, others: &Self) -> bool {
        let covers = |ranges: &Ranges, other: &Ranges| other.iter().all(|range| ranges.covers(range));
        others.0.iter().all(|(origin, other)| match self.0.get(origin) {
            Some(ranges) => covers(ranges, other),
            None => other.is_empty(),
        })
    }

    /// The gap-free prefixes: a sender continues from there.
    pub fn vector(&self) -> Vector {
        self.0.iter().map(|(&origin, ranges)| (origin, ranges.run_end(1) - 1)).collect()
    }

    /// All held changes of one origin, in order.
    pub fn of_origin(&self, origin: Origin) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.0.get(&origin).into_iter().flat_map(Ranges::iter).map(|range| range.start..=range.end - 1)
    }

    /// All origins and ranges.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, RangeInclusive<u64>)> {
        self.0
            .iter()
            .flat_map(|(&origin, ranges)| ranges.iter().map(move |range| (origin, range.start..=range.end - 1)))
    }

    /// Number of changes of `vector` that are not held.
    pub fn lag(&self, vector: &Vector) -> u64 {
        let missing = |(origin, upto): (Origin, u64)| match self.0.get(&origin) {
            None => upto,
            Some(ranges) => ranges.gaps(1..upto.saturating_add(1)).iter().map(|gap| gap.end - gap.start).sum(),
        };
        // The vector of a peer may have any value.
        vector.iter().map(missing).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Origin = Origin(1);
    const B: Origin = Origin(2);

    #[test]
    fn prefixes_stop_at_the_first_gap() {
        let mut holdings = Holdings::of(&[(A, 3)].into_iter().collect());
        holdings.add(A, 5..=6);
        holdings.add(B, 2..=9);
        assert_eq!((holdings.vector().get(A), holdings.vector().get(B)), (3, 0));
        assert!(holdings.insert(A, 4) && !holdings.insert(A, 4) && !holdings.insert(A, 6));
        assert_eq!(holdings.vector().get(A), 6);
        assert_eq!(holdings.of_origin(B).collect::<Vec<_>>(), [2..=9]);
    }

    #[test]
    fn holdings_cover_others_range_by_range() {
        let mut holdings = Holdings::of(&[(A, 3)].into_iter().collect());
        holdings.add(A, 5..=6);
        assert!(holdings.covers(&Holdings::default()) && holdings.covers(&holdings.clone()));
        for (origin, seqs, covered) in [(A, 1..=3, true), (A, 6..=6, true), (A, 3..=5, false), (B, 1..=1, false)] {
            let mut other = Holdings::default();
            other.add(origin, seqs.clone());
            assert_eq!(holdings.covers(&other), covered, "{origin} {seqs:?}");
        }
    }

    #[test]
    fn lag_counts_what_is_missing_up_to_the_vector() {
        let mut holdings = Holdings::of(&[(A, 3)].into_iter().collect());
        holdings.add(A, 8..=20);
        let vector: Vector = [(A, 10), (B, 5)].into_iter().collect();
        assert_eq!(holdings.lag(&vector), 4 + 5);
        assert_eq!(holdings.lag(&Vector::new()), 0);
    }
}
