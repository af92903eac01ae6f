//! Users from a real Active Directory (Samba): changes by update sequence numbers, deletions that the account may not
//! see, classes by group, sign-in by bind, exchanged numbers, an emptied field that waits for consent, and a second
//! domain controller with sequence numbers of its own.

use std::{collections::BTreeMap, fmt::Write, fs, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_peer_kit::{Samba, need};
use twinbox_system_tests as _;
use twinbox_testkit::{Cli, Cluster, NetPlace, Spec, wait_until};

const SOON: Duration = Duration::from_secs(90);
/// Number of the first user; the others follow.
const FIRST: usize = 20_000;
/// Users that every cluster of the test kit has.
const LOCAL: usize = 2;

/// A cluster and an Active Directory.
struct Corp {
    cluster: Cluster,
    samba: Samba,
    files: TempDir,
}

fn dn(n: usize) -> String {
    format!("CN=User {n},OU=staff,{}", Samba::SUFFIX)
}

fn group() -> String {
    format!("CN=sales,OU=staff,{}", Samba::SUFFIX)
}

fn number(n: usize) -> String {
    (FIRST + n).to_string()
}

fn secret(n: usize) -> String {
    format!("Secret.of.user {n}")
}

fn person(n: usize) -> String {
    format!(
        "dn: {}\nchangetype: add\nobjectClass: user\nsAMAccountName: u{n}\ndisplayName: User {n}\n\
         mail: u{n}@example.org\nipPhone: {}\nuserAccountControl: 512\nunicodePwd:: {}\n\n",
        dn(n),
        number(n),
        Samba::password(&secret(n))
    )
}

/// People in an organizational unit, of whom the first is a member of the group.
fn people(count: usize) -> String {
    let unit = format!("dn: OU=staff,{}\nchangetype: add\nobjectClass: organizationalUnit\n\n", Samba::SUFFIX);
    let mut changes = unit;
    (0..count).for_each(|n| changes += &person(n));
    let _ = write!(
        changes,
        "dn: {}\nchangetype: add\nobjectClass: group\nsAMAccountName: sales\nmember: {}\n\n",
        group(),
        dn(0)
    );
    changes
}

fn at(phones: &NetPlace, last: u8) -> NetPlace {
    let [a, b, c, _] = phones.ip.octets();
    phones.at(Ipv4Addr::new(a, b, c, last))
}

fn replaced(n: usize, attribute: &str, value: &str) -> String {
    format!("dn: {}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n\n", dn(n))
}

impl Corp {
    /// `None` if Samba cannot run here.
    fn start(count: usize) -> Option<Self> {
        if !need::all(&[need::SAMBA]) {
            return None;
        }
        let start = |phones: &NetPlace| Samba::start(&at(phones, 61), &people(count));
        let (cluster, samba) = Cluster::start_with(|_| Spec::default(), start);
        let files = TempDir::new().expect("a folder");
        fs::write(files.path().join("bind"), Samba::PASSWORD).expect("written");
        cluster.cli("a").json(&["cos", "add", "sales", "messages=200"]);
        Some(Self { cluster, samba, files })
    }

    /// Adds the directory with these servers, which is synchronised only by an order.
    fn add(&self, url: &str) {
        let ca = format!("ca-file={}", self.samba.ca_file().display());
        let base = format!("base={}", Samba::SUFFIX);
        let bind = format!("bind-dn={}", Samba::READER);
        let file = format!("password-file={}", self.files.path().join("bind").display());
        let class = format!("class={} -> sales", group());
        let server = [url, &ca, &base, &bind, &file, &class];
        let of = [
            "filter=(&(objectCategory=person)(objectClass=user)(ipPhone=*))",
            "number={ipPhone}",
            "login={sAMAccountName}",
            "interval=10",
            "timeout=15",
        ];
        self.cluster.cli("a").json(&[&["directory", "add", "corp"][..], &server, &of].concat());
    }

    /// Verdict on a password.
    fn sign_in(&self, node: &str, user: &str, password: &str) -> String {
        let file = self.files.path().join("password");
        fs::write(&file, format!("{password}\n")).expect("written");
        let file = file.to_string_lossy();
        let output =
            self.cluster.cli(node).run(&["--json", "user", "check-password", user, "--password-file", &file]);
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        text(&reply["verdict"])
    }

    /// Time of the latest search for all entries.
    fn full_at(&self) -> u64 {
        self.cluster.cli("a").json(&["directory", "show", "corp"])["full_ms"].as_u64().expect("a time")
    }

    fn raised(&self, code: &str) -> bool {
        let list = self.cluster.cli("a").try_json(&["alarm", "list"]).unwrap_or_default();
        let is_it = |alarm: &Value| alarm["code"] == code && alarm["state"] == "raised";
        list["alarms"].as_array().into_iter().flatten().any(is_it)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Name, class of service and mail address by number.
fn users(cli: &Cli) -> BTreeMap<String, [String; 3]> {
    let Ok(list) = cli.try_json(&["user", "list"]) else { return BTreeMap::new() };
    let values = |user: &Value| ["name", "cos", "mail"].map(|field| text(&user[field]));
    let users = list["users"].as_array().into_iter().flatten();
    users.map(|user| (text(&user["number"]), values(user))).collect()
}

fn name_of(cli: &Cli, number: &str) -> String {
    users(cli).remove(number).map(|[name, ..]| name).unwrap_or_default()
}

fn refusal(cli: &Cli, arguments: &[&str]) -> String {
    let output = cli.run(arguments);
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn changes_disablings_and_deletions_arrive_by_sequence_numbers_and_comparison_of_ids() {
    let count = 20;
    let Some(corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    // A controller takes no password on a connection without TLS, and StartTLS is as good as LDAPS.
    corp.add(&format!("url=ldap://{}", corp.samba.ldap()));
    a.json(&["directory", "set", "corp", "start-tls=no"]);
    let plain = refusal(&a, &["directory", "sync", "corp", "--dry-run"]);
    assert!(plain.contains("use StartTLS or ldaps"), "{plain}");
    a.json(&["directory", "set", "corp", "start-tls=yes"]);
    let dry = a.json(&["directory", "sync", "corp", "--dry-run"]);
    assert_eq!(dry["counts"]["new"], count, "{dry}");
    a.json(&["directory", "set", "corp", &format!("url=ldaps://{}", corp.samba.ldaps())]);
    let first = b.json(&["directory", "sync", "corp"]);
    assert!(first["outcome"] == "done" && first["counts"]["new"] == count, "{first}");
    for cli in [&a, &b] {
        wait_until("all users", SOON, || users(cli).len() == count + LOCAL);
        assert_eq!(users(cli)[&number(0)], ["User 0", "sales", "u0@example.org"]);
        assert_ne!(users(cli)[&number(1)][1], "sales");
    }
    assert_eq!(a.json(&["directory", "sync", "corp"])["counts"]["unchanged"], count);

    for node in ["a", "b"] {
        assert_eq!(corp.sign_in(node, &number(0), &secret(0)), "right");
        assert_eq!(corp.sign_in(node, "u0", &secret(0)), "right", "by login");
        assert_eq!(corp.sign_in(node, &number(1), "wrong"), "wrong");
    }
    corp.samba.modify(&replaced(11, "pwdLastSet", "0"));
    assert_eq!(corp.sign_in("a", &number(11), &secret(11)), "disabled", "the password must be changed");

    // Each change raises the number of the controller; the whole directory is not read for any of them.
    let (full, before) = (corp.full_at(), corp.samba.highest_usn());
    a.json(&["directory", "set", "corp", "enabled=yes"]);
    let left = format!("dn: {}\nchangetype: modify\ndelete: ipPhone\n\n", dn(8));
    let changes = [
        format!("dn: {}\nchangetype: modrdn\nnewrdn: CN=Renamed\ndeleteoldrdn: 1\n\n", dn(1)),
        replaced(2, "displayName", "Someone Else"),
        replaced(3, "ipPhone", "30003"),
        replaced(6, "userAccountControl", "514"),
        format!("dn: {}\nchangetype: delete\n\n", dn(7)),
        left,
    ];
    corp.samba.modify(&changes.concat());
    assert!(corp.samba.highest_usn() >= before + changes.len() as u64);
    for cli in [&a, &b] {
        wait_until("the changes", SOON, || {
            name_of(cli, &number(2)) == "Someone Else" && name_of(cli, "30003") == "User 3"
        });
        assert_eq!(users(cli).len(), count + LOCAL, "none is new, none is lost");
    }
    wait_until("the account to be disabled", SOON, || corp.sign_in("b", &number(6), &secret(6)) == "disabled");
    assert_eq!(corp.sign_in("a", &number(1), &secret(1)), "right", "renamed");
    // This account may not read deleted entries, and an entry that left the filter tells no change.
    for n in [7, 8] {
        wait_until("the absent entry to be noticed", SOON, || {
            corp.sign_in("b", &number(n), &secret(n)) == "disabled"
        });
    }
    assert_eq!(corp.full_at(), full, "no full search");

    // A group does not mark its members as changed: the full search finds it. Two users exchange their numbers.
    a.json(&["directory", "set", "corp", "enabled=no"]);
    let added = format!("dn: {}\nchangetype: modify\nadd: member\nmember: {}\n\n", group(), dn(4));
    corp.samba.modify(&[added, replaced(9, "ipPhone", &number(10)), replaced(10, "ipPhone", &number(9))].concat());
    let run = a.json(&["directory", "sync", "corp"]);
    assert!(run["counts"]["changed"] == 3 && run["counts"]["refused"] == 0, "{run}");
    assert_eq!(users(&a)[&number(4)][1], "sales");
    assert_eq!([9, 10].map(|n| name_of(&a, &number(n))), ["User 10", "User 9"]);

    // No entry shows a mail address any more: that waits for consent.
    let people: Vec<usize> = (0..count).filter(|n| ![1, 7].contains(n)).collect();
    let hidden = people.iter().map(|n| format!("dn: {}\nchangetype: modify\nreplace: mail\n\n", dn(*n)));
    corp.samba.modify(&hidden.collect::<String>());
    let refused = refusal(&b, &["directory", "sync", "corp"]);
    assert!(refused.contains("would empty the mail of") && refused.contains("--accept-deletions"), "{refused}");
    wait_until("the alarm", SOON, || corp.raised("directory-held-back"));
    assert_eq!(users(&a)[&number(0)][2], "u0@example.org");
    let dry = a.json(&["directory", "sync", "corp", "--dry-run"]);
    assert!(dry["lines"][0].as_str().is_some_and(|line| line.contains("would empty the mail of")), "{dry}");
    let accepted = a.json(&["directory", "sync", "corp", "--accept-deletions", &dry["run"].to_string()]);
    assert_eq!(accepted["outcome"], "done", "{accepted}");
    assert_eq!(users(&a)[&number(0)][2], "");
    wait_until("the end of the alarm", SOON, || !corp.raised("directory-held-back"));
}

#[test]
fn second_controller_has_numbers_of_its_own_and_a_change_between_both_loses_nothing() {
    let count = 10;
    let Some(mut corp) = Corp::start(count) else { return };
    let (a, b) = (corp.cluster.cli("a"), corp.cluster.cli("b"));
    let second = corp.samba.join(&at(corp.cluster.phones(), 62));
    // Other numbers: a change of the second controller may be below the number that is known of the first.
    for n in 0..5 {
        corp.samba.modify(&replaced(n, "displayName", &format!("Person {n}")));
    }
    second.fetch(&corp.samba);
    assert_ne!(corp.samba.highest_usn(), second.highest_usn());
    corp.add(&format!("url=ldaps://{},ldaps://{}", corp.samba.ldaps(), second.ldaps()));
    let first = a.json(&["directory", "sync", "corp"]);
    assert!(first["outcome"] == "done" && first["counts"]["new"] == count, "{first}");
    let full = corp.full_at();

    corp.samba.stop();
    second.modify(&[replaced(7, "displayName", "Changed There"), person(40)].concat());
    a.json(&["directory", "set", "corp", "enabled=yes"]);
    for cli in [&a, &b] {
        wait_until("the changes of the second controller", SOON, || {
            name_of(cli, &number(7)) == "Changed There" && name_of(cli, &number(40)) == "User 40"
        });
        assert_eq!(users(cli).len(), count + 1 + LOCAL, "none is lost");
        assert_eq!(name_of(cli, &number(0)), "Person 0");
    }
    let later = corp.full_at();
    assert!(later > full, "the sequence numbers are those of another database");
    assert_eq!(corp.sign_in("b", &number(0), &secret(0)), "right", "at the second controller");

    corp.samba.fetch(&second);
    corp.samba.resume();
    wait_until("a full search at the first controller", SOON, || corp.full_at() > later);
    assert_eq!(users(&a).len(), count + 1 + LOCAL);
    assert_eq!(name_of(&a, &number(7)), "Changed There");
    assert_eq!(corp.sign_in("a", &number(40), &secret(40)), "right", "none is disabled");
    assert!(!corp.raised("directory-held-back") && !corp.raised("directory-unreachable"));
}
