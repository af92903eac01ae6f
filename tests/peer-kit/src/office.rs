//! A cluster whose mailboxes are kept in accounts of a Dovecot, as an administrator and the owners see both.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_testkit::{
    Cli, Cluster, NetPlace, Spec, Speech,
    g711::{self, Law},
    holds, wait_for, wait_until,
};

use crate::{AccountMail, Dovecot, DovecotSettings, ImapUser, need};

/// Limit of waits for what takes seconds.
pub const SOON: Duration = Duration::from_secs(40);
/// Folder of voicemail in all accounts.
pub const FOLDER: &str = "Voicemail";
/// A user of each cluster.
pub const ANNA: &str = Cluster::USERS[0].number;
/// The other user of each cluster.
pub const BERT: &str = Cluster::USERS[1].number;

/// A cluster, a mail server, and files with secrets.
#[derive(Debug)]
pub struct Office {
    /// The cluster.
    pub cluster: Cluster,
    /// The mail server.
    pub dovecot: Dovecot,
    /// Files of the test.
    pub files: TempDir,
    /// The duty polls: waits have it look at once.
    pub is_polled: bool,
}

/// Settings of a Dovecot with these accounts.
pub fn accounts(numbers: &[&str]) -> DovecotSettings {
    DovecotSettings { accounts: numbers.iter().map(|number| (*number).to_owned()).collect(), ..Default::default() }
}

impl Office {
    /// `None` if Dovecot cannot run here.
    pub fn start(settings: &DovecotSettings) -> Option<Self> {
        if !need::all(&[need::DOVECOT]) {
            return None;
        }
        let start = |phones: &NetPlace| Dovecot::start(phones, settings);
        let (cluster, dovecot) = Cluster::start_with(|_| Spec::default(), start);
        Some(Self::of(cluster, dovecot))
    }

    /// With a cluster and a mail server that run already.
    pub fn of(cluster: Cluster, dovecot: Dovecot) -> Self {
        Self { cluster, dovecot, files: TempDir::new().expect("a folder"), is_polled: false }
    }

    /// With these accounts, which are added under the server `mail`.
    pub fn with_accounts(numbers: &[&str]) -> Option<Self> {
        let office = Self::start(&accounts(numbers))?;
        office.add_server("mail", office.dovecot.imap(), &[]);
        office.add("mail", numbers);
        Some(office)
    }

    /// Path of a file with a secret.
    pub fn secret(&self, name: &str, secret: &str) -> String {
        let path = self.files.path().join(name);
        fs::write(&path, format!("{secret}\n")).expect("written");
        path.display().to_string()
    }

    /// Adds a server without TLS where a master user signs in, unless `further` says otherwise.
    pub fn add_server(&self, name: &str, address: SocketAddr, further: &[&str]) {
        let (host, port) = (format!("host={}", address.ip()), format!("port={}", address.port()));
        let file = format!("password-file={}", self.secret("master", Dovecot::MASTER_PASSWORD));
        let (master, folder) = (format!("master-user={}", Dovecot::MASTER), format!("folder={FOLDER}"));
        let common = [&host[..], &port, "account={number}", &folder];
        let usual = ["tls=none", "auth=master-user", &master, &file];
        let usual = if further.iter().any(|setting| setting.starts_with("auth=")) { &[][..] } else { &usual[..] };
        self.cli().json(&[&["mailbox-sync", "server", "add", name], &common[..], usual, further].concat());
    }

    /// Changes settings of a server.
    pub fn set_server(&self, name: &str, settings: &[&str]) {
        self.cli().json(&[&["mailbox-sync", "server", "set", name], settings].concat());
    }

    /// Keeps mailboxes in accounts of a server.
    pub fn add(&self, server: &str, numbers: &[&str]) {
        self.cli().json(&[&["mailbox-sync", "add"], numbers, &["--server", server]].concat());
    }

    /// The command line on node `a`.
    pub fn cli(&self) -> Cli {
        self.cluster.cli("a")
    }

    /// Sends a message from this node; returns its ids by number.
    pub fn send(&self, node: &str, from: &str, to: &[&str]) -> BTreeMap<String, String> {
        let file = self.files.path().join(format!("{node}.wav"));
        fs::write(&file, g711::to_wav(&Speech::unique().bytes(0, 8_000), Law::Mu)).expect("written");
        let (file, mut ids) = (file.display().to_string(), BTreeMap::new());
        for to in to.chunks(100) {
            let sent =
                self.cluster.cli(node).json(&["message", "send", &file, "--from", from, "--to", &to.join(",")]);
            for copy in sent["to"].as_array().into_iter().flatten() {
                ids.insert(text(&copy["number"]), text(&copy["id"]));
            }
        }
        ids
    }

    /// Sends a message to Anna; returns its id.
    pub fn send_to_anna(&self) -> String {
        self.send("a", BERT, &[ANNA]).remove(ANNA).expect("an id")
    }

    /// Outcome of a run, and the output for people.
    pub fn run(&self, number: &str) -> (String, String) {
        let output = self.cluster.cli("b").run(&["--json", "mailbox-sync", "run", number]);
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (text(&reply["outcome"]), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs until the outcome fits.
    pub fn run_until(&self, number: &str, fits: impl Fn(&str) -> bool) -> String {
        let mut last = (String::new(), String::new());
        let found = holds(SOON, || {
            last = self.run(number);
            fits(&last.0).then(|| last.0.clone())
        });
        found.unwrap_or_else(|| panic!("the run of {number} ends otherwise: {last:?}"))
    }

    /// The account of a mailbox in `mailbox-sync list`.
    pub fn account(&self, number: &str) -> Value {
        let list = self.cli().json(&["mailbox-sync", "list"]);
        let found = list["accounts"].as_array().into_iter().flatten().find(|account| account["number"] == number);
        found.unwrap_or_else(|| panic!("no {number} in {list}")).clone()
    }

    /// Waits until a message has this state on both nodes.
    pub fn wait_for_state(&self, number: &str, id: &str, state: &str) {
        for node in ["a", "b"] {
            wait_until(&format!("{id} to be {state} on {node}"), SOON, || {
                if self.is_polled {
                    self.run(number);
                }
                states(&self.cluster.cli(node), number).get(id).is_some_and(|found| found == state)
            });
        }
    }
}

/// A JSON string, or the empty one.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// States of a mailbox's messages by id; none while the node does not answer.
pub fn states(cli: &Cli, number: &str) -> BTreeMap<String, String> {
    let messages = cli.try_messages(number).unwrap_or_default();
    messages.into_iter().map(|message| (message.id, message.state)).collect()
}

/// Ids of the messages that mails carry, sorted; one that is there twice is listed twice.
pub fn ids(mails: &[AccountMail]) -> Vec<String> {
    let id = |mail: &AccountMail| mail.message_id.split('@').next().unwrap_or_default().to_owned();
    let mut ids: Vec<_> = mails.iter().map(id).collect();
    ids.sort();
    ids
}

/// Waits for exactly these mails; a mail that is there twice fails the test.
pub fn wait_for_mails(user: &mut ImapUser, expected: &[&str]) -> Vec<AccountMail> {
    let mut expected: Vec<_> = expected.iter().map(|id| (*id).to_owned()).collect();
    expected.sort();
    wait_for(&format!("the mails {expected:?}"), SOON, || {
        let mails = user.mails(FOLDER);
        let found = ids(&mails);
        assert_eq!(
            found.iter().collect::<BTreeSet<_>>().len(),
            found.len(),
            "a message is there twice: {mails:#?}"
        );
        (found == expected).then_some(mails)
    })
}

/// The mail of a message.
pub fn mail_of<'a>(mails: &'a [AccountMail], id: &str) -> &'a AccountMail {
    let found = mails.iter().find(|mail| mail.message_id.starts_with(id));
    found.unwrap_or_else(|| panic!("no mail of {id}: {mails:#?}"))
}

/// Whether an alarm with this subject is raised.
pub fn raised(cli: &Cli, code: &str, subject: &str) -> bool {
    let list = cli.try_json(&["alarm", "list"]).unwrap_or_default();
    let is_it = |alarm: &Value| alarm["code"] == code && alarm["subject"] == subject && alarm["state"] == "raised";
    list["alarms"].as_array().into_iter().flatten().any(is_it)
}
