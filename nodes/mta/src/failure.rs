//! Outcomes of an attempt, and the table that classifies refusals.

use std::fmt;

use crate::reply::{EnhancedStatus, Reply};

/// Step of an attempt, in the usual order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SendStep {
    /// Check of the addresses, before any connection.
    Envelope,
    /// Look-up of the servers and their addresses.
    Lookup,
    /// TCP connection.
    Connection,
    /// Greeting of the server.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS and the TLS handshake.
    Tls,
    /// User name and password.
    Authentication,
    /// MAIL command.
    Sender,
    /// RCPT command.
    Recipient,
    /// DATA command and transfer of the message.
    Data,
    /// Reply to the end of the message.
    Message,
}

impl SendStep {
    /// Word for reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Lookup => "look-up",
            Self::Connection => "connection",
            Self::Greeting => "greeting",
            Self::Hello => "hello",
            Self::Tls => "TLS",
            Self::Authentication => "authentication",
            Self::Sender => "sender",
            Self::Recipient => "recipient",
            Self::Data => "data",
            Self::Message => "message",
        }
    }

    /// Whether a failure at this step says nothing about a single mail: the server is not reached, or takes none.
    pub fn is_before_a_mail(self) -> bool {
        (Self::Lookup..=Self::Authentication).contains(&self)
    }

    /// Object of a refusal at this step.
    fn object(self) -> &'static str {
        match self {
            Self::Envelope | Self::Lookup | Self::Connection | Self::Greeting => "the connection",
            Self::Hello => "EHLO",
            Self::Tls => "STARTTLS",
            Self::Authentication => "the login",
            Self::Sender => "the sender",
            Self::Recipient => "the recipient",
            Self::Data | Self::Message => "the message",
        }
    }
}

impl fmt::Display for SendStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A message that a server has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Host that accepted it.
    pub by: String,
    /// Final reply of the host in one line, at most 300 characters, without control characters.
    pub reply: String,
}

/// Reason why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Host of the failure; `None` before a host is known.
    pub host: Option<String>,
    /// Step of the failure.
    pub step: SendStep,
    /// Reply code, if the server replied.
    pub code: Option<u16>,
    /// Enhanced status, if the reply had one.
    pub enhanced: Option<EnhancedStatus>,
    /// The failure as one line of text for administrators, with the host and the reply.
    pub text: String,
}

impl Problem {
    /// Failure without a reply.
    pub(crate) fn new(host: &str, step: SendStep, text: String) -> Self {
        Self { host: Some(host.to_owned()), step, code: None, enhanced: None, text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Outcome of an attempt that did not deliver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// A later attempt can succeed.
    #[error("{0}")]
    Temporary(Problem),
    /// No later attempt can succeed.
    #[error("{0}")]
    Permanent(Problem),
    /// This node does not hold the duty any more; nothing was delivered.
    #[error("this node no longer holds the duty")]
    NotHolder,
    /// The connection failed after the last byte of the message and before the reply: the server may have accepted it.
    #[error("{0}")]
    Unknown(Problem),
}

impl SendFailure {
    /// The reason, except for [`Self::NotHolder`].
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Temporary(problem) | Self::Permanent(problem) | Self::Unknown(problem) => Some(problem),
            Self::NotHolder => None,
        }
    }

    /// Failure of a server that replied `reply` at `step`. `smarthost`: the server relays for this cluster, by
    /// agreement with its administrator.
    pub(crate) fn refused(host: &str, step: SendStep, reply: &Reply, smarthost: bool) -> Self {
        let (class, step) = classify(step, reply.code, smarthost);
        let (object, summary) = (step.object(), reply.summary());
        let text = match class {
            Class::Unexpected => format!("{host} gave an unexpected reply for {object}: {summary}"),
            _ if step == SendStep::Authentication => {
                format!("{host} refused the login: {summary}; check user name and password of the smarthost")
            }
            Class::Temporary if reply.code < 500 => format!("{host} deferred {object}: {summary}"),
            _ => format!("{host} refused {object}: {summary}"),
        };
        let (code, enhanced) = (Some(reply.code), reply.enhanced());
        let problem = Problem { host: Some(host.to_owned()), step, code, enhanced, text };
        match class {
            Class::Permanent => Self::Permanent(problem),
            // The server has the whole message and did not clearly refuse it.
            Class::Unexpected if step == SendStep::Message => Self::Unknown(problem),
            _ => Self::Temporary(problem),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Temporary,
    Permanent,
    Unexpected,
}

/// Class of a reply that ends the dialogue, and the step to report.
fn classify(step: SendStep, code: u16, smarthost: bool) -> (Class, SendStep) {
    match code {
        400..500 => (Class::Temporary, step),
        // Authentication or encryption is required (RFC 4954, RFC 3207): administrators can mend it.
        530 | 535 | 538 if smarthost && step > SendStep::Authentication => {
            (Class::Temporary, SendStep::Authentication)
        }
        500..600 if step >= SendStep::Sender => (Class::Permanent, step),
        // Configuration or state of the server, not of this message.
        500..600 => (Class::Temporary, step),
        _ => (Class::Unexpected, step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(step: SendStep, code: u16, smarthost: bool) -> SendFailure {
        SendFailure::refused("mail", step, &Reply { code, lines: vec!["text".to_owned()] }, smarthost)
    }

    #[test]
    fn step_and_code_decide_the_class() {
        use SendStep::*;
        for (step, code, class) in [
            (Greeting, 421, "temporary"),
            (Greeting, 554, "temporary"),
            (Hello, 550, "temporary"),
            (Tls, 454, "temporary"),
            (Tls, 501, "temporary"),
            (Authentication, 454, "temporary"),
            (Authentication, 535, "temporary"),
            (Sender, 451, "temporary"),
            (Sender, 550, "permanent"),
            (Sender, 530, "permanent"),
            (Recipient, 450, "temporary"),
            (Recipient, 550, "permanent"),
            (Recipient, 556, "permanent"),
            (Recipient, 354, "temporary"),
            (Data, 451, "temporary"),
            (Data, 554, "permanent"),
            (Data, 250, "temporary"),
            (Message, 452, "temporary"),
            (Message, 552, "permanent"),
            (Message, 354, "unknown"),
        ] {
            let failure = refused(step, code, false);
            let actual = match &failure {
                SendFailure::Temporary(_) => "temporary",
                SendFailure::Permanent(_) => "permanent",
                SendFailure::Unknown(_) => "unknown",
                SendFailure::NotHolder => "not holder",
            };
            assert_eq!(actual, class, "{step} {code}");
            let problem = failure.problem().expect("a reason");
            assert_eq!((problem.step, problem.code), (step, Some(code)));
            assert!(
                problem.text.starts_with("mail ") && problem.text.contains(&format!("{code} text")),
                "{problem}"
            );
        }
    }

    #[test]
    fn smarthost_that_requires_a_login_is_a_temporary_failure_of_authentication() {
        for code in [530, 535, 538] {
            let failure = refused(SendStep::Recipient, code, true);
            let SendFailure::Temporary(problem) = failure else { panic!("{failure:?}") };
            assert_eq!(problem.step, SendStep::Authentication);
            assert!(problem.text.contains("check user name and password"), "{problem}");
        }
        assert!(matches!(refused(SendStep::Recipient, 550, true), SendFailure::Permanent(_)));
    }
}
