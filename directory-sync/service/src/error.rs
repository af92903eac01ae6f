//! Reasons why a directory cannot be used.

use std::time::Duration;

/// Reason why an operation on a directory failed. The connection is of no further use: connect again.
#[derive(Debug, thiserror::Error)]
pub enum LdapError {
    /// No server gave an answer.
    #[error("no server of the directory answers: {0}; check the addresses, the network and the certificates")]
    Unreachable(String),
    /// The directory has no server.
    #[error("the directory names no server: set its addresses with `url`")]
    NoServer,
    /// The data of the servers that answer are older than those of the latest search.
    #[error(
        "the data of {server} are older than those of the latest run: users whom it lacks may exist, and no user is \
         changed until it has caught up; if a backup was restored there, or it has replaced another server, read the \
         dry run (`twinbox directory sync NAME --dry-run`), then accept it with --accept-deletions RUN"
    )]
    Behind {
        /// Address of the first of them.
        server: String,
    },
    /// The file with the password of the sign-in cannot be used.
    #[error("the password file '{path}' cannot be used: {reason}; it must hold the password alone")]
    PasswordFile {
        /// Path of the file.
        path: String,
        /// Reason of the operating system, or a rule that the content breaks.
        reason: String,
    },
    /// A name to sign in with, but no password: a server would accept it without any proof (RFC 4513 section 5.1.2).
    #[error("the directory has a name to sign in with but no password: set its password file, or remove the name")]
    NoPassword,
    /// The file with certificates of authorities cannot be used.
    #[error("the certificates in '{path}' cannot be used: {reason}; the file must hold certificates in PEM form")]
    Authorities {
        /// Path of the file.
        path: String,
        /// Reason.
        reason: String,
    },
    /// The system has no certificates of authorities.
    #[error(
        "the system has no certificates of authorities: install them (ca-certificates), or name a file with them"
    )]
    NoAuthorities,
    /// The server refused the directory's own name or password.
    #[error("{server} refuses to sign in '{name}': {reason}; check the name and the password file")]
    SignIn {
        /// Address of the server.
        server: String,
        /// Distinguished name in the settings.
        name: String,
        /// Reason of the server.
        reason: String,
    },
    /// The server refused an operation.
    #[error("{server} refuses {operation}: {reason}")]
    Refused {
        /// Address of the server.
        server: String,
        /// Operation and its object.
        operation: String,
        /// Result code (RFC 4511 section 4.1.9).
        code: u32,
        /// Name of the code, text of the server and a remedy.
        reason: String,
    },
    /// No answer within the time limit.
    #[error("{server} gave no answer within {limit:?}")]
    Timeout {
        /// Address of the server.
        server: String,
        /// Time limit of one answer.
        limit: Duration,
    },
    /// An operation exceeded the time for all of it.
    #[error(
        "{server} did not complete the operation within {limit:?}: check the server's load, or narrow the search"
    )]
    TooSlow {
        /// Address of the server.
        server: String,
        /// Time limit of the operation.
        limit: Duration,
    },
    /// The connection ended, or the relay ended it because of a message that is not accepted.
    #[error("the connection to {server} ended: {reason}")]
    Ended {
        /// Address of the server.
        server: String,
        /// Reason, such as the bound that the server exceeded.
        reason: String,
    },
    /// More results than the bound.
    #[error("{server} sent more than {bound} results for one search: narrow the base or the filter")]
    TooMany {
        /// Address of the server.
        server: String,
        /// The bound.
        bound: u64,
    },
    /// People of more bytes than the bound.
    #[error(
        "the people that {server} sent take more than {bound} bytes: narrow the base or the filter, or choose \
         attributes with shorter values"
    )]
    TooLarge {
        /// Address of the server.
        server: String,
        /// The bound.
        bound: u64,
    },
    /// An answer that does not follow the protocol.
    #[error("{server} sent an answer that does not follow the protocol: {reason}")]
    Protocol {
        /// Address of the server.
        server: String,
        /// The malformed part.
        reason: String,
    },
    /// A filter that is no filter (RFC 4515).
    #[error("the filter '{0}' is not valid: write one such as (objectClass=person)")]
    Filter(String),
    /// An earlier operation on the connection was not completed.
    #[error("an earlier operation on the connection to {0} was not completed: connect again")]
    Interrupted(String),
    /// The receiver of entries ended the search.
    #[error("the search was stopped")]
    Stopped,
    /// A local socket or task cannot be made.
    #[error("the connection cannot be set up on this node: {0}")]
    Local(String),
}

/// Name of a result code (RFC 4511 section 4.1.9, RFC 4533) with the remedy where there is one.
pub(crate) fn code_text(code: u32) -> &'static str {
    match code {
        1 => "operationsError (sign in first: set `bind-dn`)",
        2 => "protocolError",
        3 => "timeLimitExceeded (raise the server's limit for this account)",
        4 => "sizeLimitExceeded (raise the server's limit for this account)",
        8 => "strongerAuthRequired (use StartTLS or ldaps)",
        10 => "referral (the base is on another server: name that server)",
        11 => "adminLimitExceeded (raise the server's limit for this account)",
        12 => "unavailableCriticalExtension",
        13 => "confidentialityRequired (use StartTLS or ldaps)",
        32 => "noSuchObject (check the base)",
        34 => "invalidDNSyntax",
        48 => "inappropriateAuthentication",
        49 => "invalidCredentials",
        50 => "insufficientAccessRights (give this account the right to read)",
        51 => "busy",
        52 => "unavailable",
        53 => "unwillingToPerform",
        4096 => "e-syncRefreshRequired",
        _ => "error",
    }
}

/// Reason of a refusal: code, name and the text of the server.
pub(crate) fn refusal(code: u32, text: &str) -> String {
    let name = code_text(code);
    if text.is_empty() { format!("{code} {name}") } else { format!("{code} {name}: {text}") }
}
