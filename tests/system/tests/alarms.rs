//! Alarms and events: each event of a cluster is visible on every node and reported to the outside, once.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;
use twinbox_clock::BootInstant;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Cli, Cluster, Process, Snmptrapd, Spec, SyslogReceiver, WebReceiver, binary, http_get, need, wait_for,
    wait_until,
};

const SOON: Duration = Duration::from_secs(20);

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The alarm of that code and subject on a node, if any.
fn shown(cli: &Cli, all: bool, code: &str, subject: &str) -> Option<Value> {
    let list = cli.try_json(if all { &["alarm", "list", "--all"] } else { &["alarm", "list"] }).ok()?;
    let alarms = list["alarms"].as_array()?;
    alarms.iter().find(|alarm| alarm["code"] == code && alarm["subject"] == subject).cloned()
}

/// `from a to b: exit; 312 ms without; epoch 0.3@b`: cause and milliseconds.
fn cause_and_idle(detail: &str) -> Option<(String, u64)> {
    let (_, rest) = detail.split_once(": ")?;
    let (cause, rest) = rest.split_once("; ")?;
    Some((cause.to_owned(), rest.split_once(" ms")?.0.parse().ok()?))
}

#[test]
fn a_dead_node_is_an_alarm_with_cause_and_length_and_is_acknowledged_on_the_other() {
    let mut cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    cluster.kill(&publisher);
    let moved =
        wait_for("the move as an alarm", SOON, || shown(&cluster.cli(&other), false, "role-moved", "publisher"));
    let (cause, idle) = cause_and_idle(text(&moved, "detail")).unwrap_or_else(|| panic!("{moved}"));
    assert!(cause == "missed-keep-alives" || cause == "exit", "{cause}");
    assert!((1..20_000).contains(&idle), "{idle} ms");
    assert!(text(&moved, "detail").contains(&format!("from {publisher} to {other}")), "{moved}");
    assert_eq!(moved["severity"], "warning");
    assert!(!text(&moved, "remedy").is_empty() && text(&moved, "node") == other, "{moved}");
    wait_for("the loss as an alarm", SOON, || shown(&cluster.cli(&other), false, "member-lost", &publisher));
    let page = cluster.cli(&other).run(&["alarm", "list"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("role-moved") && page.contains("Check that machine"), "{page}");
    let (_, metrics) = http_get(cluster.phones(), cluster.member(&other).metrics(), "/metrics").expect("metrics");
    assert!(metrics.contains("twinbox_alarms{code=\"role-moved\",severity=\"warning\"} 1"), "{metrics}");

    cluster.start_member(&publisher);
    cluster.wait_in_service();
    let id = text(&moved, "id").to_owned();
    wait_until("the alarm to be there, too", SOON, || {
        shown(&cluster.cli(&publisher), false, "role-moved", "publisher")
            .is_some_and(|alarm| alarm["id"] == id.as_str())
    });
    let wrong = cluster.cli(&publisher).run(&["alarm", "ack", &id, "ffffffffffff"]);
    assert_eq!(wrong.status.code(), Some(1), "none or all");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no alarm 'ffffffffffff'"));
    let wrong = cluster.cli(&publisher).run(&["alarm", "ack", "not-an-id"]);
    assert_eq!(wrong.status.code(), Some(2));
    let known = cluster.cli(&publisher).json(&["alarm", "ack", &id[..10], "--by", "anna"]);
    assert_eq!(known["alarms"][0]["state"], "acknowledged", "{known}");
    for node in [&publisher, &other] {
        wait_until("it to go from the list", SOON, || {
            shown(&cluster.cli(node), false, "role-moved", "publisher").is_none()
        });
        let kept = shown(&cluster.cli(node), true, "role-moved", "publisher").expect("kept");
        assert_eq!(kept["acknowledged_by"], "anna", "{kept}");
        wait_until("the loss to be over", SOON, || {
            shown(&cluster.cli(node), false, "member-lost", &publisher).is_none()
        });
    }

    // A restart keeps the alarms.
    cluster.stop(&other);
    cluster.start_member(&other);
    cluster.wait_in_service();
    let list = cluster.cli(&other).json(&["alarm", "list", "--all"]);
    let kept = list["alarms"].as_array().into_iter().flatten().find(|alarm| alarm["id"] == id.as_str());
    assert_eq!(kept.expect("kept")["acknowledged_by"], "anna", "{list}");
}

/// `alarm-rule`: the role moves off the node on which an alarm is raised as often as the rule states. The publisher
/// reports lost members, so that a witness that is stopped twice is two alarms on that node and none on the other.
#[test]
fn an_alarm_raised_as_often_as_the_rule_says_moves_the_role() {
    let mut cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    cluster.cli(&publisher).order(&["cluster", "set", "alarm-rule", "member-lost 2 120"]);
    for round in 1..=2 {
        cluster.stop("w");
        let alarm =
            wait_for("the loss as an alarm", SOON, || shown(&cluster.cli(&other), false, "member-lost", "w"));
        assert_eq!(text(&alarm, "node"), publisher, "round {round}: {alarm}");
        assert_eq!(cluster.publisher(&other), publisher, "round {round}: not yet");
        cluster.start_member("w");
        cluster.wait_in_service();
        wait_until("the loss to be over", SOON, || {
            shown(&cluster.cli(&other), false, "member-lost", "w").is_none()
        });
    }
    // After the damping, which is half a minute.
    let begun = BootInstant::now();
    wait_until("the role to be elsewhere", Duration::from_secs(60), || {
        cluster.cli(&publisher).publisher().as_deref() == Some(&other)
    });
    println!("the role moved {:?} after the second alarm was over", begun.elapsed());
    let moves = cluster.cli(&publisher).json(&["cluster", "moves"]);
    let last = moves["moves"].as_array().into_iter().flatten().rfind(|moved| moved["what"] == "publisher");
    let last = last.expect("a move");
    assert_eq!(
        (text(last, "cause"), text(last, "from"), text(last, "to")),
        ("alarm(member-lost)", &*publisher, &*other)
    );
    let moved = wait_for("the move as an alarm", SOON, || {
        shown(&cluster.cli(&publisher), false, "role-moved", "publisher")
    });
    assert!(text(&moved, "detail").contains("alarm(member-lost)"), "{moved}");
    // The alarms stay counted on the former publisher; it does not get the role back for that.
    cluster.wait_in_service();
    assert_eq!(cluster.publisher(&other), other);
}

/// `events --follow` on a node, with its lines as they come.
struct Following {
    lines: mpsc::Receiver<Value>,
    process: Process,
}

impl Following {
    fn start(cluster: &Cluster, node: &str, since: Option<&str>) -> Self {
        let member = cluster.member(node);
        let mut command = Command::new(binary());
        command.arg("--socket").arg(member.home.join("admin.sock")).args(["--json", "events", "--follow"]);
        since.iter().for_each(|since| {
            command.args(["--since", since]);
        });
        let log = cluster.dir().join(format!("events-{node}.log"));
        let mut process = Process::start_piped("events", command, &member.place, &log);
        let out = process.child().stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Self { lines, process }
    }

    /// Lines until one matches `wanted`.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut got: Vec<Value> = Vec::new();
        loop {
            let line =
                self.lines.recv_timeout(SOON).unwrap_or_else(|e| panic!("waited for {what}: {e}; got {got:#?}"));
            let found = wanted(&line);
            got.push(line);
            if found {
                return got;
            }
        }
    }

    /// The remaining lines, until the node and the command have ended.
    fn rest(mut self) -> Vec<Value> {
        let mut status = None;
        wait_until("the command to end with its node", SOON, || {
            status = self.process.exit();
            status.is_some()
        });
        assert_ne!(status.and_then(|status| status.code()), Some(0));
        self.lines.iter().collect()
    }
}

fn names(lines: &[Value]) -> Vec<(String, u64)> {
    lines
        .iter()
        .filter(|line| line["number"].is_u64())
        .map(|line| (text(line, "origin").to_owned(), line["number"].as_u64().expect("a number")))
        .collect()
}

#[test]
fn the_event_stream_goes_on_at_another_node_and_misses_nothing_and_tells_nothing_twice() {
    let mut cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    let first = Following::start(&cluster, &publisher, None);
    let mut got = first
        .until("both to have started", |line| line["kind"] == "node-started" && line["node"] == other.as_str());
    assert_eq!(got[0]["kind"], "begin", "{got:#?}");
    cluster.cli(&other).order(&["cluster", "deactivate", &other]);
    got.extend(first.until("it to be out", |line| {
        line["kind"] == "member-status"
            && line["subject"] == other.as_str()
            && text(line, "detail").starts_with("deactivated")
    }));
    cluster.cli(&other).order(&["cluster", "activate", &other]);
    cluster.wait_in_service();
    cluster.kill(&publisher);
    got.extend(first.rest());
    let cursor = text(got.last().expect("lines"), "cursor").to_owned();

    // On the other node, from there on: the move, and the former node's next incarnation.
    let second = Following::start(&cluster, &other, Some(&cursor));
    got.extend(second.until("the move", |line| line["kind"] == "role-moved" && line["subject"] == "publisher"));
    cluster.start_member(&publisher);
    got.extend(
        second.until("it to be back", |line| line["kind"] == "node-started" && line["node"] == publisher.as_str()),
    );
    cluster.wait_in_service();
    // End mark of the comparison: made on one node, read by both.
    let alarm = wait_for("an alarm", SOON, || shown(&cluster.cli(&publisher), false, "role-moved", "publisher"));
    cluster.cli(&publisher).json(&["alarm", "ack", text(&alarm, "id")]);
    got.extend(second.until("it to be known", |line| line["kind"] == "alarm-acknowledged"));

    assert!(got.iter().all(|line| line["kind"] != "gap"), "{got:#?}");
    let names = names(&got);
    let unique: BTreeSet<&(String, u64)> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "nothing twice: {got:#?}");
    // Of each incarnation every number, from 1 to the last that was read: none is missing.
    for (origin, last) in &unique
        .iter()
        .map(|(o, _)| (o, names.iter().filter(|(p, _)| p == o).map(|(_, n)| *n).max()))
        .collect::<BTreeSet<_>>()
    {
        let numbers: Vec<u64> = names.iter().filter(|(o, _)| o == *origin).map(|(_, n)| *n).collect();
        let all: Vec<u64> = (1..=last.expect("a last")).collect();
        assert_eq!(numbers, all, "in order, without a hole: {origin}");
    }
    // No private data in any of it.
    let everything = format!("{got:?}");
    for private in Cluster::USERS.iter().flat_map(|user| [user.number, user.pin]) {
        assert!(!everything.contains(&format!("\"{private}\"")), "{private}");
    }
    let wrong = cluster.cli(&other).run(&["events", "--since", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("'yesterday' is not a cursor"));
    // A following reader does not delay the stop of a node.
    cluster.stop(&other);
}

/// The engine id of a node as snmptrapd shows it.
fn engine(node: &str) -> String {
    let name: String = format!("twinbox-{node}").bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("0x80001f8804{name}")
}

#[test]
fn receivers_outside_are_told_once_of_each_alarm() {
    if !need::all(&[need::SNMPTRAPD]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let users = ["a", "b"].map(|node| {
        format!("createUser -e {} twinbox SHA-256 \"a long secret\" AES \"another secret\"", engine(node))
    });
    let (mut cluster, (web, syslog, traps)) = Cluster::start_with(
        |phones| Spec {
            alarms: vec![
                format!("syslog = \"udp://{}\"", phones.port(5140)),
                format!("[alarms.webhook]\nurl = \"http://{}/alarms\"", phones.port(8080)),
                format!("[alarms.trap]\nreceivers = [\"{}\"]\nuser = \"twinbox\"", phones.port(1620)),
                "auth_password = \"a long secret\"\npriv_password = \"another secret\"".to_owned(),
            ],
            ..Spec::default()
        },
        |phones| {
            let lines = [&users[..], &["authUser log twinbox authPriv".to_owned()]].concat();
            (
                WebReceiver::open(phones, 8080),
                SyslogReceiver::open(phones, 5140),
                Snmptrapd::start(phones, 1620, dir.path(), &lines),
            )
        },
    );
    // The first time the lost member comes back under one holder of the duty; the second time the holder changes before
    // it is back.
    let lost_by_web = || -> Vec<(String, String)> {
        let got = web.got();
        let of_it = got
            .iter()
            .filter(|(_, body)| body["alarm"]["code"] == "member-lost" && body["alarm"]["subject"] == "w");
        of_it.map(|(_, body)| (text(body, "key").to_owned(), text(body, "what").to_owned())).collect()
    };
    let in_syslog = || {
        let of_it = |line: &&String| line.contains(" member-lost [") && line.contains("subject=\"w\"");
        syslog.got().iter().filter(of_it).count()
    };
    let keys_in_traps = || -> Vec<String> {
        let got = traps.got();
        let of_it = got.iter().filter(|trap| trap.contains("\"member-lost\"") && trap.contains("\"w\""));
        let key = |trap: &String| {
            let (_, rest) = trap.split_once(".2177.1.1.1.0 = STRING: \"")?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        of_it.filter_map(key).collect()
    };
    let told = |what: &str, times: usize| {
        wait_until(what, Duration::from_secs(40), || {
            lost_by_web().len() >= times && in_syslog() >= times && keys_in_traps().len() >= times
        });
    };
    cluster.stop("w");
    told("all to be told of the loss", 1);
    cluster.start_member("w");
    told("all to be told that it is over", 2);
    let (publisher, other) = cluster.publisher_and_other();
    cluster.wait_in_service();
    cluster.cli(&publisher).order(&["cluster", "make-publisher", &other]);
    wait_until("the other to be the publisher", SOON, || cluster.publisher(&publisher) == other);
    cluster.stop("w");
    told("all to be told of the second loss", 3);
    cluster.start_member("w");
    told("all to be told that it is over again", 4);

    let web_told = lost_by_web();
    let what: Vec<&str> = web_told.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(what, ["raised", "cleared", "raised", "cleared"], "{web_told:?}");
    let keys: Vec<String> = web_told.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 4, "{keys:?}");
    assert_eq!(keys_in_traps(), keys, "{:#?}", traps.got());
    assert_eq!(in_syslog(), 4, "{:#?}", syslog.got());
    let cli = cluster.cli("a");
    wait_until("it to say who was told", SOON, || {
        let alarm = shown(&cli, true, "member-lost", "w").expect("the alarm");
        alarm["told"] == serde_json::json!(["webhook", "trap"])
    });
    let heads: Vec<String> = web.got().into_iter().map(|(head, _)| head).collect();
    assert!(heads.iter().all(|head| head.contains("idempotency-key: ")), "{heads:?}");
}

/// net-snmp's own tool reads the MIB, and its numbers match those of the traps.
#[test]
fn the_mib_is_one() {
    if !need::all(&[need::SNMPTRANSLATE]) {
        return;
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let folders = format!("{root}/tests/data/snmp:{root}/deploy/snmp");
    // net-snmp would create this folder at its first run on a machine, and print a message.
    let own = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(own.path().join("cert_indexes")).expect("a folder");
    for (name, number) in [
        ("twinboxAlarmRaised", ".0.1"),
        ("twinboxAlarmCleared", ".0.2"),
        ("twinboxAlarmKey", ".1.1"),
        ("twinboxAlarmSeverity", ".1.5"),
        ("twinboxAlarmTime", ".1.10"),
    ] {
        let mut command = Command::new("snmptranslate");
        command.env("SNMP_PERSISTENT_DIR", own.path());
        command.args(["-M", &folders, "-m", "TWINBOX-MIB", "-On", "-Pw"]).arg(format!("TWINBOX-MIB::{name}"));
        let output = command.output().expect("snmptranslate runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out.trim(), format!(".1.3.6.1.4.1.8072.9999.9999.2177.1{number}"), "{name}: {err}");
        assert!(err.is_empty(), "{err}");
    }
}
