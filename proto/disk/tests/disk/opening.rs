//! A start that is ended by a kill or a power cut leaves nothing that a later start treats as damage.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use twinbox_disk::{Disk, DiskError, MAX_VALUE, Options, Transaction};
use twinbox_testkit::need;

const DIR: &str = "TWINBOX_TEST_OPENING_DIR";
/// Writes of one child, between its opening and its end. They fill more than the segments between two checkpoints, and
/// closing makes one more.
const WRITES: u32 = 6;
/// Small segments, so that every start fills some of them.
const OPTIONS: Options = Options { journal_segment_bytes: 64 * 1024, left_free: 0, appended: None };
/// System calls that shape the files found by a later start.
const CALLS: [&str; 9] =
    ["openat", "write", "pwrite64", "pwritev", "fdatasync", "rename", "unlink", "mkdir", "ftruncate"];
/// Above the number of each that one start makes, on any thread.
const MOST: usize = 200;

/// Not a test of its own: the child process of the one below. Opens, writes, and closes.
#[test]
fn child() {
    let Some(dir) = env::var_os(DIR) else { return };
    let disk = Disk::open_with(dir.as_ref(), OPTIONS).expect("a disk");
    let begun = disk.scan(b"n").count() as u32;
    for n in begun..begun + WRITES {
        let entry = move |t: &mut Transaction<'_>| {
            t.put(*b"filler", vec![n as u8; MAX_VALUE])?;
            t.put([b"n", &n.to_be_bytes()[..]].concat(), vec![7; 300])
        };
        disk.transact_blocking(entry).expect("a write");
        // Written immediately and in one piece: the process may be killed after it.
        std::io::stdout().write_all(format!("\nwrote {n}\n").as_bytes()).expect("printed");
    }
}

/// Runs the child, killed before the `nth` system call `call` on any of its threads. The writes that it reported are
/// added to `written`.
fn killed_at(call: &str, nth: usize, dir: &Path, written: &mut BTreeSet<u32>) -> ExitStatus {
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .args(["-e".to_owned(), format!("inject={call}:signal=KILL:when={nth}")])
        .arg(env::current_exe().expect("this program"))
        .args(["--exact", "opening::child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let wrote = |line: String| line.strip_prefix("wrote ").and_then(|n| n.parse::<u32>().ok());
    written.extend(output.lines().map_while(Result::ok).filter_map(wrote));
    child.wait().expect("its end")
}

fn holds(dir: &Path, written: &BTreeSet<u32>, after: &str) {
    let opened = Disk::open_with(dir, OPTIONS);
    let disk = opened.unwrap_or_else(|error| panic!("{after}: it does not open: {error}"));
    for n in written {
        let value = disk.get(&[b"n", &n.to_be_bytes()[..]].concat()).expect("a read");
        assert!(value.is_some(), "{after}: {n} was acknowledged and is lost");
    }
}

/// One folder is used for all kills, so that each start also finds the leftovers of all earlier ones.
#[test]
fn a_kill_at_any_system_call_of_a_start_or_a_checkpoint_leaves_a_disk_that_opens() {
    if !need::all(&[need::STRACE]) {
        return;
    }
    let (dir, mut written, mut kills) = (tempfile::tempdir().expect("a directory"), BTreeSet::new(), 0);
    for call in CALLS {
        for nth in 1.. {
            assert!(nth < MOST, "a start that never comes through");
            // The first start of a disk has further steps.
            let (first, mut written_first) = (tempfile::tempdir().expect("a directory"), BTreeSet::new());
            let new = killed_at(call, nth, first.path(), &mut written_first);
            holds(first.path(), &written_first, &format!("killed at {call} {nth} of the first start"));
            let old = killed_at(call, nth, dir.path(), &mut written);
            holds(dir.path(), &written, &format!("killed at {call} {nth} of a later start"));
            if new.success() && old.success() {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 30 && written.len() >= WRITES as usize, "{kills} kills, {} writes", written.len());
}

#[tokio::test]
async fn half_written_files_of_a_start_are_created_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let index = dir.path().join("index");
    let disk = Disk::open(dir.path()).expect("a disk");
    crate::put(&disk, b"key", b"value").await.expect("a write");
    drop(disk);
    let conf = fs::read(index.join("conf")).expect("the settings of the index");
    let torn: [(&str, &[u8]); 7] = [
        ("snap.0000000000000001.generating", b""),
        ("snap.FFFFFFFFFFFFFFF0.generating", b""),
        ("snap.FFFFFFFFFFFFFFF1.generating", &[0; 4096]),
        ("snap.FFFFFFFFFFFFFFF2.generating", b"half a snaps"),
        ("conf", b""),
        ("conf", &conf[..conf.len() - 4]),
        ("conf", &vec![0; conf.len()]),
    ];
    for (name, content) in torn {
        fs::write(index.join(name), content).expect("a file");
        let disk = Disk::open(dir.path()).unwrap_or_else(|error| panic!("{name}, {content:?}: {error}"));
        assert_eq!(disk.get(b"key").expect("a read").as_deref(), Some(&b"value"[..]), "{name}");
        drop(disk);
        assert_eq!(fs::read(index.join("conf")).expect("the settings"), conf, "{name}");
        let left = fs::read_dir(&index).expect("a folder").flatten();
        let torn = left.filter(|entry| entry.path().extension().is_some_and(|e| e == "generating"));
        assert_eq!(torn.count(), 0, "{name}");
    }
}

/// Another process has the disk open: none of its files is touched.
#[test]
fn failed_open_of_a_disk_in_use_removes_no_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    let generating = dir.path().join("index/snap.0000000000000001.generating");
    fs::write(&generating, "").expect("a file");
    assert!(matches!(Disk::open(dir.path()), Err(DiskError::InUse { .. })));
    assert!(generating.exists());
    drop(disk);
}

/// The journal has all that the index has not flushed, here everything.
#[tokio::test]
async fn an_index_that_lost_its_writes_gets_them_from_the_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    for n in 0..50_u8 {
        crate::put(&disk, &[n], b"old").await.expect("a write");
        crate::put(&disk, &[n], &[n]).await.expect("a write");
    }
    let remove = |t: &mut Transaction<'_>| {
        t.remove([7_u8]);
        Ok::<_, DiskError>(())
    };
    disk.transact(remove).await.expect("a removal");
    drop(disk);
    fs::remove_dir_all(dir.path().join("index")).expect("the index is removed");
    let disk = Disk::open(dir.path()).expect("the disk without its index");
    for n in 0..50_u8 {
        assert_eq!(disk.get(&[n]), Ok((n != 7).then(|| vec![n])), "{n}");
    }
}

/// A transaction may be larger than a segment of the journal.
#[tokio::test]
async fn a_transaction_of_any_size_is_there_as_a_whole_after_a_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open_with(dir.path(), OPTIONS).expect("a disk");
    let large =
        |t: &mut Transaction<'_>| (0..100_u32).try_for_each(|n| t.put(n.to_be_bytes(), vec![n as u8; MAX_VALUE]));
    disk.transact(large).await.expect("a commit of 4.7 MiB");
    drop(disk);
    let disk = Disk::open_with(dir.path(), OPTIONS).expect("the disk again");
    for n in 0..100_u32 {
        assert_eq!(disk.get(&n.to_be_bytes()), Ok(Some(vec![n as u8; MAX_VALUE])), "{n}");
    }
}

#[tokio::test]
async fn a_damaged_journal_is_refused_with_file_place_and_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::open(dir.path()).expect("a disk");
    crate::put(&disk, b"first", b"value").await.expect("a write");
    crate::put(&disk, b"second", b"value").await.expect("a write");
    drop(disk);
    let files = fs::read_dir(dir.path().join("journal")).expect("the journal").flatten();
    let files: Vec<_> = files.map(|entry| entry.path()).collect();
    let mut segment = fs::read(&files[0]).expect("a segment");
    let at = segment.windows(5).position(|bytes| bytes == b"first").expect("the key in the journal");
    segment[at] ^= 1;
    fs::write(&files[0], segment).expect("the segment");
    let error = Disk::open(dir.path()).err().expect("a refusal");
    assert!(matches!(error, DiskError::Journal { .. }), "{error}");
    let text = error.to_string();
    let name = files[0].file_name().and_then(|name| name.to_str()).expect("a name");
    for part in [name, "4096", "peers"] {
        assert!(text.contains(part), "{text} does not name {part}");
    }
}

/// Every start begins a new segment, in the file of an older one.
#[tokio::test]
async fn starts_that_write_a_little_leave_few_files() {
    let dir = tempfile::tempdir().expect("a directory");
    for n in 0..20_u8 {
        let disk = Disk::open_with(dir.path(), OPTIONS).expect("a disk");
        crate::put(&disk, &[n], b"value").await.expect("a write");
        drop(disk);
        let files = fs::read_dir(dir.path().join("journal")).expect("the journal").count();
        assert!(files <= 7, "{files} files after {n} starts");
    }
}

/// An earlier release had the log in the index.
#[tokio::test]
async fn rows_that_are_appended_now_move_out_of_the_index() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = |n: u32| [if n.is_multiple_of(3) { b"k" } else { b"l" }, &n.to_be_bytes()[..]].concat();
    let disk = Disk::open_with(dir.path(), OPTIONS).expect("a disk");
    let rows = move |t: &mut Transaction<'_>| (0..9_000_u32).try_for_each(|n| t.put(key(n), n.to_be_bytes()));
    disk.transact(rows).await.expect("a commit");
    let all = |disk: &Disk| disk.scan(b"").map(|entry| entry.expect("a row")).collect::<Vec<_>>();
    let before = all(&disk);
    drop(disk);
    for start in 0..2 {
        let disk = Disk::open_with(dir.path(), OPTIONS.appending(b"l", 5)).expect("the disk");
        assert_eq!(all(&disk), before, "start {start}");
        assert_eq!(disk.get(&key(4)), Ok(Some(4_u32.to_be_bytes().into())));
    }
    // The index alone.
    let disk = Disk::open_with(dir.path(), OPTIONS).expect("the disk");
    drop(disk);
    fs::remove_dir_all(dir.path().join("runs")).expect("the runs are removed");
    let error = Disk::open_with(dir.path(), OPTIONS.appending(b"l", 5)).err().expect("a refusal");
    assert!(error.is_damage() && error.to_string().contains(".run"), "{error}");
}
