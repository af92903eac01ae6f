//! `user list` on a node with many messages.
//!
//! Method: users and messages come from a made-up spool of Asterisk; all messages share one audio file, so that records
//! and not audio fill the disks. The command line on node `a` lists all users with their counts: warm, and right after
//! the node has started again, when it has counted no message yet. Times include the command line itself.

use std::{fs, path::Path, time::Duration};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cli, Speech, wait_until};

use crate::{
    load, machine,
    report::{Report, percentile},
};

/// Number of the first user; the others follow.
const FIRST: u32 = 200_000;
/// Audio of each message, in bytes: 0.2 s.
const AUDIO: usize = 1_600;
/// Time of the first message, in seconds since 1970.
const RECEIVED: u64 = 1_763_625_600;
/// Lists while the counts are cached.
const WARM: usize = 10;
/// Limit of each wait.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures lists of this many users, each with this many messages.
pub fn run(report: &mut Report, users: u32, messages: u32) {
    let mut cluster = load::cluster();
    let (conf, spool) = (cluster.dir().join("voicemail.conf"), cluster.dir().join("spool"));
    write_spool(&conf, &spool, users, messages);
    let importing = BootInstant::now();
    let paths = [&conf, &spool].map(|path| path.to_string_lossy().into_owned());
    cluster.cli("a").json(&["import", "asterisk", "--conf", &paths[0], "--spool", &paths[1]]);
    let imported = importing.elapsed().as_secs_f64();

    let cli = cluster.cli("a");
    list(&cli, users);
    let mut warm: Vec<Duration> = (0..WARM).map(|_| list(&cli, users)).collect();

    cluster.stop("a");
    cluster.start_member("a");
    wait_until("node a to answer", PATIENCE, || cli.try_json(&["service", "list"]).is_ok());
    machine::pin_process(cluster.member("a").pid(), machine::UNDER_TEST);
    let mut after_start = [list(&cli, users)];

    let columns = &["users", "messages each", "import s", "when", "p50 s", "max s"];
    let mut table = report.table("user list", columns);
    for (when, times) in [("warm", &mut warm[..]), ("after a start", &mut after_start[..])] {
        let [p50, max] = [0.5, 1.0].map(|share| json!(percentile(times, share).as_secs_f64()));
        table.row(&[json!(users), json!(messages), json!(imported), json!(when), p50, max]);
    }
}

/// Writes a configuration and a spool of Asterisk. Its PINs are too easy to be taken: hashing them would take longer than all else.
fn write_spool(conf: &Path, spool: &Path, users: u32, messages: u32) {
    let numbers = || (FIRST..FIRST + users).map(|number| number.to_string());
    let lines: String = numbers().map(|number| format!("{number} => 1234,User {number}\n")).collect();
    fs::write(conf, format!("[general]\nformat=ulaw\n[default]\n{lines}")).expect("it can be written");
    fs::create_dir_all(spool).expect("a folder");
    let audio = spool.join("audio.ulaw");
    fs::write(&audio, Speech::new(1).bytes(0, AUDIO)).expect("the audio can be written");
    for number in numbers() {
        let inbox = spool.join("default").join(number).join("INBOX");
        fs::create_dir_all(&inbox).expect("a folder");
        for n in 0..messages {
            let received = RECEIVED + u64::from(n);
            let told = format!("[message]\ncallerid=2001\norigtime={received}\nmsg_id={received}-1\nduration=1\n");
            fs::write(inbox.join(format!("msg{n:04}.txt")), told).expect("it can be written");
            fs::hard_link(&audio, inbox.join(format!("msg{n:04}.ulaw"))).expect("it can be linked");
        }
    }
}

/// Lists all users; returns the duration.
fn list(cli: &Cli, users: u32) -> Duration {
    let begun = BootInstant::now();
    let reply = cli.json(&["user", "list"]);
    let took = begun.elapsed();
    let listed = reply["users"].as_array().map_or(0, Vec::len);
    assert!(listed >= users as usize, "{listed} users are listed");
    took
}
