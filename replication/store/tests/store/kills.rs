//! A process is killed at any moment, while it opens its store or works with it: the next process opens the store and
//! finds all acknowledged data.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use twinbox_clock::wall;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Value};
use twinbox_replication_store::{Removal, Store};

use crate::{TABLE, audio, dir, edit, key, open, set};

const DIR: &str = "TWINBOX_TEST_STORE_KILL_DIR";
/// Number of kills. Each comes one step later after the child's start than the one before, and then from the beginning
/// again. In two rounds of five the time counts from a line of the child: on a busy machine the others may all come while it opens.
const ROUNDS: &str = "TWINBOX_STORE_KILL_ROUNDS";
const STEP: Duration = Duration::from_millis(4);
const STEPS: u32 = 60;
/// Longest wait for a line of a child.
const LONGEST: Duration = Duration::from_secs(60);

/// Beginning of the line from which the time of a round counts: the first acknowledgement, or the end of a compaction.
fn awaited(round: u32) -> Option<&'static str> {
    match round % 5 {
        2 => Some("compacted "),
        4 => Some("record "),
        _ => None,
    }
}

/// Not a test of its own: the child process of the one below.
#[tokio::test]
async fn child() {
    let Some(dir) = env::var_os(DIR) else { return };
    let store = open(dir.as_ref());
    // Written immediately and in one piece: the process may be killed after it.
    let print = |line: String| std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).expect("printed");
    // Audio of its own, so that each blob belongs to one recording.
    let first = 4_000 + std::process::id() as usize % 500 * 200;
    let (mut before, mut cursor) = (None::<String>, 0);
    for n in first.. {
        let id = format!("{}-{n}", store.origin());
        edit(&store, &id, set("here")).await.expect("a commit");
        print(format!("record {id}"));
        let recording = RecordingId::random();
        store.recordings().begin(recording, 1).await.expect("a recording");
        store.recordings().append(recording, 1, 0, audio(n)).expect("a chunk");
        let blob = store.recordings().seal(recording, 1).await.expect("a blob").blob;
        edit(&store, &format!("blob of {id}"), vec![Edit::Set(1, Value::Blob(blob))]).await.expect("a commit");
        print(format!("audio {id} {n}"));
        print(format!("ended {recording}"));
        let recording = RecordingId::random();
        store.recordings().begin(recording, 1).await.expect("a recording");
        store.recordings().append(recording, 1, 0, audio(3_000)).expect("a chunk");
        store.recordings().written().await.expect("written");
        print(format!("begun {recording}"));
        print(format!("ending {recording}"));
        store.recordings().discard(recording, 1).await.expect("a discard");
        print(format!("ended {recording}"));
        // The one before is deleted. Each fourth stays, and moves from pack to pack: a process leaves a pack with little audio.
        if let Some(before) = before.replace(id).filter(|_| n % 4 != 0) {
            print(format!("deleting {before}"));
            edit(&store, &format!("blob of {before}"), vec![Edit::Delete]).await.expect("a delete");
            print(format!("deleted {before}"));
            print(format!("compacted {}", clean(&store, &mut cursor).await));
        }
    }
}

/// Purges deleted records, removes the audio that no record names, and compacts the packs; the number of removed packs.
async fn clean(store: &Store, cursor: &mut u32) -> u64 {
    let deleted = store.deleted_rows(TABLE, None, 1_000).expect("a list");
    store.purge(deleted.into_iter().map(|row| (row, Removal::Whole)).collect()).await.expect("a purge");
    store.remove_unreferenced(&mut None, Duration::ZERO, wall(), 1_000).await.expect("a removal");
    store.compact(cursor, 4).await.expect("a compaction").removed
}

/// All that a child acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// Records, each with the length of its audio, if it has any that was not about to be deleted.
    records: BTreeMap<String, Option<usize>>,
    /// Records whose audio was deleted.
    deleted: BTreeSet<String>,
    /// Number of packs that were removed.
    packs: u64,
    /// Recordings in progress, with audio.
    begun: BTreeSet<String>,
    /// Recordings that were filed or discarded.
    ended: BTreeSet<String>,
}

/// Kills the child after `after`, from the `awaited` line on if there is one, and adds what it acknowledged until then.
fn kill(
    mut child: Child,
    awaited: Option<&'static str>,
    after: Duration,
    mut acknowledged: Acknowledged,
) -> Acknowledged {
    let (first, has_come) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let reader = thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if awaited.is_some_and(|begin| line.starts_with(begin)) {
                let _ = first.send(());
            }
            let Acknowledged { records, deleted, packs, begun, ended } = &mut acknowledged;
            match *line.split(' ').collect::<Vec<_>>() {
                ["record", id] | ["deleting", id] => {
                    records.insert(id.to_owned(), None);
                }
                ["deleted", id] => {
                    deleted.insert(id.to_owned());
                }
                ["compacted", removed] => *packs += removed.parse::<u64>().unwrap_or(0),
                ["audio", id, length] => {
                    records.insert(id.to_owned(), length.parse().ok());
                }
                ["begun", id] => {
                    begun.insert(id.to_owned());
                }
                ["ending", id] => {
                    begun.remove(id);
                }
                ["ended", id] => {
                    ended.insert(id.to_owned());
                }
                _ => {}
            }
        }
        acknowledged
    });
    if awaited.is_some() {
        has_come.recv_timeout(LONGEST).expect("a line of the child");
    }
    thread::sleep(after);
    child.kill().expect("a kill");
    child.wait().expect("its end");
    reader.join().expect("the output")
}

#[tokio::test]
async fn store_has_all_acknowledged_data_after_a_kill_at_any_moment() {
    let rounds = env::var(ROUNDS).ok().and_then(|n| n.parse().ok()).unwrap_or(STEPS / 2);
    let (dir, mut acknowledged) = (dir(), Acknowledged::default());
    for round in 0..rounds {
        let child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "kills::child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        acknowledged = kill(child, awaited(round), STEP * (round * 7 % STEPS), acknowledged);
        let store = open(dir.path());
        for (id, length) in &acknowledged.records {
            assert!(store.get(&key(id)).expect("a read").is_some(), "round {round}: record {id} is lost");
            let Some(length) = length else { continue };
            let record = store.get(&key(&format!("blob of {id}"))).expect("a read").expect("the filing");
            let blob = *record.blobs().next().expect("its audio");
            assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(*length)), "round {round}: {id}");
        }
        for id in &acknowledged.deleted {
            let record = store.get(&key(&format!("blob of {id}"))).expect("a read");
            assert!(record.is_none_or(|record| record.is_deleted()), "round {round}: {id} is here again");
        }
        let mut open = BTreeSet::new();
        for (id, take, length) in store.recordings().open() {
            let name = id.to_string();
            assert!(!acknowledged.ended.contains(&name), "round {round}: recording {name} has ended");
            let read = store.recordings().read(id, take, 0..length).await;
            assert_eq!(read, Ok(audio(length as usize)), "round {round}: recording {name}");
            // As the check for orphan recordings does.
            store.recordings().discard(id, take).await.expect("a discard");
            acknowledged.ended.insert(name.clone());
            open.insert(name);
        }
        for id in std::mem::take(&mut acknowledged.begun) {
            assert!(open.contains(&id), "round {round}: recording {id} is lost");
        }
    }
    let Acknowledged { records, deleted, packs, .. } = acknowledged;
    println!("{} records, the audio of {} deleted, {packs} packs removed", records.len(), deleted.len());
    assert!(!records.is_empty() && !deleted.is_empty() && packs > 0, "no child came further");
}
