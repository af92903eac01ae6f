//! Acknowledged writes survive `kill -9`: a child process writes, reports the writes, and is killed.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use twinbox_disk::{Appended, Disk, Options};

const DIR: &str = "TWINBOX_TEST_KILL_DIR";
/// Small segments: the child is killed among many checkpoints.
const OPTIONS: Options = Options {
    journal_segment_bytes: 64 * 1024,
    left_free: 0,
    appended: Some(Appended { prefix: b"log", key_length: 7 }),
};
/// Rows that stay in the log.
const LOG: u32 = 400;

fn log(n: u32) -> Vec<u8> {
    [b"log", &n.to_be_bytes()[..]].concat()
}

/// Not a test of its own: the child process of the one below.
#[test]
fn child() {
    let Some(dir) = env::var_os(DIR) else { return };
    let disk = Disk::open_with(dir.as_ref(), OPTIONS).expect("a disk");
    for n in 0..u32::MAX {
        let entry = move |t: &mut twinbox_disk::Transaction<'_>| {
            t.put(n.to_be_bytes(), vec![7; 300])?;
            t.put(log(n), vec![8; 200])?;
            n.checked_sub(LOG).into_iter().for_each(|old| t.remove(log(old)));
            // Another "table", in the same transaction.
            t.put(*b"last", n.to_be_bytes())
        };
        disk.transact_blocking(entry).expect("a write");
        println!("wrote {n}");
    }
}

#[test]
fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut expected, mut logged) = (0, BTreeSet::new());
    for round in 0..3 {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "kill::child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let wrote = |line: String| line.rsplit_once("wrote ").and_then(|(_, n)| n.parse::<u32>().ok());
        let last = output.lines().map_while(Result::ok).filter_map(wrote).nth(1500 + 170 * round);
        child.kill().expect("a kill");
        child.wait().expect("its end");
        expected = last.expect("the child wrote").max(expected);

        let disk = Disk::open_with(dir.path(), OPTIONS).expect("the disk after the kill");
        for n in 0..=expected {
            assert!(disk.get(&n.to_be_bytes()).expect("a read").is_some(), "{n} of {expected} is lost");
        }
        let last = disk.get(b"last").expect("a read").expect("a last one");
        assert!(disk.get(&last).expect("a read").is_some(), "half a transaction is there");
        let last = u32::from_be_bytes(last.try_into().expect("a number"));
        let kept: Vec<_> = disk.scan(b"log").map(|entry| entry.expect("a row").0).collect();
        // Each child begins at 0 again, and may be killed before it has come as far as the one before.
        logged.extend(0..=last);
        logged.retain(|n| n + LOG > last);
        let expected: Vec<_> = logged.iter().copied().map(log).collect();
        assert_eq!(kept, expected, "the log as of {last}");
        assert!(disk.scan(b"log").rev().map(|entry| entry.expect("a row").0).eq(expected.into_iter().rev()));
    }
}
