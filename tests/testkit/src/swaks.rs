//! swaks as a mail client.

use std::{net::SocketAddr, path::Path, process::Command};

/// A mail to be sent.
#[derive(Debug)]
pub struct Swaks(Command);

/// The server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMail {
    /// The server took the mail.
    pub taken: bool,
    /// The dialogue, without the mail itself.
    pub transcript: String,
}

impl Swaks {
    /// A mail from `from` to `to` (with commas between several recipients) by way of `server`, with a text alone.
    pub fn new(server: SocketAddr, from: &str, to: &str) -> Self {
        let mut command = Command::new("swaks");
        command.args(["--server", &server.ip().to_string(), "--port", &server.port().to_string()]);
        command.args(["--from", from, "--to", to, "--helo", "client.test", "--timeout", "20", "--suppress-data"]);
        Self(command)
    }

    /// With this header in place of an earlier one of that name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0.arg("--header").arg(format!("{name}: {value}"));
        self
    }

    /// With this file attached under a type such as `audio/wav`.
    pub fn attach(mut self, file: &Path, kind: &str) -> Self {
        let name = file.file_name().unwrap_or_default();
        self.0.args(["--attach-type", kind, "--attach-name"]).arg(name);
        self.0.arg("--attach").arg(format!("@{}", file.display()));
        self
    }

    /// Over TLS, by STARTTLS.
    pub fn starttls(mut self) -> Self {
        self.0.arg("--tls");
        self
    }

    /// As this user.
    pub fn sign_in(mut self, user: &str, password: &str) -> Self {
        self.0.args(["--auth", "PLAIN", "--auth-user", user, "--auth-password", password]);
        self
    }

    /// Sends it.
    pub fn send(mut self) -> SentMail {
        let output = self.0.output().expect("swaks runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        SentMail { taken: output.status.success(), transcript: text(&output.stdout) + &text(&output.stderr) }
    }
}

impl SentMail {
    /// The reply that refused something, such as `550 5.1.1 …`; empty if nothing was refused.
    pub fn refusal(&self) -> &str {
        // Over TLS, the mark is another one.
        let mut lines = self.transcript.lines();
        lines.find_map(|line| line.strip_prefix("<** ").or_else(|| line.strip_prefix("<~* "))).unwrap_or_default()
    }

    /// The reply to the mail itself.
    pub fn receipt(&self) -> &str {
        let after = self.transcript.split_once(" lines sent\n").map_or("", |(_, after)| after);
        after.lines().next().and_then(|line| line.get(4..)).unwrap_or_default()
    }
}
