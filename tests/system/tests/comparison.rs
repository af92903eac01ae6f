//! A row that a disk lost comes back from the other node, and the command names it.

use std::{fs, os::unix::fs::FileExt, time::Duration};

use serde_json::Value;
use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_system_tests::{COMPARED_WITHIN, assert_equal_stores, growing::number, verify};
use twinbox_testkit::{Cluster, Spec, leave_message, wait_for, wait_until};

/// Rows of messages in the index (`nodes/mailbox/src/schema.rs`).
const MESSAGES: &[u8] = b"r\x00\x02";

/// Removes the first message from the disk of a node that does not run.
fn lose_message(cluster: &Cluster, node: &str) {
    let disk = Disk::open(&cluster.member(node).data_dir.join("store/db")).expect("the index");
    let (row, _) = disk.scan(MESSAGES).next().expect("a message").expect("a read");
    let remove = move |transaction: &mut Transaction<'_>| {
        transaction.remove(row);
        Ok::<_, DiskError>(())
    };
    disk.transact_blocking(remove).expect("removed");
}

#[test]
fn lost_message_is_copied_back_and_named() {
    let mut cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), user, 1.2).acknowledged());
    let messages = cluster.wait_for_messages("b", user, 1, Duration::from_secs(10));
    assert_equal_stores(&cluster, "a");

    cluster.stop("b");
    lose_message(&cluster, "b");
    cluster.start_member("b");
    let (output, comparison) = verify(&cluster, "b");
    assert_eq!(output.status.code(), Some(1), "{comparison}");
    let difference = &comparison["differences"][0];
    for (part, expected) in [("table", "message"), ("node", "b"), ("fault", "missing"), ("outcome", "repaired")] {
        assert_eq!(difference[part], expected, "{comparison}");
    }
    cluster.wait_in_service();
    assert_eq!(cluster.cli("b").messages(user), messages);
    assert_eq!(verify(&cluster, "a").0.status.code(), Some(0));

    wait_until("the alarm", COMPARED_WITHIN, || {
        let alarms = cluster.cli("a").run(&["alarm", "list"]);
        String::from_utf8_lossy(&alarms.stdout).contains("replication-repaired")
    });
    let status = cluster.cli("b").json(&["replication", "status"]);
    assert_eq!(status["peers"][0]["repairs"], 1, "{status}");
    let stats = cluster.cli("b").json(&["store", "stats"]);
    assert!(number(&stats["index"]["log_files_bytes"]) > 0, "{stats}");
    for command in [
        &["store", "check", "--audio"][..],
        &["store", "stats"],
        &["store", "compact"],
        &["replication", "conflicts"],
    ] {
        assert!(cluster.cli("b").run(command).status.success(), "{command:?}");
    }
}

/// Damages the recordings on the disk of a running node, in the middle of what is written.
fn damage_recording(cluster: &Cluster, node: &str) {
    let mut damaged = 0;
    for entry in fs::read_dir(cluster.member(node).data_dir.join("store/audio")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a pack");
        let Some(end) = bytes.iter().rposition(|byte| *byte != 0).filter(|end| *end > 4_000) else { continue };
        let damage: Vec<u8> = bytes[end / 2..end / 2 + 200].iter().map(|byte| !byte).collect();
        let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
        file.write_all_at(&damage, end as u64 / 2).expect("written");
        damaged += 1;
    }
    assert!(damaged > 0, "no recording on {node}");
}

#[test]
fn damaged_recording_of_another_node_is_found_and_replaced() {
    let cluster = Cluster::start(&Spec::default());
    let user = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("a"), user, 1.2).acknowledged());
    cluster.wait_for_messages("b", user, 1, COMPARED_WITHIN);
    let read_all = || {
        let output = cluster.cli("a").run(&["--json", "replication", "verify", "--audio"]);
        let compared: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), compared)
    };
    wait_until("all recordings to be read, undamaged", COMPARED_WITHIN, || read_all().0 == Some(0));
    damage_recording(&cluster, "b");
    // A node whose comparison with the other is under way says so.
    let found = wait_for("the damage to be found", COMPARED_WITHIN, || {
        let (code, compared) = read_all();
        let of_b = compared.as_array()?.iter().find(|comparison| comparison["by"] == "b")?.clone();
        of_b["problem"].as_str()?.is_empty().then_some((code, of_b))
    });
    let (code, of_b) = found;
    assert_eq!(code, Some(1), "{of_b}");
    let difference = &of_b["differences"][0];
    for (part, expected) in [("node", "b"), ("fault", "unreadable"), ("outcome", "repaired")] {
        assert_eq!(difference[part], expected, "{of_b}");
    }
    wait_until("all recordings to be read again", COMPARED_WITHIN, || read_all().0 == Some(0));
}
