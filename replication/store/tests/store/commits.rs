//! Commits and reading.

use std::sync::atomic::{AtomicUsize, Ordering};

use twinbox_disk::{Disk, DiskError, MAX_VALUE};
use twinbox_replication_core::{Edit, Value};
use twinbox_replication_store::{CommitError, Store, StoreConfig, StoreError};

use crate::{TABLE, dir, edit, key, node, open, set, text};

#[tokio::test]
async fn committed_change_is_readable_numbered_and_announced() {
    let dir = dir();
    let store = open(dir.path());
    let mut live = store.live(|_| true);
    let first = edit(&store, "x", set("one")).await.expect("a commit");
    assert_eq!((first.origin, first.first, first.last), (store.origin(), 1, 1));
    let both = store.commit(|draft| {
        draft.edit(key("y"), set("two"))?;
        draft.edit(key("z"), set("three"))?;
        // Edits of one record are one change, and a draft sees its own edits.
        draft.edit(key("y"), vec![Edit::Count(2, 5)])?;
        let y = draft.get(&key("y"))?.ok_or(StoreError::Closed)?;
        assert_eq!((y.bytes(1), y.counter(2)), (Some(&b"two"[..]), 5));
        assert_eq!(draft.scan(TABLE, b"y")?, [(key("y"), y)]);
        Ok::<_, StoreError>(draft.scan(TABLE, b"")?.len())
    });
    let (rows, both) = both.await.expect("a commit");
    assert_eq!((rows, both.first, both.last), (3, 2, 3));
    assert_eq!(text(&store, "z").as_deref(), Some("three"));
    assert_eq!(store.scan(TABLE, b"").expect("a scan").len(), 3);
    assert_eq!(store.scan(TABLE, b"y").expect("a scan")[0].0, key("y"));

    for (seq, id) in [(1, "x"), (2, "y"), (3, "z")] {
        let change = live.recv().await.expect("a change");
        assert_eq!((change.seq, &change.key), (seq, &key(id)));
        assert!(store.has(change.origin, change.seq));
    }
    assert_eq!(store.vector().get(store.origin()), 3);
    let nothing = edit(&store, "x", vec![Edit::Remove(9, b"not there".into())]).await.expect("a commit");
    assert!(nothing.is_empty() && nothing.first == 4);
    assert_eq!(store.get(&key("none")), Ok(None));
}

#[tokio::test]
async fn refused_commit_changes_nothing() {
    let dir = dir();
    let store = open(dir.path());
    let refused = store.commit(|draft| {
        draft.edit(key("x"), set("no")).map_err(|_| "store")?;
        Err::<(), _>("refused")
    });
    assert_eq!(refused.await, Err(CommitError::Refused("refused")));
    assert_eq!((store.get(&key("x")), store.vector().total()), (Ok(None), 0));
    // The next one has no gap before it.
    assert_eq!(edit(&store, "x", set("yes")).await.expect("a commit").first, 1);
}

#[tokio::test]
async fn commits_can_compare_and_set() {
    let dir = dir();
    let store = open(dir.path());
    let winners = AtomicUsize::new(0);
    let claim = |n: u32| {
        let store = store.clone();
        async move {
            let take = store.commit(move |draft| match draft.get(&key("number"))? {
                Some(_) => Ok::<_, StoreError>(false),
                None => draft.edit(key("number"), set(&n.to_string())).map(|()| true),
            });
            take.await.expect("a commit").0
        }
    };
    for task in (0..50).map(claim).map(tokio::spawn).collect::<Vec<_>>() {
        winners.fetch_add(task.await.expect("a task").into(), Ordering::Relaxed);
    }
    assert_eq!(winners.into_inner(), 1);
    assert_eq!(store.vector().get(store.origin()), 1);
}

#[tokio::test]
async fn concurrent_commits_share_a_sync() {
    let dir = dir();
    let store = open(dir.path());
    let before = Disk::fsync_count();
    let commits = (0..300).map(|n: u32| {
        let store = store.clone();
        tokio::spawn(async move { edit(&store, &n.to_string(), set("x")).await })
    });
    for task in commits.collect::<Vec<_>>() {
        task.await.expect("a task").expect("a commit");
    }
    let syncs = Disk::fsync_count() - before;
    assert!((1..100).contains(&syncs), "{syncs} syncs for 300 commits");
    assert_eq!(store.vector().get(store.origin()), 300);
}

#[tokio::test]
async fn a_full_disk_refuses_new_data_first_and_small_writes_later() {
    let dir = dir();
    let free = open(dir.path()).space().expect("space").free;
    let large = || vec![Edit::Set(1, Value::Bytes(vec![0; 20_000]))];
    let with = |reserve_bytes| Store::open(StoreConfig { dir: dir.path().into(), node: node("a"), reserve_bytes });

    let store = with(free * 2).expect("a store opens on a full disk: it has to be read");
    assert!(edit(&store, "large", large()).await.is_err_and(|e| matches!(e, CommitError::Store(e) if e.is_full())));
    edit(&store, "small", set("fits")).await.expect("a small write");
    edit(&store, "small", vec![Edit::Delete]).await.expect("a delete");
    store.probe().await.expect("a probe");
    assert!(store.blobs().put(vec![0; 10].into()).await.is_err_and(|e| e.is_full()));
    let id = twinbox_ids::RecordingId::random();
    assert!(store.recordings().begin(id, 1).await.is_err_and(|e| e.is_full()));
    drop(store);

    let store = with(u64::MAX).expect("a store");
    let refused = edit(&store, "small", set("no")).await.expect_err("a refusal");
    assert!(matches!(&refused, CommitError::Store(e) if e.is_full()), "{refused}");
    assert!(refused.to_string().contains("free"), "{refused}");
    assert!(store.probe().await.is_err_and(|e| e.is_full()));
    assert_eq!(text(&store, "small").as_deref(), Some("fits"), "the delete is a flag, and all is readable");
    assert!(store.health().ok(), "full is not broken");
    drop(store);
    edit(&open(dir.path()), "large", large()).await.expect("room again");
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_with_its_size() {
    let dir = dir();
    let store = open(dir.path());
    let huge = vec![Edit::Set(1, Value::Bytes(vec![0; MAX_VALUE]))];
    let error = edit(&store, "huge", huge).await.expect_err("a refusal");
    assert!(
        matches!(error, CommitError::Store(StoreError::Disk(DiskError::TooLarge { what: "value", .. }))),
        "{error}"
    );
    assert_eq!(store.vector().total(), 0);
}

/// A probe waits for earlier commits, as every commit does, and changes no record.
#[tokio::test]
async fn probe_is_a_synced_write_without_a_change() {
    let dir = dir();
    let store = open(dir.path());
    store.probe().await.expect("a probe");
    let before = store.vector();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let slow = store.clone();
    let busy = tokio::spawn(async move {
        slow.commit(move |_| {
            let _ = begin.send(());
            let _ = held.recv();
            Err::<(), ()>(())
        })
        .await
    });
    begun.await.expect("the committer is at it");
    let probing = store.clone();
    let mut probe = Box::pin(async move { probing.probe().await });
    let waited = tokio::time::timeout(std::time::Duration::from_millis(100), &mut probe).await;
    assert!(waited.is_err(), "the committer is busy");
    drop(hold);
    let took = (&mut probe).await.expect("a probe");
    assert!(took >= std::time::Duration::from_millis(100), "{took:?}");
    assert!(busy.await.is_ok());
    assert_eq!(store.vector(), before);
    drop((probe, store));
    open(dir.path());
}
