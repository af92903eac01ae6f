//! Settings that all nodes share, changed on running nodes: in force everywhere without a restart.

use std::{fs, time::Duration};

use serde_json::Value;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, MailReceiver, NetPlace, Spec, Transport, begin_to_speak, g711::Law, hang_up,
    leave_message, need, wait_until,
};

/// Limit of waits for what takes seconds on a quiet machine.
const SOON: Duration = Duration::from_secs(60);

fn setting(cluster: &Cluster, node: &str, key: &str) -> Option<Value> {
    cluster.cli(node).try_json(&["setting", "show", key]).ok()
}

fn has(cluster: &Cluster, node: &str, key: &str, value: &str) -> bool {
    setting(cluster, node, key).is_some_and(|setting| setting["value"] == value)
}

fn wait_for_value(cluster: &Cluster, nodes: &[&str], key: &str, value: &str) {
    for node in nodes {
        wait_until(&format!("{key} = {value} on {node}"), SOON, || has(cluster, node, key, value));
    }
}

fn set(cluster: &Cluster, node: &str, arguments: &[&str]) {
    let output = cluster.cli(node).run(&[&["setting"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?} on {node}: {text}");
}

fn refused(cluster: &Cluster, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = cluster.cli("a").run(&[&["setting"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{arguments:?}: no '{part}' in: {text}");
    }
}

/// Status with which a new call to this number is refused; none if it is answered.
fn refusal(cluster: &Cluster, node: &str, number: &str) -> Option<u16> {
    refusal_from(cluster.phones(), cluster, node, number)
}

fn refusal_from(place: &NetPlace, cluster: &Cluster, node: &str, number: &str) -> Option<u16> {
    let endpoint = Endpoint::open(place, Law::Mu);
    let invite = Invite::new(number, "2001", endpoint.address());
    match Call::place(place, cluster.sip(node), Transport::Udp, &invite) {
        Ok(call) => {
            call.bye();
            None
        }
        Err(refused) => Some(refused.status),
    }
}

fn drifts(cluster: &Cluster, asked: &str, subject: &str) -> bool {
    let list = cluster.cli(asked).try_json(&["alarm", "list"]).unwrap_or_default();
    let alarms = list["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().map(ToString::to_string).any(|alarm| alarm.contains("config-drift") && alarm.contains(subject))
}

#[test]
fn a_change_on_one_node_is_in_force_on_both_without_a_restart() {
    let cluster = Cluster::start(&Spec::default());
    let number = Cluster::USERS[0].number;
    refused(&cluster, &["set", "pin_tries=5"], 2, &["did you mean 'voicemail.pin_tries'?"]);
    refused(&cluster, &["set", "voicemail.pin_tries=50"], 2, &["voicemail.pin_tries is 50, expected", "1 to 10"]);
    refused(&cluster, &["set", "voicemail.pin_tries"], 2, &["write voicemail.pin_tries=VALUE"]);
    refused(
        &cluster,
        &["set", "voicemail.min_message_ms=60000", "voicemail.max_message_seconds=60"],
        1,
        &["not above"],
    );
    refused(
        &cluster,
        &["set", "alarms.trap.receivers=10.0.0.1"],
        1,
        &["alarms.trap.community", "this node's file"],
    );
    assert!(has(&cluster, "a", "voicemail.pin_tries", "3"), "a refused change changes nothing");

    // Shorter messages than a minute are not kept.
    set(&cluster, "a", &["set", "voicemail.min_message_ms=60000", "voicemail.max_message_seconds=7200"]);
    wait_for_value(&cluster, &["a", "b"], "voicemail.min_message_ms", "60000");
    for node in ["a", "b"] {
        assert!(leave_message(cluster.phones(), cluster.sip(node), number, 1.5).acknowledged());
    }
    set(&cluster, "b", &["unset", "voicemail.min_message_ms"]);
    wait_for_value(&cluster, &["a", "b"], "voicemail.min_message_ms", "1000");
    wait_for_value(&cluster, &["a"], "voicemail.max_message_seconds", "7200");
    for node in ["a", "b"] {
        assert!(leave_message(cluster.phones(), cluster.sip(node), number, 2.0).acknowledged());
    }
    for node in ["a", "b"] {
        wait_until("both kept messages", SOON, || cluster.cli(node).messages(number).len() == 2);
    }
    for (value, answer) in [("404", Some(404)), ("apology", None)] {
        set(&cluster, "a", &["set", &format!("sip.unknown_mailbox={value}")]);
        wait_for_value(&cluster, &["a", "b"], "sip.unknown_mailbox", value);
        assert_eq!(["a", "b"].map(|node| refusal(&cluster, node, "9999")), [answer, answer], "{value}");
    }
    let events = cluster.cli("a").run(&["events"]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("setting-changed") && events.contains("voicemail.min_message_ms"), "{events}");

    // A node that fills again has the values of the cluster.
    let mut cluster = cluster;
    cluster.kill("b");
    cluster.wipe("b");
    set(&cluster, "a", &["set", "voicemail.digit_seconds=9"]);
    cluster.start_member("b");
    wait_for_value(&cluster, &["b"], "voicemail.digit_seconds", "9");
    wait_for_value(&cluster, &["b"], "voicemail.max_message_seconds", "7200");
}

#[test]
fn of_two_files_the_first_counts_and_the_other_node_is_named() {
    let env = |node, value: &str| (node, "TWINBOX_VOICEMAIL__PIN_TRIES", value.to_owned());
    let cluster = Cluster::start(&Spec { env: vec![env("a", "5"), env("b", "7")], ..Spec::default() });
    let key = "voicemail.pin_tries";
    let agreed = |cluster: &Cluster| {
        let [a, b] = ["a", "b"].map(|node| setting(cluster, node, key).unwrap_or_default());
        let both = a["origin"] == "first file" && b["origin"] == "first file" && a["value"] == b["value"];
        both.then(|| a["value"].as_str().unwrap_or_default().to_owned())
    };
    wait_until("one of the two values", SOON, || agreed(&cluster).is_some());
    let value = agreed(&cluster).expect("agreed");
    let (winner, loser, other) = if value == "5" { ("a", "b", "7") } else { ("b", "a", "5") };
    println!("{winner} was first");
    wait_until("the alarm", SOON, || drifts(&cluster, winner, &format!("{key} on {loser}")));
    assert!(!drifts(&cluster, winner, &format!("{key} on {winner}")));
    let own = setting(&cluster, loser, key).expect("listed");
    assert!(own["ignored"] == true && own["file"] == other, "{own}");
    assert!(cluster.member(loser).log().contains("setting of this node has no effect"));

    // An administrator's value counts, and the other file is now in vain.
    set(&cluster, winner, &["set", &format!("{key}={other}")]);
    wait_for_value(&cluster, &["a", "b"], key, other);
    wait_until("the alarm of the other file", SOON, || {
        drifts(&cluster, loser, &format!("{key} on {winner}"))
            && !drifts(&cluster, loser, &format!("{key} on {loser}"))
    });
}

#[test]
fn require_two_is_switched_under_a_call() {
    let mut cluster = Cluster::start(&Spec::default());
    cluster.kill("b");
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(Cluster::USERS[0].number, "2001", endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip("a"), Transport::Udp, &invite).expect("answered alone");
    let speech = begin_to_speak(&endpoint, &call);
    set(&cluster, "a", &["set", "cluster.require_two=true"]);
    wait_until("new calls to be refused", SOON, || refusal(&cluster, "a", Cluster::USERS[1].number) == Some(503));
    // The call in progress goes on, and its message is acknowledged alone (rule A3).
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    set(&cluster, "a", &["set", "cluster.require_two=false"]);
    wait_until("new calls to be answered", SOON, || refusal(&cluster, "a", Cluster::USERS[1].number).is_none());
    set(&cluster, "a", &["set", "cluster.require_two=true"]);
    cluster.start_member("b");
    wait_for_value(&cluster, &["b"], "cluster.require_two", "true");
    wait_until("new calls to be answered by two nodes", SOON, || {
        refusal(&cluster, "a", Cluster::USERS[1].number).is_none()
    });
}

fn trunk(cluster: &Cluster, node: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = cluster.cli(node).run(&[&["trunk"], arguments].concat());
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

#[test]
fn a_trunk_is_added_and_removed_on_both_nodes_without_a_restart() {
    let mut cluster = Cluster::start(&Spec::default());
    let number = Cluster::USERS[0].number;
    let octets = cluster.phones().ip.octets();
    let pbx = cluster.phones().at([127, 78, octets[2], 1].into());
    let address = pbx.ip.to_string();
    let from_pbx = |cluster: &Cluster| ["a", "b"].map(|node| refusal_from(&pbx, cluster, node, number));
    let wait_for = |cluster: &Cluster, what: &str, answer: Option<u16>| {
        wait_until(what, SOON, || from_pbx(cluster) == [answer, answer]);
    };
    // The files' trunk is the cluster's first one.
    let of_files = || cluster.cli("b").try_json(&["trunk", "show", "phones"]).unwrap_or_default();
    wait_until("the trunk of the files", SOON, || of_files()["origin"] == "first file");
    assert_eq!(from_pbx(&cluster), [Some(403), Some(403)]);

    for (arguments, code, part) in [
        (&["add", "pbx", "adresses=10.0.0.1"][..], 2, "did you mean 'addresses'?"),
        (&["add", "pbx", "addresses=10.0.0.1/8"], 2, "write 10.0.0.0/8"),
        (&["add", "pbx", "addresses=10.0.0.1", "password=s3cret"], 2, "password_file=/PATH"),
        (&["add", "pbx", "addresses=10.0.0.1", "mwi=sip:pbx"], 1, "mwi is not a SIP URI with {mailbox}"),
        (&["add", "pbx", "addresses=10.0.0.1", "username=x", "password_file=/nowhere"], 1, "/nowhere"),
        (&["add", "phones", "addresses=10.0.0.1"], 1, "'twinbox trunk set phones"),
        (&["set", "phone", "transport=udp"], 1, "did you mean 'phones'?"),
    ] {
        let (status, text) = trunk(&cluster, "a", arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(part) && !text.contains("s3cret"), "{arguments:?}: {text}");
    }
    let (status, text) = trunk(&cluster, "a", &["add", "pbx", &format!("addresses={address}"), "transport=udp"]);
    assert_eq!(status, Some(0), "{text}");
    wait_for(&cluster, "calls of the new trunk on both nodes", None);

    // A call goes on while its trunk is removed, and its message is kept.
    let endpoint = Endpoint::open(&pbx, Law::Mu);
    let invite = Invite::new(number, "2001", endpoint.address());
    let call = Call::place(&pbx, cluster.sip("b"), Transport::Udp, &invite).expect("answered");
    let speech = begin_to_speak(&endpoint, &call);
    let (status, text) = trunk(&cluster, "a", &["remove", "pbx"]);
    assert_eq!(status, Some(0), "{text}");
    wait_for(&cluster, "calls of the removed trunk to be refused on both nodes", Some(403));
    let deposit = hang_up(call, &endpoint, speech);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    let events = cluster.cli("a").run(&["events"]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("trunk pbx"), "{events}");

    // The files' own trunk is changed, then removed: it stays so after a restart, and the node says that its file does
    // not count.
    let (status, text) = trunk(&cluster, "b", &["set", "phones", &format!("addresses={address}")]);
    assert_eq!(status, Some(0), "{text}");
    wait_for(&cluster, "calls of the changed trunk on both nodes", None);
    wait_until("calls of its former address to be refused", SOON, || {
        ["a", "b"].map(|node| refusal(&cluster, node, number)) == [Some(403); 2]
    });
    let (status, text) = trunk(&cluster, "b", &["remove", "phones"]);
    assert_eq!(status, Some(0), "{text}");
    wait_for(&cluster, "no calls", Some(403));
    wait_until("the alarm", SOON, || drifts(&cluster, "a", "trunk phones on a"));
    cluster.kill("b");
    cluster.start_member("b");
    wait_until("b to answer", SOON, || refusal(&cluster, "b", number) == Some(403));
    let (_, text) = trunk(&cluster, "b", &["list"]);
    assert!(text.contains("was removed from the cluster") && !text.contains("first file"), "{text}");
}

/// Two mail servers: the first is that of the files.
#[test]
fn the_mail_server_is_changed_on_both_nodes_without_a_restart() {
    if !need::all(&[need::AIOSMTPD]) {
        return;
    }
    let (first_port, second_port) = (2525, 2526);
    let (cluster, (first, second)) = Cluster::start_with(
        |phones| {
            let smarthost = format!("smarthost = \"{}\"", phones.port(first_port));
            let mail = ["domain = \"voicemail.test\"", &smarthost, "tls = \"off\""].map(str::to_owned).to_vec();
            Spec { mail, ..Spec::default() }
        },
        |phones| (MailReceiver::start(phones, first_port), MailReceiver::start(phones, second_port)),
    );
    let number = Cluster::USERS[0].number;
    let key = "mail.smarthost";
    let [from, to] = [first_port, second_port].map(|port| cluster.phones().port(port).to_string());
    let (publisher, other) = cluster.publisher_and_other();
    for node in ["a", "b"] {
        wait_until("the files' mail server", SOON, || {
            setting(&cluster, node, key)
                .is_some_and(|setting| setting["origin"] == "first file" && setting["value"] == *from)
        });
    }
    cluster.cli(&other).json(&["device", "add", number, "anna", "mail", "address=anna@example.test"]);
    assert!(leave_message(cluster.phones(), cluster.sip(&other), number, 1.5).acknowledged());
    let mail = first.wait_for_mails(1, SOON).remove(0);
    assert_eq!(mail.sender, "voicemail@voicemail.test");

    for (arguments, code, part) in [
        (&["set", "mail.smarthost=host:0"][..], 2, "mail.smarthost 'host:0' is no server"),
        (&["set", "mail.domain=a b"], 2, "mail.domain 'a b' is no domain"),
        (&["set", "mail.direct=true"], 1, "mail.direct is true beside mail.smarthost"),
        (&["set", "mail.user=x"], 1, "mail.password_file: is missing"),
        (&["set", "mail.user=x", "mail.password_file=/nowhere/p"], 1, "'/nowhere/p' cannot be read on this node"),
        (&["set", "mail.from=nobody"], 1, "mail.from: "),
        (&["set", "mail.dkim.selector=s"], 1, "mail.dkim.key_file: is missing"),
        (&["unset", "mail.domain"], 1, "mail.domain: is missing"),
        (&["set", "links.url=https://links.test"], 1, "links.bind: is missing in this node's file"),
        (&["set", "backup.s3.endpoint=https://s3.test"], 1, "backup.s3.access_key_file: is missing"),
    ] {
        refused(&cluster, arguments, code, &[part]);
    }
    assert!(has(&cluster, "a", key, &from), "a refused change changes nothing");

    // Changed on the node that does not send.
    set(&cluster, &other, &["set", &format!("{key}={to}"), "mail.from=box@voicemail.test", "mail.from_name=Box"]);
    wait_for_value(&cluster, &["a", "b"], key, &to);
    assert!(leave_message(cluster.phones(), cluster.sip(&publisher), number, 1.5).acknowledged());
    let mail = second.wait_for_mails(1, SOON).remove(0);
    assert_eq!(mail.sender, "box@voicemail.test");
    assert_eq!(second.read(&mail, None).header("from"), "Box <box@voicemail.test>");
    assert_eq!(first.mails().len(), 1);
    for node in ["a", "b"] {
        let tested = cluster.cli(node).json(&["mail", "test", "anna@example.test"]);
        assert!(tested["ok"] == true && tested.to_string().contains(&to), "{tested}");
        // The files have the former server, in vain.
        wait_until("the alarm", SOON, || drifts(&cluster, node, &format!("{key} on {node}")));
    }

    // `-` unsets, in one command with what is set.
    set(&cluster, &publisher, &["set", &format!("{key}=-"), "mail.direct=true", "mail.tls=-"]);
    wait_for_value(&cluster, &["a", "b"], "mail.direct", "true");
    wait_for_value(&cluster, &["a", "b"], key, "");
    set(&cluster, &publisher, &["unset", "mail.direct"]);
    wait_for_value(&cluster, &["a", "b"], "mail.direct", "false");
    for node in ["a", "b"] {
        let output = cluster.cli(node).run(&["mail", "test", "anna@example.test"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("mail out is not configured"), "{text}");
    }
}

/// A command without a node takes the settings of the cluster from the store of a node that does not run.
#[test]
fn stopped_node_reaches_a_bucket_by_the_settings_of_the_cluster() {
    let mut cluster = Cluster::start(&Spec::default());
    let secret = cluster.dir().join("s3-secret");
    fs::write(&secret, "secret").expect("written");
    // Nothing listens there.
    let endpoint = "http://127.0.0.1:1";
    let files = ["access_key_file", "secret_key_file"].map(|key| format!("backup.s3.{key}={}", secret.display()));
    let endpoint_set = format!("backup.s3.endpoint={endpoint}");
    set(&cluster, "a", &["set", &endpoint_set, &files[0], &files[1], "backup.s3.timeout_seconds=1"]);
    wait_for_value(&cluster, &["a", "b"], "backup.s3.endpoint", endpoint);
    let verify = |cluster: &Cluster| {
        let config = cluster.member("b").config.display().to_string();
        let output = cluster.cli("a").run(&["backup", "verify", "s3://backups/voicemail", "--config", &config]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let running = verify(&cluster);
    assert!(running.contains("has no section [backup.s3]"), "{running}");
    assert!(running.contains("the store of the node cannot be read"), "{running}");
    cluster.stop("b");
    let stopped = verify(&cluster);
    assert!(stopped.contains("settings of the bucket: those of the cluster, from the store of b"), "{stopped}");
    cluster.start_member("b");
    cluster.wait_in_service();
}
