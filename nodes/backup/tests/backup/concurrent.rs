//! A backup of a store that changes while its records are read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, mpsc},
};

use tempfile::TempDir;
use twinbox_backup::{Observer, Phase, Progress, create};
use twinbox_mailstore::Mark;
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::{Filled, Store, codec};
use twinbox_store_kit::{Node, audio};

use crate::{
    buckets::{verified, write_rows},
    support::{Fixture, NEW, OLD, heard, silent},
};

/// All records of a store.
fn records(store: &Store) -> BTreeMap<Key, Record> {
    let rows = store.all_rows().map(|row| row.expect("a row"));
    rows.map(|(key, value)| (key, codec::decode_record(&value).expect("a record"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_are_made_while_records_are_read_are_restored_up_to_the_vector_of_the_backup() {
    let fixture = Fixture::new();
    let (node, mailbox) = (&fixture.node, fixture.node.mailbox().await.id);
    node.store.set_cluster_id(OLD).await.expect("a cluster");
    node.store.set_filled(Filled::Complete).await.expect("a mark");
    for ms in [1_000, 2_000] {
        node.leave(mailbox, &audio(ms)).await;
    }
    // More than the records between two reports of progress, all of them behind those of the mailbox.
    write_rows(node, 1_100, 1).await;
    let before = heard(node, mailbox).await;

    let (reached, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    // Stands still among the records, and again when all of them are written.
    let observer: Observer = Arc::new(move |progress: Progress| {
        if matches!(progress.phase, Phase::Rows | Phase::Sync) {
            let _ = reached.send(progress.phase);
            let _ = gate.lock().expect("a gate").recv();
        }
    });
    let (mailstore, folder) = (node.mailstore.clone(), fixture.folder.clone());
    let making = tokio::spawn(async move { create(&mailstore, &folder, "test", &observer).await });
    assert_eq!(reports.recv().await, Some(Phase::Rows));
    // The records of the mailbox were read before: only the log has these.
    node.leave(mailbox, &audio(3_000)).await;
    node.mailstore.mark(mailbox, before[0].0.id, Mark::Deleted).await.expect("deleted");
    node.mailstore.mark(mailbox, before[1].0.id, Mark::Saved).await.expect("saved");
    let (moment, vector) = (records(&node.store), node.store.vector());
    let messages = heard(node, mailbox).await;
    go.send(()).expect("it waits");
    assert_eq!(reports.recv().await, Some(Phase::Sync));
    // Later than the backup.
    node.leave(mailbox, &audio(4_000)).await;
    go.send(()).expect("it waits");
    let made = making.await.expect("it ends").expect("a backup");
    let vector: BTreeMap<_, _> = vector.iter().map(|(origin, upto)| (origin.to_string(), upto)).collect();
    assert_eq!(made.manifest.vector, vector);
    assert!(verified(&fixture).await.expect("verified")[0].is_whole());

    let dir = TempDir::new().expect("a directory");
    let restored = fixture.restore(dir.path(), NEW).await.expect("restored");
    assert_eq!((restored.audio, restored.missing.len()), (3, 0));
    let node = Node::alone(&dir.path().join("store"), "a");
    assert_eq!(format!("{:?}", heard(&node, mailbox).await), format!("{messages:?}"));
    let restored = records(&node.store);
    let keys = moment.keys().chain(restored.keys());
    let others: Vec<_> = keys.filter(|key| moment.get(*key) != restored.get(*key)).collect();
    assert!(others.is_empty(), "not as they were at that moment: {others:?}");

    assert!(made.manifest.rows.changes >= 3, "{}", made.manifest.rows.changes);
    let again = create(&fixture.node.mailstore, &fixture.folder, "test", &silent()).await.expect("a backup");
    assert_eq!(again.manifest.rows.changes, 0, "nothing changed meanwhile");
}
