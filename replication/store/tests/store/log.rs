//! Cutting of the log, pins, and the taking of another store's rows and vector (rules D1, D3).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use twinbox_ids::Origin;
use twinbox_replication_core::{Change, Edit, Record, Vector};
use twinbox_replication_store::{Filled, Store, codec};

use crate::{dir, edit, key, open, set, text};

async fn write(store: &Store, rows: std::ops::Range<usize>) {
    for n in rows {
        edit(store, &format!("row{n:03}"), set(&n.to_string())).await.expect("a commit");
    }
}

fn in_log(store: &Store) -> u64 {
    store.stats().expect("counts").log.0
}

/// All pages of a store, as a peer takes them.
async fn take_all_rows(from: &Store, to: &Store) -> usize {
    let (mut after, mut pages) = (None, 0);
    loop {
        let page = from.state_page(after.as_ref(), 500).expect("a page");
        pages += 1;
        let read =
            |record: Option<Bytes>| codec::record_from_bytes(&record.expect("a readable row")).expect("a record");
        let rows = page.rows.into_iter().map(|(key, record)| (key, read(record)));
        to.merge_state(rows.collect(), from.vector()).await.expect("a merge");
        match page.upto {
            Some(upto) => after = Some(upto),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn cut_changes_are_gone_and_the_beginning_is_durable() {
    let dir = dir();
    let store = open(dir.path());
    write(&store, 0..300).await;
    let origin = store.origin();
    assert_eq!(
        store.oldest_changes(origin, 0, 2).expect("a read").iter().map(|e| e.seq).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(store.cut_log(origin, 1..=250).await.expect("a cut"), 250);
    assert_eq!((in_log(&store), store.log_changes()), (50, 50));
    assert_eq!(store.cut_log(origin, 251..=9_999).await.expect("a cut"), 50, "the prefix bounds it");
    write(&store, 300..310).await;
    assert_eq!(store.cut_log(origin, 301..=305).await.expect("a cut"), 5);
    drop(store);
    let store = open(dir.path());
    assert_eq!((store.log_begins().get(origin), store.vector().get(origin), in_log(&store)), (305, 310, 5));
    assert!(store.has(origin, 1) && store.has(origin, 310) && !store.has(origin, 311));
    // A change that was cut has no effect when it comes again.
    let again = Change { origin, seq: 7, key: key("again"), delta: Record::new(), part: Default::default() };
    store.apply(vec![again]).await.expect("an apply");
    assert_eq!((text(&store, "row007").as_deref(), store.get(&key("again")).expect("a read")), (Some("7"), None));
}

#[tokio::test]
async fn pinned_and_gapped_changes_are_not_cut() {
    let dir = dir();
    let store = open(dir.path());
    let origin = store.origin();
    write(&store, 0..10).await;
    let pin = store.pin_log();
    assert_eq!(pin.vector(), &store.vector());
    write(&store, 10..30).await;
    assert_eq!(store.cut_log(origin, 1..=30).await.expect("a cut"), 10);
    assert!(store.oldest_changes(origin, 0, 9).expect("a read").is_empty(), "the rest is pinned");
    let later = store.pin_log();
    drop(pin);
    write(&store, 30..31).await;
    assert_eq!(store.cut_log(origin, 11..=31).await.expect("a cut"), 20);
    drop(later);
    assert_eq!(store.cut_log(origin, 31..=31).await.expect("a cut"), 1);

    // Beyond a gap.
    let other = Origin(77);
    let change =
        |seq| Change { origin: other, seq, key: key("gap"), delta: Record::new(), part: Default::default() };
    store.apply(vec![change(1), change(3)]).await.expect("an apply");
    assert_eq!(store.cut_log(other, 1..=3).await.expect("a cut"), 1);
    store.apply(vec![change(2)]).await.expect("an apply");
    assert_eq!(store.vector().get(other), 3);
}

#[tokio::test]
async fn rows_and_vector_of_another_store_are_taken() {
    let (here, there) = (dir(), dir());
    let (source, store) = (open(there.path()), open(here.path()));
    let origin = source.origin();
    write(&source, 0..40).await;
    edit(&source, "row001", vec![Edit::Delete]).await.expect("a commit");
    source.cut_log(origin, 1..=41).await.expect("a cut");
    edit(&store, "own", set("own")).await.expect("a commit");
    let pin = source.pin_log();
    assert!(take_all_rows(&source, &store).await > 1, "several pages");
    assert_eq!(store.vector().get(origin), 0, "rows do not move the vector");
    assert_eq!(store.scanned().expect("a read").get(origin), 41);
    // A change after the start came by the stream.
    edit(&source, "later", set("later")).await.expect("a commit");
    store.apply(source.changes_after(pin.vector(), 10).expect("changes")).await.expect("an apply");
    assert_eq!(store.vector().get(origin), 0);

    assert!(store.take_vector(pin.vector().clone(), Some(BTreeMap::new())).await.expect("a vector"));
    assert_eq!(store.vector().get(origin), 42, "with the change beyond");
    assert_eq!((store.log_begins().get(origin), in_log(&store)), (41, 2));
    assert_eq!(store.scanned().expect("a read"), Vector::new());
    assert_eq!((text(&store, "row039").as_deref(), text(&store, "own").as_deref()), (Some("39"), Some("own")));
    assert!(store.get(&key("row001")).expect("a read").expect("a row").is_deleted(), "tombstones come, too");
    let vector = store.vector();
    drop(store);
    let store = open(here.path());
    assert_eq!(store.vector(), vector);
    assert_eq!(store.log_begins().get(origin), 41);
    // A vector that is taken never lowers a prefix.
    store.take_vector([(origin, 3)].into_iter().collect(), None).await.expect("a vector");
    assert_eq!(store.vector(), vector);
}

#[tokio::test]
async fn vector_is_not_taken_while_the_log_has_a_change_that_it_covers_and_that_was_not_judged() {
    let (here, there) = (dir(), dir());
    let (source, store) = (open(there.path()), open(here.path()));
    let origin = source.origin();
    write(&source, 0..4).await;
    let changes = source.changes_after(&Vector::new(), 4).expect("changes");
    store.apply(vec![changes[1].clone(), changes[3].clone()]).await.expect("an apply");
    let judged = |seqs: &[u64]| Some([(origin, seqs.iter().map(|seq| *seq..*seq + 1).collect())].into());
    let start: Vector = [(origin, 3)].into_iter().collect();
    for (seqs, is_taken) in [(&[][..], false), (&[1, 3], false), (&[1, 2], true)] {
        let taken = store.take_vector(start.clone(), judged(seqs)).await.expect("a vector");
        assert_eq!((taken, store.vector().get(origin)), (is_taken, if is_taken { 4 } else { 0 }), "{seqs:?}");
    }
}

#[tokio::test]
async fn extra_row_is_removed_unless_it_has_changed() {
    let dir = dir();
    let store = open(dir.path());
    write(&store, 0..5).await;
    // It is purged when its deletion is stable.
    edit(&store, "row0010", set("deleted")).await.expect("a commit");
    edit(&store, "row0010", vec![Edit::Delete]).await.expect("a commit");
    assert!(store.extra_row(&key("row0010")).expect("a read").is_none());
    assert!(store.extra_row(&key("row001")).expect("a read").is_some());
    while !store.sum_step().await.expect("sums") {}
    let listed: BTreeSet<_> = [key("row000")].into();
    let extra = store.extra_rows(None, Some(&key("row002")), &listed, 10).expect("a read");
    assert_eq!(extra.iter().map(|row| row.key.clone()).collect::<Vec<_>>(), [key("row001"), key("row002")]);
    edit(&store, "row002", set("changed")).await.expect("a commit");
    let mut live = store.live(|_| true);
    assert_eq!(store.remove_extra(extra).await.expect("a removal"), 1);
    assert_eq!((text(&store, "row001"), text(&store, "row002").as_deref()), (None, Some("changed")));
    let note = live.recv().await.expect("a note");
    assert_eq!((note.seq, &note.key), (0, &key("row001")));
    // The sums follow.
    let before = store.group_sums();
    store.recount();
    while !store.sum_step().await.expect("sums") {}
    assert_eq!(store.group_sums(), before);
}

#[tokio::test]
async fn mark_of_completeness_falls_durably() {
    let dir = dir();
    let store = open(dir.path());
    store.set_filled(Filled::Complete).await.expect("a mark");
    let mut mark = store.watch_filled();
    store.reopen_fill().await.expect("a mark");
    assert!(mark.has_changed().expect("open"));
    assert_eq!(*mark.borrow_and_update(), Filled::Partly);
    drop((store, mark));
    let store = open(dir.path());
    assert_eq!(store.filled(), Filled::Partly);
    store.set_state_fillers(["b".parse().expect("a name")].into()).await.expect("names");
    assert_eq!(store.state_fillers().expect("names").len(), 1);
}
