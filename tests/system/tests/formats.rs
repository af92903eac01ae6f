//! Data folders of other releases. A node converts the store of the release before when it starts, and refuses an older one with
//! the remedy, which is followed here.

use std::{fs, path::Path, time::Duration};

use twinbox_disk::{Disk, Options, Pair, Transaction};
use twinbox_replication_store::codec::{FORMAT, keys};
use twinbox_system_tests::leave;
use twinbox_testkit::{Cluster, Spec, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);
/// Bytes before the places of a blob: format, time and length.
const BEFORE_PLACES: usize = 17;
/// Bytes of a place; the first four are the number of the pack.
const PLACE: usize = 12;

/// All rows of the index of a node that does not run.
fn rows(index: &Path) -> Vec<Pair> {
    let options = Options::default().appending(keys::LOG, keys::CHANGE_LENGTH);
    let disk = Disk::open_with(index, options).expect("an index");
    disk.scan(b"").map(|row| row.expect("a row")).collect()
}

/// Writes rows to the index of a node that does not run.
fn write(index: &Path, rows: Vec<Pair>) {
    let disk = Disk::open(index).expect("an index");
    let put = move |transaction: &mut Transaction<'_>| {
        rows.into_iter().try_for_each(|(key, value)| transaction.put(key, value))
    };
    disk.transact_blocking(put).expect("written");
}

/// The name of the node in the index, behind the version of the store.
fn named(version: u8, node: &str) -> Pair {
    (keys::NODE.to_vec(), [&[version], node.as_bytes()].concat())
}

/// Writes the index as the releases before did: version 3, the log of changes in the index itself, a note of each blob at
/// each of its packs in place of one note for each pack, and no index of present messages.
fn make_earlier(index: &Path, node: &str) {
    let mut earlier = rows(index);
    let blobs = earlier.iter().filter(|(key, _)| key.starts_with(keys::BLOBS));
    let notes = blobs.flat_map(|(key, blob)| {
        let note = |place: &[u8]| ([keys::PACKS, &place[..4], &key[1..]].concat(), vec![FORMAT]);
        blob[BEFORE_PLACES..].chunks(PLACE).map(note).collect::<Vec<_>>()
    });
    let notes: Vec<Pair> = notes.collect();
    assert!(!notes.is_empty() && earlier.iter().any(|(key, _)| key.starts_with(keys::LOG)));
    earlier.retain(|(key, _)| !key.starts_with(keys::PACKS) && key != keys::NODE);
    earlier.retain(|(key, _)| !key.starts_with(keys::PRESENT) && key != keys::PRESENT_INDEXED);
    earlier.extend(notes);
    earlier.push(named(3, node));
    fs::remove_dir_all(index).expect("removed");
    write(index, earlier);
}

#[test]
fn earlier_store_is_converted_when_the_node_starts_and_an_older_one_is_refused_with_the_remedy() {
    let mut cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0].number;
    leave(&cluster, "a", user);
    leave(&cluster, "b", user);
    let messages = cluster.wait_for_messages("b", user, 2, SOON);
    cluster.cli("b").json(&["message", "delete", user, &messages[0].id]);
    wait_until("b to have all audio", SOON, || cluster.heard("b", user).len() == 2);
    let before = cluster.heard("b", user);
    // No other node can fill it.
    cluster.stop("a");
    cluster.stop("b");
    let data = cluster.member("b").data_dir.clone();
    let index = data.join("store/db");
    make_earlier(&index, "b");
    assert!(!index.join("runs").exists(), "the log is in the index");
    cluster.start_member("b");
    cluster.wait_for_status(&["b"], "in-service");
    assert_eq!(cluster.heard("b", user), before);
    let shown = cluster.cli("b").json(&["user", "show", user]);
    assert!(shown["new_messages"] == 1 && shown["audio_bytes"].as_u64() > Some(0), "{shown}");
    leave(&cluster, "b", user);
    cluster.start_member("a");
    cluster.wait_in_service();
    cluster.wait_for_messages("a", user, 3, SOON);
    cluster.stop("b");
    assert!(rows(&index).contains(&named(4, "b")), "the releases before refuse it");
    assert!(index.join("runs").is_dir(), "the log has left the index");

    write(&index, vec![named(2, "b")]);
    cluster.start_member("b");
    let process = cluster.member_mut("b").process.as_mut().expect("it was started");
    let ended = process.wait(SOON).expect("it ends");
    cluster.kill("b");
    let log = cluster.member("b").log();
    let remedy = "move the data folder to another place and start with an empty one";
    assert!(!ended.success() && log.contains("format version 2 is not") && log.contains(remedy), "{ended}");

    fs::rename(&data, data.with_extension("before")).expect("moved");
    fs::create_dir(&data).expect("an empty one");
    cluster.start_member("b");
    cluster.wait_in_service();
    let all = cluster.heard("a", user);
    assert_eq!(all.len(), 3);
    wait_until("b to be filled by the other node", SOON, || {
        cluster.cli("b").try_messages(user).is_ok() && cluster.heard("b", user) == all
    });
}
