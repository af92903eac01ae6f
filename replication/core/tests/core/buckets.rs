//! Sums of row hashes, and what they find.

use std::collections::BTreeMap;

use proptest::{collection::btree_map, prelude::*};
use twinbox_replication_core::{
    Edit, Key, Lack, Record, Table, Value,
    buckets::{BUCKETS, BucketSet, Buckets, GROUP, GROUPS, RowHash, unequal},
};

use crate::{edited, merged};

fn row(bucket: u16, hash: u128) -> RowHash {
    RowHash { bucket, hash }
}

fn sums(rows: &[RowHash]) -> Buckets {
    let mut buckets = Buckets::default();
    rows.iter().for_each(|row| buckets.add(*row));
    buckets
}

/// The buckets whose sums differ, as two nodes find them.
fn narrowed(mut set: BucketSet, ours: &Buckets, theirs: &Buckets) -> BucketSet {
    let (our_groups, their_groups) = (ours.groups(), theirs.groups());
    for group in set.groups() {
        match our_groups[usize::from(group)] == their_groups[usize::from(group)] {
            true => set.remove_group(group),
            false => set.remove_equal(group, ours.of_group(group), theirs.of_group(group)),
        }
    }
    set
}

#[test]
fn sums_depend_on_the_rows_and_not_on_their_history() {
    let (a, b, c) = (row(7, u128::MAX), row(7, 9), row(65_535, 3));
    let mut other = sums(&[c, b]);
    other.add(a);
    other.add(row(0, 1));
    other.remove(row(0, 1));
    assert_eq!(other, sums(&[a, b, c]));
    assert_eq!((other.rows(), other.groups().len(), other.of_group(255).len()), (3, GROUPS, GROUP));
    assert_eq!((other.groups()[0], other.groups()[255], other.of_group(255)[255]), (8, 3, 3));
    other.remove(b);
    assert_ne!(other, sums(&[a, b, c]));
}

#[test]
fn narrowing_leaves_the_buckets_that_differed_each_time() {
    let (ours, theirs) = (sums(&[row(5, 1), row(300, 2)]), sums(&[row(5, 9), row(300, 2), row(700, 4)]));
    let first = narrowed(BucketSet::all(), &ours, &theirs);
    assert_eq!((first.len(), first.contains(5), first.contains(300), first.contains(700)), (2, true, false, true));
    // The row of bucket 700 has arrived here; another is on its way now.
    let (ours, theirs) = (sums(&[row(5, 1), row(700, 4)]), sums(&[row(5, 9), row(700, 4), row(800, 4)]));
    let second = narrowed(first, &ours, &theirs);
    assert_eq!((second.len(), second.contains(5), second.groups()), (1, true, vec![0]));
    assert!(narrowed(second, &ours, &ours).is_empty());
}

#[test]
fn set_of_buckets_survives_as_bytes_of_the_right_length_only() {
    let mut set = BucketSet::all();
    assert_eq!((set.len(), set.groups().len()), (BUCKETS, GROUPS));
    set.remove(9);
    let read = BucketSet::from_bytes(set.as_bytes()).expect("a set");
    assert_eq!((&read, read.contains(9), read.contains(10)), (&set, false, true));
    assert_eq!(BucketSet::from_bytes(&set.as_bytes()[1..]), None);
    assert!(BucketSet::none().is_empty() && BucketSet::none().groups().is_empty());
    let few = BucketSet::from_bytes(&[0, 7, 255, 255]).expect("the numbers of two");
    assert_eq!((few.len(), few.contains(7), few.contains(65_535)), (2, true, true));
    assert_eq!((few.numbers(), BucketSet::none().numbers()), (Some(vec![0, 7, 255, 255]), Some(vec![])));
    assert_eq!((BucketSet::all().numbers(), BucketSet::from_bytes(&[0, 7, 255])), (None, None));
    // A list that is too short leaves what it does not name.
    set.remove_equal(0, &[0; GROUP], &[0; 3]);
    assert!(!set.contains(2) && set.contains(3));
}

fn rows() -> impl Strategy<Value = BTreeMap<u8, u128>> {
    btree_map(any::<u8>(), 0..3u128, 0..20)
}

proptest! {
    #[test]
    fn unequal_rows_are_those_of_one_side_and_those_with_another_hash(ours in rows(), theirs in rows()) {
        let keyed = |rows: &BTreeMap<u8, u128>| {
            rows.iter().map(|(id, hash)| (Key::new(Table(1), vec![*id]), *hash)).collect::<Vec<_>>()
        };
        let found: Vec<u8> = unequal(keyed(&ours), keyed(&theirs)).map(|key| key.id[0]).collect();
        let expected: Vec<u8> = (0..=u8::MAX).filter(|id| ours.get(id) != theirs.get(id)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn lack_names_fields_and_deletion_and_is_none_after_the_merge() {
    let whole = edited(
        Record::new(),
        10,
        1,
        [
            Edit::Set(1, Value::Bytes(b"x".into())),
            Edit::Add(5, b"m".into()),
            Edit::Set(9, Value::Bytes(b"y".into())),
        ],
    );
    let part = edited(Record::new(), 10, 1, [Edit::Set(1, Value::Bytes(b"x".into()))]);
    assert_eq!(part.lacks(&whole), Some(Lack { fields: vec![5, 9], deletion: false }));
    assert_eq!(whole.lacks(&part), None);
    assert_eq!(merged(&part, &whole).lacks(&whole), None);
    let deleted = edited(part.clone(), 20, 2, [Edit::Delete]);
    assert_eq!(part.lacks(&deleted), Some(Lack { fields: vec![], deletion: true }));
}
