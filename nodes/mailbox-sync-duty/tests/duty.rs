//! The duty on a node: orders, failing accounts, alarms.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use twinbox_alarms::{Alarms, Code, State};
use twinbox_clock::BootInstant;
use twinbox_gate::Gate;
use twinbox_ids::{ClusterId, Epoch, MailServerId, MailboxId, Timestamp};
use twinbox_mailbox_sync::{AccountState, StoredServer, server_change};
use twinbox_mailbox_sync_duty::{MailboxSyncConfig, MailboxSyncDuty, OrderRefused, SyncReport};
use twinbox_mailbox_sync_store::MailboxSyncStore;
use twinbox_mailstore::NewMailbox;
use twinbox_replication_store::Filled;
use twinbox_roles_core::Duty;
use twinbox_store_kit::{Node, audio, eventually, name};

const CLUSTER: ClusterId = ClusterId(7);
const LONG: Duration = Duration::from_secs(30);

/// A node with the duty, and mailboxes with accounts.
struct World {
    duty: MailboxSyncDuty,
    gate: Gate,
    store: MailboxSyncStore,
    alarms: Alarms,
    node: Node,
    dir: TempDir,
    _alarms: DropGuard,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let node = Node::alone(&dir.path().join("store"), "a");
        node.store.set_filled(Filled::Complete).await.expect("a mark");
        fs::write(dir.path().join("password"), "secret\n").expect("written");
        let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
        let stop = CancellationToken::new();
        tokio::spawn({
            let (alarms, stop) = (alarms.clone(), stop.clone());
            async move { alarms.serve(None, stop).await }
        });
        let gate = Gate::new(Duty::MailboxSync);
        let config = MailboxSyncConfig { cluster: CLUSTER, from: Arc::new(|| None) };
        let duty = MailboxSyncDuty::new(node.mailstore.clone(), gate.clone(), alarms.clone(), config);
        duty.restart();
        let store = MailboxSyncStore::of(&node.mailstore);
        Self { duty, gate, store, alarms, node, dir, _alarms: stop.drop_guard() }
    }

    fn hold(&self) {
        let epoch = Epoch { generation: 0, number: 1, node: name("a") };
        self.gate.open(&epoch, BootInstant::now() + Duration::from_secs(3_600));
    }

    /// Adds a server on a port of this machine.
    async fn server(&self, id: u128, port: u16) -> MailServerId {
        let file = self.dir.path().join("password");
        let settings = [
            "host=127.0.0.1".to_owned(),
            format!("port={port}"),
            "tls=none".to_owned(),
            "insecure=yes".to_owned(),
            "timeout=20".to_owned(),
            "account={number}".to_owned(),
            format!("password-file={}", file.display()),
        ];
        let changes = settings.iter().map(|text| server_change(text).expect(text));
        let settings = changes.filter_map(|(number, value)| Some((number, value?))).collect();
        let (id, name) = (MailServerId(id), format!("mail-{id}"));
        let server = StoredServer { id, name, created: Timestamp(1), settings };
        self.store.add_server(server).await.expect("added");
        id
    }

    /// Adds a user with an account.
    async fn account(&self, number: &str, server: MailServerId) -> MailboxId {
        let new = NewMailbox { pin: None, ..NewMailbox::new(number, "2580") };
        let mailbox = self.node.mailstore.create(new).await.expect("a mailbox").0.id;
        self.store.set_account(mailbox, Some(server), BTreeMap::new()).await.expect("an account");
        mailbox
    }

    fn state(&self, mailbox: MailboxId) -> AccountState {
        self.store.account(mailbox).expect("readable").expect("an account").1
    }

    async fn sync(&self, mailbox: MailboxId) -> SyncReport {
        eventually("the order is taken", async || self.duty.sync_now(mailbox, false).is_ok()).await;
        let report = self.duty.report(mailbox, LONG).await.expect("known");
        assert!(report.ended, "{report:?}");
        report
    }
}

/// A port at which no server listens.
const CLOSED_PORT: u16 = 1;

#[tokio::test]
async fn node_without_the_duty_takes_no_orders() {
    let world = World::new().await;
    assert_eq!(world.duty.sync_now(MailboxId(1), false), Err(OrderRefused::NotHolder { duty: "mailbox-sync" }));
    assert_eq!(world.duty.report(MailboxId(1), Duration::ZERO).await, None);
    assert!(world.duty.still_for().is_some());
}

#[tokio::test]
async fn order_for_a_mailbox_without_an_account_fails_with_the_reason() {
    let world = World::new().await;
    world.hold();
    let report = world.sync(MailboxId(1)).await;
    assert!(report.outcome.contains("is not synchronised"), "{report:?}");
}

#[tokio::test]
async fn order_right_after_a_change_of_settings_follows_the_new_ones() {
    let world = World::new().await;
    let server = world.server(1, CLOSED_PORT).await;
    let mailbox = world.account("1001", server).await;
    world.hold();
    let report = world.sync(mailbox).await;
    assert!(report.outcome.starts_with("failed: cannot reach 127.0.0.1:1:"), "{report:?}");
    let changes = BTreeMap::from([server_change("port=2").expect("a setting")]);
    world.store.change_server(server, changes).await.expect("changed");
    let report = world.sync(mailbox).await;
    assert!(report.outcome.starts_with("failed: cannot reach 127.0.0.1:2:"), "{report:?}");
}

#[tokio::test]
async fn failure_is_stored_and_the_next_holder_is_asked_after_the_duty_moved() {
    let world = World::new().await;
    let server = world.server(1, CLOSED_PORT).await;
    let mailbox = world.account("1001", server).await;
    world.hold();
    let report = world.sync(mailbox).await;
    assert!(report.outcome.starts_with("failed: cannot reach 127.0.0.1"), "{report:?}");
    let state = world.state(mailbox);
    assert!(state.error.is_some_and(|error| error.contains("127.0.0.1")) && state.failing_since.is_some());
    assert!(world.duty.counts().failed.load(Relaxed) > 0);
    world.gate.close();
    eventually("no order is taken", async || world.duty.sync_now(mailbox, false).is_err()).await;
}

#[tokio::test]
async fn server_that_never_answers_holds_up_no_other() {
    let world = World::new().await;
    // Connections are accepted by the system, and nothing is ever read or written.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let hung = world.server(1, silent.local_addr().expect("an address").port()).await;
    for number in 1..=20 {
        world.account(&format!("10{number:02}"), hung).await;
    }
    let refused = world.server(2, CLOSED_PORT).await;
    let mailbox = world.account("2001", refused).await;
    world.hold();
    assert!(world.sync(mailbox).await.outcome.starts_with("failed: cannot reach"));
    let connections = world.duty.counts().connections.load(Relaxed);
    assert!(connections <= 8 + 1, "{connections} connections, of which the hung server has more than 8");
    // The duty is released although its connections hang.
    world.gate.close();
    tokio::time::timeout(LONG, world.gate.idle()).await.expect("nothing is in flight");
}

/// Behaviour of a mail server for one account.
#[derive(Clone, Copy, Default)]
struct FakeServer {
    /// Number of mails of others in its folder.
    mails: usize,
    /// Sign-ins are refused.
    refuses_sign_in: bool,
    /// SELECT and CREATE are refused.
    refuses_folder: bool,
}

impl FakeServer {
    /// Starts it; returns its port, and the number of sign-ins.
    async fn start(self) -> (u16, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let sign_ins = Arc::new(AtomicU64::new(0));
        let counted = sign_ins.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.serve(stream, counted.clone()));
            }
        });
        (port, sign_ins)
    }

    async fn serve(self, stream: TcpStream, sign_ins: Arc<AtomicU64>) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hello\r\n").await?;
        let (mut line, mut own) = (String::new(), None);
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let (tag, command) = line.trim_end().split_once(' ').expect("a command");
            let words: Vec<&str> = command.split(' ').collect();
            let mut end = "OK done";
            let answer = match words[..] {
                ["AUTHENTICATE", ..] => {
                    sign_ins.fetch_add(1, Relaxed);
                    let welcome = "OK [CAPABILITY IMAP4rev1 UIDPLUS] welcome";
                    end = if self.refuses_sign_in { "NO [AUTHENTICATIONFAILED] wrong" } else { welcome };
                    String::new()
                }
                ["SELECT", ..] if self.refuses_folder => {
                    end = "NO locked";
                    String::new()
                }
                ["CREATE", ..] if self.refuses_folder => {
                    end = "NO it exists";
                    String::new()
                }
                ["SELECT", ..] => {
                    let (exists, next) = (self.mails, self.mails + 1);
                    format!("* {exists} EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT {next}] x\r\n")
                }
                ["UID", "FETCH", uids, ..] => {
                    let (first, last) = uids.split_once(':').unwrap_or((uids, uids));
                    let uids = first.parse::<usize>().expect("a UID")..=last.parse().expect("a UID");
                    let names = "BODY[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0>";
                    let text = |uid: usize| {
                        let own: &str = own.as_deref().filter(|_| uid > self.mails).unwrap_or_default();
                        let size = own.len();
                        format!("* {uid} FETCH (UID {uid} FLAGS () {names} {{{size}}}\r\n{own})\r\n")
                    };
                    uids.map(text).collect()
                }
                ["APPEND", .., size] => {
                    let size = size.trim_matches(['{', '}']).parse().expect("a size");
                    let mut mail = vec![0; size];
                    stream.write_all(b"+ go on\r\n").await?;
                    stream.read_exact(&mut mail).await?;
                    stream.read_exact(&mut [0; 2]).await?;
                    let text = String::from_utf8_lossy(&mail);
                    own = text.lines().next().map(|line| format!("{line}\r\n\r\n"));
                    let uid = self.mails + 1;
                    stream.write_all(format!("{tag} OK [APPENDUID 7 {uid}] done\r\n").as_bytes()).await?;
                    continue;
                }
                _ => String::new(),
            };
            stream.write_all(format!("{answer}{tag} {end}\r\n").as_bytes()).await?;
        }
    }
}

#[tokio::test]
async fn order_is_reported_when_a_look_that_is_done_in_parts_has_ended() {
    let world = World::new().await;
    world.hold();
    let (port, _) = FakeServer { mails: 25_000, ..FakeServer::default() }.start().await;
    let server = world.server(1, port).await;
    let mailbox = world.account("1001", server).await;
    world.node.leave(mailbox, &audio(1_000)).await;
    let report = world.sync(mailbox).await;
    assert_eq!((report.outcome.as_str(), report.appended), ("done", 1), "{report:?}");
}

#[tokio::test]
async fn folder_that_is_neither_opened_nor_made_is_reported_with_the_first_refusal() {
    let world = World::new().await;
    let (port, _) = FakeServer { refuses_folder: true, ..FakeServer::default() }.start().await;
    let server = world.server(1, port).await;
    let mailbox = world.account("1001", server).await;
    world.hold();
    let report = world.sync(mailbox).await;
    assert!(report.outcome.contains("folder 'INBOX' cannot be opened: locked"), "{report:?}");
}

#[tokio::test]
async fn wrong_password_of_a_server_is_tried_for_few_of_its_accounts() {
    let world = World::new().await;
    let (port, attempts) = FakeServer { refuses_sign_in: true, ..FakeServer::default() }.start().await;
    let server = world.server(1, port).await;
    let mut mailboxes = Vec::new();
    for number in 1..=20 {
        mailboxes.push(world.account(&format!("10{number:02}"), server).await);
    }
    world.hold();
    eventually("all accounts fail", async || mailboxes.iter().all(|id| world.state(*id).error.is_some())).await;
    assert_eq!(attempts.load(Relaxed), 5);
    let paused = |mailbox: &&MailboxId| world.state(**mailbox).error.is_some_and(|text| text.contains("waits"));
    assert_eq!(mailboxes.iter().filter(paused).count(), 15);
    // Another setting of the server is no reason to try the same password again.
    let changes = BTreeMap::from([server_change("poll=90").expect("a setting")]);
    world.store.change_server(server, changes).await.expect("changed");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = world.sync(mailboxes[0]).await;
    assert!(report.outcome.contains("waits"), "{report:?}");
    assert_eq!(attempts.load(Relaxed), 5);
}

#[tokio::test]
async fn account_that_fails_for_good_raises_an_alarm_of_its_server_without_its_name() {
    let world = World::new().await;
    let server = world.server(1, CLOSED_PORT).await;
    fs::remove_file(world.dir.path().join("password")).expect("removed");
    let mailbox = world.account("1001", server).await;
    world.hold();
    let report = world.sync(mailbox).await;
    assert!(report.outcome.contains("cannot read the secret"), "{report:?}");
    let detail = || {
        let alarms = world.alarms.list().expect("a list").into_iter();
        let mut of_server = alarms.filter(|it| it.code == Some(Code::MailboxSyncFailing) && it.subject == "mail-1");
        of_server.next().map(|alarm| alarm.detail)
    };
    eventually("the alarm is raised", async || detail().is_some()).await;
    let detail = detail().expect("an alarm");
    assert!(detail.contains("1 account not") && !detail.contains("1001"), "{detail}");
}

#[tokio::test]
async fn alarms_of_an_earlier_process_end_when_the_duty_begins() {
    let world = World::new().await;
    let server = world.server(1, CLOSED_PORT).await;
    let mailbox = world.account("1001", server).await;
    world.hold();
    world.sync(mailbox).await;
    world.alarms.raise(Code::MailboxSyncFailing, "mail-1", "of an earlier process");
    world.alarms.raise(Code::MailboxSyncHeldBack, &mailbox.to_string(), "of an earlier process");
    let open = || {
        let alarms = world.alarms.list().expect("a list").into_iter();
        let codes = [Some(Code::MailboxSyncFailing), Some(Code::MailboxSyncHeldBack)];
        alarms.filter(|alarm| codes.contains(&alarm.code) && alarm.state() != State::Cleared).count()
    };
    eventually("the alarms are raised", async || open() == 2).await;
    // The new task holds the duty from its beginning, like a process that was replaced.
    world.duty.restart();
    eventually("the alarms are cleared", async || open() == 0).await;
}
