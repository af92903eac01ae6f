//! Reasons why the exchange with a server failed.

use std::{path::PathBuf, time::Duration};

/// Longest text of a server in an error, in characters.
const MAX_TEXT: usize = 200;

/// Reason why a connection or command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImapError {
    /// The gate is closed: this node must not write.
    #[error("this node no longer holds the duty")]
    NotHolder,
    /// The server was not reached.
    #[error("cannot reach {host}:{port}: {reason}; check host, port and firewall")]
    Connect {
        /// Host of the server.
        host: String,
        /// TCP port of the server.
        port: u16,
        /// Reason of the failure.
        reason: String,
    },
    /// The TLS handshake failed.
    #[error("{reason}")]
    Tls {
        /// Host of the server.
        host: String,
        /// Reason of the failure, with the host and the remedy.
        reason: String,
    },
    /// The file of CA certificates cannot be read.
    #[error("cannot read CA certificates from '{path}': {reason}")]
    Authorities {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// The system has no CA certificates.
    #[error("this machine has no CA certificates: install ca-certificates, or set ca-file")]
    NoAuthorities,
    /// The server does not offer STARTTLS.
    #[error("the server offers no STARTTLS: use implicit TLS (usually port 993)")]
    NoStartTls,
    /// The server offers no way to sign in that the login allows.
    #[error("the server offers no usable way to sign in ({offered}): enable one there, or choose another auth")]
    NoMechanism {
        /// Ways that the server offers.
        offered: String,
    },
    /// The server refused the user name, the password or the token.
    #[error("sign-in refused: {text}; check account and credentials")]
    Refused {
        /// Text of the server.
        text: String,
    },
    /// A value has characters that the protocol cannot carry.
    #[error("the {what} has characters that IMAP cannot carry: correct it")]
    NotSendable {
        /// Name of the value.
        what: &'static str,
    },
    /// The account is over its quota (RFC 9208).
    #[error("the mail account is full: {text}; delete mails there or raise its quota")]
    Quota {
        /// Text of the server.
        text: String,
    },
    /// The folder does not exist.
    #[error("folder '{folder}' cannot be opened: {text}; create it, or choose another folder")]
    NoFolder {
        /// Name of the folder.
        folder: String,
        /// Text of the server.
        text: String,
    },
    /// The folder can only be read.
    #[error("folder '{folder}' is read-only: give the account the right to write")]
    ReadOnly {
        /// Name of the folder.
        folder: String,
    },
    /// The server refused a command.
    #[error("the server refused {command}: {text}")]
    No {
        /// Name of the command.
        command: &'static str,
        /// Text of the server.
        text: String,
    },
    /// The server announced the end of the connection.
    #[error("the server ended the connection: {text}")]
    Bye {
        /// Text of the server.
        text: String,
    },
    /// The connection was lost.
    #[error("connection lost during {step}: {reason}")]
    Closed {
        /// Step of the exchange.
        step: &'static str,
        /// Reason of the failure.
        reason: String,
    },
    /// The server does not follow the protocol.
    #[error("the server does not follow IMAP in its answer to {step}: {text}")]
    Protocol {
        /// Step of the exchange.
        step: &'static str,
        /// Part of the answer that is wrong.
        text: String,
    },
    /// The answer exceeds the bounds of this client.
    #[error("the server's answer to {step} is too large")]
    TooLarge {
        /// Step of the exchange.
        step: &'static str,
    },
    /// The answer did not come in time.
    #[error("no answer to {step} within {limit:?}")]
    TimedOut {
        /// Step of the exchange.
        step: &'static str,
        /// Time limit.
        limit: Duration,
    },
    /// The connection ended while a message was sent: the server may have it.
    #[error("the connection ended while a message was sent, which may have arrived: {reason}")]
    Unknown {
        /// Reason of the failure.
        reason: String,
    },
}

impl ImapError {
    /// Whether the server refused the credentials: a token may have expired, or the password changed.
    pub fn is_login_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Whether only an administrator or the user of the account can remove the cause.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Authorities { .. }
            | Self::NoAuthorities
            | Self::NoStartTls
            | Self::NoMechanism { .. }
            | Self::Refused { .. }
            | Self::NotSendable { .. }
            | Self::Quota { .. }
            | Self::NoFolder { .. }
            | Self::ReadOnly { .. } => true,
            Self::NotHolder
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::No { .. }
            | Self::Bye { .. }
            | Self::Closed { .. }
            | Self::Protocol { .. }
            | Self::TooLarge { .. }
            | Self::TimedOut { .. }
            | Self::Unknown { .. } => false,
        }
    }
}

/// Text of a server for errors: one line of limited length without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut visible = text.trim().chars().filter(|c| !c.is_control());
    let mut short: String = visible.by_ref().take(MAX_TEXT).collect();
    if visible.next().is_some() {
        short.push('…');
    }
    short
}
