//! Impossible orders of administrators: refused with a text and exit code 1, and nothing changed; and the orders that
//! work without a majority.

use std::{fs, time::Duration};

use serde_json::Value;
use twinbox_clock::BootInstant;
use twinbox_system_tests::{
    growing::{Growing, words},
    slack,
};
use twinbox_testkit::{
    Cli, Cluster, Lab, Link, Spec, http_get, leave_message, listen, metric, need, parameter, wait_for, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Checks that the command is refused immediately, with exit code 1 and these words.
fn assert_refused(cli: &Cli, arguments: &[&str], expected: &str) {
    let begun = BootInstant::now();
    let output = cli.run(arguments);
    let took = begun.elapsed();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", words(&output));
    assert!(words(&output).contains(expected), "{arguments:?}: {}", words(&output));
    assert!(took < Duration::from_secs(1) + slack(), "{arguments:?}: {took:?}");
}

/// The agreed state, as a node shows it, without values that change automatically.
fn agreed(cli: &Cli) -> Value {
    let (status, settings) = (cli.json(&["cluster", "status"]), cli.json(&["cluster", "settings"]));
    let of = |member: &Value| {
        let field = |name: &str| member[name].clone();
        Value::from(vec![field("name"), field("kind"), field("role"), field("status"), field("duties")])
    };
    let members: Vec<Value> = status["members"].as_array().into_iter().flatten().map(of).collect();
    let moves = cli.json(&["cluster", "moves"]);
    serde_json::json!({
        "members": members, "level": status["feature_level"], "moves": moves,
        "settings": settings["settings"], "pins": settings["pins"],
    })
}

#[test]
fn a_second_witness_and_nodes_that_may_not_serve_are_refused_and_nothing_changes() {
    let cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    let cli = cluster.cli(&publisher);
    let before = agreed(&cli);
    for (arguments, expected) in [
        (&["cluster", "add", "v", "--witness"][..], "'w' is already the witness"),
        (&["cluster", "token", "--witness"], "'twinbox cluster replace w'"),
        (&["cluster", "make-publisher", "w"], "is a witness"),
        (&["cluster", "make-publisher", "w", "--force"], "is a witness"),
        (&["cluster", "deactivate", "w"], "is a witness"),
        (&["duty", "pin", "notifier", "w"], "is a witness"),
        (&["cluster", "set", "preferred", "w"], "is a witness"),
        (&["cluster", "remove", "v"], "its members are: a, b, w"),
    ] {
        assert_refused(&cli, arguments, expected);
    }
    assert_eq!(agreed(&cli), before);

    cli.order(&["cluster", "deactivate", &other]);
    cluster.wait_for_status(&[&other], "deactivated");
    let before = agreed(&cli);
    for (arguments, expected) in [
        (&["cluster", "make-publisher", &other][..], "is deactivated; activate it first"),
        (&["cluster", "make-publisher", &other, "--force"], "is deactivated; activate it first"),
        (&["duty", "move", "notifier", &other], "is deactivated; activate it first"),
        (&["cluster", "deactivate", &publisher], "is the last node in service"),
        (&["cluster", "remove", &publisher], "is the last node in service"),
        (&["cluster", "remove", &publisher, "--lost"], "is the last node in service"),
    ] {
        for node in [&publisher, &other] {
            assert_refused(&cluster.cli(node), arguments, expected);
        }
    }
    assert_eq!(agreed(&cli), before);
    cli.order(&["cluster", "activate", &other]);
    cluster.wait_in_service();
}

#[test]
fn the_last_node_is_not_removed() {
    let growing = Growing::founded();
    let before = agreed(&growing.cli("a"));
    for arguments in
        [&["cluster", "remove", "a"][..], &["cluster", "remove", "a", "--lost"], &["cluster", "deactivate", "a"]]
    {
        assert_refused(&growing.cli("a"), arguments, "is the last node in service, or the last that may be");
    }
    assert_eq!(agreed(&growing.cli("a")), before);
}

/// Without a majority, orders of the Raft plane are refused immediately, those of the data plane are accepted (the
/// planes of ARCHITECTURE.md).
#[test]
fn without_a_majority_what_needs_one_is_refused_at_once_and_the_rest_is_taken() {
    let mut cluster = Cluster::start(&Spec::default());
    let mailbox = Cluster::USERS[0].number;
    let deposit = leave_message(cluster.phones(), cluster.sip("a"), mailbox, 1.2);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    cluster.wait_for_messages("b", mailbox, 1, PATIENCE);
    cluster.kill("b");
    cluster.kill("w");
    let cli = cluster.cli("a");
    wait_until("the loss is known", PATIENCE, || cli.status().is_some_and(|s| s["quorum"] == false));
    // A new loss may be a change of leaders: orders wait two election timeouts for that.
    wait_until("it to be believed", PATIENCE, || {
        let begun = BootInstant::now();
        !cli.run(&["cluster", "activate", "a"]).status.success() && begun.elapsed() < Duration::from_millis(500)
    });
    let before = cli.json(&["cluster", "settings"]);

    let why = "not in touch with a leader of at least 2 of the 3 members";
    let settings = before["settings"].as_array().expect("settings").clone();
    assert!(settings.len() > 15, "{settings:?}");
    for setting in &settings {
        let [name, value] = ["name", "value"].map(|part| setting[part].as_str().expect("a text"));
        assert_refused(&cli, &["cluster", "set", name, value], why);
    }
    for arguments in [
        &["cluster", "set", "missed", "6", "mode", "active-passive"][..],
        &["cluster", "mode", "active-passive"],
        &["cluster", "failback", "none"],
        &["cluster", "failback", "scheduled", "--from", "02:00", "--to", "04:00", "--preferred", "a"],
        &["cluster", "failback"],
        &["cluster", "make-publisher", "a"],
        &["cluster", "make-publisher", "a", "--force"],
        &["cluster", "activate", "b"],
        &["cluster", "deactivate", "b"],
        &["cluster", "remove", "b"],
        &["cluster", "remove", "b", "--lost"],
        &["cluster", "add", "c"],
        &["cluster", "replace", "b"],
        &["cluster", "token"],
        &["cluster", "ca", "rotate"],
        &["cluster", "operator-revoke", "nobody"],
        &["cluster", "outcome", "00000000000000000000000000000001"],
        &["duty", "move", "notifier", "a"],
        &["duty", "pin", "notifier", "a"],
        &["duty", "unpin", "notifier"],
    ] {
        assert_refused(&cli, arguments, why);
    }

    // The data plane: carried out, on this node alone.
    let table = cluster.dir().join("users.csv");
    fs::write(&table, "number,name,pin\n3002,Bo,284617\n").expect("written");
    let table = table.to_string_lossy().into_owned();
    let id = cli.messages(mailbox)[0].id.clone();
    for arguments in [
        &["user", "add", "3001", "--name", "Ada", "--pin", "602214"][..],
        &["user", "set", "3001", "--name", "Ada L"],
        &["user", "set-pin", "3001", "602215"],
        &["user", "import", &table],
        &["user", "remove", "3002"],
        &["cos", "add", "short", "message-seconds=60"],
        &["cos", "set", "short", "message-seconds=90"],
        &["cos", "set", "default", "operator=no"],
        &["message", "delete", mailbox, &id],
    ] {
        let output = cli.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", words(&output));
    }
    let added = cli.json(&["user", "add", "3003", "--name", "Cy", "--pin", "602214"]);
    assert_eq!(added["acknowledged"], "alone", "{added}");
    let alarm = wait_for("an alarm", PATIENCE, || {
        let list = cli.try_json(&["alarm", "list"]).ok()?;
        Some(list["alarms"].as_array()?.first()?["id"].as_str()?.to_owned())
    });
    cli.json(&["alarm", "ack", &alarm]);
    let asked = cli.run(&["cluster", "settings"]);
    assert!(asked.status.success() && words(&asked).contains("out of date"), "{}", words(&asked));

    // With a majority again, the refused orders had no effect, and the accepted ones all had.
    cluster.start_member("b");
    cluster.start_member("w");
    cluster.wait_in_service();
    for node in ["a", "b"] {
        let cli = cluster.cli(node);
        wait_until("what was taken to be there", PATIENCE, || {
            let user = cli.try_json(&["user", "show", "3001"]).unwrap_or_default();
            user["name"] == "Ada L" && cli.try_json(&["user", "show", "3003"]).is_ok()
        });
        let after = cli.json(&["cluster", "settings"]);
        assert_eq!((&after["settings"], &after["pins"]), (&before["settings"], &before["pins"]));
        assert!(cli.messages(mailbox).iter().all(|message| message.state == "deleted"));
    }
}

/// After a cut between the nodes one lacks thousands of changes, but is in service. It becomes publisher only with
/// `--force`; the refusal states the risk. Acknowledged data is kept, also when the node dies that had it first.
#[test]
fn a_node_far_behind_is_publisher_by_force_alone_and_nothing_acknowledged_is_lost() {
    if !need::all(&[need::NAMESPACES, need::TAP]) {
        return;
    }
    let lab = Lab::switched(&["a", "b", "w"], parameter("TWINBOX_SEED", 1));
    let mut cluster = Cluster::start_in(&lab, &Spec::default());
    let user = Cluster::USERS[0];
    lab.cut("a", "b");
    let table = cluster.dir().join("users.csv");
    let users = 4_000;
    let rows: String = (0..users).map(|n| format!("{},User {n}\n", 300_000 + n)).collect();
    fs::write(&table, format!("number,name\n{rows}")).expect("written");
    cluster.cli("a").json(&["user", "import", &table.to_string_lossy()]);
    let deposit = leave_message(cluster.phones(), cluster.sip("a"), user.number, 1.5);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    wait_until("a to be the publisher", PATIENCE, || {
        let asked = cluster.cli("a").run(&["cluster", "make-publisher", "a"]).status.success();
        asked && cluster.cli("a").publisher().as_deref() == Some("a")
    });

    // They reconnect over a line so slow that catching up takes a while; both reach the witness as before.
    lab.set_link("a", "b", Link::round_trip(200, 100));
    lab.heal();
    let behind = || {
        let (_, page) = http_get(cluster.phones(), cluster.member("b").metrics(), "/metrics")?;
        metric(&page, "twinbox_behind_changes", "").filter(|behind| *behind > 2_000.0)
    };
    wait_for("b to know that it is far behind", PATIENCE, behind);
    // The keep-alives report the lag, measured once a second: an earlier order is carried out, and is reverted here.
    let refused = wait_for("the order to be refused", PATIENCE, || {
        let given = cluster.cli("a").run(&["cluster", "make-publisher", "b"]);
        if !given.status.success() {
            return Some(given);
        }
        wait_until("a to be the publisher again", PATIENCE, || {
            cluster.cli("a").run(&["cluster", "make-publisher", "a"]).status.success()
                && cluster.publisher("a") == "a"
        });
        None
    });
    println!("{}", words(&refused));
    assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
    for part in ["'b' still lacks", "may be out of date", "no acknowledged data is lost", "--force"] {
        assert!(words(&refused).contains(part), "{part}: {}", words(&refused));
    }
    assert_eq!(cluster.publisher("a"), "a", "nothing was changed");
    assert_eq!(cluster.cli("a").status_of("b").as_deref(), Some("in-service"));
    cluster.cli("a").order(&["cluster", "make-publisher", "b", "--force"]);
    wait_until("b to be the publisher", PATIENCE, || cluster.publisher("a") == "b");
    println!("b is publisher and lacks {:?} changes", behind());

    // The line is normal again: b catches up, and has all data when a is lost.
    lab.set_link("a", "b", Link::default());
    wait_until("b to have caught up", Duration::from_secs(60), || {
        let known = cluster.cli("b").try_json(&["user", "list"]).unwrap_or_default();
        known["users"].as_array().map_or(0, Vec::len) == users + Cluster::USERS.len()
    });
    cluster.wait_for_messages("b", user.number, 1, PATIENCE);
    cluster.kill("a");
    let heard = listen(cluster.phones(), cluster.sip("b"), user, &[deposit], 1.0, PATIENCE);
    assert!(heard[0].is_some(), "the message is heard where it was not left");
}
