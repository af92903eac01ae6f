//! The changes that are here: all that are durable, and those of them that are not in their rows.

use std::collections::{BTreeMap, BTreeSet};

use twinbox_ids::Origin;

use crate::{Ranges, Vector};

/// Changes here, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Have {
    /// Every change that is durable here.
    pub durable: BTreeMap<Origin, Ranges>,
    /// Those that were set aside: they are in the log, but not in their rows.
    pub aside: BTreeSet<(Origin, u64)>,
}

impl Have {
    /// The changes of an origin that were set aside, those that a fill by state has put behind the beginning of the log left
    /// out: the rows of its source stand for them.
    fn aside_of<'a>(&'a self, origin: Origin, begins: &Vector) -> impl Iterator<Item = u64> + use<'a> {
        let first = begins.get(origin).saturating_add(1);
        self.aside.range((origin, first)..=(origin, u64::MAX)).map(|(_, seq)| *seq)
    }

    /// The first number from `from` on whose change of this origin is not durable here.
    pub fn first_missing(&self, origin: Origin, from: u64) -> u64 {
        self.durable.get(&origin).map_or(from, |seqs| seqs.run_end(from))
    }

    /// True when the change is in its row.
    pub fn is_applied(&self, origin: Origin, seq: u64) -> bool {
        self.first_missing(origin, seq) > seq && !self.aside.contains(&(origin, seq))
    }

    /// For each origin the number up to which every change is in its row.
    pub fn vector(&self, begins: &Vector) -> Vector {
        let prefix = |(origin, seqs): (&Origin, &Ranges)| {
            let durable = seqs.run_end(1) - 1;
            let upto = self.aside_of(*origin, begins).next().map_or(durable, |seq| durable.min(seq - 1));
            (*origin, upto)
        };
        self.durable.iter().map(prefix).collect()
    }

    /// For each origin the numbers of the changes that are in their rows.
    pub fn applied(&self, begins: &Vector) -> BTreeMap<Origin, Ranges> {
        let mut applied = self.durable.clone();
        for (origin, seqs) in &mut applied {
            self.aside_of(*origin, begins).for_each(|seq| seqs.remove(seq..seq + 1));
        }
        applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_set_aside_holds_back_the_vector_until_a_fill_stands_for_it() {
        let (durable, aside) = (Ranges::from_iter([1..6, 8..9]), BTreeSet::from([(Origin(1), 3)]));
        let have = Have { durable: BTreeMap::from([(Origin(1), durable)]), aside };
        let begins = |upto: u64| Vector::from_iter([(Origin(1), upto)]);
        for (begins, vector, applied) in [
            (begins(0), 2, vec![1..3, 4..6, 8..9]),
            (begins(2), 2, vec![1..3, 4..6, 8..9]),
            (begins(3), 5, vec![1..6, 8..9]),
        ] {
            assert_eq!(have.vector(&begins).get(Origin(1)), vector, "{begins:?}");
            assert_eq!(have.applied(&begins)[&Origin(1)], Ranges::from_iter(applied), "{begins:?}");
        }
        for (seq, is_applied) in [(2, true), (3, false), (6, false), (8, true)] {
            assert_eq!(have.is_applied(Origin(1), seq), is_applied, "{seq}");
        }
        for (from, missing) in [(1, 6), (5, 6), (6, 6), (7, 7), (8, 9)] {
            assert_eq!(have.first_missing(Origin(1), from), missing, "{from}");
        }
        assert_eq!(have.first_missing(Origin(2), 4), 4, "nothing of that origin is here");
    }
}
