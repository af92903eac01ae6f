//! A flush of the drive fails, and the drive forgets what it would have made durable: the page cache has it, and the disk does not.
//! A process on the same mount reads what is on the disk (rule A4).

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use twinbox_power_cut::PowerDisk;
use twinbox_replication_core::{Edit, Key, Value};
use twinbox_replication_store::Store;
use twinbox_testkit::{need, parameter};

use crate::{
    LIMIT, MEGABYTES, POWER, Writer,
    writer::{self, AUDIO, BY_ORDER, ORDERED, ROWS, audio, commit, content},
};

/// Number of bytes that are changed at the beginning of each file: the store has written more than that, or the file is shorter.
const SPOILED: usize = 8192;
/// Processes that used the store, rows of each, and length of its audio.
const PROCESSES: u64 = 2;
const EACH: u64 = 20;
const LENGTH: usize = 30_000;

fn disk() -> PowerDisk {
    PowerDisk::new(MEGABYTES, parameter("TWINBOX_POWER_SEED", 0))
}

/// A process with the store, and the version of the row that it has found.
fn start(disk: &PowerDisk) -> (Writer, Option<u64>) {
    let writer = Writer::start(&disk.folder().join("store"), &[(BY_ORDER, "yes".to_owned())]);
    let mut found = None;
    loop {
        let line = writer.lines.recv_timeout(LIMIT).expect("a line of the store");
        match *line.split(' ').collect::<Vec<_>>() {
            ["row", ORDERED, version] => found = version.parse().ok(),
            ["open"] => return (writer, found),
            ["damaged", ..] | ["refused", ..] => panic!("{line}"),
            _ => {}
        }
    }
}

/// The answer to an order to commit the next version.
fn order(writer: &mut Writer) -> String {
    writer.child.stdin.as_mut().expect("its input").write_all(b"commit\n").expect("an order");
    let is_answer = |line: &String| ["committed ", "refused "].iter().any(|begin| line.starts_with(begin));
    loop {
        let line = writer.lines.recv_timeout(LIMIT).expect("an answer of the store");
        if is_answer(&line) {
            return line;
        }
    }
}

fn committed(version: u64) -> String {
    format!("committed {ORDERED} {version}")
}

#[test]
fn commit_whose_flush_failed_is_unknown_to_the_next_process_on_the_same_mount() {
    if !need::all(&[POWER]) {
        return;
    }
    let mut disk = disk();
    let (mut writer, found) = start(&disk);
    assert_eq!((found, order(&mut writer), order(&mut writer)), (None, committed(1), committed(2)));
    disk.fail_next_flush();
    let refused = order(&mut writer);
    println!("{refused}");
    assert!(refused.starts_with("refused "), "its flush failed: {refused}");
    // The drive works again, and the process still refuses: the pages of the failed flush are lost.
    assert!(order(&mut writer).starts_with("refused "));
    drop(writer);

    let (mut writer, found) = start(&disk);
    assert_eq!(found, Some(2), "the disk does not have the third one");
    assert_eq!(order(&mut writer), committed(3));
    drop(writer);
    disk.restart();
    assert_eq!(start(&disk).1, Some(3));
}

/// The files of a folder that are not empty.
fn files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    files.filter(|path| path.is_file() && fs::metadata(path).is_ok_and(|file| file.len() > 0)).collect()
}

/// Changes the beginning of a file in the page cache alone.
fn spoil_in_page_cache(disk: &mut PowerDisk, path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(SPOILED);
    bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
    disk.fail_next_flush();
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let failed = file.sync_data().expect_err("its flush fails");
    assert_eq!(failed.raw_os_error(), Some(libc::EIO), "{}", path.display());
    assert!(fs::read(path).unwrap().starts_with(&bytes), "the page cache has it");
}

async fn write(store: &Store, process: u64) {
    for n in 0..EACH {
        let id = format!("{process}-{n}");
        let value = Value::Bytes(content(&id, n));
        commit(store, ROWS, &id, Edit::Set(1, value)).await.expect("a commit");
    }
    let name = process.to_string();
    let blob = store.blobs().put(audio(&name, LENGTH)).await.expect("a blob");
    commit(store, AUDIO, &name, Edit::Set(1, Value::Blob(blob))).await.expect("a commit");
}

async fn check(store: &Store) {
    for process in 0..PROCESSES {
        for n in 0..EACH {
            let id = format!("{process}-{n}");
            let row = store.get(&Key::new(ROWS, &*id)).expect("a read").expect("a row");
            assert_eq!(row.bytes(1), Some(&*content(&id, n)), "{id}");
        }
        let name = process.to_string();
        let record = store.get(&Key::new(AUDIO, &*name)).expect("a read").expect("a record");
        let blob = *record.blobs().next().expect("its audio");
        assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(&name, LENGTH)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_reads_none_of_its_files_from_a_page_cache_that_differs_from_the_disk() {
    if !need::all(&[POWER]) {
        return;
    }
    let mut disk = disk();
    let dir = disk.folder().join("store");
    for process in 0..PROCESSES {
        let store = writer::open(&dir).expect("a store");
        write(&store, process).await;
    }
    let mut spoiled = 0;
    for folder in ["db/index", "db/journal", "db/runs", "audio"] {
        let files = files(&dir.join(folder));
        assert!(!files.is_empty(), "{folder}");
        files.iter().for_each(|file| spoil_in_page_cache(&mut disk, file));
        spoiled += files.len();
    }
    let store = writer::open(&dir).unwrap_or_else(|error| panic!("it opens as the disk has it: {error}"));
    check(&store).await;
    drop(store);
    println!("{spoiled} files differed in the page cache");
    disk.restart();
    check(&writer::open(&dir).expect("a store")).await;
}
