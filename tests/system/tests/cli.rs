//! The command line for programs: exit codes, JSON, and all mistakes reported together.

use std::{
    path::Path,
    process::{Command, Output},
};

use twinbox_testkit::{
    Cluster, Spec, binary,
    g711::{Law, to_wav},
    http_get, metric,
};

fn twinbox(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the twinbox binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn all_mistakes_of_a_configuration_are_reported_together() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/config/mistakes.toml");
    let file = file.to_string_lossy();
    let output = twinbox(&["config", "check", &file]);
    let text = said(&output);
    println!("{text}");
    assert_eq!(output.status.code(), Some(2));
    for key in [
        "node.name",
        "node.data_dir",
        "data_dri",
        "cluster.id",
        "cluster.timing",
        "cluster.ack_timeout_ms",
        "cluster.bind",
        "kind",
        "address",
        "sip.max_calls",
        "transport",
        "rtp.ports",
        "addresses",
        "voicemail.key_map",
        "voicemail.timezone",
        "log.format",
    ] {
        let named = text.lines().any(|l| l.contains(key) && l.contains("mistakes.toml"));
        assert!(named, "no line names the file and {key}");
    }
    // The node does not start with it either.
    assert_eq!(twinbox(&["node", "--config", &file]).status.code(), Some(2));
}

#[test]
fn option_in_another_place_is_refused_with_its_place() {
    for (arguments, remedy) in [
        (&["user", "list", "--node", "b:7300"][..], "write --node before the command"),
        (&["replication", "status", "--config", "node.toml"], "finds it by --socket"),
    ] {
        let output = twinbox(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(remedy), "{}", said(&output));
    }
}

/// The program's settings of its allocator are in force: a linker may leave them out without a word.
#[test]
fn freed_memory_goes_back_to_the_system_after_a_second() {
    let mut command = Command::new(binary());
    let output = command.arg("--version").env("_RJEM_MALLOC_CONF", "stats_print:true").output().expect("it runs");
    assert!(said(&output).contains("opt.dirty_decay_ms: 1000 ("), "{}", said(&output));
}

#[test]
fn exit_codes_mean_something() {
    for (arguments, code) in [
        (&["clutser", "status"][..], 2),
        (&["cluster", "statsu"], 2),
        (&["user", "add"], 2),
        (&["node"], 2),
        (&["config", "check", "/no/such/file.toml"], 2),
        (&["--socket", "/no/such/socket", "cluster", "status"], 3),
        (&["--socket", "/no/such/socket", "--json", "user", "list"], 3),
        (&["device", "add", "1001", "office", "maill", "address=anna@example.com"], 2),
        (&["device", "set", "1001", "office"], 2),
        (&["outbox", "retry"], 2),
        (&["location", "add", "berlin"], 2),
        (&["message", "send", "hello.wav", "--from", "1001"], 2),
        (&["message", "send", "/no/such/file.wav", "--from", "1001", "--to", "1002"], 2),
        (&["--socket", "/no/such/socket", "location", "list"], 3),
        (&["outbox", "list", "--state", "gone"], 2),
        (&["--socket", "/no/such/socket", "outbox", "list"], 3),
        (&["--socket", "/no/such/socket", "mwi", "resync"], 3),
        (&["timetable", "add", "nightly", "--job", "agein", "--cron", "0 3 * * *"], 2),
        (&["timetable", "add", "nightly", "--job", "ageing"], 2),
        (&["timetable", "set", "nightly", "--on", "both"], 2),
        (&["timetable", "history", "--most", "0"], 2),
        (&["--socket", "/no/such/socket", "timetable", "list"], 3),
        (&["directory", "add", "corp"], 2),
        (&["directory", "sync", "corp", "--adopt-by", "name"], 2),
        (&["--socket", "/no/such/socket", "directory", "list"], 3),
        (&["call", "sip:1001@127.0.0.1:5060", "--digits", "1O01#"], 2),
        (&["--node", "127.0.0.1:7070", "--identity", "/no/such/folder", "health"], 2),
        (&["report", "calls"], 2),
        (&["report", "traffic", "--from", "2026-11-01", "--last", "7d"], 2),
        (&["--socket", "/no/such/socket", "report", "traffic"], 3),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        let output = twinbox(arguments);
        assert_eq!(output.status.code(), Some(code), "twinbox {}: {}", arguments.join(" "), said(&output));
    }
    // A mistyped word gets a suggestion.
    assert!(said(&twinbox(&["clutser", "status"])).contains("cluster"));
    // A probe of this machine answers for no other.
    let remote = twinbox(&["--node", "127.0.0.1:7070", "--identity", "/no/such/folder", "health"]);
    assert!(said(&remote).contains("--node is only for commands that contact a node"), "{}", said(&remote));
}

#[test]
fn users_and_messages_are_managed_on_either_node() {
    let cluster = Cluster::start(&Spec::default());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let added = a.json(&["user", "add", "3001", "--name", "Ada", "--pin", "602214", "--keep-pin"]);
    assert_eq!(added["acknowledged"], "on two", "{added}");
    assert!(b.json(&["user", "list"])["users"].as_array().is_some_and(|u| u.iter().any(|u| u["number"] == "3001")));
    // The same number again is refused, on the other node too.
    let again = b.run(&["user", "add", "3001", "--pin", "602215"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    // Trivial PINs are refused, with the reason.
    for pin in ["1111", "1234", "3001", "12"] {
        let refused = a.run(&["user", "set-pin", "3001", pin]);
        assert!(matches!(refused.status.code(), Some(1 | 2)), "PIN {pin} was taken");
    }
    let deposit = twinbox_testkit::leave_message(cluster.phones(), cluster.sip("a"), "3001", 1.2);
    assert!(deposit.acknowledged());
    let message = &cluster.wait_for_messages("b", "3001", 1, std::time::Duration::from_secs(2))[0];
    let table = said(&b.run(&["message", "list", "3001"]));
    assert!(table.contains(&message.id), "{table}");
    assert_eq!(b.run(&["message", "delete", "3001", &message.id]).status.code(), Some(0));
    let left = a.messages("3001");
    assert!(left.iter().all(|m| m.state == "deleted"), "deleted on both: {left:?}");
    let back = a.run(&["message", "undelete", "3001", &message.id]);
    assert!(back.status.success() && said(&back).contains("undeleted (acknowledged on two)"), "{}", said(&back));
    assert_eq!(b.messages("3001")[0].state, "new");
    assert_eq!(a.run(&["user", "remove", "3001"]).status.code(), Some(0));
    assert_eq!(b.run(&["user", "show", "3001"]).status.code(), Some(1));
    // A missing object is a failure with a text.
    let missing = a.run(&["message", "list", "4999"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("4999"), "{}", said(&missing));
}

#[test]
fn the_test_phone_calls_and_a_wav_that_is_none_is_refused() {
    let cluster = Cluster::start(&Spec::default());
    let uri = format!("sip:{}@{}", Cluster::USERS[0].number, cluster.sip("a"));
    let me = cluster.phones().ip.to_string();
    let call = |more: &[&str]| {
        let fixed = ["--json", "call", uri.as_str(), "--bind", &me, "--from", "2001", "--duration", "3"];
        twinbox(&[&fixed[..], more].concat())
    };
    let output = call(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    assert!(report.as_object().is_some_and(|r| r.len() >= 3), "answer time, packets, loss: {report}");
    let none = cluster.dir().join("none.wav");
    std::fs::write(&none, b"RIFF this is no WAV file").expect("it can be written");
    let refused = call(&["--play", &none.to_string_lossy()]);
    assert!(matches!(refused.status.code(), Some(1 | 2)), "{}", said(&refused));
    assert!(said(&refused).contains("none.wav"), "{}", said(&refused));
}

/// Without `--duration` the phone waits for the end of the greeting, plays, and hangs up: a message. When the node hangs up
/// first, that is no failure.
#[test]
fn the_test_phone_leaves_a_played_file_as_a_message_and_takes_the_nodes_hang_up_for_no_failure() {
    let cluster = Cluster::start(&Spec { voicemail: vec!["silence_seconds = 3".to_owned()], ..Spec::default() });
    let [first, second] = [Cluster::USERS[0].number, Cluster::USERS[1].number];
    let me = cluster.phones().ip.to_string();
    let file = cluster.dir().join("hello.wav");
    let sound: Vec<u8> = (0..16_000_u32).map(|n| (n.wrapping_mul(37) >> 3) as u8).collect();
    std::fs::write(&file, to_wav(&sound, Law::Mu)).expect("it can be written");
    let call = |number: &str, more: &[&str]| {
        let uri = format!("sip:{number}@{}", cluster.sip("a"));
        let played = file.to_string_lossy().into_owned();
        twinbox(&[&["--json", "call", &uri, "--bind", &me, "--from", "2001", "--play", &played], more].concat())
    };
    let output = call(first, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let message = cluster.cli("b").messages(first).pop().expect("a message");
    assert!((1_500..4_000).contains(&message.length_ms), "{message:?}");

    let output = call(second, &["--duration", "60"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    assert!(report["bye_status"].is_null(), "the node hung up: {report}");
    assert_eq!(cluster.cli("b").messages(second).len(), 1);
}

#[test]
fn health_and_metrics_are_told_over_http() {
    let cluster = Cluster::start(&Spec::default());
    let (phones, address) = (cluster.phones(), cluster.member("a").metrics());
    for path in ["/livez", "/readyz"] {
        assert_eq!(http_get(phones, address, path).map(|(status, _)| status), Some(200), "{path}");
    }
    let deposit = twinbox_testkit::leave_message(phones, cluster.sip("a"), Cluster::USERS[0].number, 1.2);
    assert!(deposit.acknowledged());
    let (status, text) = http_get(phones, address, "/metrics").expect("metrics are told");
    assert_eq!(status, 200);
    println!("{text}");
    let series = |name: &str| text.lines().any(|l| l.starts_with(name));
    assert!(series("twinbox_"), "{text}");
    assert!(metric(&text, "twinbox_no_such_metric", "").is_none());
}
