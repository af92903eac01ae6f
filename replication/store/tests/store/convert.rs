//! Audio of a release before the packs is taken over at the first start, also by a start that is interrupted.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use twinbox_clock::wall;
use twinbox_ids::{BlobHash, RecordingId};
use twinbox_replication_store::{FreedSpace, Store};

use crate::{audio, dir, open};

fn hash_of(bytes: &[u8]) -> BlobHash {
    BlobHash(*blake3::hash(bytes).as_bytes())
}

/// A blob as earlier releases stored it.
fn write_blob(dir: &Path, hash: BlobHash, content: &[u8]) {
    let name = hash.to_string();
    let folder = dir.join("blobs").join(&name[..2]);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), content).expect("a blob");
}

/// The map of a take with these pieces.
fn map(pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let mut map = b"tbxpart\x01".to_vec();
    for (offset, piece) in pieces {
        map.extend(offset.to_be_bytes());
        map.extend((piece.len() as u64).to_be_bytes());
        map.extend(&hash_of(piece).0[..8]);
    }
    map
}

/// The content of an old store.
struct Old {
    blobs: Vec<Bytes>,
    damaged: BlobHash,
    /// In progress, with a hole, a damaged piece and half an entry.
    open: RecordingId,
    /// A blob that was not filed yet.
    sealed: RecordingId,
}

impl Old {
    fn new() -> Self {
        let blobs = [0, 1, 700, 300_000, 600_000].map(audio).to_vec();
        let (open, sealed) = (RecordingId::random(), RecordingId::random());
        Self { blobs, damaged: hash_of(b"another content"), open, sealed }
    }

    fn write(&self, dir: &Path) {
        for blob in &self.blobs {
            write_blob(dir, hash_of(blob), blob);
        }
        write_blob(dir, self.damaged, b"damaged");
        let sealed = audio(4_000);
        write_blob(dir, hash_of(&sealed), &sealed);
        let first = dir.join("blobs").join(&self.damaged.to_string()[..2]);
        fs::write(first.join(".half.1.0.aside"), "half").expect("a file");

        let recordings = dir.join("recordings");
        fs::create_dir_all(&recordings).expect("a folder");
        let mut spoken = audio(8_000).to_vec();
        spoken[4_000..6_000].fill(0);
        let whole = audio(8_000);
        let pieces = [(0, &whole[..2_000]), (4_000, &whole[4_000..6_000]), (6_000, &whole[6_000..])];
        let map_of_open = [map(&pieces), vec![0; 11]].concat();
        fs::write(recordings.join(format!("{}.3", self.open)), spoken).expect("a file");
        fs::write(recordings.join(format!("{}.3.map", self.open)), map_of_open).expect("a file");
        let marker = [&b"tbxseal\x01"[..], &hash_of(&sealed).0].concat();
        fs::write(recordings.join(format!("{}.1.sealed", self.sealed)), marker).expect("a file");
        fs::write(recordings.join(format!("{}.1.map", self.sealed)), map(&[(0, &sealed[..])])).expect("a file");
        // Left by a take that was filed or discarded.
        fs::write(recordings.join(format!("{}.1.map", RecordingId(5))), map(&[])).expect("a file");
        fs::write(recordings.join(format!("{}.1", RecordingId(6))), "no map").expect("a file");
    }

    async fn check(&self, store: &Store, dir: &Path) {
        for blob in &self.blobs {
            assert!(store.blobs().has(&hash_of(blob)));
            assert_eq!(store.blobs().read(&hash_of(blob)).await.as_ref(), Ok(blob));
        }
        assert!(!store.blobs().has(&self.damaged), "it is fetched from a peer");
        assert!(store.blobs().has(&hash_of(&audio(4_000))));
        let mut open = store.recordings().open();
        open.sort_unstable();
        let mut expected = [(self.open, 3, 8_000), (self.sealed, 1, 4_000)];
        expected.sort_unstable();
        assert_eq!(open, expected);
        let covered = store.recordings().coverage(self.open, 3).expect("a take");
        assert_eq!(covered.iter().collect::<Vec<_>>(), [0..2_000, 6_000..8_000]);
        let end = store.recordings().read(self.open, 3, 6_000..8_000).await;
        assert_eq!(end, Ok(audio(8_000).slice(6_000..)));

        assert!(!dir.join("recordings").exists());
        let left: Vec<_> = fs::read_dir(dir.join("blobs")).expect("the folder").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        let left: Vec<_> = fs::read_dir(left[0].path()).expect("the folder").flatten().collect();
        assert_eq!(left.len(), 1, "only the damaged file stays: {left:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

#[tokio::test]
async fn old_files_become_packs_and_takes_go_on() {
    let (dir, old) = (dir(), Old::new());
    old.write(dir.path());
    let store = open(dir.path());
    old.check(&store, dir.path()).await;
    // The take goes on, and the one that was sealed becomes the same blob again.
    store.recordings().insert(old.open, 3, 2_000, audio(8_000).slice(2_000..6_000)).expect("a chunk");
    let blob = store.recordings().seal(old.open, 3).await.expect("a blob");
    assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(8_000)));
    let blob = store.recordings().seal(old.sealed, 1).await.expect("a blob");
    assert_eq!(blob.hash, hash_of(&audio(4_000)));
    drop(store);

    // A peer sends what was damaged: its file goes with the next start.
    let store = open(dir.path());
    store.blobs().put_as(old.damaged, "another content".into()).await.expect("mended");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.blobs().read(&old.damaged).await, Ok("another content".into()));
    assert!(!dir.path().join("blobs").exists());
}

#[tokio::test]
async fn interrupted_conversion_begins_again() {
    let (dir, old) = (dir(), Old::new());
    drop(open(dir.path()));
    let (db, before) = (dir.path().join("db"), dir.path().join("before"));
    copy(&db, &before);
    old.write(dir.path());
    drop(open(dir.path()));

    // Rows and chunks are durable, and no file is removed yet.
    old.write(dir.path());
    let store = open(dir.path());
    old.check(&store, dir.path()).await;
    drop(store);

    // All is in the packs, and no row is durable.
    old.write(dir.path());
    fs::remove_dir_all(&db).expect("its end");
    fs::rename(&before, &db).expect("the index before");
    let store = open(dir.path());
    old.check(&store, dir.path()).await;
    drop(store);
    old.check(&open(dir.path()), dir.path()).await;
}

#[tokio::test]
async fn age_of_old_audio_is_that_of_its_file() {
    let (dir, blob) = (dir(), audio(500));
    write_blob(dir.path(), hash_of(&blob), &blob);
    write_blob(dir.path(), hash_of(b"young"), b"young");
    let name = hash_of(&blob).to_string();
    let path = dir.path().join("blobs").join(&name[..2]).join(&name);
    File::options().write(true).open(path).and_then(|file| file.set_modified(UNIX_EPOCH)).expect("an old file");
    let store = open(dir.path());
    let hour = Duration::from_secs(3_600);
    let freed = store.remove_orphan_blobs(&mut None, hour, wall(), 100).await;
    assert_eq!(freed, Ok(FreedSpace { blobs: 1, bytes: 500 }));
    assert!(store.blobs().has(&hash_of(b"young")));
}
