//! Configuration of the sender.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// Port of mail servers (RFC 5321 section 4.5.4.2).
const SMTP_PORT: u16 = 25;

/// Configuration of a [`Mailer`](crate::Mailer).
#[derive(Debug, Clone)]
pub struct MailerConfig {
    /// Server that receives the mail.
    pub route: Route,
    /// Host name that EHLO and HELO announce.
    pub helo: String,
    /// Time limits.
    pub timeouts: Timeouts,
    /// CA certificates that verify servers.
    pub authorities: Authorities,
    /// Name servers; empty for those of the system (`/etc/resolv.conf`).
    pub dns_servers: Vec<SocketAddr>,
}

impl MailerConfig {
    /// Configuration with the default time limits, the CA certificates and the name servers of the system.
    pub fn new(route: Route, helo: &str) -> Self {
        Self {
            route,
            helo: helo.to_owned(),
            timeouts: Timeouts::default(),
            authorities: Authorities::System,
            dns_servers: Vec::new(),
        }
    }
}

/// Server that receives the mail.
#[derive(Debug, Clone)]
pub enum Route {
    /// One server for all recipients.
    Smarthost(Smarthost),
    /// The servers of each recipient's domain, by MX records.
    Mx {
        /// Use of TLS.
        tls: MxTls,
        /// Port of the servers: 25, except in tests.
        port: u16,
    },
}

impl Route {
    /// Delivery to the servers of each recipient's domain, on port 25.
    pub fn mx(tls: MxTls) -> Self {
        Self::Mx { tls, port: SMTP_PORT }
    }
}

/// One server for all recipients.
#[derive(Clone)]
pub struct Smarthost {
    /// Name or address; the certificate must be valid for it.
    pub host: String,
    /// Port of the server.
    pub port: u16,
    /// Use of TLS.
    pub tls: TlsMode,
    /// User name and password; sent only over TLS or to a loopback address.
    pub login: Option<(String, String)>,
}

/// Shows the user name, never the password.
impl fmt::Debug for Smarthost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|(user, _)| user);
        let Self { host, port, tls, .. } = self;
        f.debug_struct("Smarthost")
            .field("host", host)
            .field("port", port)
            .field("tls", tls)
            .field("user", &user)
            .finish_non_exhaustive()
    }
}

/// Use of TLS with a smarthost. A certificate that cannot be verified ends the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS.
    Off,
    /// STARTTLS is required.
    StartTls,
    /// STARTTLS if the server offers it, else plain text.
    Opportunistic,
    /// TLS from the first byte, usually on port 465.
    Tls,
}

/// Use of TLS with the servers of a recipient's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MxTls {
    /// STARTTLS if the server offers it, with any certificate, else plain text (RFC 3207).
    Opportunistic,
    /// STARTTLS with a certificate that is valid for the name of the MX host.
    Required,
}

/// Time limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Look-up of one name.
    pub lookup: Duration,
    /// TCP connection to one address.
    pub connect: Duration,
    /// Greeting of the server.
    pub greeting: Duration,
    /// One command with its reply; also a TLS handshake.
    pub command: Duration,
    /// Writing of one block of the message, 16 KiB.
    pub block: Duration,
    /// Reply to the end of the message.
    pub final_reply: Duration,
    /// Reply to QUIT, when the outcome is known already.
    pub quit: Duration,
    /// Whole attempt with all its addresses, except the reply to the end of the message.
    pub total: Duration,
}

/// The limits of RFC 5321 section 4.5.3.2, scaled to a message for one recipient.
impl Default for Timeouts {
    fn default() -> Self {
        Self {
            lookup: Duration::from_secs(15),
            connect: Duration::from_secs(30),
            greeting: Duration::from_secs(60),
            command: Duration::from_secs(60),
            block: Duration::from_secs(120),
            final_reply: Duration::from_secs(300),
            quit: Duration::from_secs(3),
            total: Duration::from_secs(1_800),
        }
    }
}

/// CA certificates that verify servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorities {
    /// Those of the system.
    System,
    /// Those of a PEM file, in place of the system's.
    File(PathBuf),
}

/// Reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MailerError {
    /// The name for EHLO is not valid.
    #[error("'{}' is not a host name for EHLO: write a name such as voicemail.example.com", .0.escape_debug())]
    Helo(String),
    /// The smarthost is not a name or an address.
    #[error("'{}' is not the name or address of a mail server: write a name such as mail.example.com", .0.escape_debug())]
    Host(String),
    /// User name or password are not usable.
    #[error(
        "the login of the mail server '{0}' is empty or has control characters: correct user name and password"
    )]
    Login(String),
    /// The file of CA certificates cannot be used.
    #[error("cannot read CA certificates from '{path}': {reason}; write them in PEM format")]
    Authorities {
        /// Path of the file.
        path: PathBuf,
        /// Reason of the failure.
        reason: String,
    },
    /// The system has no CA certificates.
    #[error("this machine has no CA certificates: install ca-certificates, or configure a PEM file of authorities")]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The settings of the name servers are not usable.
    #[error("name servers cannot be used: {0}; configure name servers, or correct /etc/resolv.conf")]
    NameServers(String),
}

/// Checks the parts of a configuration that reach the wire or the resolver.
pub(crate) fn check(config: &MailerConfig) -> Result<(), MailerError> {
    let host_name =
        |name: &str| !name.is_empty() && name.len() <= 253 && name.chars().all(|c| c.is_ascii_graphic());
    if !host_name(&config.helo) {
        return Err(MailerError::Helo(config.helo.clone()));
    }
    if let Route::Smarthost(Smarthost { host, login, .. }) = &config.route {
        if !host_name(host) {
            return Err(MailerError::Host(host.clone()));
        }
        // A NUL would end the user name within AUTH PLAIN.
        let usable = |text: &String| !text.is_empty() && !text.chars().any(char::is_control);
        if login.as_ref().is_some_and(|(user, password)| !usable(user) || !usable(password)) {
            return Err(MailerError::Login(host.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smarthost(host: &str, user: &str, password: &str) -> MailerConfig {
        let login = Some((user.to_owned(), password.to_owned()));
        let host = Smarthost { host: host.to_owned(), port: 587, tls: TlsMode::StartTls, login };
        MailerConfig::new(Route::Smarthost(host), "node.example.com")
    }

    #[test]
    fn configuration_with_control_characters_or_empty_parts_is_refused() {
        for (host, user, password, usable) in [
            ("mail.example.com", "twinbox", "pass word", true),
            ("[2001:db8::1]", "twinbox", "p", true),
            ("mail.example.com\r\nX", "twinbox", "p", false),
            ("", "twinbox", "p", false),
            ("mail.example.com", "twin\0box", "p", false),
            ("mail.example.com", "twinbox", "", false),
        ] {
            assert_eq!(check(&smarthost(host, user, password)).is_ok(), usable, "{host:?} {user:?}");
        }
        let mut config = smarthost("mail.example.com", "u", "p");
        config.helo = "node\r\nMAIL".to_owned();
        let error = check(&config).expect_err("a line break").to_string();
        assert!(error.contains(r"node\r\nMAIL"), "{error}");
    }

    #[test]
    fn debug_output_has_no_password() {
        let shown = format!("{:?}", smarthost("mail.example.com", "twinbox", "secret"));
        assert!(shown.contains("twinbox") && !shown.contains("secret"), "{shown}");
    }
}
