//! The index of present records has those that are not deleted, however they came, and no others.

use std::{collections::BTreeSet, path::Path};

use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_replication_core::{Edit, Key, Vector};
use twinbox_replication_store::{
    Removal, Store,
    codec::{FORMAT, keys},
};

use crate::{dir, open, open_as, set};

fn listed(id: &str) -> Key {
    Key::new(keys::LISTED, id)
}

async fn write(store: &Store, id: &str, edits: Vec<Edit>) {
    let key = listed(id);
    store.commit(move |draft| draft.edit(key, edits)).await.expect("a commit");
}

/// The ids that the index lists.
fn present(store: &Store) -> Vec<String> {
    let id = |key: Key| String::from_utf8(key.id).expect("text");
    store.present_rows(b"").map(|row| id(row.expect("a row").0)).collect()
}

/// The ids of the records that a look at all of them finds present.
fn scanned(store: &Store) -> Vec<String> {
    let rows = store.scan(keys::LISTED, b"").expect("a scan").into_iter();
    let present = rows.filter(|(_, record)| !record.is_deleted());
    present.map(|(key, _)| String::from_utf8(key.id).expect("text")).collect()
}

/// The entries of the index of a store that is closed.
fn entries(dir: &Path) -> Vec<String> {
    let disk = Disk::open(&dir.join("db")).expect("its index");
    let keys = disk.scan(keys::PRESENT).map(|entry| keys::present_key(&entry.expect("an entry").0).expect("a key"));
    keys.map(|key| String::from_utf8(key.id).expect("text")).collect()
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

#[tokio::test]
async fn index_has_what_a_scan_finds_present_after_any_writes() {
    let dirs = [dir(), dir()];
    let stores = [open(dirs[0].path()), open_as(dirs[1].path(), "b").expect("a store")];
    let (mut random, mut most) = (1_u64, 0);
    for step in 0..600 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (at, row, action) = ((random >> 33) as usize % 2, (random >> 40) % 6, (random >> 50) % 12);
        let (store, other, id) = (&stores[at], &stores[1 - at], format!("row {row}"));
        match action {
            0..=3 => write(store, &id, set(&step.to_string())).await,
            4..=6 => write(store, &id, vec![Edit::Delete]).await,
            7 | 8 => {
                let changes = other.changes_after(&store.vector(), usize::MAX).expect("changes");
                store.apply(changes).await.expect("applied");
            }
            9 => {
                let removal = if row % 2 == 0 { Removal::Whole } else { Removal::Audio };
                let rows = store.deleted_rows(keys::LISTED, None, 2).expect("rows").into_iter();
                let rows = rows.filter(|row| row.record.is_deleted()).map(|row| (row, removal));
                store.purge(rows.collect()).await.expect("purged");
            }
            10 => {
                let copies = other.scan(keys::LISTED, b"").expect("a scan");
                if row % 2 == 0 {
                    store.repair(copies, Vector::new()).await.expect("repaired");
                } else {
                    assert_eq!(store.merge_state(copies, Vector::new()).await, Ok(0));
                }
            }
            _ => {
                let extra = store.extra_rows(None, None, &BTreeSet::new(), 1).expect("rows");
                store.remove_extra(extra).await.expect("removed");
            }
        }
        for store in &stores {
            let found = present(store);
            assert_eq!(found, scanned(store), "step {step}");
            most = most.max(found.len());
        }
    }
    assert!(most >= 5, "{most}");
    let expected = stores.each_ref().map(scanned);
    drop(stores);
    assert_eq!(dirs.each_ref().map(|dir| entries(dir.path())), expected, "no entry is left of a removed record");
}

#[tokio::test]
async fn deleted_records_are_not_read() {
    let dir = dir();
    let store = open(dir.path());
    for id in ["one", "gone", "two"] {
        write(&store, id, set(id)).await;
    }
    write(&store, "gone", vec![Edit::Delete]).await;
    drop(store);
    change_index(dir.path(), |transaction| {
        transaction.put(keys::record(&listed("gone")), vec![99, 1, 2]).expect("bytes that no release reads");
    })
    .await;
    let store = open(dir.path());
    assert!(store.scan(keys::LISTED, b"").is_err() && store.get(&listed("gone")).is_err(), "these read it");
    assert_eq!(store.get_present(&listed("gone")), Ok(None));
    assert_eq!(store.get_present(&listed("one")), store.get(&listed("one")));
    assert_eq!(present(&store), ["one", "two"]);
    let (key, record) = store.present_rows(b"t").next().expect("a row").expect("readable");
    assert_eq!((key, record.bytes(1)), (listed("two"), Some(&b"two"[..])));
}

#[tokio::test]
async fn present_record_that_cannot_be_read_is_an_error_until_its_repair() {
    let dirs = [dir(), dir()];
    let (a, b) = (open(dirs[0].path()), open_as(dirs[1].path(), "b").expect("a store"));
    write(&a, "row", set("text")).await;
    b.apply(a.changes_after(&Vector::new(), 10).expect("the log")).await.expect("applied");
    write(&b, "row", vec![Edit::Delete]).await;
    let copies = b.scan(keys::LISTED, b"").expect("a scan");
    drop(a);
    change_index(dirs[0].path(), |transaction| {
        transaction.put(keys::record(&listed("row")), vec![99]).expect("damage");
    })
    .await;
    let a = open(dirs[0].path());
    assert!(a.present_rows(b"").next().expect("it is listed").is_err());
    a.repair(copies, Vector::new()).await.expect("repaired");
    assert!(present(&a).is_empty(), "it was deleted meanwhile");
}

#[tokio::test]
async fn store_that_an_earlier_release_wrote_to_is_indexed_by_its_opening() {
    let dir = dir();
    let store = open(dir.path());
    for id in ["one", "gone", "two"] {
        write(&store, id, set(id)).await;
    }
    write(&store, "gone", vec![Edit::Delete]).await;
    drop(store);
    change_index(dir.path(), |transaction| {
        for id in ["one", "two"] {
            transaction.remove(keys::present(&listed(id)));
        }
        transaction.remove(keys::PRESENT_INDEXED);
    })
    .await;
    assert!(entries(dir.path()).is_empty());
    let store = open(dir.path());
    assert_eq!(present(&store), ["one", "two"]);
    drop(store);

    // A release without the index opens the store in between: it adds an origin, and writes records alone.
    change_index(dir.path(), |transaction| {
        let record = transaction.get(&keys::record(&listed("two"))).expect("a read").expect("a record");
        transaction.put(keys::record(&listed("three")), record).expect("a write");
        transaction.remove(keys::record(&listed("one")));
        transaction.put([keys::OWN, &[9; 16]].concat(), vec![FORMAT]).expect("a write");
    })
    .await;
    let store = open(dir.path());
    assert_eq!(present(&store), ["three", "two"]);
    drop(store);
    assert_eq!(entries(dir.path()), ["three", "two"]);
}

/// A count of all rows mends entries that the disk lost or made up.
#[tokio::test]
async fn count_of_all_rows_mends_the_index() {
    let dir = dir();
    {
        let store = open(dir.path());
        for id in ["a", "b", "c"] {
            write(&store, id, set("here")).await;
        }
        write(&store, "b", vec![Edit::Delete]).await;
    }
    change_index(dir.path(), |transaction| {
        transaction.remove(keys::present(&listed("c")));
        transaction.put(keys::present(&listed("b")), vec![FORMAT]).expect("a write");
    })
    .await;
    let store = open(dir.path());
    assert_eq!(present(&store), ["a", "b"], "damaged");
    while !store.sum_step().await.expect("a step") {}
    assert_eq!(present(&store), ["a", "c"]);
    assert_eq!(scanned(&store), ["a", "c"]);
    // Another count finds nothing to mend.
    store.recount();
    while !store.sum_step().await.expect("a step") {}
    drop(store);
    assert_eq!(entries(dir.path()), ["a", "c"]);
}
