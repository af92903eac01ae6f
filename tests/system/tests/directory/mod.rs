//! Users from an OpenLDAP server: dry run, full search, changes as they happen, deletions that are held back, users who
//! exist already, sign-in with the directory's password on every node, and a move of the duty during a full search.

mod holders;
mod passwords;
mod users;

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
use twinbox_system_tests as _;
use twinbox_testkit::{
    Call, Cli, Cluster, Endpoint, Invite, NetPlace, Slapd, SlapdSettings, Spec, Transport, begin_to_speak,
    g711::Law, need,
};

const SOON: Duration = Duration::from_secs(60);
/// Number of the first user; the others follow.
const FIRST: usize = 20_000;
/// Attribute of Active Directory that disables accounts: the schema of OpenLDAP has none without an overlay.
const ACCOUNT_CONTROL: &str = "attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' EQUALITY integerMatch \
                               SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )";

/// A cluster and a directory with this many people.
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
        let start = |phones: &NetPlace| {
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
