//! Users from an OpenLDAP server: dry run, full search, changes as they happen, deletions that are held back, users who
//! exist already, sign-in with the directory's password on every node, and a move of the duty during a full search.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    net::Ipv4Addr,
    ops::Range,
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_peer_kit::people::holder_of;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Call, Cli, Cluster, Endpoint, Invite, Place, Slapd, SlapdSettings, Spec, Transport, User, begin_to_speak,
    g711::Law, leave_message, listen, need, parameter, wait_for, wait_until,
};

const SOON: Duration = Duration::from_secs(60);
/// Number of the first user; the others follow.
const FIRST: usize = 20_000;
/// Attribute of Active Directory that disables accounts: the schema of OpenLDAP has none without an overlay.
const ACCOUNT_CONTROL: &str = "attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' EQUALITY integerMatch \
                               SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )";

/// A cluster and a directory with so many people.
struct Corp {
    cluster: Cluster,
    slapd: Slapd,
    files: TempDir,
}

fn dn(n: usize) -> String {
    format!("uid=u{n},ou=people,{}", Slapd::SUFFIX)
}

fn number(n: usize) -> String {
    (FIRST + n).to_string()
}

fn people(count: usize) -> String {
    let suffix = Slapd::SUFFIX;
    let mut ldif = format!(
        "dn: {suffix}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
         dn: ou=people,{suffix}\nobjectClass: organizationalUnit\nou: people\n\n"
    );
    for n in 0..count {
        let _ = write!(
            ldif,
            "dn: {}\nobjectClass: inetOrgPerson\nobjectClass: extensibleObject\nuid: u{n}\ncn: User {n}\n\
             sn: {n}\ndisplayName: User {n}\nmail: u{n}@example.org\ntelephoneNumber: +49 30 123 {}\n\
             userPassword: secret {n}\n\n",
            dn(n),
            number(n)
        );
    }
    ldif
}

impl Corp {
    /// `None` if slapd cannot run here.
    fn start(count: usize) -> Option<Self> {
        if !need::all(&[need::SLAPD]) {
            return None;
        }
        let settings = SlapdSettings {
            syncprov: true,
            session_log: Some(10_000),
            lines: vec![ACCOUNT_CONTROL.to_owned()],
            ..SlapdSettings::default()
        };
        let start = |phones: &Place| {
            let [a, b, c, _] = phones.ip.octets();
            Slapd::start(&phones.at(Ipv4Addr::new(a, b, c, 61)), &settings, &people(count))
        };
        let (cluster, slapd) = Cluster::start_with(|_| Spec::default(), start);
        let files = TempDir::new().expect("a folder");
        fs::write(files.path().join("bind"), Slapd::PASSWORD).expect("written");
        Some(Self { cluster, slapd, files })
    }

    /// Adds the directory, which is synchronised only by an order unless `further` enables it.
    fn add(&self, further: &[&str]) {
        let url = format!("url=ldap://{}", self.slapd.ldap());
        let base = format!("base=ou=people,{}", Slapd::SUFFIX);
        let bind = format!("bind-dn={}", Slapd::ADMIN);
        let file = format!("password-file={}", self.files.path().join("bind").display());
        let of = ["number={telephoneNumber:digits:last(5)}", "start-tls=no", "interval=10", "timeout=3"];
        let server = [url.as_str(), base.as_str(), bind.as_str(), file.as_str()];
        let settings = [&["directory", "add", "corp"][..], &server, &of, further].concat();
        self.cluster.cli("a").json(&settings);
    }

    fn change(&self, n: usize, change: &str) {
        self.slapd.modify(&format!("dn: {}\n{change}\n", dn(n)));
    }

    fn delete(&self, people: Range<usize>) {
        let mut deletions = String::new();
        for n in people {
            let _ = write!(deletions, "dn: {}\nchangetype: delete\n\n", dn(n));
        }
        self.slapd.modify(&deletions);
    }

    /// The stable id of a person.
    fn uuid(&self, n: usize) -> String {
        let (url, dn) = (format!("ldap://{}", self.slapd.ldap()), dn(n));
        let mut command = Command::new("ldapsearch");
        command.args(["-x", "-LLL", "-H", &url, "-D", Slapd::ADMIN, "-w", Slapd::PASSWORD]);
        let output = command.args(["-b", &dn, "-s", "base", "entryUUID"]).output().expect("ldapsearch runs");
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        let uuid = found.lines().find_map(|line| line.strip_prefix("entryUUID: "));
        uuid.unwrap_or_else(|| panic!("{output:?}")).to_owned()
    }

    /// Calls a mailbox and speaks until the node hangs up.
    fn speak_to(&self, node: &str, number: &str) {
        let (phones, endpoint) = (self.cluster.phones(), Endpoint::open(self.cluster.phones(), Law::Mu));
        let invite = Invite::new(number, "2001", endpoint.address());
        let call = Call::place(phones, self.cluster.sip(node), Transport::Udp, &invite);
        let mut call = call.unwrap_or_else(|refused| panic!("the call is refused: {}", refused.status));
        begin_to_speak(&endpoint, &call);
        assert!(call.ends(SOON), "the node does not hang up");
    }

    /// Verdict on a password, and the side that decided.
    fn sign_in(&self, node: &str, user: &str, password: &str) -> (String, String) {
        let file = self.files.path().join("password");
        fs::write(&file, format!("{password}\n")).expect("written");
        let file = file.to_string_lossy();
        let output =
            self.cluster.cli(node).run(&["--json", "user", "check-password", user, "--password-file", &file]);
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(output.status.success(), reply["verdict"] == "right", "{output:?}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&reply["verdict"]), text(&reply["decided_by"]))
    }
}

/// Name by number.
fn users(cli: &Cli) -> BTreeMap<String, String> {
    let Ok(list) = cli.try_json(&["user", "list"]) else { return BTreeMap::new() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list["users"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|user| (text(&user["number"]), text(&user["name"])))
        .collect()
}

/// Ids with numbers: a user who was made twice would have two.
fn identities(cli: &Cli) -> BTreeSet<(String, String)> {
    let Ok(list) = cli.try_json(&["user", "list"]) else { return BTreeSet::new() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list["users"].as_array().into_iter().flatten().map(|user| (text(&user["id"]), text(&user["number"]))).collect()
}

fn raised(cli: &Cli, code: &str) -> bool {
    let list = cli.try_json(&["alarm", "list"]).unwrap_or_default();
    let is_it = |alarm: &Value| alarm["code"] == code && alarm["subject"] == "corp" && alarm["state"] == "raised";
    list["alarms"].as_array().into_iter().flatten().any(is_it)
}

fn refusal(cli: &Cli, arguments: &[&str]) -> String {
    let output = cli.run(arguments);
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn people_become_users_keep_them_through_changes_and_a_mass_deletion_waits_for_consent() {
    let count = 500;
    let Some(corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    corp.add(&[]);
    let test = b.json(&["directory", "test", "corp"]);
    assert!(test["ok"] == true && test["people"][0]["number"].as_str().is_some_and(|n| n.len() == 5), "{test}");

    // The dry run names every user, and makes none; from a node that does not hold the duty too.
    for cli in [&a, &b] {
        let dry = cli.json(&["directory", "sync", "corp", "--dry-run"]);
        assert_eq!((dry["counts"]["new"].as_u64(), dry["lines"].as_array().map(Vec::len)), (Some(500), Some(500)));
    }
    assert_eq!(users(&a).len(), 2, "the users of the cluster alone");
    let first = b.json(&["directory", "sync", "corp"]);
    assert!(first["outcome"] == "done" && first["counts"]["new"] == 500, "{first}");
    for cli in [&a, &b] {
        wait_until("all users", SOON, || users(cli).len() == count + 2);
    }
    let again = a.json(&["directory", "sync", "corp"]);
    assert!(again["counts"]["new"] == 0 && again["counts"]["unchanged"] == 500, "{again}");

    // Changes are followed: a rename, a new name, a new number, which keeps the messages.
    a.json(&["directory", "set", "corp", "enabled=yes"]);
    let deposit = leave_message(corp.cluster.phones(), corp.cluster.sip("a"), &number(3), 1.5);
    assert!(deposit.acknowledged(), "{deposit:?}");
    corp.cluster.wait_for_messages("b", &number(3), 1, SOON);
    corp.change(1, "changetype: modrdn\nnewrdn: uid=renamed\ndeleteoldrdn: 1\n");
    corp.change(2, "changetype: modify\nreplace: displayName\ndisplayName: Zoë Müller\n");
    corp.change(3, "changetype: modify\nreplace: telephoneNumber\ntelephoneNumber: +49 30 123 30003\n");
    for cli in [&a, &b] {
        wait_until("the changes", SOON, || {
            let users = users(cli);
            users.get(&number(2)).is_some_and(|name| name == "Zoë Müller") && users.contains_key("30003")
        });
        assert_eq!(users(cli).len(), count + 2, "none is new, none is lost");
        assert!(users(cli).contains_key(&number(1)) && !users(cli).contains_key(&number(3)));
    }
    assert_eq!(corp.cluster.wait_for_messages("b", "30003", 1, SOON).len(), 1);
    assert_eq!(corp.sign_in("a", &number(1), "secret 1"), ("right".to_owned(), "directory".to_owned()), "renamed");

    // Fields of the directory are changed there only; a local user is left alone.
    let refused = refusal(&a, &["user", "set", &number(5), "--name", "Somebody Else"]);
    assert!(refused.contains("name") && refused.contains("directory 'corp'"), "{refused}");
    a.json(&["directory", "make-local", &number(5)]);
    a.json(&["user", "set", &number(5), "--name", "Somebody Else"]);
    corp.change(5, "changetype: modify\nreplace: displayName\ndisplayName: Not Any More\n");

    // A disabled account does not sign in; its messages stay.
    corp.change(6, "changetype: modify\nadd: userAccountControl\nuserAccountControl: 514\n");
    wait_until("the account to be disabled", SOON, || corp.sign_in("b", &number(6), "secret 6").0 == "disabled");
    // Its callers hear that the person is unavailable, and what they say is not recorded, until the setting says so.
    corp.speak_to("b", &number(6));
    a.json(&["directory", "set", "corp", "disabled-callers=greeting"]);
    let deposit = leave_message(corp.cluster.phones(), corp.cluster.sip("a"), &number(6), 1.5);
    assert!(deposit.acknowledged(), "{deposit:?}");
    for node in ["a", "b"] {
        let messages = corp.cluster.wait_for_messages(node, &number(6), 1, SOON);
        assert_eq!(messages.len(), 1, "the call before left none: {messages:?}");
    }
    assert_eq!(users(&a).get(&number(5)).map(String::as_str), Some("Somebody Else"));

    // A mass deletion stops the run until exactly it is accepted.
    a.json(&["directory", "set", "corp", "enabled=no"]);
    corp.delete(100..300);
    let refused = refusal(&b, &["directory", "sync", "corp"]);
    assert!(refused.contains("--accept-deletions"), "{refused}");
    wait_until("the alarm", SOON, || raised(&a, "directory-held-back"));
    assert_eq!(users(&b).len(), count + 2);
    let runs = wait_for("the run in the history", SOON, || {
        let runs = a.try_json(&["directory", "runs", "corp"]).ok()?;
        (runs["runs"][0]["outcome"] == "held-back").then_some(runs)
    });
    assert_eq!(runs["runs"][0]["counts"]["gone"], 200, "{runs}");
    let run = runs["runs"][0]["run"].to_string();
    corp.delete(300..301);
    let other = refusal(&a, &["directory", "sync", "corp", "--accept-deletions", &run]);
    assert!(other.contains("--accept-deletions"), "one more than was accepted: {other}");
    let dry = a.json(&["directory", "sync", "corp", "--dry-run"]);
    let run = dry["run"].to_string();
    let accepted = a.json(&["directory", "sync", "corp", "--accept-deletions", &run]);
    assert!(accepted["outcome"] == "done" && accepted["counts"]["gone"] == 201, "{accepted}");
    wait_until("the end of the alarm", SOON, || !raised(&a, "directory-held-back"));
    assert_eq!(users(&a).len(), count + 2, "messages and mailboxes stay");
    assert_eq!(corp.sign_in("a", &number(100), "secret 100").0, "disabled");
}

#[test]
fn passwords_are_checked_on_both_nodes_also_without_the_publisher_and_without_the_directory() {
    let Some(mut corp) = Corp::start(6) else { return };
    corp.add(&["enabled=yes"]);
    let (publisher, other) = corp.cluster.publisher_and_other();
    for node in ["a", "b"] {
        wait_until("all users", SOON, || users(&corp.cluster.cli(node)).len() == 8);
    }
    corp.change(5, "changetype: modify\nadd: userAccountControl\nuserAccountControl: 514\n");
    let said = |verdict: &str, by: &str| (verdict.to_owned(), by.to_owned());
    for node in ["a", "b"] {
        assert_eq!(corp.sign_in(node, &number(0), "secret 0"), said("right", "directory"));
        assert_eq!(corp.sign_in(node, "u0", "secret 0"), said("right", "directory"), "by login");
        assert_eq!(corp.sign_in(node, &number(1), "wrong"), said("wrong", "directory"));
        assert_eq!(corp.sign_in(node, &number(0), ""), said("wrong", ""), "a bind with none would succeed");
        assert_eq!(corp.sign_in(node, Cluster::USERS[0].number, "secret 0"), said("local", ""));
        assert_eq!(corp.sign_in(node, "nobody", "secret 0"), said("wrong", ""));
        // A typed name is never part of a filter.
        assert_eq!(corp.sign_in(node, "u0)(uid=*", "secret 0"), said("wrong", ""));
    }
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2"), said("right", "directory"));
    let is_disabled = || corp.sign_in(&other, &number(5), "secret 5").0 == "disabled";
    wait_until("the account to be disabled", SOON, is_disabled);
    // No secret is in what a node shows.
    let (first, cli) = (number(0), corp.cluster.cli(&other));
    let commands: [&[&str]; 5] = [
        &["directory", "list"],
        &["directory", "show", "corp"],
        &["directory", "runs", "corp"],
        &["directory", "test", "corp"],
        &["user", "show", &first],
    ];
    let mut shown: Vec<String> = commands.iter().map(|command| cli.json(command).to_string()).collect();
    corp.cluster.kill(&publisher);
    assert_eq!(corp.sign_in(&other, &number(1), "secret 1"), said("right", "directory"), "the publisher is away");

    // The witness too: one of three members is no majority.
    corp.cluster.kill("w");
    wait_until("the loss of the majority", SOON, || cli.status().is_some_and(|status| status["quorum"] != true));
    assert_eq!(corp.sign_in(&other, &number(0), "secret 0"), said("right", "directory"));
    assert_eq!(corp.sign_in(&other, &number(0), "wrong"), said("wrong", "directory"));
    assert_eq!(corp.sign_in(&other, &number(0), ""), said("wrong", ""));
    assert_eq!(corp.sign_in(&other, &number(5), "secret 5").0, "disabled");

    // Without the directory only passwords decide that it confirmed before.
    corp.slapd.stop();
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2"), said("right", "remembered"));
    assert_eq!(corp.sign_in(&other, &number(2), "wrong"), said("wrong", "remembered"));
    assert_eq!(corp.sign_in(&other, &number(3), "secret 3").0, "unavailable");

    // A password that the directory does not take any more is forgotten.
    corp.slapd.resume();
    corp.change(2, "changetype: modify\nreplace: userPassword\nuserPassword: another\n");
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2"), said("wrong", "directory"));
    corp.slapd.stop();
    assert_eq!(corp.sign_in(&other, &number(2), "secret 2").0, "unavailable");

    shown.push(cli.json(&["alarm", "list"]).to_string());
    shown.extend(corp.cluster.members().iter().map(|member| member.log()));
    for secret in [Slapd::PASSWORD, "secret 0", "secret 1", "secret 2", "secret 3", "secret 5"] {
        assert!(shown.iter().all(|text| !text.contains(secret)), "'{secret}' is shown");
    }
}

#[test]
fn users_who_exist_are_bound_by_number_by_mail_and_by_hand_and_keep_messages_and_pins() {
    let Some(corp) = Corp::start(4) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    let owner = User { number: "20001", pin: "284617" };
    let add = |number: &str, further: &[&str]| {
        a.json(&[&["user", "add", number, "--pin", owner.pin, "--keep-pin"][..], further].concat());
    };
    add(owner.number, &["--name", "Old Name"]);
    add("5002", &["--mail", "u2@example.org"]);
    add("20003", &[]);
    let leave = |number: &str| {
        let deposit = leave_message(corp.cluster.phones(), corp.cluster.sip("a"), number, 2.5);
        assert!(deposit.acknowledged(), "{deposit:?}");
        corp.cluster.wait_for_messages("b", number, 1, SOON);
        deposit
    };
    let (by_number, _) = (leave(owner.number), leave("5002"));
    let id_of = |number: &str| {
        let found = identities(&a).into_iter().find(|(_, of)| of == number);
        found.unwrap_or_else(|| panic!("no {number}")).0
    };
    let before = [owner.number, "5002", "20003"].map(id_of);
    corp.add(&[]);
    a.json(&["directory", "bind", "20003", "corp", &corp.uuid(3)]);

    // The dry run shows who is bound, and binds none.
    for (field, adopted, changed) in
        [("mail", "adopted: 20002 ", "number 5002 -> 20002"), ("number", "adopted: 20001 ", "Old Name -> User 1")]
    {
        let sync = ["directory", "sync", "corp", "--adopt-by", field, "--dry-run"];
        let (users_before, dry) = (users(&a), b.json(&sync));
        let is_it =
            |line: &Value| line.as_str().is_some_and(|line| line.starts_with(adopted) && line.contains(changed));
        assert!(dry["lines"].as_array().is_some_and(|lines| lines.iter().any(is_it)), "{dry}");
        assert_eq!(users(&a), users_before, "a dry run changes nothing");
        let run = b.json(&sync[..5]);
        assert!(run["outcome"] == "done" && run["lines"].as_array().is_some_and(|l| l.iter().any(is_it)), "{run}");
    }
    for cli in [&a, &b] {
        wait_until("all users as the directory has them", SOON, || {
            let users = users(cli);
            users.len() == 4 + Cluster::USERS.len()
                && (0..4).all(|n| users.get(&number(n)) == Some(&format!("User {n}")))
        });
    }
    assert_eq!([owner.number, "20002", "20003"].map(id_of), before, "they are the users from before");
    assert_eq!(corp.cluster.wait_for_messages("b", "20002", 1, SOON).len(), 1);
    let heard = listen(corp.cluster.phones(), corp.cluster.sip("b"), owner, &[by_number], 1.0, SOON);
    assert!(heard.iter().all(Option::is_some), "the PIN and the message are those from before: {heard:?}");
    let list = b.json(&["directory", "list"]);
    let directory = &list["directories"][0];
    assert!(directory["name"] == "corp" && directory["users"] == 4 && directory["enabled"] != true, "{list}");

    // The timetable orders the same.
    let yearly = ["--cron", "0 3 1 1 *", "--zone", "UTC", "directory=corp"];
    a.json(&[&["timetable", "add", "nightly", "--job", "directory-sync"][..], &yearly].concat());
    let ran = wait_for("the run of the job", SOON, || b.try_json(&["timetable", "run", "nightly"]).ok());
    let run = &ran["runs"][0];
    assert!(run["state"] == "done" && run["outcome"].as_str().is_some_and(|o| o.contains("corp: done")), "{ran}");

    // Without the directory its users are local.
    let refused = refusal(&a, &["user", "set", owner.number, "--name", "Free Again"]);
    assert!(refused.contains("directory 'corp'"), "{refused}");
    a.json(&["directory", "remove", "corp"]);
    for cli in [&a, &b] {
        wait_until("no directory", SOON, || {
            let list = cli.try_json(&["directory", "list"]);
            list.is_ok_and(|list| list["directories"].as_array().is_none_or(Vec::is_empty))
        });
        assert_eq!(users(cli).len(), 4 + Cluster::USERS.len());
    }
    wait_until("a local user", SOON, || a.try_json(&["user", "set", owner.number, "--name", "Free Again"]).is_ok());
}

#[test]
fn organization_that_is_renamed_makes_no_user_new_or_gone() {
    let count = 20;
    let Some(corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    corp.add(&[]);
    a.json(&["directory", "set", "corp", &format!("base={}", Slapd::SUFFIX), "enabled=yes"]);
    for cli in [&a, &b] {
        wait_until("all users", SOON, || users(cli).len() == count + 2);
    }
    let before = identities(&a);
    let (people, staff) = (format!("ou=people,{}", Slapd::SUFFIX), format!("ou=staff,{}", Slapd::SUFFIX));
    corp.slapd.modify(&format!("dn: {people}\nchangetype: modrdn\nnewrdn: ou=staff\ndeleteoldrdn: 1\n"));
    let change = "changetype: modify\nreplace: displayName\ndisplayName: Later Change\n";
    corp.slapd.modify(&format!("dn: uid=u1,{staff}\n{change}"));
    for cli in [&a, &b] {
        wait_until("the later change", SOON, || users(cli).get(&number(1)).is_some_and(|n| n == "Later Change"));
        assert_eq!(identities(cli), before);
    }
    let run = b.json(&["directory", "sync", "corp"]);
    let counts = &run["counts"];
    let lost = ["new", "gone", "disabled", "returned", "refused"].map(|word| counts[word].as_u64());
    assert!(run["outcome"] == "done" && lost == [Some(0); 5], "{run}");
    assert_eq!((identities(&a), identities(&b)), (before.clone(), before));
    wait_until("the new names to sign in on both nodes", SOON, || {
        ["a", "b"].iter().all(|node| corp.sign_in(node, &number(2), "secret 2").0 == "right")
    });
}

/// Each lot is below the limit of a tenth of the users, and both together are above it.
#[test]
fn deletions_in_lots_are_summed_and_the_second_is_held_back_also_by_the_next_holder() {
    let count = 100;
    let Some(corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    corp.add(&["enabled=yes", "loss-percent=10", "loss-count=5"]);
    for cli in [&a, &b] {
        wait_until("all users", SOON, || users(cli).len() == count + 2);
    }
    let is_disabled = |node: &str, n: usize| corp.sign_in(node, &number(n), &format!("secret {n}")).0 == "disabled";
    let gone = || {
        let list = b.try_json(&["directory", "runs", "corp"]).unwrap_or_default();
        let runs = list["runs"].as_array().cloned().unwrap_or_default().into_iter();
        let done = runs.filter(|run| run["outcome"] == "done");
        done.map(|run| run["counts"]["gone"].as_u64().unwrap_or_default()).sum::<u64>()
    };
    corp.delete(0..8);
    wait_until("the end of the first lot", SOON, || gone() == 8);
    wait_until("the first lot on the other node", SOON, || is_disabled("b", 7));
    assert!(!raised(&a, "directory-held-back"));
    corp.delete(8..16);
    wait_until("the alarm", SOON, || raised(&a, "directory-held-back"));
    assert!(!is_disabled("a", 15) && !is_disabled("b", 15));

    let holder = wait_for("the holder", SOON, || holder_of(&a, "directory-sync"));
    let other = if holder == "a" { "b" } else { "a" };
    a.order(&["duty", "move", "directory-sync", other]);
    wait_until("the move", SOON, || holder_of(&a, "directory-sync").as_deref() == Some(other));
    let refused = wait_for("a run of the next holder", SOON, || {
        let output = b.run(&["directory", "sync", "corp"]);
        assert!(!output.status.success(), "{output:?}");
        Some(String::from_utf8_lossy(&output.stderr).into_owned())
            .filter(|said| said.contains("--accept-deletions"))
    });
    println!("{refused}");
    wait_until("the alarm of the next holder", SOON, || raised(&a, "directory-held-back"));
    assert!(is_disabled("a", 7) && !is_disabled("a", 15) && !is_disabled("b", 15));
}

/// `TWINBOX_DIRECTORY_USERS=5000` sets the full size.
#[test]
fn duty_moves_by_a_kill_during_a_full_search_and_each_person_is_one_user_on_both_nodes() {
    let count = parameter("TWINBOX_DIRECTORY_USERS", 2_000) as usize;
    let Some(mut corp) = Corp::start(count) else { return };
    let duties = corp.cluster.cli("a").json(&["duty", "list"]);
    let duty = duties["duties"].as_array().into_iter().flatten().find(|duty| duty["duty"] == "directory-sync");
    let holder = duty.and_then(|duty| duty["holder"].as_str()).expect("a holder").to_owned();
    let other = if holder == "a" { "b" } else { "a" };
    corp.add(&["enabled=yes"]);
    let made = wait_for("the first users", SOON, || {
        let made = users(&corp.cluster.cli(other)).len();
        (made > 2).then_some(made)
    });
    corp.cluster.kill(&holder);
    println!("{made} users were on {other} when {holder} was killed");
    let limit = SOON + Duration::from_millis(20) * count as u32;
    wait_until("all users at the next holder", limit, || users(&corp.cluster.cli(other)).len() == count + 2);
    corp.cluster.start_member(&holder);
    corp.cluster.wait_in_service();
    wait_until("the same users on both nodes", limit, || {
        let (one, two) = (identities(&corp.cluster.cli("a")), identities(&corp.cluster.cli("b")));
        one.len() == count + 2 && one == two
    });
    let users = identities(&corp.cluster.cli("a"));
    let numbers: BTreeSet<_> = users.iter().map(|(_, number)| number).collect();
    assert_eq!(numbers.len(), users.len(), "no number is there twice");
    let runs = corp.cluster.cli(other).json(&["directory", "sync", "corp"]);
    assert!(runs["counts"]["new"] == 0 && runs["counts"]["unchanged"] == count, "{runs}");
}
