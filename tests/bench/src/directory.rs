//! Users from an LDAP directory: the first full search, a dry run that finds no difference, changes as they happen.
//!
//! Method: a pair with a witness, and slapd with `syncprov`. The publisher, which holds the duty, is pinned to a core,
//! everything else to the other. `directory sync` makes all users: its time runs from the start of the command, and
//! *on both* ends when `user list` has all of them on both nodes. Processor time and memory are those until the end of
//! the command; memory is the growth of the peak (VmHWM) from the start of each run.
//!
//! Then the directory is enabled, and the publisher follows the server (refreshAndPersist, RFC 4533). In each round one
//! `ldapmodify` gives ten people another name; the time runs from its end until a node shows all ten. The commands that
//! look need time themselves: the last row has it, measured right after each round, when nothing changes.

use std::{fs, net::Ipv4Addr, thread, time::Duration};

use serde_json::{Value, json};
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cli, Cluster, NetPlace, Slapd, SlapdSettings, Spec, need, wait_until};

use crate::{
    machine,
    report::{Report, ms, percentile},
};

/// Number of the first user; the others follow.
const FIRST: usize = 200_000;
/// People whose names change in a round.
const CHANGED: usize = 10;
/// Rounds of changes.
const ROUNDS: usize = 10;
/// Limit of each wait.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures a directory with this many people, at least [`CHANGED`].
pub fn run(report: &mut Report, people: usize) {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    machine::pin(0, machine::ELSEWHERE);
    let settings = SlapdSettings { syncprov: true, session_log: Some(10_000), ..SlapdSettings::default() };
    let start = |phones: &NetPlace| {
        let [a, b, c, _] = phones.ip.octets();
        Slapd::start(&phones.at(Ipv4Addr::new(a, b, c, 61)), &settings, &entries(people))
    };
    let (cluster, slapd) =
        Cluster::start_with(|_| Spec { log: "warn", ack_timeout_ms: 250, ..Spec::default() }, start);
    let (publisher, other) = cluster.publisher_and_other();
    let nodes = [publisher, other];
    let pids = nodes.each_ref().map(|name| cluster.member(name).pid());
    machine::pin_process(pids[0], machine::UNDER_TEST);
    let clis = nodes.each_ref().map(|name| cluster.cli(name));
    add(&cluster, &clis[0], &slapd);
    searches(report, people, pids, &nodes[0], &clis);
    clis[0].json(&["directory", "set", "corp", "enabled=yes"]);
    changes(report, people, &slapd, &clis);
}

/// The first full search, and a dry run after it.
fn searches(report: &mut Report, people: usize, pids: [u32; 2], publisher: &str, clis: &[Cli; 2]) {
    let columns = &[
        "run",
        "people",
        "ended s",
        "on both s",
        "people a second",
        "against full",
        "publisher %",
        "other node %",
        "publisher +MB",
        "other node +MB",
        "bytes a person",
    ];
    let mut table = report.table("users from a directory", columns);
    let watch = Watch::begin(pids);
    sync(&clis[0], publisher, &[], "new", people);
    let (full, costs) = (watch.begun.elapsed().as_secs_f64(), watch.costs(people));
    wait_for_all(clis, people);
    let on_both = watch.begun.elapsed().as_secs_f64();
    let rate = |seconds: f64| json!(people as f64 / seconds);
    let times = [json!("full"), json!(people), json!(full), json!(on_both), rate(on_both), json!(1.0)];
    table.row(&[&times[..], &costs].concat());
    let watch = Watch::begin(pids);
    sync(&clis[0], publisher, &["--dry-run"], "unchanged", people);
    let (dry, costs) = (watch.begun.elapsed().as_secs_f64(), watch.costs(people));
    let times = [json!("dry, unchanged"), json!(people), json!(dry), json!("-"), rate(dry), json!(dry / full)];
    table.row(&[&times[..], &costs].concat());
}

/// Rounds of changes, while the publisher follows the server.
fn changes(report: &mut Report, people: usize, slapd: &Slapd, clis: &[Cli; 2]) {
    let (mut on_publisher, mut on_other, mut on_both, mut looking) = (vec![], vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        let named = rename(slapd, people, round);
        let changed = BootInstant::now();
        let [publisher, other] = look_on_both(clis, &named).map(|seen| seen.since(changed));
        // In the first round the publisher may only begin to follow the server.
        if round > 0 {
            on_publisher.push(publisher);
            on_other.push(other);
            on_both.push(publisher.max(other));
            let begun = BootInstant::now();
            look_on_both(clis, &named);
            looking.push(begun.elapsed());
        }
    }
    let columns = &["seen on", "people", "changes each", "rounds", "p50 ms", "max ms"];
    let mut table = report.table("changes in a directory, until seen", columns);
    let rows =
        [("publisher", on_publisher), ("other node", on_other), ("both", on_both), ("both, no change", looking)];
    for (words, mut times) in rows {
        let [p50, max] = [0.5, 1.0].map(|share| json!(ms(percentile(&mut times, share))));
        table.row(&[json!(words), json!(people), json!(CHANGED), json!(times.len()), p50, max]);
    }
}

/// A measurement of both nodes, the publisher first.
struct Watch {
    pids: [u32; 2],
    begun: BootInstant,
    /// Processor time at the beginning.
    used: [Duration; 2],
    /// Peak of memory at the beginning: what is resident then, in bytes.
    resident: [u64; 2],
}

impl Watch {
    fn begin(pids: [u32; 2]) -> Self {
        for pid in pids {
            // 5 sets the peak to what is resident (proc(5)).
            fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak of a process can be reset");
        }
        let (used, resident) = (pids.map(machine::cpu_of), pids.map(peak_bytes));
        Self { pids, begun: BootInstant::now(), used, resident }
    }

    /// The last five cells of a row: costs since the beginning.
    fn costs(&self, people: usize) -> [Value; 5] {
        let passed = self.begun.elapsed().as_secs_f64();
        let core = |n: usize| json!((machine::cpu_of(self.pids[n]) - self.used[n]).as_secs_f64() / passed * 100.0);
        let grown = |n: usize| peak_bytes(self.pids[n]).saturating_sub(self.resident[n]) as f64;
        let (publisher, other) = (grown(0), grown(1));
        [core(0), core(1), json!(publisher / 1e6), json!(other / 1e6), json!(publisher / people as f64)]
    }
}

/// Largest memory that a process has used since the last reset, in bytes.
fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

fn dn(n: usize) -> String {
    format!("uid=u{n},ou=people,{}", Slapd::SUFFIX)
}

/// The directory as LDIF.
fn entries(people: usize) -> String {
    let suffix = Slapd::SUFFIX;
    let mut ldif = format!(
        "dn: {suffix}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
         dn: ou=people,{suffix}\nobjectClass: organizationalUnit\nou: people\n\n"
    );
    for n in 0..people {
        ldif += &format!(
            "dn: {}\nobjectClass: inetOrgPerson\nuid: u{n}\ncn: User {n}\nsn: {n}\ndisplayName: User {n}\n\
             mail: u{n}@example.org\ntelephoneNumber: +49 30 123 {}\n\n",
            dn(n),
            FIRST + n
        );
    }
    ldif
}

/// Adds the directory, which is synchronised only by an order.
fn add(cluster: &Cluster, cli: &Cli, slapd: &Slapd) {
    let password = cluster.dir().join("directory.password");
    fs::write(&password, Slapd::PASSWORD).expect("the password can be written");
    let url = format!("url=ldap://{}", slapd.ldap());
    let base = format!("base=ou=people,{}", Slapd::SUFFIX);
    let bind = format!("bind-dn={}", Slapd::ADMIN);
    let file = format!("password-file={}", password.display());
    let number = "number={telephoneNumber:digits:last(6)}";
    cli.json(&["directory", "add", "corp", &url, &base, &bind, &file, number, "start-tls=no"]);
}

/// A run on the publisher that counts all people under this word.
fn sync(cli: &Cli, publisher: &str, arguments: &[&str], counted: &str, people: usize) {
    let reply = cli.json(&[&["directory", "sync", "corp"][..], arguments].concat());
    let (node, outcome, counts) = (&reply["node"], &reply["outcome"], &reply["counts"]);
    assert!(*outcome == "done" && counts[counted] == people, "{outcome}: {counts}");
    assert!(*node == *publisher, "{node} holds the duty, not the publisher {publisher}");
}

/// Waits until both nodes list all users.
fn wait_for_all(clis: &[Cli; 2], people: usize) {
    let expected = people + Cluster::USERS.len();
    thread::scope(|scope| {
        for cli in clis {
            scope.spawn(move || {
                wait_until("all users on a node", PATIENCE, || {
                    let list = cli.try_json(&["user", "list"]).unwrap_or_default();
                    list["users"].as_array().map_or(0, Vec::len) == expected
                })
            });
        }
    });
}

/// Gives [`CHANGED`] people a new name; returns their numbers with these names.
fn rename(slapd: &Slapd, people: usize, round: usize) -> Vec<(String, String)> {
    let (mut ldif, mut named) = (String::new(), Vec::new());
    for n in 0..CHANGED {
        let (person, name) = (n * (people / CHANGED), format!("Round {round} Name {n}"));
        ldif += &format!("dn: {}\nchangetype: modify\nreplace: displayName\ndisplayName: {name}\n\n", dn(person));
        named.push(((FIRST + person).to_string(), name));
    }
    slapd.modify(&ldif);
    named
}

/// Times at which each node showed all these names.
fn look_on_both(clis: &[Cli; 2], named: &[(String, String)]) -> [BootInstant; 2] {
    thread::scope(|scope| {
        let looks = clis.each_ref().map(|cli| scope.spawn(move || look(cli, named)));
        looks.map(|look| look.join().expect("a node shows the names"))
    })
}

fn look(cli: &Cli, named: &[(String, String)]) -> BootInstant {
    for (number, name) in named {
        wait_until("a name from the directory", PATIENCE, || {
            cli.try_json(&["user", "show", number]).is_ok_and(|user| user["name"] == *name)
        });
    }
    BootInstant::now()
}
