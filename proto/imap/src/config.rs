//! Server and account to sign in to.

use std::{path::PathBuf, time::Duration};

use twinbox_ids::Pii;

use crate::Secret;

/// Protection of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (RFC 8314), usually port 993.
    Implicit,
    /// TLS after the command STARTTLS (RFC 3501 §6.2.1), usually port 143. A server without it is refused.
    StartTls,
    /// None: everybody on the network path can read the password.
    None,
}

/// IMAP server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Protection of the connection.
    pub security: Security,
    /// PEM file of CA certificates in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate: encryption without proof of the server's identity.
    pub insecure: bool,
    /// Time limit of each step: connect, handshake, one block of data, one response. A whole command may take ten times
    /// as long, and so may the answer to an appended mail.
    pub timeout: Duration,
}

/// Way to sign in.
#[derive(Debug, Clone)]
pub enum Login {
    /// User name and password: SASL PLAIN (RFC 4616), else the command LOGIN.
    Password {
        /// User name.
        user: Pii<String>,
        /// Password of the user.
        password: Secret,
    },
    /// Master user who acts for the user: SASL PLAIN with an authorization identity.
    MasterUser {
        /// User name of the account.
        user: Pii<String>,
        /// Name of the master user.
        master: String,
        /// Password of the master user.
        password: Secret,
    },
    /// OAuth 2.0 access token: XOAUTH2 of Google and Microsoft, else OAUTHBEARER (RFC 7628).
    XOAuth2 {
        /// User name of the account.
        user: Pii<String>,
        /// Access token.
        token: Secret,
    },
}
