//! Ranges behave like the set of numbers that they stand for.

use std::collections::BTreeSet;

use proptest::prelude::*;
use twinbox_replication_core::Ranges;

proptest! {
    #[test]
    fn ranges_equal_a_set_of_numbers(ops in prop::collection::vec((any::<bool>(), 0..40u64, 0..12u64), 0..30), at in 0..50u64) {
        let (mut ranges, mut set) = (Ranges::new(), BTreeSet::new());
        for (insert, start, length) in ops {
            let range = start..start + length;
            if insert {
                ranges.insert(range.clone());
                set.extend(range);
            } else {
                ranges.remove(range.clone());
                set.retain(|n| !range.contains(n));
            }
        }
        prop_assert_eq!(ranges.iter().flatten().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
        prop_assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.end < b.start), "they touch");
        prop_assert_eq!(ranges.total(), set.len() as u64);
        prop_assert_eq!(ranges.end(), set.last().map_or(0, |n| n + 1));
        prop_assert_eq!(ranges.contains(at), set.contains(&at));
        prop_assert_eq!(ranges.run_end(at), (at..).find(|n| !set.contains(n)).unwrap_or(at));
        prop_assert_eq!(ranges.covers(at..at + 3), (at..at + 3).all(|n| set.contains(&n)));
        let gaps: Vec<u64> = ranges.gaps(at..at + 20).into_iter().flatten().collect();
        prop_assert_eq!(gaps, (at..at + 20).filter(|n| !set.contains(n)).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_overflows_at_the_end() {
    let mut ranges = Ranges::new();
    ranges.insert(u64::MAX - 1..u64::MAX);
    ranges.insert(5..5);
    assert!(ranges.contains(u64::MAX - 1) && !ranges.contains(u64::MAX) && ranges.covers(7..7));
    ranges.remove(0..u64::MAX);
    assert!(ranges.is_empty());
}
