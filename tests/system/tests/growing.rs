//! A cluster grows from one node to five and shrinks again under calls, and a dead node is replaced.

use std::{
    fs,
    sync::mpsc::{self, Sender, TryRecvError},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;
use twinbox_system_tests::growing::{Growing, number, words};
use twinbox_testkit::{Call, Endpoint, Invite, Transport, g711::Law, leave_message, try_leave_message, wait_until};

const MAILBOX: &str = "1001";
const PATIENCE: Duration = Duration::from_secs(30);

fn with_a_user() -> Growing {
    let growing = Growing::founded();
    growing.cli("a").json(&["user", "add", MAILBOX, "--name", "Test", "--pin", "284617", "--keep-pin"]);
    growing
}

/// `Retry-After` of a node under overload, in seconds (`nodes/calls/src/admit.rs`); other refusals have other values.
const OVERLOADED: u64 = 2;

/// Packets of the greeting that each call hears: 0.4 s.
const HEARD: u64 = 20;

/// One call after the other to a node, until stopped. The node answers each, or its overload control puts it off: members
/// that start beside it can use both processors for a moment, and a node whose work is late takes no new call.
struct Caller {
    going: Sender<()>,
    thread: JoinHandle<Called>,
}

/// Result of a [`Caller`].
#[derive(Debug, Default)]
struct Called {
    answered: usize,
    put_off: usize,
    longest_setup: Duration,
}

impl Caller {
    fn begin(growing: &Growing, node: &str) -> Self {
        let (phones, node) = (growing.loopback.place(100), growing.place(node).port(5060));
        let (going, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let endpoint = Endpoint::open(&phones, Law::Mu);
            let mut called = Called::default();
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                let (invite, before) = (Invite::new(MAILBOX, "2001", endpoint.address()), endpoint.packets());
                match Call::place(&phones, node, Transport::Udp, &invite) {
                    Ok(call) => {
                        called.longest_setup = called.longest_setup.max(call.answered_in);
                        wait_until("the greeting", PATIENCE, || endpoint.packets() >= before + HEARD);
                        let bye = call.bye();
                        assert_eq!(bye.status, 200, "call {}: {bye:?}", called.answered);
                        called.answered += 1;
                    }
                    Err(refused) => {
                        let after = refused.response.as_ref().and_then(|r| r.header("retry-after")?.parse().ok());
                        assert_eq!((refused.status, after), (503, Some(OVERLOADED)), "after {called:?}");
                        called.put_off += 1;
                        // It calls again when it was told to, unless it is stopped before.
                        let _ = stopped.recv_timeout(Duration::from_secs(OVERLOADED));
                    }
                }
            }
            called
        });
        Self { going, thread }
    }

    fn stop(self) -> Called {
        drop(self.going);
        self.thread.join().expect("each call is answered")
    }
}

fn gone(growing: &Growing, at: &[&str], name: &str) -> bool {
    at.iter().all(|node| !growing.names(node).iter().any(|known| known == name))
}

fn holder(growing: &Growing, at: &str) -> Value {
    growing.cli(at).json(&["duty", "list"])["duties"][0].clone()
}

#[test]
fn from_one_to_five_and_back_every_call_is_answered_and_the_duty_stays() {
    let mut growing = with_a_user();
    let caller = Caller::begin(&growing, "a");
    let before = holder(&growing, "a");
    let mut members = vec!["a"];
    for name in ["b", "w", "c", "d", "e"] {
        growing.grow("a", name);
        members.push(name);
        growing.wait_in_service("a", &members);
        let duty = holder(&growing, "a");
        assert_eq!((&duty["holder"], &duty["epoch"]), (&before["holder"], &before["epoch"]), "{name} has come");
    }
    // Each can serve: a message left on the last is on the first.
    let phones = growing.loopback.place(100);
    let mut left = None;
    wait_until("e, which may just have been busy, to take a call", PATIENCE, || {
        left = try_leave_message(&phones, growing.place("e").port(5060), MAILBOX, 1.2).ok();
        left.is_some()
    });
    let deposit = left.expect("a call was taken");
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
    wait_until("a has the message", PATIENCE, || {
        growing.cli("a").messages(MAILBOX).iter().any(|m| m.length_ms > 900)
    });

    for (leaver, asked) in [("e", "b"), ("d", "a"), ("c", "c"), ("w", "a"), ("b", "a")] {
        members.retain(|name| *name != leaver);
        let removed = growing.cli(asked).run(&["cluster", "remove", leaver]);
        assert!(removed.status.success(), "{leaver}: {}\n{}", words(&removed), growing.tails());
        wait_until("nobody names it", PATIENCE, || gone(&growing, &[members[0]], leaver));
        growing.wait_in_service("a", &members);
        let duty = holder(&growing, "a");
        assert_eq!((&duty["holder"], &duty["epoch"]), (&before["holder"], &before["epoch"]), "{leaver} has gone");
        growing.wait_end(leaver);
        let log = growing.log(leaver);
        assert!(log.contains("has been removed from this cluster"), "{log}");
    }
    // One node reports the changes of members, once.
    let events = words(&growing.cli("a").run(&["events"]));
    for name in ["b", "w", "c", "d", "e"] {
        for kind in ["member-added", "member-removed"] {
            let told = events.lines().filter(|line| line.contains(&format!(" {kind} ({name})"))).count();
            assert_eq!(told, 1, "{kind} of {name}:\n{events}");
        }
    }
    let called = caller.stop();
    println!("{called:?}");
    assert!(called.answered > 20 && called.put_off < called.answered / 2, "{called:?}");
    // Alone again, and complete; a removed member does not come back automatically.
    growing.start("b");
    growing.wait_failure("b");
    assert!(growing.log("b").contains("new token"), "{}", growing.log("b"));
    assert_eq!(growing.names("a"), ["a"]);
    assert!(growing.cli("a").messages(MAILBOX).iter().any(|m| m.length_ms > 900));
    // By a token it does, at the same address and under the same name, once its old folder has been moved away.
    fs::rename(growing.dir.path().join("b"), growing.dir.path().join("b.aside")).expect("put aside");
    growing.drop_member("b");
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    growing.wait_in_service("b", &["a", "b"]);
}

/// A call in progress on a node that is removed ends on its own, and its recording is stored.
#[test]
fn a_call_on_a_node_that_leaves_goes_on_and_its_message_is_handed_over() {
    let mut growing = with_a_user();
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    wait_until("b has the user", PATIENCE, || growing.cli("b").try_messages(MAILBOX).is_ok());
    let phones = growing.loopback.place(100);
    let there = growing.place("b").port(5060);
    let leaving = std::thread::scope(|scope| {
        let deposit = scope.spawn(|| leave_message(&phones, there, MAILBOX, 4.0));
        wait_until("the call is there", PATIENCE, || {
            let status = growing.cli("b").status().unwrap_or_default();
            let members = status["members"].as_array().cloned().unwrap_or_default();
            members.iter().any(|m| m["name"] == "b" && number(&m["info"]["calls"]) > 0)
        });
        let removed = growing.cli("a").run(&["cluster", "remove", "b"]);
        assert!(removed.status.success(), "{}", words(&removed));
        deposit.join().expect("the call ends well")
    });
    assert!(leaving.acknowledged(), "{:?}", leaving.bye);
    wait_until("a has the message", PATIENCE, || {
        growing.cli("a").messages(MAILBOX).iter().any(|m| m.length_ms > 3_500)
    });
    growing.wait_end("b");
    assert_eq!(growing.names("a"), ["a"]);
}

#[test]
fn a_dead_node_is_replaced_and_the_witness_too() {
    let mut growing = with_a_user();
    for name in ["b", "w"] {
        growing.grow("a", name);
        growing.wait_in_service("a", &["a", name]);
    }
    let phones = growing.loopback.place(100);
    wait_until("b has the user", PATIENCE, || growing.cli("b").try_messages(MAILBOX).is_ok());
    assert!(leave_message(&phones, growing.place("b").port(5060), MAILBOX, 1.2).acknowledged());
    let lives = growing.cli("a").run(&["cluster", "replace", "b"]);
    assert_eq!(lives.status.code(), Some(1));
    assert!(words(&lives).contains("shut it down first"), "{}", words(&lives));
    for (dead, new) in [("b", "c"), ("w", "w")] {
        growing.kill(dead);
        let cli = growing.cli("a");
        wait_until("its death is known", PATIENCE, || cli.status_of(dead).as_deref() == Some("not-functioning"));
        let made = cli.json(&["cluster", "replace", dead, "--name", new]);
        let token = made["token"].as_str().expect("a token").to_owned();
        if dead == new {
            fs::remove_dir_all(growing.dir.path().join(dead)).expect("its machine is lost");
            growing.drop_member(dead);
        }
        let joined = growing.join(&token, new, &growing.address(new).to_string());
        assert!(joined.status.success(), "{}", words(&joined));
        growing.settle(new);
        growing.start(new);
        growing.wait_in_service("a", &["a", new]);
        if dead != new {
            wait_until("the dead one is gone", PATIENCE, || gone(&growing, &["a"], dead));
        }
    }
    assert_eq!(growing.names("a"), ["a", "c", "w"]);
    wait_until("c has the message", PATIENCE, || {
        growing.cli("c").try_messages(MAILBOX).is_ok_and(|m| m.len() == 1)
    });
    // The new ones are a majority without the first.
    growing.kill("a");
    wait_until("c is the publisher", PATIENCE, || growing.cli("c").publisher().as_deref() == Some("c"));
    // The replaced one is informed when it comes back.
    growing.start("b");
    growing.wait_end("b");
    assert!(growing.log("b").contains("has been removed"), "{}", growing.log("b"));
}

/// The files of the members that stay name the dead one.
#[test]
fn a_dead_node_is_replaced_in_a_cluster_that_was_formed_in_one_step() {
    let mut growing = Growing::formed(&["a", "b", "w"]);
    for name in ["a", "b", "w"] {
        growing.start(name);
    }
    growing.wait_in_service("a", &["a", "b", "w"]);
    growing.cli("a").json(&["user", "add", MAILBOX, "--name", "Test", "--pin", "284617", "--keep-pin"]);
    let phones = growing.loopback.place(100);
    assert!(leave_message(&phones, growing.place("a").port(5060), MAILBOX, 1.2).acknowledged());
    growing.kill("b");
    let cli = growing.cli("a");
    wait_until("its death is known", PATIENCE, || cli.status_of("b").as_deref() == Some("not-functioning"));
    let made = cli.json(&["cluster", "replace", "b"]);
    let token = made["token"].as_str().expect("a token").to_owned();
    fs::remove_dir_all(growing.dir.path().join("b")).expect("its machine is lost");
    growing.drop_member("b");
    let joined = growing.join(&token, "b", &growing.address("b").to_string());
    assert!(joined.status.success(), "{}", words(&joined));
    growing.settle("b");
    growing.start("b");
    growing.wait_in_service("a", &["a", "b", "w"]);
    wait_until("b has the message", PATIENCE, || {
        growing.cli("b").try_messages(MAILBOX).is_ok_and(|messages| messages.len() == 1)
    });
    // And after a removal.
    growing.kill("b");
    wait_until("its death is known", PATIENCE, || cli.status_of("b").as_deref() == Some("not-functioning"));
    assert!(cli.run(&["cluster", "remove", "b", "--lost"]).status.success());
    wait_until("it is gone", PATIENCE, || gone(&growing, &["a"], "b"));
    fs::remove_dir_all(growing.dir.path().join("b")).expect("its machine is lost");
    growing.drop_member("b");
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b", "w"]);
}

#[test]
fn impossible_orders_are_refused_with_a_reason_and_change_nothing() {
    let mut growing = with_a_user();
    growing.grow("a", "b");
    growing.wait_in_service("a", &["a", "b"]);
    let settings = growing.cli("a").json(&["cluster", "settings"]);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["cluster", "remove", "nobody"], 1, "its members are: a, b"),
        (&["cluster", "remove", "b", "--lost"], 1, "leave out --lost"),
        (&["cluster", "add", "b"], 1, "member 'b' exists already"),
        (&["cluster", "replace", "nobody"], 1, "no member 'nobody'"),
        (&["cluster", "replace", "b"], 1, "shut it down first"),
        (&["cluster", "make-publisher", "nobody"], 1, "its members are: a, b"),
        (&["cluster", "set", "colour", "blue"], 2, "there is no setting 'colour'"),
        (&["cluster", "set", "mode", "sideways"], 2, "active-active or active-passive"),
        (&["cluster", "set", "keep-alive", "1"], 2, "milliseconds from 50 to 5000"),
        (&["cluster", "set", "mode"], 2, "VALUE"),
        (&["cluster", "set", "mode", "active-active", "missed"], 2, "'missed' has no value"),
        (&["cluster", "set", "alarm-rule", "no-such-alarm 2 60"], 2, "there is no alarm 'no-such-alarm'"),
        (&["cluster", "set", "alarm-rule", "member-lost 0 60"], 2, "CODE TIMES SECONDS"),
        (&["cluster", "deactivate", "nobody"], 1, "its members are: a, b"),
        (&["cluster", "activate", "nobody"], 1, "its members are: a, b"),
        (&["cluster", "set", "preferred", "nobody"], 1, "its members are: a, b"),
        (&["cluster", "set", "preferred", "a", "mode", "sideways"], 2, "sideways"),
        (&["cluster", "failback", "scheduled", "--from", "02:00"], 2, "--to"),
        (
            &["cluster", "failback", "scheduled", "--from", "02:00", "--to", "02:00", "--preferred", "a"],
            1,
            "daily window",
        ),
        (
            &["cluster", "failback", "scheduled", "--from", "25:00", "--to", "02:00", "--preferred", "a"],
            1,
            "daily window",
        ),
        (&["cluster", "failback", "scheduled", "--from", "02:00", "--to", "04:00"], 1, "preferred"),
        (&["cluster", "failback", "none", "--from", "02:00"], 2, "window"),
        (&["cluster", "failback"], 1, "failback is 'none'"),
        (&["cluster", "mode", "passive-passive"], 2, "active-active"),
        (&["cluster", "outcome", "xyz"], 2, "32 hexadecimal digits"),
        (&["duty", "move", "gardener", "a"], 2, "there is no duty 'gardener'; the duties are: notifier, mta"),
        (&["duty", "pin", "mtaa", "a"], 2, "there is no duty 'mtaa'; the duties are: notifier, mta"),
        (&["duty", "move", "notifier", "nobody"], 1, "its members are: a, b"),
        (&["duty", "pin", "notifier", "nobody"], 1, "its members are: a, b"),
        (&["duty", "unpin", "notifier"], 1, "is not pinned"),
        (&["duty", "move", "mta", "nobody"], 1, "its members are: a, b"),
        (&["duty", "unpin", "mta"], 1, "'mta' is not pinned"),
    ];
    for (arguments, code, expected) in cases {
        let output = growing.cli("a").run(arguments);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {}", words(&output));
        assert!(words(&output).contains(expected), "{arguments:?}: {}", words(&output));
    }
    assert_eq!(growing.cli("a").json(&["cluster", "settings"]), settings);
    assert_eq!(growing.names("a"), ["a", "b"]);

    // Without a majority: the order is refused immediately once the loss is known, and local queries are answered.
    growing.kill("b");
    let cli = growing.cli("a");
    wait_until("the loss is known", PATIENCE, || cli.status().is_some_and(|s| s["quorum"] == false));
    for arguments in [
        &["cluster", "set", "missed", "6"][..],
        &["cluster", "remove", "b", "--lost"],
        &["duty", "pin", "notifier", "a"],
    ] {
        let refused = cli.run(arguments);
        assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
        assert!(words(&refused).contains("2 of the 2 members"), "{}", words(&refused));
    }
    let asked = cli.run(&["cluster", "settings"]);
    assert!(asked.status.success() && words(&asked).contains("out of date"), "{}", words(&asked));
    // Calls are answered all the while.
    let phones = growing.loopback.place(100);
    let deposit = leave_message(&phones, growing.place("a").port(5060), MAILBOX, 1.2);
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);
}
