//! The feed of a store: chunks before the change that files them, and changes once they are durable.

use bytes::Bytes;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Value, Vector};
use twinbox_replication_feed::FeedEntry;
use twinbox_replication_store::codec;

use crate::{audio, dir, edit, key, open, set, taken};

#[tokio::test]
async fn chunks_of_a_recording_come_before_the_change_that_files_it() {
    let dir = dir();
    let store = open(dir.path());
    let mut feed = store.feed().reader();
    let filings = (0..20u128).map(|n| {
        let store = store.clone();
        async move {
            let (id, spoken) = (RecordingId(n), audio(3_000 + n as usize));
            store.recordings().begin(id, 1).await.expect("a recording");
            for offset in (0..spoken.len()).step_by(500) {
                let part = spoken.slice(offset..spoken.len().min(offset + 500));
                store.recordings().append(id, 1, offset as u64, part).expect("a chunk");
            }
            let blob = store.recordings().seal(id, 1).await.expect("a blob").blob;
            edit(&store, &format!("message {n}"), vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a filing");
        }
    });
    let filings: Vec<_> = filings.map(tokio::spawn).collect();
    for filing in filings {
        filing.await.expect("filed");
    }
    let mut recorded = [0; 20];
    let (mut filed, mut last) = (0, 0);
    for entry in taken(&mut feed) {
        match entry {
            FeedEntry::Chunk { take, offset, bytes } => {
                let recorded = &mut recorded[take.0.0 as usize];
                assert_eq!(*recorded, offset);
                *recorded += bytes.len() as u64;
            }
            FeedEntry::Change(change) => {
                assert_eq!((change.origin, change.seq), (store.origin(), last + 1));
                last = change.seq;
                let [(id, 1)] = change.takes[..] else { panic!("{change:?}") };
                assert_eq!(recorded[id.0 as usize], 3_000 + id.0 as u64, "{id} is filed before its last chunk");
                filed += 1;
            }
            FeedEntry::Discarded { take } => panic!("{take:?}"),
        }
    }
    assert_eq!(filed, 20);
}

#[tokio::test]
async fn changes_are_in_the_feed_once_they_are_durable_as_peers_get_them() {
    let (dir_a, dir_b) = (dir(), dir());
    let (a, b) = (open(dir_a.path()), open(dir_b.path()));
    edit(&a, "before", set("x")).await.expect("a commit");
    let mut feed = a.feed().reader();
    assert_eq!(taken(&mut feed), [], "what was before is in the vector");
    edit(&a, "row", set("1")).await.expect("a commit");
    edit(&b, "row", set("2")).await.expect("a commit");
    let theirs = b.changes_after(&Default::default(), 10).expect("the log");
    a.apply(theirs.clone()).await.expect("applied");
    a.apply(theirs).await.expect("no effect");
    let ours = a.changes_after(&[(a.origin(), 1)].into_iter().collect(), 10).expect("the log");
    let mut expected: Vec<_> = ours.iter().map(|change| Bytes::from(codec::change_to_bytes(change))).collect();
    expected.sort();
    let mut found: Vec<_> = Vec::new();
    for entry in taken(&mut feed) {
        let FeedEntry::Change(change) = entry else { panic!("{entry:?}") };
        assert!(a.has(change.origin, change.seq));
        found.push(change.bytes.clone());
    }
    found.sort();
    assert_eq!((found.len(), found), (2, expected));
    // A repaired row is no change of an origin.
    let row = b.get(&key("row")).expect("a read").expect("a row");
    a.repair(vec![(key("lost"), row)], Vector::new()).await.expect("repaired");
    assert_eq!(taken(&mut feed), []);
}
