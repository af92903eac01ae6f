//! Flipped bits in a store that is closed: it opens with all that it had, or is refused as damaged and can be set aside.
//! It never opens with less (rule A4).

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use twinbox_disk::{Appended, Disk, DiskError, Options, salvage, set_aside, set_asides};

use crate::{noise, put};

/// Small segments: the journal lets go of most writes. Half of the rows go into runs.
const OPTIONS: Options = Options {
    journal_segment_bytes: 64 * 1024,
    left_free: 0,
    appended: Some(Appended { prefix: b"l", key_length: 5 }),
};
const WRITES: u32 = 400;

fn key(number: u32) -> Vec<u8> {
    let table = if number.is_multiple_of(2) { b"l" } else { b"n" };
    [table, &number.to_be_bytes()[..]].concat()
}

fn value(number: u32) -> Vec<u8> {
    noise(number.into(), 2_001)
}

/// A store that was opened several times, of whose writes the journal has the last ones alone.
async fn store() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    write_all(dir.path()).await;
    dir
}

/// Writes everything, with several openings. Each of them lets go of the segments before it, and uses the file of one
/// of them again; within one process, that depends on how far the applier is behind the writer.
async fn write_all(dir: &Path) {
    for part in 0..4 {
        let disk = Disk::open_with(dir, OPTIONS).expect("a disk");
        for number in part * WRITES / 4..(part + 1) * WRITES / 4 {
            put(&disk, &key(number), &value(number)).await.expect("a write");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), &to).expect("a copy")),
        }
    }
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("a write");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// Error of an opening, or of the reading of all writes; `None` when each has its value.
fn wrong(dir: &Path) -> Option<DiskError> {
    let disk = match Disk::open_with(dir, OPTIONS) {
        Ok(disk) => disk,
        Err(error) => return Some(error),
    };
    for number in 0..WRITES {
        match disk.get(&key(number)) {
            Ok(found) => assert_eq!(found, Some(value(number)), "{number} is lost, and nothing says so"),
            Err(error) => return Some(error),
        }
    }
    None
}

#[tokio::test]
async fn flipped_bit_is_harmless_or_refused_as_damage() {
    let original = store().await;
    let (mut harmless, mut refused) = (0, 0);
    for folder in ["index", "journal", "runs"] {
        for file in files(&original.path().join(folder)) {
            let length = fs::metadata(&file).expect("a file").len();
            if length == 0 {
                continue;
            }
            let places = [0, 5, 20, 100, length / 4, length / 3, length / 2, length / 4 * 3, length - 1];
            // Most of a file of runs is empty.
            let blocks = if folder == "runs" { 1..8 } else { 0..0 };
            for at in places.into_iter().chain(blocks.map(|block| block * 25_000)) {
                let at = at.min(length - 1);
                let dir = tempfile::tempdir().expect("a directory");
                copy(original.path(), dir.path());
                flip(&dir.path().join(folder).join(file.file_name().expect("a name")), at);
                match wrong(dir.path()) {
                    None => harmless += 1,
                    Some(error) => {
                        assert!(error.is_damage(), "{}, byte {at}: {error}", file.display());
                        assert!(error.to_string().contains(&*dir.path().to_string_lossy()), "{error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("{harmless} flips were harmless, {refused} refused");
    assert!(refused > 5, "{harmless} were harmless");
}

#[tokio::test]
async fn missing_run_is_refused_and_an_unneeded_one_removed() {
    let dir = store().await;
    let runs = files(&dir.path().join("runs"));
    assert_eq!(runs.len(), 4, "a file of each process");
    fs::write(dir.path().join("runs/00000099.run"), b"left behind").expect("a file");
    assert_eq!(wrong(dir.path()), None);
    assert_eq!(files(&dir.path().join("runs")), runs);
    for run in &runs {
        let broken = tempfile::tempdir().expect("a directory");
        copy(dir.path(), broken.path());
        let name = run.file_name().expect("a name");
        fs::remove_file(broken.path().join("runs").join(name)).expect("removed");
        let error = Disk::open_with(broken.path(), OPTIONS).err().expect("a refusal");
        assert!(error.is_damage(), "{error}");
        if run == &runs[0] || run == &runs[3] {
            assert!(error.to_string().contains(&*name.to_string_lossy()), "{error}");
        }
        // The others are kept: they may have what nothing else has.
        assert!(files(&broken.path().join("runs")).len() >= 3, "{error}");
    }
}

#[tokio::test]
async fn index_that_lost_flushed_writes_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open_with(dir.path(), OPTIONS).expect("a disk");
    put(&disk, b"first", b"1").await.expect("a write");
    drop(disk);
    let old = tempfile::tempdir().expect("a directory");
    copy(&dir.path().join("index"), old.path());
    write_all(dir.path()).await;
    // As it was before, and as if it had never been.
    for index in [Some(old.path()), None] {
        let broken = tempfile::tempdir().expect("a directory");
        copy(dir.path(), broken.path());
        fs::remove_dir_all(broken.path().join("index")).expect("removed");
        if let Some(index) = index {
            copy(index, &broken.path().join("index"));
        }
        let error = Disk::open_with(broken.path(), OPTIONS).err().expect("a refusal");
        assert!(error.is_damage() && error.to_string().contains("let go"), "{error}");
    }
    assert_eq!(wrong(dir.path()), None);
}

#[tokio::test]
async fn damage_that_an_opening_does_not_read_is_found_when_it_is_asked_to() {
    let dir = store().await;
    // Values that no compression makes shorter are stored as they are: bytes in the middle of one of the first.
    let db = dir.path().join("index/db");
    let bytes = fs::read(&db).expect("the index");
    let pattern = &value(3)[..1_600];
    let places: Vec<u64> = (0..bytes.len() - pattern.len())
        .filter(|at| bytes[*at..].starts_with(pattern))
        .map(|at| at as u64)
        .collect();
    assert!(!places.is_empty(), "the index has the value");
    places.iter().step_by(4).for_each(|at| flip(&db, at + 800));
    // No part of the log that an opening reads: the value's page is read when it is asked for.
    if Disk::open_with(dir.path(), OPTIONS).is_err() {
        return println!("the opening has read it");
    }
    fs::write(dir.path().join("verify"), "").expect("a request");
    let error = Disk::open_with(dir.path(), OPTIONS).err().expect("a refusal");
    assert!(error.is_damage(), "{error}");
    assert!(dir.path().join("verify").exists(), "it is asked until it succeeds");

    let dir = store().await;
    flip(&files(&dir.path().join("runs"))[0], 1_000);
    drop(Disk::open_with(dir.path(), OPTIONS).expect("only heads are read"));
    fs::write(dir.path().join("verify"), "").expect("a request");
    let error = Disk::open_with(dir.path(), OPTIONS).err().expect("a refusal");
    assert!(error.is_damage() && error.to_string().contains(".run"), "{error}");
}

#[tokio::test]
async fn process_that_failed_asks_the_next_one_to_read_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open_with(dir.path(), OPTIONS).expect("a disk");
    put(&disk, b"a", b"1").await.expect("a write");
    assert!(!dir.path().join("verify").exists());
    disk.mark_broken("a pack did not sync");
    drop(disk);
    assert!(dir.path().join("verify").exists());
    let disk = Disk::open_with(dir.path(), OPTIONS).expect("a disk");
    assert!(!dir.path().join("verify").exists(), "all was read");
    assert_eq!(disk.get(b"a"), Ok(Some(b"1".into())));
}

#[tokio::test]
async fn store_that_was_set_aside_gives_what_it_can_still_read() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("db");
    let disk = Disk::open_with(&dir, OPTIONS).expect("a disk");
    put(&disk, b"x/1", b"other").await.expect("a write");
    assert!(matches!(set_aside(&dir, 0), Err(DiskError::InUse { .. })), "not while it is open");
    drop(disk);
    write_all(&dir).await;
    let keys = |dir: &Path| {
        let mut keys = std::collections::BTreeSet::new();
        let findings = salvage(dir, &[b"n", b"l"], |(key, _)| {
            keys.insert(key);
        });
        (keys, findings)
    };
    let aside = set_aside(&dir, 1_795_352_400_000).expect("it is set aside");
    assert_eq!(aside, parent.path().join("db.unreadable-20261122T130000Z"));
    assert!(!dir.exists());
    assert_eq!(set_asides(&dir), Ok(vec![aside.clone()]));
    let (found, findings) = keys(&aside);
    assert_eq!((found.len(), findings.index), (WRITES as usize, None), "of index and journal");

    // A block that is damaged costs the rows that are in it.
    let run = &files(&aside.join("runs"))[0];
    flip(run, 1_000);
    let (found, findings) = keys(&aside);
    let few = WRITES as usize - 256..WRITES as usize;
    assert!(few.contains(&found.len()) && findings.index.is_some(), "{} found, {findings:?}", found.len());
    flip(run, 1_000);
    // So does one whose head is damaged: those behind it are found.
    flip(run, 7);
    let (behind, findings) = keys(&aside);
    assert_eq!((&behind, findings.index.is_some()), (&found, true));
    flip(run, 7);

    // Without the index, the runs are there, and the journal has the last writes.
    fs::remove_dir_all(aside.join("index")).expect("removed");
    let (found, _) = keys(&aside);
    let runs = (0..WRITES).step_by(2).filter(|number| found.contains(&key(*number))).count();
    assert!(runs == WRITES as usize / 2 && found.contains(&key(WRITES - 1)) && !found.contains(&key(1)));
    fs::remove_dir_all(aside.join("runs")).expect("removed");
    let (found, findings) = keys(&aside);
    assert!(found.contains(&key(WRITES - 1)) && !found.contains(&key(0)), "{} found", found.len());
    assert_eq!((findings.journal.gaps, findings.journal.unreadable), (0, 0));

    // A journal or run that cannot be opened is not empty.
    fs::remove_dir_all(aside.join("journal")).expect("removed");
    for part in ["journal", "runs"] {
        fs::write(aside.join(part), b"no folder").expect("written");
    }
    let (found, findings) = keys(&aside);
    assert_eq!((found.len(), findings.journal.unreadable, findings.index.is_some()), (0, 1, true));

    // A second one at the same time has another name.
    drop(Disk::open_with(&dir, OPTIONS).expect("a disk"));
    let second = set_aside(&dir, 1_795_352_400_000).expect("it is set aside");
    assert_eq!(set_asides(&dir), Ok(vec![aside, second]));
}
