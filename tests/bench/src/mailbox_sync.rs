//! Voicemail in mail accounts: the first sync, accounts at rest, a new message until it is in the account.
//!
//! Method: a pair with a witness, and Dovecot with an account for each mailbox, to which a master user signs in. The publisher, which
//! holds the duty, is pinned to a core, everything else to the other. All settings of the mail server are the defaults, but `users=all`
//! and no TLS. The cluster is watched at rest for [`REST`] before the mail server is added, and again after all accounts are
//! synchronised: processor time and resident memory of both nodes, open IMAP connections of the publisher.
//!
//! Then callers leave one message after the other in one mailbox, whose account the publisher watches by IDLE since the
//! message before. The time runs from BYE until a mail program finds the mail in the account. The mail program marks it
//! as read, and the time runs until the publisher's command line shows it as heard: this includes Dovecot's own delay
//! of IDLE (half a second). Mail program and command line need time to look, which the last two rows have.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread::sleep,
    time::Duration,
};

use serde_json::{Value, json};
use twinbox_clock::BootInstant;
use twinbox_peer_kit::{Dovecot, DovecotSettings, ImapUser, need};
use twinbox_testkit::{Cli, Cluster, NetPlace, Spec, leave_message, resident_bytes, wait_until};

use crate::{
    machine,
    report::{Report, ms, percentile},
    setup,
};

/// Number of the first mailbox; the others follow.
const FIRST: usize = 200_000;
/// Time for which the nodes are watched at rest.
const REST: Duration = Duration::from_secs(30);
/// Time after a change, so that its costs are not counted.
const SETTLES: Duration = Duration::from_secs(10);
/// Messages that are left.
const MESSAGES: usize = 20;
/// Limit of each wait.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two looks into an account.
const PAUSE: Duration = Duration::from_millis(2);

/// Measures this many accounts.
pub fn run(report: &mut Report, accounts: usize) {
    if !need::all(&[need::DOVECOT]) {
        return;
    }
    machine::pin(0, machine::ELSEWHERE);
    let settings = DovecotSettings { accounts: (0..accounts).map(account).collect(), ..DovecotSettings::default() };
    let start = |phones: &NetPlace| {
        let [a, b, c, _] = phones.ip.octets();
        Dovecot::start(&phones.at(Ipv4Addr::new(a, b, c, 62)), &settings)
    };
    let spec = Spec { log: "warn", ack_timeout_ms: 250, voicemail: setup::voicemail(), ..Spec::default() };
    let (cluster, dovecot) = Cluster::start_with(|_| spec, start);
    let (publisher, other) = cluster.publisher_and_other();
    let pids = [&publisher, &other].map(|name| cluster.member(name).pid());
    machine::pin_process(pids[0], machine::UNDER_TEST);
    let cli = cluster.cli(&publisher);
    add_mailboxes(&cluster, accounts);
    at_rest(report, &cluster, &cli, &dovecot, pids, accounts);
    messages(report, &cluster, &cli, &dovecot, &publisher);
}

/// Both nodes at rest, before and after the mail server is added.
fn at_rest(report: &mut Report, cluster: &Cluster, cli: &Cli, dovecot: &Dovecot, pids: [u32; 2], accounts: usize) {
    let columns = &[
        "accounts",
        "first sync s",
        "connections",
        "publisher %",
        "other node %",
        "publisher MB",
        "other node MB",
        "kB an account",
    ];
    let mut table = report.table("synchronised mailboxes at rest", columns);
    sleep(SETTLES);
    let without = Rest::watch(pids, dovecot.imap());
    let cells = without.cells();
    table.row(&[&[json!(0), json!("-")][..], &cells, &[json!("-")]].concat());
    let begun = BootInstant::now();
    add_server(cluster, cli, dovecot);
    wait_until("all accounts to be synchronised", PATIENCE, || synced(cli) >= accounts);
    let first = begun.elapsed().as_secs_f64();
    sleep(SETTLES);
    let with = Rest::watch(pids, dovecot.imap());
    let grown = with.resident[0].saturating_sub(without.resident[0]) as f64 / 1e3 / accounts as f64;
    let cells = with.cells();
    table.row(&[&[json!(accounts), json!(first)][..], &cells, &[json!(grown)]].concat());
}

/// New messages until they are in the account, and read ones until they are heard here.
fn messages(report: &mut Report, cluster: &Cluster, cli: &Cli, dovecot: &Dovecot, publisher: &str) {
    let (number, mut owner) = (FIRST.to_string(), dovecot.sign_in(&account(0)));
    let (mut arrived, mut read) = (Vec::new(), Vec::new());
    // The account is watched from its first message on.
    for n in 0..=MESSAGES {
        let deposit = leave_message(cluster.phones(), cluster.sip(publisher), &number, 1.2);
        assert!(deposit.acknowledged(), "{deposit:?}");
        // `at` is the time of the answer to the BYE.
        let hung_up = deposit.at - deposit.bye.after;
        let (found, uid) = look(&mut owner, n + 1);
        let marking = BootInstant::now();
        owner.set("INBOX", uid, "\\Seen");
        wait_until("a message to be heard here", PATIENCE, || heard(cli, &number) == n + 1);
        if n > 0 {
            arrived.push(found.since(hung_up));
            read.push(marking.elapsed());
        }
    }
    let looks = |look: &mut dyn FnMut()| {
        let times = (0..MESSAGES).map(|_| {
            let begun = BootInstant::now();
            look();
            begun.elapsed()
        });
        times.collect::<Vec<_>>()
    };
    let program = looks(&mut || {
        owner.mails("INBOX");
    });
    let line = looks(&mut || {
        heard(cli, &number);
    });
    let columns = &["what", "messages", "p50 ms", "max ms"];
    let mut table = report.table("a message and its mail in the account, with IDLE", columns);
    for (what, mut times) in [
        ("BYE to mail", arrived),
        ("read to heard", read),
        ("look into account", program),
        ("look at mailbox", line),
    ] {
        let [p50, max] = [0.5, 1.0].map(|share| json!(ms(percentile(&mut times, share))));
        table.row(&[json!(what), json!(times.len()), p50, max]);
    }
}

/// Costs of both nodes at rest, the publisher first.
struct Rest {
    /// Processor time in percent of a core.
    core: [f64; 2],
    /// Resident memory in bytes.
    resident: [u64; 2],
    /// IMAP connections of the publisher.
    connections: usize,
}

impl Rest {
    /// Watches for [`REST`].
    fn watch(pids: [u32; 2], imap: SocketAddr) -> Self {
        let (used, begun) = (pids.map(machine::cpu_of), BootInstant::now());
        sleep(REST);
        let (after, passed) = (pids.map(machine::cpu_of), begun.elapsed().as_secs_f64());
        let core = [0, 1].map(|n| (after[n] - used[n]).as_secs_f64() / passed * 100.0);
        Self { core, resident: pids.map(resident_bytes), connections: connections(pids[0], imap) }
    }

    /// Cells of the columns from `connections` to `other node MB`.
    fn cells(&self) -> [Value; 5] {
        let megabytes = self.resident.map(|bytes| json!(bytes as f64 / 1e6));
        let [publisher, other] = megabytes;
        [json!(self.connections), json!(self.core[0]), json!(self.core[1]), publisher, other]
    }
}

/// Established TCP connections of a process to `server`.
fn connections(pid: u32, server: SocketAddr) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("the open files of the node can be listed");
    let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let IpAddr::V4(ip) = server.ip() else { panic!("{server} is not IPv4") };
    // The kernel writes the address as a number of the machine's byte order (proc(5)).
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), server.port());
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("connections can be listed");
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 01 is ESTABLISHED; the 10th field is the inode.
        fields.get(2) == Some(&remote.as_str())
            && fields.get(3) == Some(&"01")
            && fields.get(9).is_some_and(|inode| sockets.contains(*inode))
    };
    table.lines().filter(is_one).count()
}

/// Name of an account, which is the mail address of the owner.
fn account(n: usize) -> String {
    format!("u{n}@example.test")
}

/// Makes the mailboxes, known to both nodes.
fn add_mailboxes(cluster: &Cluster, count: usize) {
    let lines: String = (0..count).map(|n| format!("{},{}\n", FIRST + n, account(n))).collect();
    let file = cluster.dir().join("accounts.csv");
    fs::write(&file, format!("number,mail\n{lines}")).expect("the table of users can be written");
    cluster.cli("a").json(&["user", "import", &file.to_string_lossy()]);
    let last = (FIRST + count - 1).to_string();
    wait_until("both nodes know the mailboxes", PATIENCE, || {
        ["a", "b"].iter().all(|name| cluster.cli(name).try_messages(&last).is_ok())
    });
}

/// Adds Dovecot as the mail server of all users.
fn add_server(cluster: &Cluster, cli: &Cli, dovecot: &Dovecot) {
    let password = cluster.dir().join("imap.password");
    fs::write(&password, Dovecot::MASTER_PASSWORD).expect("the password can be written");
    let host = format!("host={}", dovecot.imap().ip());
    let port = format!("port={}", dovecot.imap().port());
    let master = format!("master-user={}", Dovecot::MASTER);
    let file = format!("password-file={}", password.display());
    let settings: [&str; 7] = [&host, &port, "tls=none", "auth=master-user", &master, &file, "users=all"];
    cli.json(&[&["mailbox-sync", "server", "add", "corp"][..], &settings].concat());
}

/// Accounts that are synchronised.
fn synced(cli: &Cli) -> usize {
    let list = cli.try_json(&["mailbox-sync", "list"]).unwrap_or_default();
    list["accounts"].as_array().map_or(0, |all| all.iter().filter(|account| account["state"] == "synced").count())
}

/// Waits until the account has this many mails; the time, and the UID of the newest.
fn look(owner: &mut ImapUser, count: usize) -> (BootInstant, u32) {
    let begun = BootInstant::now();
    loop {
        let mails = owner.mails("INBOX");
        let now = BootInstant::now();
        if let Some(newest) = mails.last().filter(|_| mails.len() == count) {
            return (now, newest.uid);
        }
        assert!(mails.len() < count && now.since(begun) < PATIENCE, "{} mails, not {count}", mails.len());
        sleep(PAUSE);
    }
}

/// Messages of a mailbox that were heard.
fn heard(cli: &Cli, number: &str) -> usize {
    let messages = cli.try_messages(number).unwrap_or_default();
    messages.iter().filter(|message| message.state == "heard").count()
}
