//! Changes between stores: the have-check, the gap-free prefix, and the log.

use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use twinbox_ids::{Origin, Stamp};
use twinbox_replication_core::{Change, CommitPart, Edit, Field, Record, Value, Vector};
use twinbox_replication_store::Store;

use crate::{dir, edit, key, node, open, open_as, set, text};

/// A second store next to `a`.
fn peer() -> (TempDir, Store) {
    let dir = dir();
    let store = open_as(dir.path(), "b").expect("a store");
    (dir, store)
}

fn log_of(store: &Store) -> Vec<Change> {
    store.changes_after(&Vector::new(), usize::MAX).expect("the log")
}

#[tokio::test]
async fn changes_apply_in_any_order_and_the_vector_has_no_gap() {
    let (dir_a, (_dir_b, b)) = (dir(), peer());
    let a = open(dir_a.path());
    for n in 1..=5 {
        edit(&a, "x", set(&n.to_string())).await.expect("a commit");
    }
    let (origin, log) = (a.origin(), log_of(&a));
    let mut live = b.live(|_| true);

    b.apply(vec![log[3].clone(), log[1].clone()]).await.expect("changes 4 and 2");
    assert_eq!(text(&b, "x").as_deref(), Some("4"));
    assert_eq!(b.vector().get(origin), 0, "1 is missing");
    assert!(b.has(origin, 4) && b.has(origin, 2) && !b.has(origin, 1) && !b.has(origin, 3));

    b.apply(vec![log[0].clone()]).await.expect("change 1");
    assert_eq!((b.vector().get(origin), text(&b, "x").as_deref()), (2, Some("4")));

    // The next incarnation of the store has the changes beyond the prefix.
    drop(b);
    let b = open_as(_dir_b.path(), "b").expect("the store again");
    assert!(b.has(origin, 4) && !b.has(origin, 3));
    assert_eq!(b.vector().get(origin), 2);

    let mut more = b.live(|_| true);
    b.apply(log.clone()).await.expect("all of them, again");
    assert_eq!((b.vector().get(origin), text(&b, "x").as_deref()), (5, Some("5")));
    for seq in [4, 2, 1] {
        assert_eq!(live.recv().await.expect("a change").seq, seq);
    }
    for seq in [3, 5] {
        assert_eq!(more.recv().await.expect("a change").seq, seq, "only what is new is announced");
    }
    assert_eq!(log_of(&b), log, "and it can be forwarded as it came");
    b.apply(log).await.expect("nothing new");
    assert_eq!(more.try_recv(), Ok(None));
}

#[tokio::test]
async fn missing_changes_of_a_peer_are_found_in_batches() {
    let dir = dir();
    let store = open(dir.path());
    for n in 0..10 {
        edit(&store, &n.to_string(), set("x")).await.expect("a commit");
    }
    let mut theirs = Vector::from_iter([(store.origin(), 3), (Origin(1), 9)]);
    let batch = store.changes_after(&theirs, 4).expect("a batch");
    assert_eq!(batch.iter().map(|c| c.seq).collect::<Vec<_>>(), [4, 5, 6, 7]);
    theirs.raise(store.origin(), 7);
    assert_eq!(store.changes_after(&theirs, 4).expect("a batch").len(), 3);
    theirs.raise(store.origin(), u64::MAX);
    assert!(store.changes_after(&theirs, 4).expect("a batch").is_empty());
    assert!(store.changes_after(&Vector::new(), 0).expect("a batch").is_empty());

    // A batch ends after about a megabyte, regardless of the limit.
    for n in 0..40 {
        edit(&store, &format!("large {n}"), set(&"x".repeat(45_000))).await.expect("a commit");
    }
    let large = log_of(&store).len();
    assert!((20..50).contains(&large), "{large} changes in one batch");
}

#[tokio::test]
async fn two_stores_that_exchange_their_changes_agree() {
    let (dir_a, (_dir_b, b)) = (dir(), peer());
    let a = open(dir_a.path());
    edit(&a, "x", set("base")).await.expect("a commit");
    b.apply(log_of(&a)).await.expect("the base");
    // Separated: one deletes, the other saves.
    edit(&a, "x", vec![Edit::Delete, Edit::Count(2, 1)]).await.expect("a delete");
    edit(&b, "x", vec![Edit::Set(1, Value::Bytes(b"saved".to_vec())), Edit::Count(2, 1)]).await.expect("a save");
    assert!(a.get(&key("x")).expect("a read").expect("a record").is_deleted());
    let (of_a, of_b) = (log_of(&a), log_of(&b));
    a.apply(of_b).await.expect("b's changes");
    b.apply(of_a).await.expect("a's changes");
    let (at_a, at_b) = (a.get(&key("x")).expect("a read"), b.get(&key("x")).expect("a read"));
    assert_eq!(at_a, at_b);
    let record = at_a.expect("a record");
    assert!(!record.is_deleted() && record.outlives_delete(1));
    assert_eq!((record.bytes(1), record.counter(2)), (Some(&b"saved"[..]), 2));
    assert_eq!(a.vector(), b.vector());
}

#[tokio::test]
async fn foreign_stamp_from_the_future_is_stored_but_does_not_advance_the_clock() {
    let dir = dir();
    let store = open(dir.path());
    let future = Stamp { wall: u64::MAX / 2, counter: 0, origin: Origin(5) };
    let register = |stamp, text: &str| Field::Register { stamp, value: Value::Bytes(text.into()) };
    let delta = Record::from_parts([(1, register(future, "future"))], None);
    let change = Change { origin: Origin(5), seq: 1, key: key("x"), delta, part: Default::default() };
    store.apply(vec![change]).await.expect("a change");
    edit(&store, "x", set("over")).await.expect("a commit");
    edit(&store, "y", set("else")).await.expect("a commit");
    assert_eq!(text(&store, "x").as_deref(), Some("over"));
    let stamp = store.get(&key("y")).expect("a read").and_then(|r| r.latest()).expect("a stamp");
    assert!(stamp.wall < future.wall, "one wrong clock set this one wrong");
}

#[tokio::test]
async fn change_that_cannot_be_applied_is_set_aside_and_tried_again() {
    let (dir_a, (dir_b, b)) = (dir(), peer());
    let a = open(dir_a.path());
    // Each fits; both together exceed the size of a record.
    let half = |tag| vec![Edit::Set(tag, Value::Bytes(vec![0; 30_000]))];
    edit(&a, "x", half(1)).await.expect("a commit");
    edit(&b, "x", half(2)).await.expect("a commit");
    edit(&b, "y", set("after")).await.expect("a commit");
    a.apply(log_of(&b)).await.expect("both changes");
    assert_eq!((a.health().set_aside, text(&a, "y").as_deref()), (1, Some("after")));
    assert_eq!(a.vector().get(b.origin()), 0, "the vector does not cover it");
    let applied = |store: &Store, seq| (store.has(b.origin(), seq), store.is_applied(b.origin(), seq));
    assert_eq!((applied(&a, 1), applied(&a, 2)), ((true, false), (true, true)));
    assert_eq!(log_of(&a).len(), 3, "it goes on to other nodes");
    a.apply(log_of(&b)).await.expect("both changes again");
    assert_eq!((a.retry_set_aside().await, a.health().set_aside), (Ok(1), 1));
    drop(a);
    let a = open(dir_a.path());
    assert_eq!((a.health().set_aside, a.vector().get(b.origin())), (1, 0));
    assert!(!a.applied()[&b.origin()].contains(1) && a.holdings()[&b.origin()].contains(1));

    // The record shrinks: the next attempt applies the change, and those who follow live changes hear of it.
    edit(&a, "x", vec![Edit::Set(1, Value::Bytes(b"small".to_vec()))]).await.expect("a commit");
    let mut live = a.live(|_| true);
    assert_eq!((a.retry_set_aside().await, a.health().set_aside), (Ok(0), 0));
    let told = live.recv().await.expect("a change");
    assert_eq!((told.seq, &told.key), (0, &key("x")));
    assert_eq!(a.get(&key("x")).expect("a read").expect("a record").bytes(2).map(<[u8]>::len), Some(30_000));
    assert_eq!((a.vector().get(b.origin()), applied(&a, 1)), (2, (true, true)));
    drop(a);
    let a = open(dir_a.path());
    assert_eq!((a.health().set_aside, a.vector().get(b.origin())), (0, 2));
    drop(dir_b);
}

#[tokio::test]
async fn commit_is_applied_as_a_whole_or_not_at_all() {
    let (dir_a, (dir_b, b)) = (dir(), peer());
    let a = open(dir_a.path());
    edit(&a, "before", set("1")).await.expect("a commit");
    let rows = ["one", "two", "three"];
    a.commit(move |draft| rows.iter().try_for_each(|row| draft.edit(key(row), set("x")))).await.expect("a commit");
    let log = log_of(&a);
    let shown = |store: &Store| rows.iter().filter(|row| text(store, row).is_some()).count();
    // Parts of it, in calls of their own, change nothing and are not here.
    for part in [vec![3], vec![1, 2], vec![2, 0], vec![1]] {
        b.apply(part.iter().map(|at| log[*at].clone()).collect()).await.expect("nothing of it");
        assert_eq!((shown(&b), b.has(a.origin(), 2), b.has(a.origin(), 4)), (0, false, false), "{part:?}");
    }
    assert_eq!(b.vector().get(a.origin()), 1, "what is whole was applied");
    drop(b);
    let b = open_as(dir_b.path(), "b").expect("the store again");
    assert_eq!(shown(&b), 0);
    b.apply(vec![log[3].clone(), log[1].clone(), log[2].clone()]).await.expect("all of it");
    assert_eq!((shown(&b), b.vector().get(a.origin()), log_of(&b)), (3, 4, log));
}

#[tokio::test]
async fn commit_is_whole_with_its_changes_that_are_here_beyond_a_gap() {
    let dir = dir();
    let (store, origin) = (open(dir.path()), Origin(5));
    let change = |seq, before| {
        let part = CommitPart { before, after: 0 };
        Change { origin, seq, key: key("x"), delta: Record::new(), part }
    };
    store.apply(vec![change(3, 0), change(4, 0)]).await.expect("two commits");
    store.apply(vec![change(5, 2), change(9, 1)]).await.expect("the end of one, and a part of another");
    assert_eq!((store.has(origin, 5), store.has(origin, 9), store.first_missing(origin, 3)), (true, false, 6));
}

/// A peer that lies says of its change that all that is here belongs to the same commit: other commits wait for this one.
#[tokio::test]
async fn changes_of_a_commit_that_are_here_are_not_read_one_by_one() {
    const HERE: u32 = 50_000_000;
    let dir = dir();
    let (store, origin) = (open(dir.path()), Origin(5));
    store.take_vector(Vector::from_iter([(origin, u64::from(HERE))]), None).await.expect("taken");
    let (seq, part) = (u64::from(HERE) + 1, CommitPart { before: HERE, after: 0 });
    let change = Change { origin, seq, key: key("x"), delta: Record::new(), part };
    let applied = tokio::time::timeout(Duration::from_secs(20), store.apply(vec![change]));
    applied.await.expect("it takes no time").expect("a change");
    assert_eq!(store.vector().get(origin), seq);
}

#[tokio::test]
async fn commit_with_a_change_that_cannot_be_applied_is_set_aside_as_a_whole() {
    let (dir_a, (_dir_b, b)) = (dir(), peer());
    let a = open(dir_a.path());
    let half = |tag| vec![Edit::Set(tag, Value::Bytes(vec![0; 30_000]))];
    edit(&a, "x", half(1)).await.expect("a commit");
    let commit = move |draft: &mut twinbox_replication_store::Draft<'_>| {
        draft.edit(key("w"), set("of it"))?;
        draft.edit(key("x"), half(2))?;
        draft.edit(key("y"), set("of it"))
    };
    b.commit(commit).await.expect("a commit");
    edit(&b, "z", set("after")).await.expect("a commit");
    a.apply(log_of(&b)).await.expect("the changes");
    assert_eq!((a.health().set_aside, text(&a, "w"), text(&a, "y")), (3, None, None));
    assert_eq!((a.vector().get(b.origin()), text(&a, "z").as_deref()), (0, Some("after")));
    assert_eq!(a.retry_set_aside().await, Ok(3));
    edit(&a, "x", vec![Edit::Set(1, Value::Bytes(b"small".to_vec()))]).await.expect("a commit");
    assert_eq!(a.retry_set_aside().await, Ok(0));
    assert_eq!((text(&a, "w").as_deref(), text(&a, "y").as_deref()), (Some("of it"), Some("of it")));
    assert_eq!(a.vector().get(b.origin()), 4);
}

/// The log of all others begins later by now: a fill by state must end, though it cannot apply the change either.
#[tokio::test]
async fn vector_of_a_scan_is_taken_though_a_change_before_it_is_set_aside() {
    let (dir_a, (_dir_b, b)) = (dir(), peer());
    let a = open(dir_a.path());
    let half = |tag| vec![Edit::Set(tag, Value::Bytes(vec![0; 30_000]))];
    edit(&a, "x", half(1)).await.expect("a commit");
    edit(&b, "x", half(2)).await.expect("a commit");
    a.apply(log_of(&b)).await.expect("b's change");
    assert_eq!(a.vector().get(b.origin()), 0);
    a.take_vector(b.vector(), None).await.expect("taken");
    assert_eq!((a.vector().get(b.origin()), a.health().set_aside), (1, 1));
    edit(&a, "x", vec![Edit::Set(1, Value::Bytes(b"small".to_vec()))]).await.expect("a commit");
    assert_eq!(a.retry_set_aside().await, Ok(0), "it is tried all the same");
    assert_eq!(a.get(&key("x")).expect("a read").expect("a record").bytes(2).map(<[u8]>::len), Some(30_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Changes arrive in any order and batches, over any number of incarnations: the store has exactly the changes that
    /// came, and the vector is their gap-free prefix.
    #[test]
    fn the_vector_is_the_gap_free_prefix(
        batches in prop::collection::vec((prop::collection::vec((1..3u128, 1..12u64), 1..6), any::<bool>()), 1..8)
    ) {
        let dir = dir();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut store = open(dir.path());
        let mut applied = std::collections::BTreeSet::new();
        for (batch, reopen) in batches {
            let changes = batch.iter().map(|&(origin, seq)| {
                let stamp = Stamp { wall: seq, counter: 0, origin: Origin(origin) };
                let value = Value::Bytes(vec![seq as u8]);
                let delta = Record::from_parts([(1, Field::Register { stamp, value })], None);
                Change { origin: Origin(origin), seq, key: key("x"), delta, part: Default::default() }
            });
            runtime.block_on(store.apply(changes.collect())).expect("changes");
            applied.extend(batch);
            if reopen {
                drop(store);
                store = open(dir.path());
            }
            for origin in 1..3u128 {
                let upto = (1..).find(|seq| !applied.contains(&(origin, *seq))).unwrap_or(1) - 1;
                prop_assert_eq!(store.vector().get(Origin(origin)), upto);
                for seq in 1..12 {
                    prop_assert_eq!(store.has(Origin(origin), seq), applied.contains(&(origin, seq)));
                }
            }
        }
        let highest = applied.iter().map(|(origin, seq)| (*seq, *origin)).max().expect("one");
        let record = store.get(&key("x")).expect("a read").expect("a record");
        prop_assert_eq!(record.latest().map(|s| (s.wall, s.origin.0)), Some(highest));
        prop_assert_eq!(log_of(&store).len(), applied.len());
        let _ = node("a");
    }
}
