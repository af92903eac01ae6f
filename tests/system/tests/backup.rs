//! Backups of a running cluster, in folders and in a bucket, restored into a new cluster and into a mailbox.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use twinbox_peer_kit::S3Server;
use twinbox_system_tests::{assert_all_kept, leave};
use twinbox_testkit::{Cluster, Deposit, Spec, StoredMessage, binary, wait_for, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// The mailbox.
const USER: &str = Cluster::USERS[0].number;
/// Callers of each node who leave messages while backups are made, each one after the other.
const CALLERS: usize = 2;
/// Messages of each node that are acknowledged before the first of these backups.
const FIRST: usize = 2;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A command that contacts no node.
fn offline(arguments: &[&str]) -> Output {
    Command::new(binary()).arg("--json").args(arguments).output().expect("the twinbox binary runs")
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}: {}", output.status, text(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Ends the callers when dropped, after a failure too: otherwise they would call for ever and hide it.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A backup that was made while callers left messages on both nodes.
struct UnderCalls {
    name: String,
    /// Messages that were acknowledged before its creation began.
    before: Vec<Deposit>,
    /// All other ones.
    others: Vec<Deposit>,
}

/// Makes backups under calls until messages were acknowledged while one was made.
fn back_up_under_calls(cluster: &Cluster, dir: &Path) -> UnderCalls {
    let (left, over) = (Mutex::new(Vec::<(&str, Deposit)>::new()), AtomicBool::new(false));
    let (name, before, during) = thread::scope(|scope| {
        let _ended = Ends(&over);
        for node in ["a", "b"].repeat(CALLERS) {
            let (left, over) = (&left, &over);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    let deposit = leave(cluster, node, USER);
                    left.lock().expect("no caller panics").push((node, deposit));
                }
            });
        }
        let acknowledged_by = |nodes: &[&str]| {
            let left = left.lock().expect("no caller panics");
            left.iter().filter(|(node, _)| nodes.contains(node)).count()
        };
        wait_until("messages of both nodes", SOON, || {
            ["a", "b"].into_iter().all(|node| acknowledged_by(&[node]) >= FIRST)
        });
        wait_for("a backup during which messages are acknowledged", SOON, || {
            let before = acknowledged_by(&["a", "b"]);
            let made = cluster.cli("a").json(&["backup", "create", path(dir)]);
            let during = acknowledged_by(&["a", "b"]) - before;
            (during > 0).then(|| (made["name"].as_str().expect("a name").to_owned(), before, during))
        })
    });
    let left = left.into_inner().expect("no caller panicked");
    let mut left: Vec<Deposit> = left.into_iter().map(|(_, deposit)| deposit).collect();
    println!("{name}: {before} messages acknowledged before it, {during} meanwhile, {} in all", left.len());
    let others = left.split_off(before);
    UnderCalls { name, before: left, others }
}

#[test]
fn backup_made_under_calls_has_every_message_acknowledged_before_it_and_is_restored_into_a_new_cluster() {
    // A caller waits longer than any of these machines stands still: what b acknowledges alone is not on a yet.
    let cluster = Cluster::start(&Spec { ack_timeout_ms: 10_000, ..Spec::default() });
    let folder = tempfile::TempDir::new().expect("a folder");
    let dir = folder.path().join("backups");
    let UnderCalls { name, before, others } = back_up_under_calls(&cluster, &dir);
    cluster.wait_for_messages("a", USER, before.len() + others.len(), SOON);
    let last = cluster.cli("a").json(&["backup", "create", path(&dir)]);
    assert_eq!(last["missing"].as_array().map(Vec::len), Some(0), "{last}");
    let again = cluster.cli("a").json(&["backup", "create", path(&dir)]);
    assert_eq!(again["copied"].as_u64(), Some(0), "nothing is new: {again}");
    done(&offline(&["backup", "verify", path(&dir)]));
    drop(cluster);

    let mut new = Cluster::start(&Spec { raw: true, ..Spec::default() });
    new.wait_in_service();
    let config = new.member("a").config.clone();
    let restore = ["backup", "restore", path(&dir), "--backup", name.as_str(), "--config", path(&config)];
    let running = offline(&restore);
    assert_eq!(running.status.code(), Some(1), "{}", text(&running));
    assert!(text(&running).contains("in use"), "{}", text(&running));
    new.stop("a");
    let restored = done(&offline(&restore));
    assert_eq!(restored["backup"], name, "{restored}");
    new.start_member("a");
    new.wait_in_service();
    let there = new.heard("a", USER);
    let is_there = |deposit: &&Deposit| {
        deposit.speech.find_first(deposit.spoken, there.iter().map(|(_, audio)| audio)).is_some()
    };
    // Of the others, those that were stored in time are there.
    let mut expected: Vec<Deposit> = others.iter().filter(is_there).cloned().collect();
    println!("{} of them acknowledged after the backup began", expected.len());
    expected.extend(before);
    for node in ["a", "b"] {
        wait_until(&format!("{node} to have the user"), SOON, || new.cli(node).try_messages(USER).is_ok());
        // Each is that of one caller, and no part of a message is there.
        new.wait_for_messages(node, USER, expected.len(), SOON);
        assert_all_kept(&new, node, USER, &expected, 0.9, SOON);
    }
    // It is in use now.
    new.stop("a");
    let refused = offline(&restore);
    assert!(!refused.status.success() && text(&refused).contains("users"), "{}", text(&refused));

    let pruned = done(&offline(&["backup", "prune", path(&dir), "--keep", "1"]));
    assert_eq!(pruned["kept"], json!([again["name"]]), "{pruned}");
}

/// Waits until both nodes have the message again, as a new one with its audio.
fn wait_for_restored(cluster: &Cluster, message: &StoredMessage, audio: &[u8]) {
    for node in ["a", "b"] {
        wait_until(&format!("{node} to have the message"), SOON, || {
            let present = |(found, sound): &(StoredMessage, Vec<u8>)| {
                found.state == "new" && found.id != message.id && sound == audio
            };
            cluster.heard(node, USER).iter().any(present)
        });
    }
}

#[test]
fn deleted_message_comes_back_from_a_backup_made_by_the_timetable() {
    let cluster = Cluster::start(&Spec::default());
    let folder = tempfile::TempDir::new().expect("a folder");
    let dir = folder.path().join("backups");
    leave(&cluster, "b", USER);
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let message = cluster.wait_for_messages("a", USER, 1, SOON).remove(0);
    let audio = cluster.heard("a", USER).remove(0).1;

    let refused = a.run(&["backup", "create", "backups"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let inside = a.run(&["backup", "create", path(&cluster.member("a").data_dir.join("backups"))]);
    assert!(!inside.status.success() && text(&inside).contains("give a folder outside of it"), "{}", text(&inside));
    let argument = format!("dir={}", path(&dir));
    a.json(&["timetable", "add", "nightly", "--job", "backup", "--cron", "0 2 1 1 *", &argument, "keep=2"]);
    a.json(&["timetable", "run", "nightly"]);
    let listed = a.json(&["backup", "list"]);
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{listed}");

    a.json(&["message", "delete", USER, &message.id]);
    let restored = b.json(&["backup", "restore", path(&dir), "--mailbox", USER]);
    assert_eq!(restored["messages"].as_array().map(Vec::len), Some(1), "{restored}");
    wait_for_restored(&cluster, &message, &audio);
    let again = b.json(&["backup", "restore", path(&dir), "--mailbox", USER]);
    assert_eq!(again["present"].as_u64(), Some(1), "{again}");
}

/// The names in a list of backups, all of which are complete and in this destination.
fn listed(list: &Value, destination: &str) -> Vec<Value> {
    let backups = list["backups"].as_array().unwrap_or_else(|| panic!("no backups: {list}"));
    let is_complete = |backup: &Value| backup["state"] == "complete" && backup["dir"] == destination;
    assert!(backups.iter().all(is_complete), "{list}");
    backups.iter().map(|backup| backup["name"].clone()).collect()
}

#[test]
fn backups_are_made_in_a_bucket_by_commands_and_a_job_and_are_verified_pruned_and_restored_from_it() {
    let server = S3Server::start();
    let cluster = Cluster::start(&Spec::default());
    let (a, b, bucket) = (cluster.cli("a"), cluster.cli("b"), S3Server::DESTINATION);
    let write = |name: &str, content: &str| {
        let file = cluster.dir().join(name);
        // As typed by an administrator: with the end of the line.
        fs::write(&file, format!("{content}\n")).expect("written");
        path(&file).to_owned()
    };
    let (key, secret) = (write("s3.key", S3Server::ACCESS_KEY), write("s3.secret", S3Server::SECRET));
    let endpoint = server.endpoint();
    let section = |secret: &str| {
        format!("[backup.s3]\nendpoint = {endpoint:?}\naccess_key_file = {key:?}\nsecret_key_file = {secret:?}")
    };
    let config = write("s3.toml", &section(&secret));
    let wrong = write("wrong.toml", &section(&write("s3.wrong", "not-the-secret")));
    let values = [("endpoint", &endpoint), ("access_key_file", &key), ("secret_key_file", &secret)]
        .map(|(key, value)| format!("backup.s3.{key}={value}"));
    let set = a.run(&["setting", "set", &values[0], &values[1], &values[2]]);
    assert!(set.status.success(), "{}", text(&set));

    leave(&cluster, "a", USER);
    let message = cluster.wait_for_messages("b", USER, 1, SOON).remove(0);
    // The settings reach the other node in a moment.
    let first = wait_for("b to reach the bucket", SOON, || b.try_json(&["backup", "create", bucket]).ok());
    leave(&cluster, "b", USER);
    cluster.wait_for_messages("a", USER, 2, SOON);
    let second = b.json(&["backup", "create", bucket]);
    let third = a.json(&["backup", "create", bucket]);
    for (backup, audio, copied) in [(&first, 1, 1), (&second, 2, 1), (&third, 2, 0)] {
        assert_eq!((backup["audio"].as_u64(), backup["copied"].as_u64()), (Some(audio), Some(copied)), "{backup}");
    }
    let names = [&first, &second, &third].map(|backup| backup["name"].clone());
    let by_config = |command: &[&str]| {
        offline(&[&["backup", command[0], bucket, "--config", config.as_str()][..], &command[1..]].concat())
    };
    assert_eq!(listed(&b.json(&["backup", "list", bucket]), bucket), names);
    assert_eq!(listed(&done(&by_config(&["list"])), bucket), names);
    assert_eq!(done(&by_config(&["verify"]))["backups"].as_array().map(Vec::len), Some(3));
    let refused = offline(&["backup", "verify", bucket, "--config", &wrong]);
    let reason = text(&refused);
    assert!(
        !refused.status.success() && reason.contains("correct backup.s3.access_key and backup.s3.secret_key"),
        "{reason}"
    );
    assert!(!reason.contains("not-the-secret"), "{reason}");

    let audio = cluster.heard("a", USER).into_iter().find(|(found, _)| found.id == message.id).expect("it").1;
    a.json(&["message", "delete", USER, &message.id]);
    let restored = a.json(&["backup", "restore", bucket, "--mailbox", USER]);
    assert_eq!(restored["messages"].as_array().map(Vec::len), Some(1), "{restored}");
    assert_eq!((&restored["backup"], restored["present"].as_u64()), (&names[2], Some(1)), "{restored}");
    wait_for_restored(&cluster, &message, &audio);

    // The newest of each node stays.
    let pruned = done(&by_config(&["prune", "--keep", "1"]));
    assert_eq!((&pruned["removed"], &pruned["kept"]), (&json!(names[..1]), &json!(names[1..])), "{pruned}");
    let dir = format!("dir={bucket}");
    a.json(&["timetable", "add", "nightly", "--job", "backup", "--cron", "0 2 1 1 *", &dir, "keep=1"]);
    let ran = a.json(&["timetable", "run", "nightly"]);
    let run = &ran["runs"][0];
    let outcome = run["outcome"].as_str().unwrap_or_default();
    assert!(run["state"] == "done" && outcome.ends_with("; 1 old backup removed"), "{ran}");
    // Without a destination: those of the jobs.
    let left = listed(&a.json(&["backup", "list"]), bucket);
    assert!(
        left.len() == 2 && !names[1..].contains(&left[1]) && outcome.contains(left[1].as_str().expect("a name")),
        "{left:?}"
    );
    assert_eq!(done(&by_config(&["verify"]))["backups"].as_array().map(Vec::len), Some(2));
    assert_eq!((server.upload_files(), server.below("locks")), (0, Vec::new()), "nothing is left behind");
}
