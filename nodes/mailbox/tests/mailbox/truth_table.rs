//! The committed table of rule D4, through real merges in both orders.

use std::collections::BTreeSet;

use twinbox_mailbox::{Filing, Folder, Mark, purge};
use twinbox_replication_core::Record;

use crate::common::{NUMBERS, Replica, blob, read};

const TABLE: &str = include_str!("delete_truth_table.txt");
const ACTS: [&str; 5] = ["new", "heard", "saved", "deleted", "purged"];

fn act(replica: &mut Replica, what: &str) {
    let mark = match what {
        "new" => Mark::New,
        "heard" => Mark::Heard,
        "saved" => Mark::Saved,
        _ => Mark::Deleted,
    };
    let edits = mark.edits(&replica.record, NUMBERS);
    replica.write(edits);
    if what == "purged" {
        let edits = purge(&replica.record);
        replica.write(edits);
    }
}

fn state(record: &Record) -> &'static str {
    let message = read(record, None);
    match message.folder {
        _ if message.purged => "purged",
        _ if message.deleted => "deleted",
        Folder::New => "new",
        Folder::Heard => "heard",
        Folder::Saved => "saved",
    }
}

fn base(what: &str) -> Replica {
    let mut replica = Replica::new("a", 100);
    replica.file(Filing::Complete, blob(1, 4));
    if what != "new" {
        act(&mut replica, what);
    }
    assert_eq!(state(&replica.record), what);
    replica
}

fn rows() -> Vec<[&'static str; 4]> {
    TABLE
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.try_into().unwrap_or_else(|_| panic!("not four words: {line}"))
        })
        .collect()
}

#[test]
fn every_pair_of_concurrent_changes_ends_as_the_table_says() {
    for [start, one, other, expected] in rows() {
        // Either node may have the later clock; neither sees the other.
        for (left_wall, right_wall) in [(1_000, 2_000), (2_000, 1_000)] {
            let (mut left, mut right) = (base(start).fork("b", left_wall), base(start).fork("c", right_wall));
            act(&mut left, one);
            act(&mut right, other);
            let merged = left.merged_with(&right);
            assert_eq!(merged, right.merged_with(&left), "{start} {one} {other}: the order of merging matters");
            let expected = match expected {
                "later" if left_wall > right_wall => one,
                "later" => other,
                "by-time" if (one == "purged") == (left_wall > right_wall) => "purged",
                "by-time" => "deleted",
                expected => expected,
            };
            assert_eq!(state(&merged), expected, "{start}: {one} x {other}, clocks {left_wall} {right_wall}");
        }
    }
}

#[test]
fn the_table_is_complete_and_symmetric() {
    let rows = rows();
    let distinct: BTreeSet<_> = rows.iter().map(|[start, one, other, _]| (start, one, other)).collect();
    assert_eq!((rows.len(), distinct.len()), (3 * ACTS.len() * ACTS.len(), rows.len()));
    for [start, one, other, expected] in &rows {
        assert!(ACTS.contains(one) && ACTS.contains(other));
        let mirror = rows.iter().find(|[s, o, p, _]| s == start && o == other && p == one);
        assert_eq!(mirror.map(|[.., e]| e), Some(expected), "{start} {one} {other}");
    }
}

#[test]
fn delete_after_a_save_wins_and_can_be_undone() {
    let mut a = base("saved");
    act(&mut a, "deleted");
    assert_eq!(state(&a.record), "deleted");
    let edits = Mark::Undeleted.edits(&a.record, NUMBERS);
    a.write(edits);
    assert_eq!(state(&a.record), "saved");

    let mut a = base("heard");
    act(&mut a, "deleted");
    let edits = Mark::Undeleted.edits(&a.record, NUMBERS);
    a.write(edits);
    assert_eq!(state(&a.record), "heard");
    // Marked as new again it stays undeleted; deleted again it is deleted.
    act(&mut a, "new");
    assert_eq!(state(&a.record), "new");
    act(&mut a, "deleted");
    assert_eq!(state(&a.record), "deleted");
}

#[test]
fn marking_as_new_a_message_that_was_once_deleted_and_saved_does_not_delete_it() {
    let mut a = base("new");
    act(&mut a, "deleted");
    act(&mut a, "saved");
    assert_eq!(state(&a.record), "saved");
    act(&mut a, "new");
    assert_eq!(state(&a.record), "new");
}

/// A message that was purged on one side of a split and saved on the other is an ordinary one from then on.
#[test]
fn purge_that_a_save_overrode_does_not_count_for_a_later_delete() {
    for (left_wall, right_wall) in [(1_000, 2_000), (2_000, 1_000)] {
        let (mut left, mut right) = (base("new").fork("b", left_wall), base("new").fork("c", right_wall));
        act(&mut left, "purged");
        act(&mut right, "saved");
        left.record = left.merged_with(&right);
        assert_eq!(state(&left.record), "saved");
        // The store's clock goes on from the highest stamp.
        let mut later = left.fork("d", 3_000);
        act(&mut later, "deleted");
        assert_eq!(state(&later.record), "deleted");
        let edits = Mark::Undeleted.edits(&later.record, NUMBERS);
        assert!(!edits.is_empty());
        let mut undeleted = later.clone();
        undeleted.write(edits);
        assert_eq!(state(&undeleted.record), "saved");
        act(&mut later, "purged");
        assert_eq!(state(&later.record), "purged");
    }
}

#[test]
fn nothing_is_written_where_nothing_changes() {
    let a = base("new");
    for (start, mark) in [("new", Mark::New), ("heard", Mark::Heard), ("saved", Mark::Heard)] {
        assert!(mark.edits(&base(start).record, NUMBERS).is_empty(), "{start} {mark:?}");
    }
    assert!(Mark::Undeleted.edits(&a.record, NUMBERS).is_empty());
    let mut deleted = a;
    act(&mut deleted, "deleted");
    assert!(Mark::Deleted.edits(&deleted.record, NUMBERS).is_empty());
}
