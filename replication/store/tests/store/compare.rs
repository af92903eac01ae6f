//! Sums of rows, lists by bucket, and repairs.

use std::path::Path;

use proptest::{collection::vec, prelude::*};
use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_ids::{Origin, Stamp};
use twinbox_replication_core::{
    Edit, Key, Part, PartPlace, Record, Unknown, Value, Vector,
    buckets::BucketSet,
    range_sums::{RangeList, differing},
};
use twinbox_replication_store::{
    Removal, RowFault, Store, StoredRow,
    codec::{self, hashes::row_hash},
};

use crate::{TABLE, dir, edit, key, node, open, open_as, set, text};

async fn counted(store: &Store) -> Vec<u128> {
    while !store.sum_step().await.expect("a step") {}
    store.group_sums().expect("sums").0
}

fn ranges(store: &Store) -> RangeList<Key> {
    store.range_sums(None, usize::MAX).expect("sums")
}

/// Writes these rows in one commit.
async fn fill(store: &Store, rows: std::ops::Range<usize>, text: &'static str) {
    let run = move |draft: &mut twinbox_replication_store::Draft<'_>| {
        rows.into_iter().try_for_each(|n| draft.edit(key(&format!("{n:06}")), set(text)))
    };
    store.commit(run).await.expect("a commit");
}

/// The row as the index has it.
fn index_key(key: &Key) -> Vec<u8> {
    [b"r", &key.table.0.to_be_bytes()[..], &key.id].concat()
}

/// Changes the index of a store that is closed.
async fn change_index(dir: &Path, change: impl FnOnce(&mut Transaction<'_>) + Send + 'static) {
    let disk = Disk::open(&dir.join("db")).expect("its index");
    let run = move |transaction: &mut Transaction<'_>| {
        change(transaction);
        Ok::<_, DiskError>(())
    };
    disk.transact(run).await.expect("a write");
}

fn listed(store: &Store) -> Vec<Key> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = store.rows_of_buckets(&BucketSet::all(), after.as_ref(), None).expect("a page");
        keys.extend(page.rows.into_iter().map(|(key, _)| key));
        match page.upto {
            Some(upto) => after = Some(upto),
            None => return keys,
        }
    }
}

#[tokio::test]
async fn sums_follow_every_commit_and_are_those_of_a_new_count() {
    let dir = dir();
    let store = open(dir.path());
    let empty = counted(&store).await;
    assert!(empty.iter().all(|sum| *sum == 0));
    for (id, text) in [("one", "1"), ("two", "2"), ("two", "again")] {
        edit(&store, id, set(text)).await.expect("a commit");
    }
    let both = store.group_sums().expect("sums");
    assert_eq!(both.1, 2);
    edit(&store, "gone", set("x")).await.expect("a commit");
    edit(&store, "gone", vec![Edit::Delete]).await.expect("a commit");
    assert_eq!(store.group_sums(), Some(both.clone()), "a deleted row counts as none");
    let rows = store.deleted_rows(TABLE, None, 10).expect("rows").into_iter().map(|row| (row, Removal::Whole));
    store.purge(rows.collect()).await.expect("a purge");
    assert_eq!(store.group_sums(), Some(both.clone()));
    assert!(
        store
            .commit(|draft| draft
                .edit(key("three"), set("3"))
                .and(Err::<(), _>(twinbox_replication_store::StoreError::Closed)))
            .await
            .is_err()
    );
    assert_eq!(store.group_sums(), Some(both.clone()), "nothing was written");
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.group_sums(), None, "not counted yet");
    assert_eq!(counted(&store).await, both.0);
}

#[tokio::test]
async fn commits_during_the_count_are_counted_once() {
    let dir = dir();
    let store = open(dir.path());
    for from in (0..6_000).step_by(500) {
        fill(&store, from..from + 500, "a").await;
    }
    // Some commits fall into each step, below and above its rows.
    let writes = async {
        for from in (0..6_500).rev().step_by(250) {
            fill(&store, from..from + 3, "b").await;
        }
    };
    let (sums, ()) = tokio::join!(counted(&store), writes);
    drop(sums);
    let followed = (store.group_sums(), ranges(&store));
    drop(store);
    let store = open(dir.path());
    counted(&store).await;
    assert_eq!(store.group_sums(), followed.0);
    assert_eq!(differing(&ranges(&store), &followed.1), vec![]);
}

#[tokio::test]
async fn row_that_is_lost_differs_in_a_range_of_some_hundred_rows() {
    let dir = dir();
    let store = open(dir.path());
    for from in (0..12_000).step_by(4_000) {
        fill(&store, from..from + 4_000, "x").await;
    }
    counted(&store).await;
    let whole = ranges(&store);
    drop(store);
    let lost = key("007000");
    let row = index_key(&lost);
    change_index(dir.path(), |transaction| transaction.remove(row)).await;
    let store = open(dir.path());
    counted(&store).await;
    let spans = differing(&ranges(&store), &whole);
    let [(after, upto)] = &spans[..] else { panic!("{} spans", spans.len()) };
    let page = store.rows_of_buckets(&BucketSet::all(), after.as_ref(), upto.as_ref()).expect("a page");
    assert!(page.upto == *upto, "more than one page");
    let copy = store.get(&key("000000")).expect("a read").expect("a record");
    store.repair(vec![(lost, copy)], Vector::new()).await.expect("a repair");
    assert_eq!(differing(&ranges(&store), &whole).len(), 1, "the row has another content");
    fill(&store, 12_000..12_500, "y").await;
    assert_eq!(differing(&ranges(&store), &whole).len(), 2, "and there are more");
}

#[tokio::test]
async fn nodes_with_the_same_changes_have_the_same_sums() {
    let (first, second) = (dir(), dir());
    let (a, b) = (open(first.path()), open_as(second.path(), "b").expect("a store"));
    for n in 0..20 {
        edit(&a, &format!("{n}"), set("of a")).await.expect("a commit");
        edit(&b, &format!("{n}"), vec![Edit::Add(2, vec![n])]).await.expect("a commit");
    }
    counted(&a).await;
    counted(&b).await;
    let (of_a, mut of_b) = (
        a.changes_after(&b.vector(), 1_000).expect("changes"),
        b.changes_after(&a.vector(), 1_000).expect("changes"),
    );
    of_b.reverse();
    a.apply(of_b).await.expect("applied");
    b.apply(of_a).await.expect("applied");
    assert_eq!(a.group_sums(), b.group_sums());
    assert_eq!(listed(&a), listed(&b));
}

#[tokio::test]
async fn pages_have_every_present_row_once_in_order() {
    let dir = dir();
    let store = open(dir.path());
    let run = |draft: &mut twinbox_replication_store::Draft<'_>| {
        (0..5_000).try_for_each(|n| draft.edit(key(&format!("{n:06}")), set("x")))
    };
    store.commit(run).await.expect("a commit");
    edit(&store, "000007", vec![Edit::Delete]).await.expect("a delete");
    let keys = listed(&store);
    assert_eq!(keys.len(), 4_999);
    assert!(keys.is_sorted());
    let (after, upto) = (key("000100"), key("000110"));
    let page = store.rows_of_buckets(&BucketSet::all(), Some(&after), Some(&upto)).expect("a page");
    assert_eq!((page.rows.len(), page.upto), (10, Some(upto)));
    let turned = store.rows_of_buckets(&BucketSet::all(), Some(&key("2")), Some(&key("1"))).expect("a page");
    assert!(turned.rows.is_empty());
    assert!(store.rows_of_buckets(&BucketSet::none(), None, None).expect("a page").rows.is_empty());
}

#[tokio::test]
async fn repair_adds_what_is_missing_and_makes_no_change() {
    let (first, second) = (dir(), dir());
    let (whole, store) = (open(first.path()), open_as(second.path(), "b").expect("a store"));
    for id in ["lost", "damaged", "equal"] {
        edit(&whole, id, set(id)).await.expect("a commit");
    }
    store.apply(whole.changes_after(&store.vector(), 10).expect("changes")).await.expect("applied");
    let sums = counted(&store).await;
    drop(store);
    change_index(second.path(), |transaction| {
        transaction.remove(index_key(&key("lost")));
        transaction.put(index_key(&key("damaged")), b"\x02\xffdamage".to_vec()).expect("a small value");
    })
    .await;

    let store = open_as(second.path(), "b").expect("a store");
    assert_ne!(counted(&store).await, sums);
    assert_eq!(store.unreadable_rows(), [key("damaged")]);
    assert_eq!(store.stored_row(&key("damaged")), Ok(StoredRow::Unreadable));
    assert_eq!(store.stats().expect("stats").unreadable, [key("damaged")]);
    let (vector, mut live) = (store.vector(), store.live(|_| true));
    let copies = ["lost", "damaged", "equal"].map(|id| {
        let record = whole.get(&key(id)).expect("a read").expect("a record");
        (key(id), record)
    });
    let repaired = store.repair(copies.into(), Vector::new()).await.expect("a repair");
    let faults: Vec<_> =
        repaired.iter().map(|row| (row.key.clone(), row.fault, row.added.fields.clone())).collect();
    assert_eq!(
        faults,
        [(key("lost"), RowFault::Missing, vec![1]), (key("damaged"), RowFault::Unreadable, vec![1])]
    );
    assert_eq!((store.vector(), store.group_sums().expect("sums").0), (vector, sums));
    assert_eq!((text(&store, "lost"), text(&store, "damaged")), (Some("lost".into()), Some("damaged".into())));
    assert!(store.unreadable_rows().is_empty());
    assert_eq!(live.try_recv().expect("open").expect("it is told").seq, 0, "and is no change");
}

/// A row would hide that there is none, or that it is damaged.
#[tokio::test]
async fn copy_with_nothing_that_rows_keep_makes_no_row() {
    let dir = dir();
    let store = open(dir.path());
    let mut of_a_change = Unknown::new();
    of_a_change.insert(PartPlace::Change, Part { number: 15, bytes: vec![0x78, 1] });
    for copy in [Record::new(), Record::new().with_unknown(of_a_change)] {
        let copies = vec![(key("none"), copy)];
        assert!(store.repair(copies.clone(), Vector::new()).await.expect("a repair").is_empty());
        assert_eq!(store.merge_state(copies, Vector::new()).await, Ok(0));
        assert_eq!(store.stored_row(&key("none")), Ok(StoredRow::Absent));
    }
}

#[tokio::test]
async fn new_count_is_that_of_the_rows_and_shows_nothing_before_its_end() {
    let dir = dir();
    let store = open(dir.path());
    for id in ["one", "two"] {
        edit(&store, id, set(id)).await.expect("a commit");
    }
    let sums = counted(&store).await;
    store.recount();
    assert_eq!(store.group_sums(), None);
    edit(&store, "three", set("3")).await.expect("a commit");
    let more = counted(&store).await;
    assert_ne!(more, sums);
    edit(&store, "three", vec![Edit::Delete]).await.expect("a delete");
    assert_eq!(store.group_sums(), Some((sums, 2)), "it follows again");
}

#[tokio::test]
async fn changes_are_announced_once_all_observers_of_earlier_ones_are_done() {
    let dir = dir();
    let store = open(dir.path());
    let (told, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    store.observe(move |change| {
        let _ = told.send(change.seq);
        let _ = waits.lock().expect("a lock").recv();
    });
    // The first holds the committer; the others queue up, and are published together.
    let (first, second, third) = (store.clone(), store.clone(), store.clone());
    let first = tokio::spawn(async move { edit(&first, "first", set("x")).await.map(drop) });
    assert_eq!(begun.recv().await, Some(1));
    let second = tokio::spawn(async move { edit(&second, "second", set("x")).await.map(drop) });
    let third = tokio::spawn(async move { edit(&third, "third", set("x")).await.map(drop) });
    go_on.send(()).expect("an observer");
    first.await.expect("a task").expect("a commit");
    assert_eq!(begun.recv().await, Some(2));
    // Both are visible if they were in time for one group; the later one is not announced.
    let visible = ["first", "second", "third"].iter().filter(|id| text(&store, id).is_some()).count() as u64;
    let (announced, ()) = tokio::join!(store.announced(), async { drop(go_on) });
    announced.expect("a wait");
    assert!(store.vector().total() >= visible, "{visible} changes were visible");
    for task in [second, third] {
        task.await.expect("a task").expect("a commit");
    }
}

#[tokio::test]
async fn repair_does_not_bring_back_a_purged_row_nor_delete_a_present_one() {
    let dir = dir();
    let store = open(dir.path());
    counted(&store).await;
    edit(&store, "row", set("x")).await.expect("a commit");
    let present = store.get(&key("row")).expect("a read").expect("a record");
    let mut deleted = present.clone();
    let stamp = Stamp { wall: u64::MAX / 2, counter: 0, origin: Origin(9) };
    deleted.merge(Edit::Delete.delta(&present, stamp, &node("b")));
    assert!(store.repair(vec![(key("purged"), deleted)], Vector::new()).await.expect("a repair").is_empty());
    assert_eq!(store.get(&key("purged")), Ok(None));
    assert!(store.repair(vec![(key("row"), Record::new())], Vector::new()).await.expect("a repair").is_empty());
    assert_eq!(text(&store, "row").as_deref(), Some("x"));
}

#[tokio::test]
async fn repair_clears_the_changes_that_were_set_aside() {
    let (first, second) = (dir(), dir());
    let (whole, store) = (open(first.path()), open_as(second.path(), "b").expect("a store"));
    edit(&whole, "row", set("one")).await.expect("a commit");
    store.apply(whole.changes_after(&store.vector(), 10).expect("changes")).await.expect("applied");
    drop(store);
    change_index(second.path(), |transaction| {
        transaction.put(index_key(&key("row")), b"\x02\xffdamage".to_vec()).expect("a small value");
    })
    .await;
    let store = open_as(second.path(), "b").expect("a store");
    edit(&whole, "row", vec![Edit::Set(2, Value::Bytes(b"two".into()))]).await.expect("a commit");
    store.apply(whole.changes_after(&store.vector(), 10).expect("changes")).await.expect("applied");
    assert_eq!((store.health().set_aside, store.set_aside_rows()), (1, Ok(vec![key("row")])));
    let record = whole.get(&key("row")).expect("a read").expect("a record");
    store.repair(vec![(key("row"), record)], Vector::new()).await.expect("a repair");
    assert_eq!((store.health().set_aside, store.set_aside_rows()), (0, Ok(Vec::new())));
    drop(store);
    assert_eq!(open_as(second.path(), "b").expect("a store").health().set_aside, 0);
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let bytes = || vec(0..4u8, 0..2);
    prop_oneof![
        bytes().prop_map(|value| Edit::Set(0, Value::Bytes(value))),
        bytes().prop_map(|value| Edit::Add(1, value)),
        bytes().prop_map(|value| Edit::Remove(1, value)),
        bytes().prop_map(|value| Edit::Grant(2, value)),
        bytes().prop_map(|value| Edit::Revoke(2, value)),
        (0..3u64).prop_map(|count| Edit::Count(3, count)),
        bytes().prop_map(|value| Edit::Claim(4, value)),
        bytes().prop_map(|value| Edit::Unclaim(4, value)),
        Just(Edit::Delete),
    ]
}

proptest! {
    #[test]
    fn records_merged_in_any_order_have_equal_bytes(edits in vec((0..3u128, any_edit()), 1..12), turn in 0..12usize) {
        let (mut record, mut deltas) = (Record::new(), Vec::new());
        for (counter, (origin, edit)) in (0..).zip(edits) {
            let stamp = Stamp { wall: 1_000, counter, origin: Origin(origin) };
            let delta = edit.delta(&record, stamp, &node(["a", "b", "c"][origin as usize]));
            record.merge(delta.clone());
            deltas.push(delta);
        }
        let len = deltas.len();
        deltas.rotate_left(turn % len);
        deltas.reverse();
        let mut other = Record::new();
        deltas.into_iter().for_each(|delta| other.merge(delta));
        prop_assert_eq!(codec::encode_record(&record), codec::encode_record(&other));
        prop_assert_eq!(row_hash(&key("row"), &record), row_hash(&key("row"), &other));
        let decoded = codec::decode_record(&codec::encode_record(&record)).expect("a record");
        prop_assert_eq!(row_hash(&key("row"), &record), row_hash(&key("row"), &decoded));
        prop_assert!(row_hash(&key("row"), &record) != row_hash(&key("other"), &record) || record.is_deleted() || record.is_empty());
    }
}
