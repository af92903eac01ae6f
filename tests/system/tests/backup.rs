//! Backups of a running cluster, restored into a new one and into a mailbox.

use std::{
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use serde_json::Value;
use twinbox_system_tests as _;
use twinbox_testkit::{Cluster, Deposit, Spec, binary, leave_message, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(60);

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

#[test]
fn backup_under_calls_is_restored_into_a_new_cluster_with_every_message_acknowledged_before_it() {
    let cluster = Cluster::start(&Spec::default());
    let folder = tempfile::TempDir::new().expect("a folder");
    let dir = folder.path().join("backups");
    let user = Cluster::USERS[0].number;
    let leave = |node: &str| leave_message(cluster.phones(), cluster.sip(node), user, 1.2);
    let before: Vec<Deposit> = ["a", "b", "a"].into_iter().map(leave).collect();
    assert!(before.iter().all(Deposit::acknowledged));
    cluster.wait_for_messages("a", user, before.len(), SOON);

    // Calls go on while backups are made.
    let during: Vec<Deposit> = thread::scope(|scope| {
        let calls: Vec<_> = ["a", "b", "a", "b"].into_iter().map(|node| scope.spawn(move || leave(node))).collect();
        let mut backups = 0;
        while backups < 3 || calls.iter().any(|call| !call.is_finished()) {
            cluster.cli("a").json(&["backup", "create", path(&dir)]);
            backups += 1;
        }
        calls.into_iter().map(|call| call.join().expect("a call")).collect()
    });
    assert!(during.iter().all(Deposit::acknowledged));
    let all = before.len() + during.len();
    cluster.wait_for_messages("a", user, all, SOON);
    let last = cluster.cli("a").json(&["backup", "create", path(&dir)]);
    assert_eq!(last["missing"].as_array().map(Vec::len), Some(0), "{last}");
    let again = cluster.cli("a").json(&["backup", "create", path(&dir)]);
    assert_eq!(again["copied"].as_u64(), Some(0), "nothing is new: {again}");
    done(&offline(&["backup", "verify", path(&dir)]));
    let pruned = done(&offline(&["backup", "prune", path(&dir), "--keep", "1"]));
    assert_eq!(pruned["kept"].as_array().map(Vec::len), Some(1), "{pruned}");

    let heard = cluster.heard("a", user);
    assert_eq!(heard.len(), all);
    drop(cluster);

    let mut new = Cluster::start(&Spec { raw: true, ..Spec::default() });
    new.wait_in_service();
    let config = new.member("a").config.clone();
    let restore = ["backup", "restore", path(&dir), "--config", path(&config)];
    let running = offline(&restore);
    assert_eq!(running.status.code(), Some(1), "{}", text(&running));
    assert!(text(&running).contains("in use"), "{}", text(&running));
    new.stop("a");
    done(&offline(&restore));
    new.start_member("a");
    new.wait_in_service();
    for node in ["a", "b"] {
        wait_until(&format!("{node} to have the user"), SOON, || new.cli(node).try_messages(user).is_ok());
        new.wait_for_messages(node, user, all, SOON);
        wait_until(&format!("{node} to have the audio"), SOON, || new.heard(node, user).len() == all);
        assert_eq!(new.heard(node, user), heard, "{node}");
    }
    // It is in use now.
    new.stop("a");
    let refused = offline(&restore);
    assert!(!refused.status.success() && text(&refused).contains("users"), "{}", text(&refused));
}

#[test]
fn deleted_message_comes_back_from_a_backup_made_by_the_timetable() {
    let cluster = Cluster::start(&Spec::default());
    let folder = tempfile::TempDir::new().expect("a folder");
    let dir = folder.path().join("backups");
    let user = Cluster::USERS[0].number;
    assert!(leave_message(cluster.phones(), cluster.sip("b"), user, 1.2).acknowledged());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let message = cluster.wait_for_messages("a", user, 1, SOON).remove(0);
    let audio = cluster.heard("a", user).remove(0).1;

    let refused = a.run(&["backup", "create", "backups"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let argument = format!("dir={}", path(&dir));
    a.json(&["timetable", "add", "nightly", "--job", "backup", "--cron", "0 2 1 1 *", &argument, "keep=2"]);
    a.json(&["timetable", "run", "nightly"]);
    let listed = a.json(&["backup", "list"]);
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{listed}");

    a.json(&["message", "delete", user, &message.id]);
    let restored = b.json(&["backup", "restore", path(&dir), "--mailbox", user]);
    assert_eq!(restored["messages"].as_array().map(Vec::len), Some(1), "{restored}");
    for node in ["a", "b"] {
        wait_until(&format!("{node} to have the message"), SOON, || {
            let present = |(found, sound): &(twinbox_testkit::StoredMessage, Vec<u8>)| {
                found.state == "new" && found.id != message.id && *sound == audio
            };
            cluster.heard(node, user).iter().any(present)
        });
    }
    let again = b.json(&["backup", "restore", path(&dir), "--mailbox", user]);
    assert_eq!(again["present"].as_u64(), Some(1), "{again}");
}
