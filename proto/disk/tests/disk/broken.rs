//! After a failed sync nothing is written any more (rule A4).

use std::{fs, os::fd::RawFd, path::Path};

use twinbox_disk::{Disk, DiskError, TransactError};

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

/// Replaces an open file by `device`: /dev/null takes every write and cannot be synced.
fn replace(path: &Path, device: &str) {
    use std::os::fd::AsRawFd;
    let device = fs::File::options().read(true).write(true).open(device).expect("a device");
    // SAFETY: both descriptors are open, and nothing else in this test's process uses the number at this moment.
    assert!(unsafe { libc::dup2(device.as_raw_fd(), descriptor_of(path)) } >= 0);
}

#[tokio::test]
async fn failed_sync_stops_all_further_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    put(&disk, b"before", b"1").await.expect("a write");
    let healthy = descriptor_of(&dir.path().join("index/db"));
    // SAFETY: the descriptor is open; the copy keeps the real file for later.
    let copy = unsafe { libc::dup(healthy) };
    replace(&dir.path().join("index/db"), "/dev/null");
    for key in [b"first", b"again"] {
        match put(&disk, key, b"1").await {
            Err(TransactError::Disk(DiskError::Broken { detail })) => assert!(!detail.is_empty()),
            other => panic!("a write whose sync failed gave {other:?}"),
        }
    }
    // The file works again: that changes nothing, the lost pages are lost.
    // SAFETY: both descriptors are open.
    assert!(unsafe { libc::dup2(copy, healthy) } >= 0);
    assert!(matches!(put(&disk, b"later", b"1").await, Err(TransactError::Disk(DiskError::Broken { .. }))));
    assert!(disk.broken().is_some());
    drop(disk);
    // SAFETY: the copy is open and ours; while it is, the index's lock is held.
    unsafe { libc::close(copy) };
    let disk = Disk::open(dir.path()).expect("the disk, opened again");
    assert_eq!(disk.get(b"before"), Ok(Some(b"1".into())));
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
