//! The disk rewrites its index when its file is too long for its rows, while the disk is in use.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use twinbox_disk::{Disk, DiskError, IndexSpace, Transaction};
use twinbox_testkit::{wait_for, wait_until};

use crate::noise;

/// Rows of a batch: one in twelve stays for good. Those that stay are next to each other, and were written among others that go.
const ROWS: u32 = 30_000;
const STAYS: u32 = 12;
/// Rows that are in the index before the next ones are written.
const PART: usize = 10_000;
/// Batches that make the file long.
const BATCHES: u32 = 3;
/// The batch of single rows that are written while the index is copied.
const LATER: u32 = 1_000;
const FOLDER: &str = "TWINBOX_TEST_FOLDER";
/// Ends a hang.
const LONGEST: Duration = Duration::from_secs(60);
const MB: u64 = 1_000_000;

fn stays(row: u32) -> bool {
    row.is_multiple_of(STAYS)
}

fn key(batch: u32, row: u32) -> Vec<u8> {
    let number = batch * ROWS + row;
    // The order of the keys of removed rows is not that of writing. Rows written later have the first keys: the copy is past these.
    let place = match batch {
        LATER => 0,
        _ if stays(row) => number,
        _ => 0x8000_0000 | number.wrapping_mul(0x9e37_79b1),
    };
    [place, batch, row].map(u32::to_be_bytes).concat()
}

fn value(batch: u32, row: u32) -> Vec<u8> {
    noise(u64::from(batch) << 32 | u64::from(row), 360)
}

fn write(disk: &Disk, rows: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) {
    let rows: Vec<_> = rows.collect();
    for part in rows.chunks(500).map(<[_]>::to_vec) {
        let put = move |transaction: &mut Transaction<'_>| -> Result<(), DiskError> {
            for (key, value) in part {
                match value {
                    Some(value) => transaction.put(key, value)?,
                    None => transaction.remove(key),
                }
            }
            Ok(())
        };
        disk.transact_blocking(put).expect("a commit");
    }
}

/// Writes all batches, and removes most of their rows. Parts of them are in the index before the next ones are written: it never
/// has what is removed before, and its file would be short if it got all at a time.
fn use_it(disk: &Disk) {
    let rows: Vec<_> = (0..BATCHES).flat_map(|batch| (0..ROWS).map(move |row| (batch, row))).collect();
    let mut written = 0;
    for part in rows.chunks(PART) {
        write(disk, part.iter().map(|(batch, row)| (key(*batch, *row), Some(value(*batch, *row)))));
        written +=
            part.iter().map(|(batch, row)| key(*batch, *row).len() + value(*batch, *row).len()).sum::<usize>();
        let has_all = |space: IndexSpace| space.rows == written as u64;
        wait_until("the index has these rows", LONGEST, || disk.index_space().is_some_and(has_all));
    }
    write(disk, rows.iter().filter(|(_, row)| !stays(*row)).map(|(batch, row)| (key(*batch, *row), None)));
}

/// All that stays of these batches is there, and this many rows that were written later at least, and nothing else.
fn holds(disk: &Disk, batches: u32, later: u32) {
    let (mut rows, mut late) = (0, 0);
    for pair in disk.scan(b"") {
        let (found, content) = pair.expect("a row");
        let number = |at: usize| u32::from_be_bytes(found[at..at + 4].try_into().expect("four bytes"));
        let (batch, row) = (number(4), number(8));
        assert!(batch < batches || batch == LATER, "{batch} {row}");
        assert!(stays(row) && content == value(batch, row), "{batch} {row}");
        *if batch == LATER { &mut late } else { &mut rows } += 1;
    }
    assert_eq!(rows, batches * ROWS.div_ceil(STAYS));
    assert!(late >= later, "{late} of {later}");
}

/// Writes row after row until the index was rewritten; returns the length of its file and the number of rows.
fn shrunk(disk: &Disk) -> (u64, u32) {
    let mut kept = bytes_of_rows(disk);
    let mut number = 0;
    let file = wait_for("the file shrinks", LONGEST, || {
        let row = number * STAYS;
        let (key, value) = (key(LATER, row), value(LATER, row));
        kept += (key.len() + value.len()) as u64;
        write(disk, std::iter::once((key, Some(value))));
        number += 1;
        // Removed rows may not have left the index yet.
        let is_short = |space: &IndexSpace| space.rows < kept + MB && space.file < 4 * space.rows + 10 * MB;
        disk.index_space().filter(|space| !space.rewriting && is_short(space)).map(|space| space.file)
    });
    (file, number)
}

/// The place in sled's log behind which a start would read, from the name of its snapshot.
fn snapshot(dir: &Path) -> u64 {
    let names =
        fs::read_dir(dir.join("index")).expect("the index").map(|entry| entry.expect("an entry").file_name());
    let place = |name: &str| u64::from_str_radix(name.strip_prefix("snap.")?, 16).ok();
    names.filter_map(|name| place(name.to_str()?)).max().expect("a snapshot")
}

fn bytes_of_rows(disk: &Disk) -> u64 {
    disk.scan(b"").map(|pair| pair.expect("a row")).map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

#[test]
fn file_of_removed_rows_becomes_short_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    use_it(&disk);
    let longest = disk.index_space().map_or(0, |space| space.file);
    let (file, later) = shrunk(&disk);
    assert!(longest > 2 * file, "{longest} {file}");
    let covered = snapshot(dir.path());
    assert!(covered > MB, "a start would read the whole copy, from byte {covered} on");
    holds(&disk, BATCHES, later);
    let rows = bytes_of_rows(&disk);
    drop(disk);
    let disk = Disk::open(dir.path()).expect("the same disk");
    assert_eq!(disk.index_space().map(|space| space.rows), Some(rows), "the count");
    holds(&disk, BATCHES, later);
}

/// Not a test of its own: the child process of the one below. Makes the file long, and then writes row after row.
#[test]
fn child() {
    let Ok(dir) = env::var(FOLDER) else { return };
    let disk = Disk::open(Path::new(&dir)).expect("a disk");
    use_it(&disk);
    let mut rows = (0..).step_by(STAYS as usize);
    wait_until("the process is killed", LONGEST, || {
        let row = rows.next().expect("a number");
        write(&disk, std::iter::once((key(LATER, row), Some(value(LATER, row)))));
        let rewriting = disk.index_space().is_some_and(|space| space.rewriting);
        std::io::stdout().write_all(format!("wrote {rewriting}\n").as_bytes()).expect("a report");
        false
    });
}

/// Kills a process that rewrites its index, each time a little later and at last after the end of that, and opens its disk.
#[test]
fn kill_while_the_index_is_rewritten_loses_nothing() {
    for kill_at in [0, 60, 150, usize::MAX] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "shrinking::child", "--nocapture", "--test-threads=1"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let (mut later, mut rewrote, mut over) = (0, 0, false);
        for line in BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok) {
            let Some((_, rewriting)) = line.rsplit_once("wrote ") else { continue };
            later += 1;
            rewrote += usize::from(rewriting == "true");
            over = rewrote > 0 && rewriting == "false";
            if over || rewrote > kill_at {
                break;
            }
        }
        child.kill().expect("it is killed");
        child.wait().expect("its end");
        assert!(rewrote > 0 && (over || kill_at < usize::MAX), "killed at {kill_at}: {rewrote}");
        let disk = Disk::open(dir.path()).expect("the disk of a killed process");
        holds(&disk, BATCHES, later);
    }
}
