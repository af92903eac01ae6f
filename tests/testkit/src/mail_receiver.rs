//! A mail server that records every mail and fails where a test wants: `python/mail_receiver.py`, on aiosmtpd.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use twinbox_clock::BootInstant;

use crate::{Authority, NetPlace, Process, holds, wait_until};

/// The interpreter that has Debian's modules.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Point at which the server fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailFault {
    /// It closes the connection before its greeting.
    Greeting,
    /// It offers STARTTLS, and closes the connection in place of the handshake.
    StartTls,
    /// It resets the connection while the mail arrives.
    Data,
    /// It has the whole mail, and resets the connection in place of its reply.
    Reply,
    /// It answers the mail with `451`.
    Defer,
    /// It answers the mail with `550`.
    Refuse,
}

impl MailFault {
    fn word(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::StartTls => "starttls",
            Self::Data => "data",
            Self::Reply => "reply",
            Self::Defer => "defer",
            Self::Refuse => "refuse",
        }
    }
}

/// A mail that arrived completely; the server may have refused it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMail {
    /// Time of its last byte.
    pub at: BootInstant,
    /// Name of the client in EHLO.
    pub hello: String,
    /// Envelope sender; `<>` for none.
    pub sender: String,
    /// Envelope recipients.
    pub recipients: Vec<String>,
    /// Message-ID without angle brackets.
    pub message_id: String,
    /// `accepted`, or the word of the [`MailFault`].
    pub outcome: String,
    /// File with its bytes.
    pub file: PathBuf,
}

/// A connection to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailSession {
    /// Name of the client in EHLO; `None` before that.
    pub hello: Option<String>,
    /// Time of the connection.
    pub begun: BootInstant,
    /// Time at which it was closed; `None` while it is open.
    pub ended: Option<BootInstant>,
}

/// A login at the server, over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailLogin {
    /// Name of the user.
    pub user: String,
    /// The password was the right one.
    pub accepted: bool,
}

/// A mail as Python's own parser reads it.
#[derive(Debug, Clone)]
pub struct MailContent {
    headers: Value,
    /// Mistakes in its structure.
    pub defects: Vec<String>,
    /// Its plain text.
    pub text: String,
    /// Type, file name and size of its attachments.
    pub attachments: Value,
    /// The first sound file.
    pub sound: Option<Vec<u8>>,
    /// dkimpy verified the signature with the given key.
    pub dkim: bool,
}

impl MailContent {
    /// The last header of that name, in lower case; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].as_str().unwrap_or_default()
    }
}

/// A running server. Dropping it ends it and removes the mails.
#[derive(Debug)]
pub struct MailReceiver {
    process: Process,
    folder: TempDir,
    address: SocketAddr,
    serial: AtomicU64,
}

impl MailReceiver {
    /// Starts a server at `place` that accepts every mail.
    pub fn start(place: &NetPlace, port: u16) -> Self {
        Self::start_script(place, port, &[])
    }

    /// Starts a server at `place` that requires STARTTLS and a login: see [`Self::admit`]. It reads the certificate of
    /// the authority's server for each connection.
    pub fn start_with_login(place: &NetPlace, port: u16, authority: &Authority) -> Self {
        Self::start_script(place, port, &[authority.server_certificate(), authority.server_key()])
    }

    fn start_script(place: &NetPlace, port: u16, more: &[PathBuf]) -> Self {
        let folder = tempfile::Builder::new().prefix("twinbox-mails-").tempdir().expect("a temporary folder");
        let mut command = Command::new(PYTHON);
        command.arg(script("mail_receiver.py")).arg(place.ip.to_string()).arg(port.to_string()).arg(folder.path());
        command.args(more);
        let process = Process::start("mail receiver", command, place, &folder.path().join("output"));
        let receiver = Self { process, folder, address: place.port(port), serial: AtomicU64::new(0) };
        wait_until("the mail receiver to listen", Duration::from_secs(20), || {
            assert!(!receiver.process.is_dead(), "{}", receiver.process.tail(20));
            receiver.events("ready").next().is_some()
        });
        receiver
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts every mail from now on, this long after it has arrived.
    pub fn accept(&self, pause: Duration) {
        self.behave(None, None, pause);
    }

    /// Fails there from now on.
    pub fn fail(&self, fault: MailFault) {
        self.behave(Some(fault), None, Duration::ZERO);
    }

    /// Fails there once, then accepts.
    pub fn fail_once(&self, fault: MailFault) {
        self.behave(Some(fault), Some(1), Duration::ZERO);
    }

    /// Accepts this login from now on, and no other.
    pub fn admit(&self, user: &str, password: &str) {
        let (file, next) = (self.folder.path().join("login"), self.folder.path().join("login.new"));
        fs::write(&next, json!([user, password]).to_string()).expect("the login can be written");
        fs::rename(next, file).expect("the login can be replaced");
    }

    /// The logins so far.
    pub fn logins(&self) -> Vec<MailLogin> {
        let login = |event: Value| MailLogin {
            user: event["user"].as_str().unwrap_or_default().to_owned(),
            accepted: event["accepted"] == true,
        };
        self.events("login").map(login).collect()
    }

    fn behave(&self, fault: Option<MailFault>, times: Option<u32>, pause: Duration) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let fault = fault.map(MailFault::word);
        let wanted = json!({ "serial": serial, "fault": fault, "times": times, "pause": pause.as_secs_f64() });
        let (file, next) = (self.folder.path().join("behaviour"), self.folder.path().join("behaviour.new"));
        fs::write(&next, wanted.to_string()).expect("the behaviour can be written");
        fs::rename(next, file).expect("the behaviour can be replaced");
    }

    fn events(&self, kind: &'static str) -> impl Iterator<Item = Value> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        // Only whole lines: the last one may be half written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let events = whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        events.filter(|event: &Value| event["event"] == kind).collect::<Vec<_>>().into_iter()
    }

    /// The mails so far, in the order of arrival.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mail = |event: Value| ReceivedMail {
            at: at(&event),
            hello: text(&event["hello"]),
            sender: text(&event["sender"]),
            recipients: event["recipients"].as_array().into_iter().flatten().map(text).collect(),
            message_id: text(&event["message_id"]),
            outcome: text(&event["outcome"]),
            file: self.folder.path().join(text(&event["file"])),
        };
        self.events("mail").map(mail).collect()
    }

    /// The connections so far, in the order of their beginning.
    pub fn sessions(&self) -> Vec<MailSession> {
        let by_session = |kind| -> BTreeMap<u64, Value> {
            self.events(kind).map(|event| (event["session"].as_u64().unwrap_or_default(), event)).collect()
        };
        let (hellos, closes) = (by_session("hello"), by_session("close"));
        let session = |event: Value| {
            let number = event["session"].as_u64().unwrap_or_default();
            MailSession {
                hello: hellos.get(&number).and_then(|hello| hello["name"].as_str().map(str::to_owned)),
                begun: at(&event),
                ended: closes.get(&number).map(at),
            }
        };
        self.events("connect").map(session).collect()
    }

    /// Waits until at least `count` mails have arrived, accepted or not.
    pub fn wait_for_mails(&self, count: usize, limit: Duration) -> Vec<ReceivedMail> {
        let arrived = holds(limit, || Some(self.mails()).filter(|mails| mails.len() >= count));
        arrived.unwrap_or_else(|| panic!("no {count} mails within {limit:?}: {:#?}", self.mails()))
    }

    /// Reads a mail. `key` is the DNS name and the text of the public key that verifies its signature.
    pub fn read(&self, mail: &ReceivedMail, key: Option<(&str, &str)>) -> MailContent {
        let sound = mail.file.with_extension("sound");
        let mut command = Command::new(PYTHON);
        command.arg(script("read_mail.py")).arg(&mail.file).arg(&sound);
        if let Some((name, record)) = key {
            command.args([name, record]);
        }
        let output = command.output().expect("python3 runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read: Value = serde_json::from_slice(&output.stdout).expect("read_mail.py prints JSON");
        let defects = read["defects"].as_array().into_iter().flatten();
        MailContent {
            headers: read["headers"].clone(),
            defects: defects.map(ToString::to_string).collect(),
            text: read["text"].as_str().unwrap_or_default().to_owned(),
            attachments: read["attachments"].clone(),
            sound: fs::read(sound).ok(),
            dkim: read["dkim"] == true,
        }
    }
}

impl Drop for MailReceiver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.tail(20));
        }
    }
}

fn at(event: &Value) -> BootInstant {
    BootInstant::from_nanos(event["at"].as_u64().unwrap_or_default())
}

/// Path of a script of the test kit.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}
