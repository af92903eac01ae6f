//! The administrator: the command line of the program under test, with JSON output.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;

use crate::{
    g711::{self, Law},
    process::binary,
    wait::holds,
};

/// The command line, bound to one node's socket.
#[derive(Debug, Clone)]
pub struct Cli {
    socket: PathBuf,
}

/// A message as `message list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its id.
    pub id: String,
    /// `new`, `heard`, `saved` …
    pub state: String,
    /// Number of the caller.
    pub caller: String,
    /// Its length in milliseconds.
    pub length_ms: u64,
    /// Filed by another node than the one that recorded it.
    pub partial: bool,
}

/// A number, which protobuf's JSON may write as a string.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str().and_then(|s| s.parse().ok())).unwrap_or(0)
}

impl Cli {
    /// The command line for the node behind this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Runs `twinbox` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.arg("--socket").arg(&self.socket).args(arguments);
        command.output().expect("the twinbox binary runs")
    }

    /// The output of a command with `--json`; the error is its other output.
    pub fn try_json(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.run(&[&["--json"], arguments].concat());
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(format!("twinbox {}: {}: {out}{err}", arguments.join(" "), output.status));
        }
        serde_json::from_str(&out).map_err(|e| format!("twinbox {}: no JSON: {e}: {out}", arguments.join(" ")))
    }

    /// As [`Cli::try_json`]; fails the test on an error.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.try_json(arguments).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Gives an order that may be repeated, until it is carried out, as an administrator does: on a machine that is
    /// busy with other tests a majority is lost for a moment now and then, and the answer says so.
    pub fn order(&self, arguments: &[&str]) -> Value {
        let passing = ["the outcome is unknown", "not in touch with a leader", "no leader was found"];
        let mut said = String::new();
        let done = holds(Duration::from_secs(30), || match self.try_json(arguments) {
            Ok(done) => Some(done),
            Err(refused) => {
                assert!(passing.iter().any(|reason| refused.contains(reason)), "{arguments:?}: {refused}");
                said = refused;
                None
            }
        });
        done.unwrap_or_else(|| panic!("{arguments:?}: {said}"))
    }

    /// `cluster status`, `None` while the node does not answer.
    pub fn status(&self) -> Option<Value> {
        self.try_json(&["cluster", "status"]).ok()
    }

    /// The publisher as this node sees it.
    pub fn publisher(&self) -> Option<String> {
        let status = self.status()?;
        status["publisher"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// A member's status as this node sees it.
    pub fn status_of(&self, member: &str) -> Option<String> {
        let status = self.status()?;
        let found = status["members"].as_array()?.iter().find(|m| m["name"] == member)?;
        found["status"].as_str().map(str::to_owned)
    }

    /// The messages of a mailbox, `Err` with the output.
    pub fn try_messages(&self, mailbox: &str) -> Result<Vec<StoredMessage>, String> {
        let list = self.try_json(&["message", "list", mailbox])?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let messages = list["messages"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(messages
            .iter()
            .map(|m| StoredMessage {
                id: text(&m["id"]),
                state: text(&m["state"]),
                caller: text(&m["caller"]),
                length_ms: number(&m["length_ms"]),
                partial: m["partial"].as_bool().unwrap_or(false),
            })
            .collect())
    }

    /// The messages of a mailbox.
    pub fn messages(&self, mailbox: &str) -> Vec<StoredMessage> {
        self.try_messages(mailbox).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A message's audio as bytes of `law`; the error tells why it is not bit-exact audio of that law.
    pub fn audio(&self, mailbox: &str, id: &str, law: Law) -> Result<Vec<u8>, String> {
        let output = self.run(&["message", "export", mailbox, id, "--output", "-"]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        g711::from_wav(&output.stdout, law)
    }
}
