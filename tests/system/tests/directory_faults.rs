//! Directory servers that send too much, that are lost in the middle of a run, or that refer to others: a run fails
//! with its reason, changes nothing, and the next one does the whole work.
//!
//! `TWINBOX_LDAP_ENTRIES=1000000` sets the full size of the largest directory.

use std::{fs, net::Ipv4Addr, thread, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_peer_kit::{
    HoldingRelay, MadeUpDirectory, PeopleAnswer,
    people::{add_directory, holder_of, listed_users, people, person},
};
use twinbox_system_tests::memory::PeakMemory;
use twinbox_testkit::{
    Cli, Cluster, Lab, NetPlace, Slapd, SlapdSettings, Spec, leave_message, need, parameter, wait_until,
};

const SOON: Duration = Duration::from_secs(60);
/// Port of a server that the test makes up, or of a relay.
const LDAP: u16 = 3390;
/// Users that every cluster of the test kit has.
const LOCAL: usize = Cluster::USERS.len();
/// Number of the first person in slapd.
const FIRST: usize = 30_000;
/// Results of one search that a node takes at most.
const MOST_RESULTS: usize = 500_000;
/// Answers that come through before a directory is lost, in bytes: some ten people.
const SOME_PEOPLE: usize = 6_000;
/// People of another directory.
const OTHERS: usize = 3;
const MIB: u64 = 1 << 20;

fn at(phones: &NetPlace, last: u8) -> NetPlace {
    let [a, b, c, _] = phones.ip.octets();
    phones.at(Ipv4Addr::new(a, b, c, last))
}

fn synchronizing() -> SlapdSettings {
    SlapdSettings { syncprov: true, ..SlapdSettings::default() }
}

/// Output of a command that is refused.
fn refusal(cli: &Cli, arguments: &[&str]) -> String {
    let output = cli.run(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    said
}

fn raised(cli: &Cli) -> bool {
    is_raised(cli, "corp")
}

/// Whether the alarm about a directory of this name is raised.
fn is_raised(cli: &Cli, name: &str) -> bool {
    let list = cli.try_json(&["alarm", "list"]).unwrap_or_default();
    let is_it = |alarm: &Value| {
        alarm["code"] == "directory-unreachable" && alarm["subject"] == name && alarm["state"] == "raised"
    };
    list["alarms"].as_array().into_iter().flatten().any(is_it)
}

fn error_of(cli: &Cli) -> String {
    let shown = cli.json(&["directory", "show", "corp"]);
    shown["error"].as_str().unwrap_or_default().to_owned()
}

/// Checks that no node has a user of a directory.
fn nothing_was_made(cluster: &Cluster, nodes: &[&str]) {
    for node in nodes {
        let users = listed_users(&cluster.cli(node));
        assert_eq!(users.len(), LOCAL, "{node}: {users:#?}");
    }
}

fn wait_for_users(cluster: &Cluster, nodes: &[&str], people: usize) {
    for node in nodes {
        wait_until(&format!("all users on {node}"), SOON, || {
            listed_users(&cluster.cli(node)).len() == people + LOCAL
        });
    }
}

/// Adds the server that the test makes up, without a name to sign in with.
fn add_made_up(cli: &Cli, server: &MadeUpDirectory, further: &[&str]) {
    add_named(cli, "corp", server, &[&["number={telephoneNumber}", "timeout=20"], further].concat());
}

/// Adds such a server under this name.
fn add_named(cli: &Cli, name: &str, server: &MadeUpDirectory, further: &[&str]) {
    let (url, base) = (format!("url=ldap://{}", server.address()), format!("base={}", MadeUpDirectory::BASE));
    let usual = [&url[..], &base, "start-tls=no"];
    cli.json(&[&["directory", "add", name][..], &usual, further].concat());
}

/// Runs this, while a caller leaves a message and another directory, which has [`OTHERS`] people, is read.
fn meanwhile<T: Send>(cluster: &Cluster, run: impl FnOnce() -> T + Send) -> T {
    let b = cluster.cli("b");
    thread::scope(|scope| {
        let run = scope.spawn(run);
        let deposit = leave_message(cluster.phones(), cluster.sip("b"), Cluster::USERS[0].number, 1.5);
        assert!(deposit.acknowledged(), "{deposit:?}");
        let other = b.json(&["directory", "sync", "other"]);
        let counts = &other["counts"];
        let people = counts["new"].as_u64().unwrap_or_default() + counts["unchanged"].as_u64().unwrap_or_default();
        assert!(other["outcome"] == "done" && people == OTHERS as u64, "{other}");
        run.join().expect("the run ends")
    })
}

#[test]
fn attribute_of_100_megabytes_is_refused_by_its_size_and_the_next_run_does_all_work() {
    let size = 100_000_000;
    let start = |phones: &NetPlace| MadeUpDirectory::start(phones, LDAP, PeopleAnswer::HugePhoto(size));
    let (cluster, server) = Cluster::start_with(|_| Spec::default(), start);
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    add_made_up(&a, &server, &[]);
    let memory = ["a", "b"].map(|node| PeakMemory::begin(cluster.member(node).pid()));
    let refused = refusal(&b, &["directory", "sync", "corp"]);
    for part in [&server.address().to_string()[..], "a message of 1000", "exceeds the bound of 4194304 bytes"] {
        assert!(refused.contains(part), "no '{part}' in: {refused}");
    }
    wait_until("the alarm", SOON, || raised(&a));
    wait_until("the reason", SOON, || error_of(&b).contains("exceeds the bound"));
    nothing_was_made(&cluster, &["a", "b"]);
    println!("{} of {size} bytes were taken", server.sent());
    assert!(server.sent() < 16 * MIB, "{} bytes", server.sent());

    // Attributes that a message may have are left out one by one, however many there are.
    server.answer(PeopleAnswer::People { count: 40, photo: 3 << 20 });
    let run = a.json(&["directory", "sync", "corp"]);
    assert!(run["outcome"] == "done" && run["counts"]["new"] == 40, "{run}");
    wait_for_users(&cluster, &["a", "b"], 40);
    wait_until("the end of the alarm", SOON, || !raised(&a));
    wait_until("the end of the reason", SOON, || error_of(&b).is_empty());
    for (node, memory) in ["a", "b"].iter().zip(&memory) {
        println!("{node}: {} MiB more at the peak", memory.grown() / MIB);
        assert!(memory.grown() < 80 * MIB, "{node}: {} bytes", memory.grown());
        assert!(!cluster.member(node).log().contains("panicked"), "{node}");
    }
}

/// Up to the bound of one search all people are read; beyond it the run is refused. Calls and another directory go on.
#[test]
fn large_directory_costs_bounded_memory_and_one_beyond_the_bound_is_refused_with_it() {
    let count = parameter("TWINBOX_LDAP_ENTRIES", 20_000) as usize;
    let start = |phones: &NetPlace| {
        let others = PeopleAnswer::People { count: OTHERS, photo: 0 };
        let other = MadeUpDirectory::start(&at(phones, 64), LDAP, others);
        (MadeUpDirectory::start(phones, LDAP, PeopleAnswer::People { count, photo: 0 }), other)
    };
    let (cluster, (server, other)) = Cluster::start_with(|_| Spec::default(), start);
    let a = cluster.cli("a");
    add_made_up(&a, &server, &[]);
    // Its people have the numbers from 72000000 on.
    add_named(&a, "other", &other, &["number=7{telephoneNumber}"]);
    let memory = ["a", "b"].map(|node| PeakMemory::begin(cluster.member(node).pid()));
    // A dry run reads and compares all, and writes none.
    let sync = ["directory", "sync", "corp", "--dry-run"];
    if count > MOST_RESULTS {
        for sync in [&sync[..], &sync[..3]] {
            let refused = meanwhile(&cluster, || refusal(&a, sync));
            assert!(refused.contains(&format!("more than {MOST_RESULTS} results")), "{refused}");
            assert!(refused.contains("narrow the base or the filter"), "{refused}");
        }
        wait_until("the alarm", SOON, || raised(&a));
        wait_until("the reason", SOON, || error_of(&a).contains("more than"));
    } else {
        let dry = meanwhile(&cluster, || a.json(&sync));
        assert!(dry["outcome"] == "done" && dry["counts"]["new"] == count, "{}", dry["counts"]);
        assert!(dry["lines"].as_array().is_some_and(|lines| lines.len() <= 2_000), "the report is bounded");
    }
    // A search keeps each person until its end, and the comparison adds a line and a step for each.
    let bound = 96 * MIB + 6_000 * count.min(MOST_RESULTS) as u64;
    for (node, memory) in ["a", "b"].iter().zip(&memory) {
        println!("{node}: {} MiB more at the peak, for {count} entries", memory.grown() / MIB);
        assert!(memory.grown() < bound, "{node}: {} bytes, more than {bound}", memory.grown());
    }
    wait_for_users(&cluster, &["a", "b"], OTHERS);
    server.answer(PeopleAnswer::People { count: 3, photo: 0 });
    let run = a.json(&["directory", "sync", "corp"]);
    assert!(run["outcome"] == "done" && run["counts"]["new"] == 3, "{run}");
    wait_until("no alarm", SOON, || !raised(&a));
}

/// As many slow servers as runs may be under way at a time, and a silent one.
#[test]
fn slow_and_silent_directories_hold_up_no_other_and_each_has_its_own_alarm() {
    let start = |phones: &NetPlace| {
        let one = |last: u8, answer| MadeUpDirectory::start(&at(phones, last), LDAP, answer);
        let slow = [70, 71, 72, 73].map(|last| one(last, PeopleAnswer::Drip(Duration::from_secs(1))));
        (slow, one(74, PeopleAnswer::Silence), one(75, PeopleAnswer::People { count: OTHERS, photo: 0 }))
    };
    let (cluster, (slow, silent, well)) = Cluster::start_with(|_| Spec::default(), start);
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let names = ["slow-0", "slow-1", "slow-2", "slow-3"];
    for (name, server) in names.iter().zip(&slow) {
        add_named(&a, name, server, &["number=8{telephoneNumber}", "timeout=5", "enabled=yes"]);
    }
    wait_until("all slow servers to be asked", SOON, || slow.iter().all(|server| server.connections() > 0));
    add_named(&a, "silent", &silent, &["number=9{telephoneNumber}", "timeout=2", "enabled=yes"]);
    add_named(&a, "well", &well, &["number={telephoneNumber}", "timeout=5", "enabled=yes"]);
    wait_for_users(&cluster, &["a", "b"], OTHERS);
    wait_until("the alarm about the silent server", SOON, || is_raised(&b, "silent"));
    assert!(names.iter().chain(&["well"]).all(|name| !is_raised(&b, name)), "a slow server is no failure yet");

    // A number that another directory has supplied already.
    add_named(&a, "copy", &well, &["number={telephoneNumber}", "timeout=5"]);
    let copied = b.json(&["directory", "sync", "copy"]);
    assert!(copied["counts"]["new"] == 0 && copied["counts"]["refused"] == OTHERS, "{copied}");
    let number = MadeUpDirectory::FIRST.to_string();
    let names_both = |line: &Value| {
        line.as_str().is_some_and(|line| line.contains(&number) && line.contains("of another directory"))
    };
    assert!(copied["lines"].as_array().is_some_and(|lines| lines.iter().any(names_both)), "{copied}");

    // Slow servers that end their connections fail, each under its own name.
    drop(slow);
    for name in names {
        wait_until(&format!("the alarm about {name}"), SOON, || is_raised(&b, name));
    }
    assert!(!is_raised(&b, "well"));
    wait_for_users(&cluster, &["a", "b"], OTHERS);
}

#[test]
fn run_that_loses_its_directory_in_the_middle_changes_nothing_and_a_later_one_does_all_work() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let count = 200;
    let start = |phones: &NetPlace| {
        let slapd = Slapd::start(&at(phones, 61), &synchronizing(), &people(FIRST..FIRST + count));
        let relay = HoldingRelay::start(phones, LDAP, slapd.ldap());
        (slapd, relay)
    };
    let (cluster, (_slapd, relay)) = Cluster::start_with(|_| Spec::default(), start);
    let files = TempDir::new().expect("a folder");
    let password = files.path().join("bind");
    fs::write(&password, Slapd::PASSWORD).expect("written");
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let url = format!("ldap://{}", relay.address());
    add_directory(&a, &url, &password.to_string_lossy(), &["timeout=3", "interval=10"]);

    // The connection breaks.
    relay.close_after(SOME_PEOPLE);
    let refused = refusal(&b, &["directory", "sync", "corp"]);
    assert!(refused.contains("the server closed the connection"), "{refused}");
    nothing_was_made(&cluster, &["a", "b"]);
    wait_until("the alarm", SOON, || raised(&a));

    // The network takes the answers, without an end of the connection.
    relay.hold_after(SOME_PEOPLE);
    a.json(&["directory", "set", "corp", "enabled=yes"]);
    wait_until("a search that is half read", SOON, || relay.held() > 0);
    wait_until("the node to give up", SOON, || relay.open() == 0);
    wait_until("the reason", SOON, || error_of(&b).contains("gave no answer within 3s"));
    nothing_was_made(&cluster, &["a", "b"]);

    // The next attempt comes without an order.
    relay.pass();
    wait_for_users(&cluster, &["a", "b"], count);
    wait_until("the end of the alarm", SOON, || !raised(&a));
    let again = b.json(&["directory", "sync", "corp"]);
    assert!(again["counts"]["new"] == 0 && again["counts"]["unchanged"] == count, "{again}");
    assert_eq!(listed_users(&a), listed_users(&b));
}

/// The holder reaches the directory, but no member: its run ends with its lease, although the answers go on.
#[test]
fn run_whose_node_loses_the_majority_in_the_middle_changes_nothing_and_the_next_holder_does_all_work() {
    if !need::all(&[need::SLAPD, need::NAMESPACES]) {
        return;
    }
    let count = 200;
    let lab = Lab::new(&["a", "b", "w"]);
    let slapd = Slapd::start(&lab.phones(), &synchronizing(), &people(FIRST..FIRST + count));
    let relay = HoldingRelay::start(&lab.phones(), LDAP, slapd.ldap());
    let cluster = Cluster::start_in(&lab, &Spec::default());
    let files = TempDir::new().expect("a folder");
    let password = files.path().join("bind");
    fs::write(&password, Slapd::PASSWORD).expect("written");
    let (holder, other) = cluster.publisher_and_other();
    let next = cluster.cli(&other);
    let duty = "directory-sync";
    wait_until("the publisher to hold the duty", SOON, || holder_of(&next, duty).as_ref() == Some(&holder));
    relay.hold_after(SOME_PEOPLE);
    let url = format!("ldap://{}", relay.address());
    add_directory(&next, &url, &password.to_string_lossy(), &["timeout=60", "interval=10", "enabled=yes"]);
    wait_until("a search that is half read", SOON, || relay.held() == 1);

    lab.cut(&holder, &other);
    lab.cut(&holder, "w");
    wait_until("the other node to take over", SOON, || holder_of(&next, duty).as_ref() == Some(&other));
    wait_until("the search of the next holder alone", SOON, || {
        relay.connections() >= 2 && relay.open() == 1 && relay.held() == 1
    });
    nothing_was_made(&cluster, &[&holder, &other]);
    relay.pass();
    wait_for_users(&cluster, &[&other], count);
    nothing_was_made(&cluster, &[&holder]);
    lab.heal();
    cluster.wait_in_service();
    wait_for_users(&cluster, &[&holder], count);
    let again = cluster.cli(&holder).json(&["directory", "sync", "corp"]);
    assert!(again["counts"]["new"] == 0 && again["counts"]["unchanged"] == count, "{again}");
    assert_eq!(listed_users(&cluster.cli("a")), listed_users(&cluster.cli("b")));
}

/// The tree of the first server refers to one that the settings name, and to a stranger.
#[test]
fn referrals_are_followed_only_when_allowed_and_never_to_a_server_that_the_settings_do_not_name() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let referral = |unit: &str, server: &str| {
        format!(
            "dn: ou={unit},ou=people,{suffix}\nobjectClass: referral\nobjectClass: extensibleObject\nou: {unit}\n\
             ref: {server}/ou=people,{suffix}\n\n",
            suffix = Slapd::SUFFIX
        )
    };
    let start = |phones: &NetPlace| {
        let plain = SlapdSettings::default();
        let branch = Slapd::start(&at(phones, 62), &plain, &people(FIRST + 10..FIRST + 14));
        let stranger = MadeUpDirectory::start(&at(phones, 63), LDAP, PeopleAnswer::People { count: 5, photo: 0 });
        let entries = people(FIRST..FIRST + 3)
            + &referral("branch", &format!("ldap://{}", branch.ldap()))
            + &referral("elsewhere", &format!("ldap://{}", stranger.address()))
            + &format!("{}\n\n", person(FIRST + 3, &format!("ou=people,{}", Slapd::SUFFIX)));
        (Slapd::start(&at(phones, 61), &plain, &entries), branch, stranger)
    };
    let (cluster, (main, branch, stranger)) = Cluster::start_with(|_| Spec::default(), start);
    let files = TempDir::new().expect("a folder");
    let password = files.path().join("bind");
    fs::write(&password, Slapd::PASSWORD).expect("written");
    let a = cluster.cli("a");
    let url = format!("ldap://{},ldap://{}", main.ldap(), branch.ldap());
    add_directory(&a, &url, &password.to_string_lossy(), &["timeout=5"]);
    let own = a.json(&["directory", "sync", "corp"]);
    assert!(own["outcome"] == "done" && own["counts"]["new"] == 4, "{own}");

    a.json(&["directory", "set", "corp", "referrals=yes"]);
    let followed = a.json(&["directory", "sync", "corp"]);
    assert!(followed["counts"]["new"] == 4 && followed["counts"]["unchanged"] == 4, "{followed}");
    wait_for_users(&cluster, &["a", "b"], 8);
    // Without the second server in the settings, that one is a stranger too: its users are not found any more.
    a.json(&["directory", "set", "corp", &format!("url=ldap://{}", main.ldap())]);
    let alone = a.json(&["directory", "sync", "corp", "--dry-run"]);
    assert!(alone["counts"]["gone"] == 4 && alone["counts"]["unchanged"] == 4, "{alone}");
    assert_eq!(stranger.connections(), 0, "a stranger gets neither a search nor a password");
}
