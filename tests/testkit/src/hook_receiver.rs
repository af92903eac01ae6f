//! A receiver of webhooks and text messages (`python/hook_receiver.py`), and a client of links to recordings
//! (`python/recording_link.py`): both with Python's own HTTP, TLS and hmac.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_clock::BootInstant;

use crate::{
    NetPlace, Process, holds,
    mail_receiver::{PYTHON, script},
    wait_until,
};

/// A request that arrived completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRequest {
    /// Time of its arrival.
    pub at: BootInstant,
    /// Path of the URL.
    pub path: String,
    /// Headers, with names in lower case.
    pub headers: Value,
    /// The JSON.
    pub body: Value,
    /// Python's hmac verified the signature.
    pub signed: bool,
}

impl HookRequest {
    /// The idempotency key.
    pub fn key(&self) -> &str {
        self.headers["idempotency-key"].as_str().unwrap_or_default()
    }
}

/// A running receiver. Dropping it ends it.
#[derive(Debug)]
pub struct HookReceiver {
    process: Process,
    folder: TempDir,
    address: SocketAddr,
    answers: Mutex<BTreeMap<String, Option<u16>>>,
}

impl HookReceiver {
    /// Starts a receiver at `place` that answers every request with `204`, and verifies signatures with `secret`.
    pub fn start(place: &NetPlace, port: u16, secret: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("twinbox-hooks-").tempdir().expect("a temporary folder");
        let mut command = Command::new(PYTHON);
        command.arg(script("hook_receiver.py")).arg(place.ip.to_string()).arg(port.to_string());
        command.arg(folder.path()).arg(secret);
        let process = Process::start("hook receiver", command, place, &folder.path().join("output"));
        let receiver = Self { process, folder, address: place.port(port), answers: Mutex::default() };
        wait_until("the hook receiver to listen", Duration::from_secs(20), || {
            assert!(!receiver.process.is_dead(), "{}", receiver.process.tail(20));
            receiver.events("ready").next().is_some()
        });
        receiver
    }

    /// URL of a path such as `/hook`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers requests for the path with this status from now on; those on hold, too.
    pub fn answer(&self, path: &str, status: u16) {
        self.behave(path, Some(status));
    }

    /// Takes requests for the path from now on without an answer.
    pub fn hold(&self, path: &str) {
        self.behave(path, None);
    }

    fn behave(&self, path: &str, answer: Option<u16>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(path.to_owned(), answer);
        let text = serde_json::to_string(&*answers).expect("JSON");
        let (file, next) = (self.folder.path().join("behaviour"), self.folder.path().join("behaviour.new"));
        fs::write(&next, text).expect("the behaviour can be written");
        fs::rename(next, file).expect("the behaviour can be replaced");
    }

    fn events(&self, kind: &'static str) -> impl Iterator<Item = Value> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        // Only whole lines: the last one may be half written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let events = whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        events.filter(|event: &Value| event["event"] == kind).collect::<Vec<_>>().into_iter()
    }

    /// The requests for a path so far, in the order of arrival.
    pub fn requests(&self, path: &str) -> Vec<HookRequest> {
        let request = |event: Value| HookRequest {
            at: BootInstant::from_nanos(event["at"].as_u64().unwrap_or_default()),
            path: event["path"].as_str().unwrap_or_default().to_owned(),
            headers: event["headers"].clone(),
            body: event["body"].clone(),
            signed: event["signed"] == true,
        };
        self.events("request").map(request).filter(|request| request.path == path).collect()
    }

    /// Waits until at least `count` requests for a path have arrived.
    pub fn wait_for_requests(&self, path: &str, count: usize, limit: Duration) -> Vec<HookRequest> {
        let arrived = holds(limit, || Some(self.requests(path)).filter(|requests| requests.len() >= count));
        arrived.unwrap_or_else(|| {
            panic!("no {count} requests for {path} within {limit:?}: {:#?}", self.requests(path))
        })
    }
}

impl Drop for HookReceiver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.tail(20));
        }
    }
}

/// The answer to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedRecording {
    /// Status of the answer.
    pub status: u16,
    /// Headers, with names in lower case.
    pub headers: Value,
    /// The body.
    pub bytes: Vec<u8>,
}

/// Asks one node for a link over TLS. `authority` is the CA certificate that verifies the node's.
pub fn fetch_recording(node: &NetPlace, authority: &Path, url: &str) -> FetchedRecording {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("body");
    let mut command = Command::new(PYTHON);
    command
        .arg(script("recording_link.py"))
        .args(["fetch", &node.ip.to_string()])
        .arg(authority)
        .arg(url)
        .arg(&file);
    let answer: Value = serde_json::from_str(&run(command)).expect("recording_link.py prints JSON");
    let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    FetchedRecording {
        status: status.expect("a status"),
        headers: answer["headers"].clone(),
        bytes: fs::read(file).expect("the body"),
    }
}

/// The link as its receiver would forge it: with another time of its end, this many seconds from now, signed with a key
/// from the secret of its device.
pub fn sign_recording_link(secret: &str, url: &str, seconds: i32) -> String {
    let mut command = Command::new(PYTHON);
    command.arg(script("recording_link.py")).args(["sign", secret, url, &seconds.to_string()]);
    run(command).trim_end().to_owned()
}

fn run(mut command: Command) -> String {
    let output = command.output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
