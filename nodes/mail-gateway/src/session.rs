//! The state of one connection: commands and answers in, [`Action`]s out. Without clock and socket.

mod mail;
mod sign_in;

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use crate::{
    command::{self, Command, Hello},
    counts::Counter,
    data::{DataReader, Discard},
    dsn::RecipientRequest,
    handler::{Delivery, Mail, PasswordCheck, RecipientError, Sender},
    limits::Limits,
    lines::LineError,
    networks::Networks,
    received::sanitized,
    reply::Reply,
};
use mail::Transaction;
pub use sign_in::Credentials;
use sign_in::SignInStep;

/// Protocol of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP (RFC 5321): one reply to each mail.
    Smtp,
    /// LMTP (RFC 2033): one reply to each recipient of a mail.
    Lmtp,
}

/// Settings by the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Name of this server in greetings and headers.
    pub hostname: String,
    /// Networks whose hosts may send without a password.
    pub networks: Networks,
    /// Mails for known recipients are also taken from clients outside these networks that have not signed in. They are
    /// not trusted.
    pub open: bool,
    /// Reports of success are offered to trusted clients (RFC 3461): this cluster sends mail. Strangers get none, so that
    /// no report goes to a forged sender.
    pub reports: bool,
}

/// Circumstances of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Protocol of the socket.
    pub protocol: Protocol,
    /// Address of the client.
    pub address: IpAddr,
    /// There is a certificate for `STARTTLS`.
    pub tls_offered: bool,
    /// Random id, for the ids of mails.
    pub id: u64,
}

/// Instruction of a session to its connection. Actions are done in their order; an answer is handed to
/// [`Session::on_answer`] before anything else is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<R> {
    /// Send a reply.
    Reply(Reply),
    /// Count an event.
    Count(Counter),
    /// Throw away what was received, shake hands for TLS, and call [`Session::on_tls`].
    StartTls,
    /// Ask the handler for the recipient with this address.
    AskRecipient {
        /// The address.
        address: String,
        /// The client.
        sender: Sender,
    },
    /// Ask the handler to check a password.
    AskPassword {
        /// User and password.
        given: Credentials,
        /// Address of the client.
        client: IpAddr,
    },
    /// From now on [`Session::on_data_chunk`] takes what is received.
    ReadData {
        /// Largest mail in bytes.
        limit: usize,
    },
    /// Hand a mail to the handler.
    Deliver(Mail<R>),
    /// Close the connection.
    Close,
}

/// An answer of the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<R> {
    /// To [`Action::AskRecipient`].
    Recipient(Result<R, RecipientError>),
    /// To [`Action::AskPassword`].
    Password(PasswordCheck),
    /// To [`Action::Deliver`].
    Deliveries(Vec<Delivery>),
}

/// Input that a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// A line, for [`Session::on_line`].
    Line,
    /// Content of a mail, for [`Session::on_data_chunk`].
    Data,
    /// None: an answer is due, or the session has ended.
    Nothing,
}

/// Kind of the next input.
#[derive(Debug)]
enum Phase {
    Command,
    SignIn(SignInStep),
    Data(DataReader),
    /// The handler looks for the recipient with this address, about which these reports are wanted.
    Recipient(String, Option<RecipientRequest>),
    /// The handler checks the password of this user.
    Password(String),
    /// The handler files a mail for this many recipients.
    Deliveries(usize),
    Tls,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Session<R> {
    settings: Arc<GatewaySettings>,
    limits: Arc<Limits>,
    start: Start,
    phase: Phase,
    sender: Sender,
    /// Greeting of the client.
    hello: Option<Hello>,
    transaction: Option<Transaction<R>>,
    /// Mails begun so far.
    mails: u64,
    bad_commands: usize,
    refused_recipients: usize,
    failed_sign_ins: usize,
}

impl<R: Clone> Session<R> {
    /// A session of a new connection.
    pub fn new(settings: Arc<GatewaySettings>, limits: Arc<Limits>, start: Start) -> Self {
        let trusted_network = settings.networks.contains(start.address);
        let (address, helo) = (start.address.to_canonical(), String::new());
        let sender = Sender { address, trusted_network, user: None, tls: false, helo };
        Self {
            settings,
            limits,
            start,
            phase: Phase::Command,
            sender,
            hello: None,
            transaction: None,
            mails: 0,
            bad_commands: 0,
            refused_recipients: 0,
            failed_sign_ins: 0,
        }
    }

    /// The greeting, or the refusal while the handler is not ready.
    pub fn greeting(&mut self, ready: bool) -> Vec<Action<R>> {
        if !ready {
            return self.closing(Reply::new(421, "4.3.2", "not in service now; try again later"));
        }
        let protocol = match self.start.protocol {
            Protocol::Smtp => "ESMTP",
            Protocol::Lmtp => "LMTP",
        };
        vec![Action::Reply(Reply::plain(220, format!("{} {protocol}", self.settings.hostname), Vec::new()))]
    }

    /// Input that the session waits for.
    pub fn reads(&self) -> Reads {
        match self.phase {
            Phase::Command | Phase::SignIn(_) => Reads::Line,
            Phase::Data(_) => Reads::Data,
            _ => Reads::Nothing,
        }
    }

    /// The client.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Takes a line without its line end, at this wall clock in milliseconds since the Unix epoch.
    pub fn on_line(&mut self, line: &[u8], wall_ms: u64) -> Vec<Action<R>> {
        match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Command => match command::parse(line) {
                Ok(command) => self.command(command, wall_ms),
                Err(reply) => self.bad(reply),
            },
            Phase::SignIn(step) => self.on_response(step, line),
            other => {
                self.phase = other;
                Vec::new()
            }
        }
    }

    /// Takes an answer of the handler; one that was not asked for does nothing.
    pub fn on_answer(&mut self, answer: Answer<R>) -> Vec<Action<R>> {
        match (std::mem::replace(&mut self.phase, Phase::Command), answer) {
            (Phase::Recipient(address, reports), Answer::Recipient(answer)) => {
                self.recipient_found(address, reports, answer)
            }
            (Phase::Password(user), Answer::Password(checked)) => self.password_checked(user, checked),
            (Phase::Deliveries(recipients), Answer::Deliveries(deliveries)) => {
                self.delivered(recipients, deliveries)
            }
            (phase, _) => {
                self.phase = phase;
                Vec::new()
            }
        }
    }

    /// The TLS handshake succeeded. Everything that the client said before is forgotten (RFC 3207 section 4.2).
    pub fn on_tls(&mut self) {
        if matches!(self.phase, Phase::Tls) {
            self.phase = Phase::Command;
            self.sender.tls = true;
            self.sender.user = None;
            self.sender.helo.clear();
            self.hello = None;
            self.transaction = None;
        }
    }

    /// The input is no line.
    pub fn on_line_error(&mut self, error: LineError) -> Vec<Action<R>> {
        match error {
            LineError::TooLong => self.closing(Reply::new(500, "5.5.6", error.to_string())),
            LineError::BareLineEnd => self.smuggled(1),
        }
    }

    /// A time limit has passed.
    pub fn on_timeout(&mut self) -> Vec<Action<R>> {
        let counter = match self.phase {
            Phase::Data(_) => Counter::MailsTooSlow,
            _ => Counter::ConnectionsExpired,
        };
        let mut actions = vec![Action::Count(counter)];
        actions.extend(self.closing(Reply::new(421, "4.4.2", "timeout; connect again")));
        actions
    }

    /// The gateway stops.
    pub fn on_stop(&mut self) -> Vec<Action<R>> {
        self.closing(Reply::new(421, "4.3.2", "shutting down; connect again"))
    }

    /// Throws away the mail that is arriving; its end is still read.
    pub fn discard(&mut self, reason: Discard) {
        if let Phase::Data(reader) = &mut self.phase {
            reader.discard(reason);
        }
    }

    /// Bytes of the arriving mail in memory.
    pub fn buffered(&self) -> usize {
        match &self.phase {
            Phase::Data(reader) => reader.buffered(),
            _ => 0,
        }
    }

    fn command(&mut self, command: Command, wall_ms: u64) -> Vec<Action<R>> {
        match command {
            Command::Hello(hello, name) => self.hello(hello, &name),
            Command::Mail { sender, size, utf8, reports } => self.mail(sender, size, utf8, reports),
            Command::Recipient(address, reports) => self.recipient(address, reports),
            Command::Data => self.data(wall_ms),
            Command::Reset => {
                self.transaction = None;
                ok("reset")
            }
            Command::Noop => ok("ok"),
            Command::Quit => self.closing(Reply::new(221, "2.0.0", "closing")),
            Command::Help => {
                vec![Action::Reply(Reply::new(
                    214,
                    "2.0.0",
                    "EHLO HELO LHLO MAIL RCPT DATA RSET NOOP QUIT AUTH STARTTLS",
                ))]
            }
            Command::Verify => {
                vec![Action::Reply(Reply::new(252, "2.5.0", "not verified; send RCPT to learn more"))]
            }
            Command::StartTls => self.start_tls(),
            Command::SignIn(mechanism, initial) => self.sign_in(mechanism, initial),
            // The chunk that follows would be read as commands.
            Command::Chunk => self.closing(Reply::new(502, "5.5.1", "BDAT is not supported; use DATA")),
            Command::Unsupported => self.bad(Reply::new(502, "5.5.1", "command not supported")),
        }
    }

    fn hello(&mut self, hello: Hello, name: &str) -> Vec<Action<R>> {
        if (hello == Hello::Lhlo) != (self.start.protocol == Protocol::Lmtp) {
            let expected = if self.start.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
            return self.bad(Reply::new(500, "5.5.1", format!("wrong protocol; send {expected}")));
        }
        self.transaction = None;
        self.hello = Some(hello);
        self.sender.helo = sanitized(name);
        let extensions = if hello == Hello::Helo { Vec::new() } else { self.extensions() };
        vec![Action::Reply(Reply::plain(250, self.settings.hostname.clone(), extensions))]
    }

    fn extensions(&self) -> Vec<Cow<'static, str>> {
        let mut extensions: Vec<Cow<'static, str>> =
            vec!["PIPELINING".into(), format!("SIZE {}", self.limits.mail).into(), "8BITMIME".into()];
        extensions.push("SMTPUTF8".into());
        extensions.push("ENHANCEDSTATUSCODES".into());
        if self.offers_reports() {
            extensions.push("DSN".into());
        }
        match (self.sender.tls, self.start.tls_offered) {
            (true, _) => extensions.push("AUTH PLAIN LOGIN".into()),
            (false, true) => extensions.push("STARTTLS".into()),
            (false, false) => {}
        }
        extensions.push("HELP".into());
        extensions
    }

    fn offers_reports(&self) -> bool {
        self.settings.reports && self.sender.trusted()
    }

    fn start_tls(&mut self) -> Vec<Action<R>> {
        if self.sender.tls {
            return self.bad(Reply::new(503, "5.5.1", "connection is encrypted already"));
        }
        if !self.start.tls_offered {
            return self.bad(Reply::new(454, "4.7.0", "no certificate here"));
        }
        self.phase = Phase::Tls;
        vec![Action::Reply(Reply::new(220, "2.0.0", "begin TLS")), Action::StartTls]
    }

    /// Refuses a command and counts it.
    fn bad(&mut self, reply: Reply) -> Vec<Action<R>> {
        self.bad_commands += 1;
        if self.bad_commands > self.limits.bad_commands {
            return self.closing(Reply::new(421, "4.7.0", "too many bad commands"));
        }
        vec![Action::Reply(reply)]
    }

    /// Closes the connection because of a bare line end, with this many replies.
    fn smuggled(&mut self, replies: usize) -> Vec<Action<R>> {
        let reply = Reply::new(554, "5.6.11", LineError::BareLineEnd.to_string());
        let mut actions = vec![Action::Count(Counter::MailsSmuggled)];
        actions.extend(std::iter::repeat_n(Action::Reply(reply.clone()), replies.saturating_sub(1)));
        actions.extend(self.closing(reply));
        actions
    }

    fn closing(&mut self, reply: Reply) -> Vec<Action<R>> {
        self.phase = Phase::Closed;
        self.transaction = None;
        vec![Action::Reply(reply), Action::Close]
    }
}

fn ok<R>(text: &'static str) -> Vec<Action<R>> {
    vec![Action::Reply(Reply::new(250, "2.0.0", text))]
}
