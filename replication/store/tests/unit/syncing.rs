//! Seals that wait for one sync, with a runtime that has one thread for blocking work.

use std::{path::Path, sync::mpsc, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use twinbox_ids::RecordingId;

use super::*;
use crate::{Store, StoreConfig};

const TAKES: u8 = 40;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap()
}

fn store(dir: &Path) -> Store {
    Store::open(StoreConfig { dir: dir.to_owned(), node: "a".parse().unwrap(), reserve_bytes: 0 }).unwrap()
}

/// Occupies the runtime's thread for blocking work until the sender is dropped.
async fn occupy() -> mpsc::Sender<()> {
    let (free, occupied) = mpsc::channel::<()>();
    let (began, begun) = oneshot::channel();
    spawn_blocking(move || {
        let _ = began.send(());
        let _ = occupied.recv();
    });
    begun.await.unwrap();
    free
}

async fn waiting(blobs: &Blobs, expected: usize) {
    let all_wait = async {
        while lock(&blobs.0.syncing.0).waiting.len() < expected {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), all_wait).await.expect("all wait for a sync");
}

#[test]
fn seals_that_come_together_share_a_sync_and_its_thread() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    runtime().block_on(async {
        let (recordings, free) = (store.recordings(), occupy().await);
        let mut seals = JoinSet::new();
        for n in 0..TAKES {
            let id = RecordingId::random();
            recordings.begin(id, 1).await.unwrap();
            recordings.append(id, 1, 0, vec![n; 2_000].into()).unwrap();
            let recordings = recordings.clone();
            seals.spawn(async move { recordings.seal(id, 1).await.unwrap().blob });
        }
        waiting(store.blobs(), TAKES.into()).await;
        assert!(store.blobs().loose().is_empty(), "none is a blob before the sync");
        drop(free);
        let sealed = timeout(Duration::from_secs(20), seals.join_all()).await.expect("all end");
        assert_eq!(sealed.len(), usize::from(TAKES));
        for blob in sealed {
            assert!(store.blobs().has(&blob.hash));
        }
    });
}

#[test]
fn runtime_that_ends_before_the_sync_leaves_none_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (ends, blobs) = (runtime(), store.blobs().clone());
    let free = ends.block_on(occupy());
    let early = blobs.clone();
    ends.spawn(async move { early.synced().await });
    ends.block_on(waiting(&blobs, 1));
    ends.shutdown_background();
    drop(free);
    runtime().block_on(async {
        let synced = timeout(Duration::from_secs(20), async {
            // The end of the other runtime may come between.
            while blobs.synced().await.is_err() {}
        });
        synced.await.expect("a sync");
    });
}
