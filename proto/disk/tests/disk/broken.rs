//! After a failed sync nothing is written any more (rule A4).

use std::{
    fs,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use twinbox_disk::{Disk, DiskError, Options, TransactError};

use crate::put;

/// This process's descriptor of a file.
fn descriptor_of(path: &Path) -> RawFd {
    let path = fs::canonicalize(path).expect("the file");
    fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .flatten()
        .find(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path))
        .and_then(|entry| entry.file_name().to_str()?.parse().ok())
        .expect("the file is open")
}

/// A file of a store behind which a device stands: /dev/null takes every write and cannot be synced.
struct Replaced {
    descriptor: RawFd,
    copy: RawFd,
}

impl Replaced {
    fn by_null(path: &Path) -> Self {
        let device = fs::File::options().read(true).write(true).open("/dev/null").expect("a device");
        let descriptor = descriptor_of(path);
        // SAFETY: the descriptor is open; the copy keeps the real file for later.
        let copy = unsafe { libc::dup(descriptor) };
        // SAFETY: both descriptors are open, and nothing else in this test's process uses the number at this moment.
        assert!(unsafe { libc::dup2(device.as_raw_fd(), descriptor) } >= 0);
        Self { descriptor, copy }
    }

    /// Whether no thread of this process can write it any more.
    fn is_read_only(&self) -> bool {
        // SAFETY: the call takes two numbers and touches no memory.
        let flags = unsafe { libc::fcntl(self.descriptor, libc::F_GETFL) };
        flags & libc::O_ACCMODE == libc::O_RDONLY
    }

    /// The file works again.
    fn put_back(&self) {
        // SAFETY: both descriptors are open.
        assert!(unsafe { libc::dup2(self.copy, self.descriptor) } >= 0);
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // SAFETY: the copy is open and ours; while it is, the index's lock is held.
        unsafe { libc::close(self.copy) };
    }
}

/// The one segment of a journal.
fn segment(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("journal")).expect("the journal").flatten();
    let files: Vec<_> = files.map(|entry| entry.path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[tokio::test]
async fn failed_sync_of_the_journal_stops_all_further_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    put(&disk, b"before", b"1").await.expect("a write");
    let replaced = Replaced::by_null(&segment(dir.path()));
    assert!(!replaced.is_read_only());
    for key in [b"first", b"again"] {
        match put(&disk, key, b"1").await {
            Err(TransactError::Disk(DiskError::Broken { detail })) => assert!(!detail.is_empty()),
            other => panic!("a write whose sync failed gave {other:?}"),
        }
    }
    assert_eq!(disk.get(b"first"), Ok(None), "it is not durable, so readers must not see it");
    assert!(replaced.is_read_only());
    // The file works again: that changes nothing, the lost pages are lost.
    replaced.put_back();
    assert!(matches!(put(&disk, b"later", b"1").await, Err(TransactError::Disk(DiskError::Broken { .. }))));
    assert!(disk.broken().is_some());
    drop(disk);
    drop(replaced);
    let disk = Disk::open(dir.path()).expect("the disk, opened again");
    assert_eq!(disk.get(b"before"), Ok(Some(b"1".into())));
    assert_eq!(disk.get(b"first"), Ok(None));
    put(&disk, b"after", b"1").await.expect("a write");
}

#[tokio::test]
async fn failed_checkpoint_stops_all_further_writes_and_loses_none_before() {
    let dir = tempfile::tempdir().expect("a directory");
    // Small segments: a checkpoint is due soon.
    let options = Options { journal_segment_bytes: 64 * 1024, left_free: 0, appended: None };
    let disk = Disk::open_with(dir.path(), options).expect("a disk");
    put(&disk, b"before", b"1").await.expect("a write");
    let replaced = Replaced::by_null(&dir.path().join("index/db"));
    let mut acknowledged = 0_u32;
    loop {
        match put(&disk, &acknowledged.to_be_bytes(), &[7; 3000]).await {
            Ok(()) => acknowledged += 1,
            Err(TransactError::Disk(DiskError::Broken { .. })) => break,
            other => panic!("a write ended with {other:?}"),
        }
        assert!(acknowledged < 1_000_000, "no checkpoint came");
    }
    assert!(acknowledged > 0 && disk.broken().is_some());
    assert!(replaced.is_read_only(), "sled's threads learn of it later");
    // The replaced file cannot give back a page that the cache has dropped: such a read fails, and shows nothing else.
    let lost = (0..acknowledged).find(|n| matches!(disk.get(&n.to_be_bytes()), Ok(None)));
    assert_eq!(lost, None, "no read shows the state before a commit");
    let all = |disk: &Disk| (0..acknowledged).all(|n| matches!(disk.get(&n.to_be_bytes()), Ok(Some(_))));
    replaced.put_back();
    assert!(matches!(put(&disk, b"later", b"1").await, Err(TransactError::Disk(DiskError::Broken { .. }))));
    drop(disk);
    drop(replaced);
    let disk = Disk::open(dir.path()).expect("the disk, opened again");
    assert_eq!(disk.get(b"before"), Ok(Some(b"1".into())));
    assert!(all(&disk), "{acknowledged} were acknowledged");
    assert_eq!(disk.get(b"later"), Ok(None));
    put(&disk, b"after", b"1").await.expect("a write");
}

#[tokio::test]
async fn failed_sync_of_a_separate_file_stops_all_further_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    disk.mark_broken("the recording did not sync");
    let error = put(&disk, b"a", b"1").await.expect_err("a refusal");
    assert!(error.to_string().contains("the recording did not sync"), "{error}");
    assert_eq!(disk.get(b"a"), Ok(None));
}
