//! A majority is lost permanently: the survivor goes on alone by an administrator's order, grows again, and a given-up
//! member is not admitted with the data on its disk.

use std::{fs, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_system_tests::growing::{Growing, words};
use twinbox_testkit::{Endpoint, g711::Law, leave_message, need, sipp::Sipp, wait_until};

const MAILBOX: &str = "1001";
const PATIENCE: Duration = Duration::from_secs(30);

/// A pair without a witness loses one node with its disk. Calls continue throughout.
#[test]
fn the_survivor_of_a_pair_goes_on_alone_and_becomes_a_pair_again() {
    if !need::all(&[need::SIPP]) {
        return;
    }
    let mut growing = Growing::founded();
    growing.cli("a").json(&["user", "add", MAILBOX, "--name", "Test", "--pin", "284617", "--keep-pin"]);
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    growing.wait_in_service("b", &["a", "b"]);
    growing.cli("a").order(&["cluster", "make-publisher", "b"]);
    wait_until("b is the publisher", PATIENCE, || growing.cli("a").publisher().as_deref() == Some("b"));

    let phones = growing.loopback.place(100);
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let there = growing.place("a").port(5060);
    let sipp = Sipp::new("call-early", there, MAILBOX, endpoint.address(), Duration::from_millis(700));
    let sipp = sipp.times(600, 2).start(&phones, growing.dir.path());

    let cli = growing.cli("a");
    let refused = |arguments: &[&str], code: i32, expected: &str| {
        let output = cli.run(&[&["cluster", "go-on-alone"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", words(&output));
        assert!(words(&output).contains(expected), "{arguments:?}: {}", words(&output));
    };
    refused(&["--lost", "b", "--yes"], 1, "the cluster has a majority");
    refused(&[], 2, "--lost");

    // The machine and its disk are lost.
    growing.kill("b");
    fs::rename(growing.dir.path().join("b"), growing.dir.path().join("b.aside")).expect("put aside");
    wait_until("the loss is known", PATIENCE, || cli.status().is_some_and(|s| s["quorum"] == false));
    refused(&["--lost", "nobody", "--yes"], 1, "the others are: b");
    let alone = leave_message(&phones, there, MAILBOX, 1.2);
    assert!(alone.acknowledged(), "{:?}", alone.bye);
    // Without confirmation it states the risk, and does nothing.
    wait_until("b is silent", PATIENCE, || {
        words(&cli.run(&["cluster", "go-on-alone", "--lost", "b"])).contains("both sides may act")
    });
    refused(&["--lost", "b"], 2, "nothing changed");
    refused(&["--lost", "b"], 2, "what b took or recorded alone after its last contact with this node");
    refused(&["--lost", "b"], 2, "everything that was acknowledged on two is on another node");
    assert_eq!(growing.names("a"), ["a", "b"]);

    let begun = BootInstant::now();
    let done = cli.run(&["cluster", "go-on-alone", "--lost", "b", "--yes"]);
    assert!(done.status.success(), "{}", words(&done));
    println!("{} in {:?}", words(&done).trim(), begun.elapsed());
    wait_until("a runs the notifier", PATIENCE, || {
        let duty = cli.json(&["duty", "list"])["duties"][0].clone();
        duty["state"] == "running" && duty["holder"] == "a"
    });
    println!("the duty runs {:?} after the order", begun.elapsed());
    growing.wait_in_service("a", &["a"]);
    assert_eq!(growing.names("a"), ["a"]);
    let told = |what: &str| cli.json(&["alarm", "list"]).to_string().contains(what);
    wait_until("the alarm of it", PATIENCE, || told("gone-alone"));
    refused(&["--lost", "b", "--yes"], 1, "the cluster has a majority");

    // A fresh machine makes it a pair again, and takes over the data.
    growing.grow("a", "c");
    growing.wait_in_service("a", &["a", "c"]);
    growing.wait_in_service("c", &["a", "c"]);
    wait_until("c has the messages", PATIENCE, || {
        let there = growing.cli("a").messages(MAILBOX).len();
        growing.cli("c").try_messages(MAILBOX).is_ok_and(|messages| messages.len() >= there)
    });
    growing.cli("c").order(&["cluster", "make-publisher", "c"]);
    wait_until("roles move", PATIENCE, || growing.cli("a").publisher().as_deref() == Some("c"));

    // The lost machine is found, with its disk: it is informed, and ends. No node treats it as a member.
    fs::rename(growing.dir.path().join("b.aside"), growing.dir.path().join("b")).expect("put back");
    growing.start("b");
    growing.wait_end("b");
    let log = growing.log("b");
    assert!(log.contains("'b' was given up for lost") && log.contains("new token"), "{log}");
    assert_eq!(growing.names("c"), ["a", "c"]);
    growing.start("b");
    growing.wait_failure("b");
    growing.wait_in_service("a", &["a", "c"]);
    let (finished, lasted) = (sipp.stop(), begun.elapsed());
    println!("{} calls in {lasted:?}, the longest set-up {:?}", finished.calls, finished.longest_setup);
    // Each call lasts a while, and the first must not be the only one.
    assert!(f64::from(finished.calls) > lasted.as_secs_f64() / 2.0, "{} calls: no load", finished.calls);

    // With its folder moved away and with a token it is a member again.
    fs::rename(growing.dir.path().join("b"), growing.dir.path().join("b.aside")).expect("put aside");
    growing.drop_member("b");
    growing.grow("c", "b");
    growing.wait_in_service("b", &["a", "b", "c"]);
}

/// Three nodes of which two are lost: the remaining node serves callers and administrators as before, and a lost node
/// that comes back is informed.
#[test]
fn of_three_nodes_the_last_goes_on_when_every_other_is_named() {
    let mut growing = Growing::founded();
    growing.cli("a").json(&["user", "add", MAILBOX, "--name", "Test", "--pin", "284617", "--keep-pin"]);
    for name in ["b", "c"] {
        growing.grow("a", name);
        growing.wait_in_service("a", &["a", name]);
    }
    wait_until("a has the user", PATIENCE, || growing.cli("c").try_messages(MAILBOX).is_ok());
    growing.cli("b").order(&["cluster", "set", "missed", "6"]);
    for lost in ["b", "c"] {
        growing.kill(lost);
    }
    let cli = growing.cli("a");
    wait_until("the loss is known", PATIENCE, || cli.status().is_some_and(|s| s["quorum"] == false));
    let unnamed = cli.run(&["cluster", "go-on-alone", "--lost", "b", "--yes"]);
    assert_eq!(unnamed.status.code(), Some(1), "{}", words(&unnamed));
    assert!(words(&unnamed).contains("missing: c"), "{}", words(&unnamed));
    wait_until("it goes on", PATIENCE, || {
        let done = cli.run(&["cluster", "go-on-alone", "--lost", "b", "--lost", "c", "--yes"]);
        assert!(done.status.success() || words(&done).contains("in contact"), "{}", words(&done));
        done.status.success()
    });
    growing.wait_in_service("a", &["a"]);
    let settings = cli.json(&["cluster", "settings"]).to_string();
    assert!(settings.contains("\"missed\"") && settings.contains("\"6\""), "what was agreed on stays: {settings}");
    let phones = growing.loopback.place(100);
    assert!(leave_message(&phones, growing.place("a").port(5060), MAILBOX, 1.2).acknowledged());
    growing.start("b");
    growing.wait_end("b");
    assert!(growing.log("b").contains("given up for lost"), "{}", growing.log("b"));
    wait_until("it is told that it lived", PATIENCE, || words(&cli.run(&["events"])).contains("two-groups"));
}
