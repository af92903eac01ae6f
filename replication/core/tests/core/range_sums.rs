//! Sums over ranges of keys: the spans that differ, and the count of the rows while they change.

use std::collections::BTreeMap;

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};
use twinbox_replication_core::{
    buckets::RowHash,
    range_sums::{RangeList, RangeSums, SPACING, Span, differing},
    row_sums::{CountedRow, RowSums},
};

/// A step of a count: its number, the rows that it read, and where the next one begins.
type CountStep = (u64, Vec<CountedRow>, Option<Vec<u8>>);

/// Contents of rows, by their keys.
type Rows = BTreeMap<u8, u8>;

/// A row in three ends a range.
fn hashed(key: u8, content: u8) -> RowHash {
    let bucket = if key.is_multiple_of(3) { SPACING * u16::from(key % 7) } else { 1 };
    let mixed = (u128::from(key) << 8) + u128::from(content) + 1;
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    RowHash { bucket, hash: (mixed ^ (mixed >> 59)).wrapping_mul(0x2545_f491_4f6c_dd1d_9fb2_1c65_1e98_df25) }
}

/// The sums of rows that were counted in the order of their keys.
fn counted(rows: &Rows) -> RangeSums {
    let mut sums = RangeSums::default();
    rows.iter().for_each(|(key, content)| sums.add(&[*key], hashed(*key, *content)));
    sums
}

/// All ranges, page by page.
fn all(sums: &RangeSums, page: usize) -> RangeList<u8> {
    let mut all = RangeList { ends: Vec::new(), rest: None };
    while all.rest.is_none() {
        let after = all.ends.last().map(|(end, _)| [*end]);
        let RangeList { ends, rest } = sums.list(after.as_ref().map(|after| &after[..]), page);
        all.ends.extend(ends.into_iter().map(|(end, sum)| (end[0], sum)));
        all.rest = rest;
    }
    all
}

fn is_in(key: u8, (after, upto): &Span<u8>) -> bool {
    after.is_none_or(|after| key > after) && upto.is_none_or(|upto| key <= upto)
}

#[test]
fn ranges_end_at_rows_that_come_behind_all_others_only() {
    let ends = |sums: &RangeSums| all(sums, 100).ends.into_iter().map(|(end, _)| end).collect::<Vec<_>>();
    let mut sums = counted(&[(1, 0), (6, 0), (7, 0), (9, 0), (10, 0)].into());
    assert_eq!(ends(&sums), [6, 9]);
    sums.add(&[3], hashed(3, 0));
    assert_eq!(ends(&sums), [6, 9], "the rows before it would have to be read");
    sums.add(&[12], hashed(12, 0));
    assert_eq!(ends(&sums), [6, 9, 12]);
    sums.remove(&[9], hashed(9, 0));
    let same = counted(&[(1, 0), (3, 0), (6, 0), (7, 0), (10, 0), (12, 0)].into());
    assert_eq!((ends(&sums), differing(&all(&sums, 1), &all(&same, 1))), (vec![6, 9, 12], vec![]));
}

#[test]
fn ranges_that_a_list_leaves_out_differ() {
    let rows: Rows = (0..30).map(|key| (key, 0)).collect();
    let (whole, sums) = (all(&counted(&rows), 4), counted(&rows));
    let RangeList { ends, rest } = sums.list(None, 4);
    let part = RangeList { ends: ends.into_iter().map(|(end, sum)| (end[0], sum)).collect(), rest };
    assert_eq!((part.ends.len(), part.rest), (4, None));
    for (ours, theirs) in [(&whole, &part), (&part, &whole), (&part, &part)] {
        assert_eq!(differing(ours, theirs), [(Some(9), None)]);
    }
    assert!(differing(&whole, &whole).is_empty());
}

fn rows() -> impl Strategy<Value = Rows> {
    btree_map(any::<u8>(), 0..2_u8, 0..60)
}

proptest! {
    #[test]
    fn spans_have_all_keys_that_differ_and_nothing_else_on_the_way(
        ours in rows(),
        changes in btree_map(any::<u8>(), prop_oneof![Just(None), (0..2_u8).prop_map(Some)], 0..6),
    ) {
        let mut theirs = ours.clone();
        for (key, content) in changes {
            match content {
                Some(content) => theirs.insert(key, content),
                None => theirs.remove(&key),
            };
        }
        let spans = differing(&all(&counted(&ours), 3), &all(&counted(&theirs), 5));
        let differ = |key: &u8| ours.get(key) != theirs.get(key);
        for key in (0..=u8::MAX).filter(differ) {
            prop_assert_eq!(spans.iter().filter(|span| is_in(key, span)).count(), 1, "{}", key);
        }
        for span in &spans {
            prop_assert!((0..=u8::MAX).filter(|key| is_in(*key, span)).any(|key| differ(&key)), "{:?}", span);
        }
        // In order, and joined where they adjoin.
        prop_assert!(spans.windows(2).all(|pair| pair[0].1.is_some() && pair[0].1 < pair[1].0));
    }

    #[test]
    fn count_amid_commits_has_the_sums_of_the_rows_at_its_end(
        rows in rows(),
        actions in vec((0..5_u8, any::<u8>(), 0..3_u8), 0..80),
    ) {
        let (mut rows, mut sums, mut step) = (rows, RowSums::default(), None);
        let end = |sums: &mut RowSums, step: &mut Option<CountStep>| {
            step.take().is_some_and(|(number, read, next)| sums.end(number, read, next))
        };
        let read = |rows: &Rows, sums: &mut RowSums| {
            let (number, from) = sums.begin(&[])?;
            let row = |(key, content): (&u8, &u8)| CountedRow {
                key: vec![*key],
                hash: Some(hashed(*key, *content)),
                is_readable: true,
            };
            let read: Vec<_> = rows.iter().map(row).filter(|row| row.key >= from).take(4).collect();
            let next = read.last().filter(|_| read.len() == 4).map(|last| [&last.key[..], &[0]].concat());
            Some((number, read, next))
        };
        for (action, key, content) in actions {
            match action {
                0 if step.is_none() => step = read(&rows, &mut sums),
                1 => {
                    end(&mut sums, &mut step);
                }
                // A step that is given up.
                2 if content == 0 => step = None,
                _ => {
                    let before = rows.get(&key).map(|content| hashed(key, *content));
                    match content {
                        0 => rows.remove(&key),
                        _ => rows.insert(key, content),
                    };
                    let after = rows.get(&key).map(|content| hashed(key, *content));
                    sums.follow(vec![key], before, after);
                }
            }
        }
        end(&mut sums, &mut step);
        while !sums.is_complete() {
            step = read(&rows, &mut sums);
            end(&mut sums, &mut step);
        }
        let mut fresh = RowSums::default();
        while !fresh.is_complete() {
            let mut step = read(&rows, &mut fresh);
            end(&mut fresh, &mut step);
        }
        prop_assert_eq!(sums.buckets(), fresh.buckets());
        let [counted, fresh] = [&sums, &fresh].map(|sums| all(sums.ranges().expect("ranges"), 9));
        prop_assert_eq!(differing(&counted, &fresh), vec![]);
    }
}
