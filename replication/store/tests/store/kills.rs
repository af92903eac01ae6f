//! A process is killed at any moment, while it opens its store or works with it: the next process opens the store and
//! finds all acknowledged data.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use twinbox_ids::RecordingId;

use crate::{audio, dir, edit, key, open, set};

const DIR: &str = "TWINBOX_TEST_STORE_KILL_DIR";
/// Number of kills. Each comes one step later after the child's start than the one before, and then from the beginning
/// again.
const ROUNDS: &str = "TWINBOX_STORE_KILL_ROUNDS";
const STEP: Duration = Duration::from_millis(4);
const STEPS: u32 = 60;

/// Not a test of its own: the child process of the one below.
#[tokio::test]
async fn child() {
    let Some(dir) = env::var_os(DIR) else { return };
    let store = open(dir.as_ref());
    // Written immediately and in one piece: the process may be killed after it.
    let print = |line: String| std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).expect("printed");
    for n in 0.. {
        let id = format!("{}-{n}", store.origin());
        edit(&store, &id, set("here")).await.expect("a commit");
        print(format!("record {id}"));
        let recording = RecordingId::random();
        store.recordings().begin(recording, 1).await.expect("a recording");
        store.recordings().append(recording, 1, 0, audio(4_000 + n)).expect("a chunk");
        let blob = store.recordings().seal(recording, 1).await.expect("a blob");
        let key = key(&format!("blob of {id}"));
        let value = twinbox_replication_core::Value::Blob(blob);
        let edits = vec![twinbox_replication_core::Edit::Set(1, value)];
        let filed: Result<_, twinbox_replication_store::CommitError<twinbox_replication_store::StoreError>> =
            store.commit(move |draft| draft.edit(key, edits)).await;
        filed.expect("a commit");
        print(format!("audio {id} {}", 4_000 + n));
    }
}

/// Kills the child after `after`; returns the entries that it acknowledged until then, with the length of the audio if
/// any.
fn killed(mut child: Child, after: Duration) -> BTreeMap<String, Option<usize>> {
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let reader = thread::spawn(move || {
        let mut printed = BTreeMap::new();
        for line in output.lines().map_while(Result::ok) {
            match *line.split(' ').collect::<Vec<_>>() {
                ["record", id] => printed.insert(id.to_owned(), None),
                ["audio", id, length] => printed.insert(id.to_owned(), length.parse().ok()),
                _ => None,
            };
        }
        printed
    });
    thread::sleep(after);
    child.kill().expect("a kill");
    child.wait().expect("its end");
    reader.join().expect("the output")
}

#[tokio::test]
async fn store_has_all_acknowledged_data_after_a_kill_at_any_moment() {
    let rounds = env::var(ROUNDS).ok().and_then(|n| n.parse().ok()).unwrap_or(STEPS / 2);
    let (dir, mut acknowledged) = (dir(), BTreeMap::new());
    for round in 0..rounds {
        let child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "kills::child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        acknowledged.extend(killed(child, STEP * (round * 7 % STEPS)));
        let store = open(dir.path());
        for (id, length) in &acknowledged {
            assert!(store.get(&key(id)).expect("a read").is_some(), "round {round}: record {id} is lost");
            let Some(length) = length else { continue };
            let record = store.get(&key(&format!("blob of {id}"))).expect("a read").expect("the filing");
            let blob = *record.blobs().next().expect("its audio");
            assert_eq!(store.blobs().read(&blob.hash).await, Ok(audio(*length)), "round {round}: {id}");
        }
    }
    assert!(!acknowledged.is_empty(), "no child acknowledged anything");
}
