//! The semantics of each kind of field and of the causal delete.

use twinbox_replication_core::{Edit, Field, Record, Value};

use crate::{edited, merged, node, stamp};

fn value(text: &str) -> Value {
    Value::Bytes(text.into())
}

/// Two writers that both saw `base` and not each other; checked in both orders of merging.
fn concurrent(base: Record, a: &[Edit], b: &[Edit], check: impl Fn(&Record)) {
    let a = edited(base.clone(), 100, 1, a.to_vec());
    let b = edited(base, 200, 2, b.to_vec());
    assert_eq!(merged(&a, &b), merged(&b, &a));
    check(&merged(&a, &b));
}

fn members(record: &Record, tag: u16) -> Vec<&str> {
    record.set(tag).map(|m| std::str::from_utf8(m).expect("text")).collect()
}

#[test]
fn later_register_wins() {
    let (first, second) = (Edit::Set(1, value("first")), Edit::Set(1, value("second")));
    concurrent(Record::new(), &[first], &[second], |record| {
        assert_eq!(record.bytes(1), Some(&b"second"[..]));
    });
}

#[test]
fn delete_removes_only_values_that_it_saw() {
    let base = edited(Record::new(), 1, 9, [Edit::Set(1, value("old")), Edit::Set(2, value("other"))]);
    assert!(!base.is_deleted() && base.outlives_delete(1));

    let deleted = edited(base.clone(), 10, 1, [Edit::Delete]);
    assert!(deleted.is_deleted());
    assert_eq!(deleted.bytes(1), Some(&b"old"[..]), "deleting is a flag: the fields stay");

    // A save that the delete did not see survives, whichever of the two has the higher stamp.
    concurrent(base.clone(), &[Edit::Set(1, value("saved"))], &[Edit::Delete], |record| {
        assert!(!record.is_deleted() && record.outlives_delete(1) && !record.outlives_delete(2));
    });
    concurrent(base.clone(), &[Edit::Delete], &[Edit::Set(1, value("saved"))], |record| {
        assert!(!record.is_deleted() && record.outlives_delete(1) && !record.outlives_delete(2));
    });
    concurrent(base, &[Edit::Delete], &[Edit::Delete], |record| assert!(record.is_deleted()));

    // A write that knew of the delete makes a new record under the old name.
    let again = edited(deleted, 20, 1, [Edit::Set(1, value("again"))]);
    assert!(again.outlives_delete(1) && !again.outlives_delete(2));
}

#[test]
fn delete_removes_members_and_claims_that_it_saw() {
    let base = edited(
        Record::new(),
        1,
        9,
        [Edit::Add(1, b"a".into()), Edit::Grant(2, b"g".into()), Edit::Claim(3, b"c".into()), Edit::Count(4, 1)],
    );
    let deleted = edited(base.clone(), 10, 1, [Edit::Delete]);
    assert!(deleted.is_deleted());
    assert!(members(&deleted, 1).is_empty() && members(&deleted, 2).is_empty());
    assert_eq!((deleted.claim(3), deleted.counter(4)), (None, 1));

    concurrent(base, &[Edit::Add(1, b"new".into())], &[Edit::Delete], |record| {
        assert_eq!(members(record, 1), ["new"]);
        assert!(record.outlives_delete(1) && !record.is_deleted());
    });
}

#[test]
fn in_an_add_wins_set_an_unseen_add_survives_a_remove() {
    let base = edited(Record::new(), 1, 9, [Edit::Add(1, b"x".into())]);
    let (add, remove) = (Edit::Add(1, b"x".into()), Edit::Remove(1, b"x".into()));
    concurrent(base.clone(), std::slice::from_ref(&add), std::slice::from_ref(&remove), |record| {
        assert_eq!(members(record, 1), ["x"]);
    });
    let removed = edited(base.clone(), 10, 1, [remove.clone()]);
    assert!(members(&merged(&removed, &base), 1).is_empty(), "a remove takes out the add that it saw");
    assert_eq!(members(&edited(removed, 20, 2, [add]), 1), ["x"]);
    // Removing an absent member changes nothing.
    assert!(remove.delta(&Record::new(), stamp(5, 1), &node("a")).is_empty());
}

#[test]
fn in_a_remove_wins_set_an_unseen_remove_survives_an_add() {
    let base = edited(Record::new(), 1, 9, [Edit::Grant(1, b"x".into())]);
    assert_eq!(members(&base, 1), ["x"]);
    let (grant, revoke) = (Edit::Grant(1, b"x".into()), Edit::Revoke(1, b"x".into()));
    concurrent(base.clone(), std::slice::from_ref(&grant), std::slice::from_ref(&revoke), |record| {
        assert!(members(record, 1).is_empty());
    });
    let revoked = edited(base, 10, 1, [revoke]);
    assert_eq!(members(&edited(revoked, 20, 2, [grant]), 1), ["x"], "granted again by one who saw the revoking");
}

#[test]
fn earliest_claim_wins_and_the_loser_is_stored() {
    let (early, late) = (Edit::Claim(1, b"zoe".into()), Edit::Claim(1, b"adam".into()));
    concurrent(Record::new(), &[early], &[late], |record| {
        assert_eq!(record.claim(1), Some(&b"zoe"[..]));
        assert_eq!(record.losers(1), [b"adam"]);
        let freed = edited(record.clone(), 300, 1, [Edit::Unclaim(1, b"zoe".into())]);
        assert_eq!((freed.claim(1), freed.losers(1).len()), (Some(&b"adam"[..]), 0));
        // A repeated claim keeps its place in the queue; a claim made after a withdrawal goes to the end.
        let again = edited(record.clone(), 300, 1, [Edit::Claim(1, b"zoe".into())]);
        assert_eq!(&again, record);
        let claimed_again = edited(freed, 400, 1, [Edit::Claim(1, b"zoe".into())]);
        assert_eq!((claimed_again.claim(1), claimed_again.losers(1)), (Some(&b"adam"[..]), vec![&b"zoe"[..]]));
    });
}

#[test]
fn counters_add_up_over_nodes_without_double_counting() {
    concurrent(Record::new(), &[Edit::Count(1, 2), Edit::Count(1, 3)], &[Edit::Count(1, 10)], |record| {
        assert_eq!(record.counter(1), 15);
        assert_eq!(merged(record, record).counter(1), 15);
    });
    assert!(Edit::Count(1, 0).delta(&Record::new(), stamp(1, 1), &node("a")).is_empty());
    let full = edited(Record::new(), 1, 1, [Edit::Count(1, u64::MAX), Edit::Count(1, 1)]);
    assert_eq!(full.counter(1), u64::MAX);
}

#[test]
fn raised_counter_has_the_highest_number_of_all_nodes() {
    concurrent(Record::new(), &[Edit::Raise(1, 7), Edit::Raise(1, 9)], &[Edit::Raise(1, 8)], |record| {
        assert_eq!(record.highest(1), 9);
        assert!(Edit::Raise(1, 9).delta(record, stamp(300, 1), &node("a")).is_empty());
        // A disk that was set back knows less, and its next incarnation takes nothing back.
        let set_back = edited(Record::new(), 400, 3, [Edit::Raise(1, 5)]);
        assert_eq!(merged(record, &set_back).highest(1), 9);
    });
    let mut record = Record::new();
    for start in 1..100 {
        record.merge(Edit::Raise(1, start).delta(&record, stamp(start, start.into()), &node("a")));
    }
    let Some(Field::Counter(cells)) = record.field(1) else { panic!("{record:?}") };
    assert_eq!((record.highest(1), cells.len()), (99, 1), "one cell a node, however often it starts");
}

#[test]
fn what_was_ever_added_outlasts_its_removal_and_the_deletion_of_the_record() {
    let base = edited(Record::new(), 1, 9, [Edit::Add(1, b"a".into()), Edit::Add(1, b"b".into())]);
    let removed = edited(base, 10, 1, [Edit::Remove(1, b"a".into()), Edit::Delete]);
    assert_eq!(removed.set(1).count(), 0);
    assert_eq!(removed.ever_added(1).collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(edited(Record::new(), 1, 1, [Edit::Grant(1, b"g".into())]).ever_added(1).count(), 0);
}

/// A node that starts each night for years.
#[test]
fn counter_of_many_incarnations_keeps_its_sum_in_a_bounded_number_of_cells() {
    let mut record = Record::new();
    for start in 0..1_000_u64 {
        for name in ["a", "b"] {
            // Origins are in no order of time.
            let origin = u128::from(start.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for again in 0..2 {
                let delta = Edit::Count(1, 1).delta(&record, stamp(start * 10 + again, origin), &node(name));
                record.merge(delta);
            }
        }
    }
    assert_eq!(record.counter(1), 4_000);
    let Some(Field::Counter(cells)) = record.field(1) else { panic!("{record:?}") };
    assert_eq!(cells.len(), 128);
}

#[test]
fn conflicting_kinds_under_one_tag_converge() {
    concurrent(Record::new(), &[Edit::Claim(1, b"c".into())], &[Edit::Set(1, value("late"))], |record| {
        assert!(matches!(record.field(1), Some(Field::Claim(_))));
        assert_eq!(record.bytes(1), None);
    });
}

#[test]
fn private_values_are_not_printed() {
    let record = edited(
        Record::new(),
        1,
        1,
        [Edit::Set(1, value("5550100")), Edit::Add(2, b"5550100".into()), Edit::Claim(3, b"5550100".into())],
    );
    let edit = Edit::Claim(3, b"5550100".into());
    let printed = format!("{record:?} {edit:?}");
    assert!(!printed.contains("5550100") && !printed.contains("53, 53, 53, 48"), "{printed}");
}
