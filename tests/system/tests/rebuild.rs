//! A node whose store cannot be opened starts nevertheless: it sets the store aside, fills again from the others, and raises an
//! alarm that ends with the folder.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_disk::Disk;
use twinbox_testkit::{Cluster, Spec, leave_message, wait_until};

/// Many times what a quick machine takes.
const CEILING: Duration = Duration::from_secs(60);

/// Flips a bit of a file, so that the store cannot be opened.
fn flip(store: &Path, file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 4], at).expect("a flipped bit");
    let error = Disk::open(store).err().expect("it cannot be opened");
    assert!(error.is_damage(), "{error}");
}

/// Flips a bit of the newest snapshot of an index, which every opening reads.
fn spoil_index(store: &Path) {
    let files = fs::read_dir(store.join("index")).expect("the index").flatten().map(|entry| entry.path());
    let mut snapshots: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().contains("/snap.")).collect();
    snapshots.sort();
    let snapshot = snapshots.last().expect("a snapshot");
    flip(store, snapshot, fs::metadata(snapshot).expect("a file").len() / 2);
}

/// Flips a bit of the first batch of the newest segment of a journal; valid ones follow it.
fn spoil_journal(store: &Path) {
    let files = fs::read_dir(store.join("journal")).expect("the journal").flatten().map(|entry| entry.path());
    let segments = files.filter_map(|path| {
        let bytes = fs::read(&path).expect("a file");
        // Number and nonce of the segment, and the nonce of the batch in its second block.
        let number = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
        (bytes.get(24..32)? == bytes.get(4_104..4_112)?).then_some((number, path))
    });
    let (_, newest) = segments.max().expect("a segment with a batch");
    flip(store, &newest, 4_150);
}

/// The folders in `dir` whose names begin with `begin`.
fn folders(dir: &Path, begin: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path());
    all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))).collect()
}

/// The open alarms of the cluster, as a node has them.
fn alarms(cluster: &Cluster, node: &str) -> String {
    String::from_utf8_lossy(&cluster.cli(node).run(&["alarm", "list"]).stdout).into_owned()
}

#[test]
fn node_with_an_unreadable_index_fills_again_and_raises_an_alarm() {
    fills_again(spoil_index);
}

#[test]
fn node_with_a_damaged_journal_fills_again_and_raises_an_alarm() {
    fills_again(spoil_journal);
}

fn fills_again(spoil: fn(&Path)) {
    let mut cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0].number;
    for _ in 0..2 {
        assert!(leave_message(cluster.phones(), cluster.sip("b"), user, 1.2).acknowledged());
    }
    cluster.wait_for_messages("a", user, 2, CEILING);
    // The second opening of an index leaves a snapshot.
    for _ in 0..2 {
        cluster.stop("b");
        cluster.start_member("b");
        cluster.wait_in_service();
    }
    cluster.stop("b");
    // One that node b never had.
    assert!(leave_message(cluster.phones(), cluster.sip("a"), user, 1.2).acknowledged());
    let messages = cluster.cli("a").messages(user);
    assert_eq!(messages.len(), 3);
    cluster.stop("a");
    let data = cluster.member("b").data_dir.clone();
    spoil(&data.join("store/db"));

    // Without the other node it does not pass for a system that has no messages.
    cluster.start_member("b");
    wait_until("b to be replicating", CEILING, || {
        cluster.cli("b").status_of("b").as_deref() == Some("replicating")
    });
    let aside = folders(&data.join("store"), "db.unreadable-");
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(aside[0].join("index").is_dir() && aside[0].join("taken-over").is_file());

    cluster.start_member("a");
    cluster.wait_in_service();
    wait_until("all messages to be on b", CEILING, || cluster.cli("b").messages(user) == messages);
    let name = aside[0].file_name().expect("a name").to_string_lossy().into_owned();
    wait_until("the alarm", CEILING, || {
        let alarms = alarms(&cluster, "a");
        alarms.contains("store-rebuilt") && alarms.contains(&name)
    });
    fs::remove_dir_all(&aside[0]).expect("removed by the administrator");
    wait_until("the alarm to end", CEILING, || !alarms(&cluster, "b").contains("store-rebuilt"));
}

#[test]
fn node_with_an_unreadable_raft_store_joins_again() {
    let mut cluster = Cluster::start(&Spec::default());
    for _ in 0..2 {
        cluster.stop("b");
        cluster.start_member("b");
        cluster.wait_in_service();
    }
    cluster.stop("b");
    let data = cluster.member("b").data_dir.clone();
    spoil_index(&data.join("raft"));
    cluster.start_member("b");
    cluster.wait_in_service();
    assert_eq!(folders(&data, "raft.unreadable-").len(), 1);
    wait_until("the alarm", CEILING, || alarms(&cluster, "a").contains("raft.unreadable-"));
    assert!(leave_message(cluster.phones(), cluster.sip("b"), Cluster::USERS[0].number, 1.2).acknowledged());
    // It has the old store no more, and starts as the others do.
    cluster.stop("b");
    cluster.start_member("b");
    cluster.wait_in_service();
    assert_eq!(folders(&data, "raft.unreadable-").len(), 1);
}
