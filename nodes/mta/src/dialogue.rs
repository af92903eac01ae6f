//! The SMTP dialogue as a state machine: replies in, commands out. No socket, no clock.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    encoding::xtext,
    envelope::{Envelope, Notify},
    extensions::Extensions,
    failure::{Delivered, Problem, SendFailure, SendStep},
    reply::Reply,
};

/// Use of STARTTLS on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// STARTTLS is not used.
    Off,
    /// STARTTLS if the server offers it.
    IfOffered,
    /// STARTTLS, or the attempt fails.
    Required,
}

/// Facts that a dialogue depends on.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    /// Name of the server, for reports.
    pub host: &'a str,
    /// Name for EHLO.
    pub helo: &'a str,
    /// Use of STARTTLS.
    pub encryption: Encryption,
    /// The server relays for this cluster.
    pub smarthost: bool,
    /// User name and password.
    pub login: Option<&'a (String, String)>,
    /// The server is on this machine: a login needs no TLS.
    pub loopback: bool,
    /// Sender and recipient.
    pub envelope: &'a Envelope<'a>,
    /// End after the recipient, without sending the message.
    pub probe: bool,
}

/// Next action on the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this command line, then read a reply.
    Command(String),
    /// Begin TLS, then continue with [`Dialogue::secured`].
    Handshake,
    /// Send the message with its end, then read a reply.
    Message,
    /// The dialogue has ended; only QUIT may follow.
    Finish(Result<Delivered, SendFailure>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaiting {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Login,
    LoginUser,
    LoginPassword,
    Mail,
    Rcpt,
    Data,
    Message,
}

/// State of a dialogue.
#[derive(Debug)]
pub(crate) struct Dialogue<'a> {
    plan: Plan<'a>,
    awaiting: Awaiting,
    secure: bool,
    extensions: Extensions,
}

impl<'a> Dialogue<'a> {
    /// Begins with the server's greeting. `secure`: the connection already uses TLS.
    pub fn new(plan: Plan<'a>, secure: bool) -> Self {
        Self { plan, awaiting: Awaiting::Greeting, secure, extensions: Extensions::default() }
    }

    /// Step of the awaited reply.
    pub fn step(&self) -> SendStep {
        match self.awaiting {
            Awaiting::Greeting => SendStep::Greeting,
            Awaiting::Ehlo | Awaiting::Helo => SendStep::Hello,
            Awaiting::StartTls => SendStep::Tls,
            Awaiting::Login | Awaiting::LoginUser | Awaiting::LoginPassword => SendStep::Authentication,
            Awaiting::Mail => SendStep::Sender,
            Awaiting::Rcpt => SendStep::Recipient,
            Awaiting::Data => SendStep::Data,
            Awaiting::Message => SendStep::Message,
        }
    }

    /// Whether the connection uses TLS.
    pub fn secure(&self) -> bool {
        self.secure
    }

    /// Takes the awaited reply.
    pub fn replied(&mut self, reply: &Reply) -> Action {
        match (self.awaiting, reply.code / 100) {
            (Awaiting::Greeting, 2) => Action::Command(self.ehlo()),
            (Awaiting::Ehlo, 2) => {
                self.extensions = Extensions::read(reply);
                self.after_hello()
            }
            // A server of RFC 821.
            (Awaiting::Ehlo, 5) => self.command(Awaiting::Helo, format!("HELO {}", self.plan.helo)),
            (Awaiting::Helo, 2) => self.after_hello(),
            (Awaiting::StartTls, 2) => Action::Handshake,
            (Awaiting::StartTls, 4 | 5) if self.plan.encryption == Encryption::IfOffered => self.authenticate(),
            (Awaiting::Login, 3) if !self.extensions.plain => self.login_line(Awaiting::LoginUser),
            (Awaiting::LoginUser, 3) => self.login_line(Awaiting::LoginPassword),
            (Awaiting::Login | Awaiting::LoginPassword, 2) => self.mail(),
            (Awaiting::Mail, 2) => self.rcpt(),
            (Awaiting::Rcpt, 2) if self.plan.probe => Action::Finish(Ok(self.accepted(reply))),
            (Awaiting::Rcpt, 2) => self.command(Awaiting::Data, "DATA".to_owned()),
            (Awaiting::Data, 3) => {
                self.awaiting = Awaiting::Message;
                Action::Message
            }
            (Awaiting::Message, 2) => Action::Finish(Ok(self.accepted(reply))),
            _ => {
                let Plan { host, smarthost, .. } = self.plan;
                Action::Finish(Err(SendFailure::refused(host, self.step(), reply, smarthost)))
            }
        }
    }

    /// TLS has begun: what the server said before does not count (RFC 3207 section 4.2).
    /// Returns the next command line.
    pub fn secured(&mut self) -> String {
        self.secure = true;
        self.extensions = Extensions::default();
        self.ehlo()
    }

    fn ehlo(&mut self) -> String {
        self.line(Awaiting::Ehlo, format!("EHLO {}", self.plan.helo))
    }

    fn after_hello(&mut self) -> Action {
        match self.plan.encryption {
            _ if self.secure => self.authenticate(),
            Encryption::Off => self.authenticate(),
            _ if self.extensions.starttls => self.command(Awaiting::StartTls, "STARTTLS".to_owned()),
            Encryption::IfOffered => self.authenticate(),
            Encryption::Required => {
                let text = "does not offer STARTTLS, which is required: enable TLS on the server";
                self.temporary(SendStep::Tls, text)
            }
        }
    }

    fn authenticate(&mut self) -> Action {
        let Some((user, password)) = self.plan.login else { return self.mail() };
        if !self.secure && !self.plan.loopback {
            let text = "has no TLS, without which no password is sent: require TLS for the smarthost";
            return self.temporary(SendStep::Authentication, text);
        }
        if self.extensions.plain {
            let token = STANDARD.encode(format!("\0{user}\0{password}"));
            self.command(Awaiting::Login, format!("AUTH PLAIN {token}"))
        } else if self.extensions.login {
            self.command(Awaiting::Login, "AUTH LOGIN".to_owned())
        } else {
            let text = "offers neither AUTH PLAIN nor AUTH LOGIN: remove the login, or enable it on the server";
            self.temporary(SendStep::Authentication, text)
        }
    }

    /// User name or password of `AUTH LOGIN`.
    fn login_line(&mut self, next: Awaiting) -> Action {
        let login = self.plan.login.map(|(user, password)| match next {
            Awaiting::LoginUser => user,
            _ => password,
        });
        let line = STANDARD.encode(login.map(String::as_str).unwrap_or_default());
        self.command(next, line)
    }

    fn mail(&mut self) -> Action {
        let (envelope, offered) = (self.plan.envelope, &self.extensions);
        if let Some(limit) = offered.max_size.filter(|limit| envelope.size > *limit) {
            let text = format!("accepts messages of at most {limit} bytes, this one has {}", envelope.size);
            return self.permanent(SendStep::Sender, &text);
        }
        if envelope.eight_bit && !offered.eight_bit_mime {
            return self
                .permanent(SendStep::Sender, "does not accept 8-bit messages (8BITMIME), which this one is");
        }
        if envelope.utf8 && !offered.smtp_utf8 {
            let text = "does not accept addresses above ASCII (SMTPUTF8): use another address for this recipient";
            return self.permanent(SendStep::Recipient, text);
        }
        let mut line = format!("MAIL FROM:<{}>", envelope.sender);
        if offered.size && envelope.size > 0 {
            line.push_str(&format!(" SIZE={}", envelope.size));
        }
        if envelope.eight_bit {
            line.push_str(" BODY=8BITMIME");
        }
        if envelope.utf8 {
            line.push_str(" SMTPUTF8");
        }
        if offered.dsn {
            line.push_str(" RET=HDRS");
            if let Some(id) = envelope.id {
                line.push_str(&format!(" ENVID={}", xtext(id)));
            }
        }
        self.command(Awaiting::Mail, line)
    }

    fn rcpt(&mut self) -> Action {
        let envelope = self.plan.envelope;
        let mut line = format!("RCPT TO:<{}>", envelope.recipient);
        if self.extensions.dsn {
            line.push_str(match envelope.notify {
                Notify::FailureAndDelay => " NOTIFY=FAILURE,DELAY",
                Notify::Never => " NOTIFY=NEVER",
            });
        }
        self.command(Awaiting::Rcpt, line)
    }

    fn command(&mut self, next: Awaiting, line: String) -> Action {
        Action::Command(self.line(next, line))
    }

    fn line(&mut self, next: Awaiting, mut line: String) -> String {
        self.awaiting = next;
        line.push_str("\r\n");
        line
    }

    fn accepted(&self, reply: &Reply) -> Delivered {
        Delivered { by: self.plan.host.to_owned(), reply: reply.summary() }
    }

    fn temporary(&self, step: SendStep, text: &str) -> Action {
        Action::Finish(Err(SendFailure::Temporary(self.problem(step, text))))
    }

    fn permanent(&self, step: SendStep, text: &str) -> Action {
        Action::Finish(Err(SendFailure::Permanent(self.problem(step, text))))
    }

    fn problem(&self, step: SendStep, text: &str) -> Problem {
        Problem::new(self.plan.host, step, format!("{} {text}", self.plan.host))
    }
}

#[cfg(test)]
mod tests;
