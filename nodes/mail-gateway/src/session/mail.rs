//! `MAIL`, `RCPT` and `DATA`: one mail of a session.

use bytes::Bytes;
use twinbox_ids::Pii;

use super::{Action, Phase, Protocol, Session};
use crate::{
    command::Hello,
    counts::Counter,
    data::{DataOutcome, DataReader, Discard},
    dsn::{MailRequest, RecipientRequest},
    handler::{Delivery, Mail, RecipientError, SuccessReport},
    received::{Received, count_received},
    reply::{Reply, deciding},
};

/// A mail between `MAIL` and its delivery.
#[derive(Debug)]
pub(super) struct Transaction<R> {
    /// Envelope sender; `None` for `<>`.
    sender: Option<String>,
    utf8: bool,
    recipients: Vec<R>,
    envelope_id: Option<String>,
    /// Reports of success that are wanted, one entry per recipient.
    reports: Vec<Option<SuccessReport>>,
    /// Address of the first recipient, as it was given.
    first: Option<String>,
}

impl<R: Clone> Session<R> {
    pub(super) fn mail(
        &mut self,
        sender: Option<String>,
        size: usize,
        utf8: bool,
        reports: Option<MailRequest>,
    ) -> Vec<Action<R>> {
        if self.hello.is_none() {
            return self.bad(Reply::new(503, "5.5.1", "send EHLO, HELO or LHLO first"));
        }
        if self.transaction.is_some() {
            return self.bad(Reply::new(503, "5.5.1", "a mail has begun already; send RSET"));
        }
        if !self.sender.trusted() && !self.settings.open {
            let mut actions = vec![Action::Count(Counter::MailsUntrusted)];
            actions.extend(self.bad(Reply::new(530, "5.7.0", "sign in first: STARTTLS, then AUTH")));
            return actions;
        }
        if reports.is_some() && !self.offers_reports() {
            return self.bad(no_reports());
        }
        if size > self.limits.mail {
            return vec![Action::Count(Counter::MailsTooBig), Action::Reply(too_big())];
        }
        let envelope_id = reports.and_then(|reports| reports.envelope_id);
        let (recipients, reports) = (Vec::new(), Vec::new());
        self.transaction = Some(Transaction { sender, utf8, recipients, envelope_id, reports, first: None });
        vec![Action::Reply(Reply::new(250, "2.1.0", "sender ok"))]
    }

    pub(super) fn recipient(&mut self, address: String, reports: Option<RecipientRequest>) -> Vec<Action<R>> {
        let Some(transaction) = &self.transaction else {
            return self.bad(Reply::new(503, "5.5.1", "send MAIL first"));
        };
        if reports.is_some() && !self.offers_reports() {
            return self.bad(no_reports());
        }
        if transaction.recipients.len() >= self.limits.recipients {
            return vec![Action::Reply(Reply::new(
                452,
                "4.5.3",
                "too many recipients; send the rest in another mail",
            ))];
        }
        if !transaction.utf8 && !address.is_ascii() {
            return self.bad(Reply::new(553, "5.6.7", "address with non-ASCII characters; announce SMTPUTF8"));
        }
        self.phase = Phase::Recipient(address.clone(), reports);
        vec![Action::AskRecipient { address, sender: self.sender.clone() }]
    }

    pub(super) fn recipient_found(
        &mut self,
        address: String,
        reports: Option<RecipientRequest>,
        answer: Result<R, RecipientError>,
    ) -> Vec<Action<R>> {
        let Some(transaction) = &mut self.transaction else { return Vec::new() };
        match answer {
            Ok(recipient) => {
                transaction.recipients.push(recipient);
                let wanted = reports.filter(|reports| reports.success);
                transaction.reports.push(wanted.map(|reports| SuccessReport {
                    address: Pii::new(address.clone()),
                    original: reports.original.map(Pii::new),
                }));
                transaction.first.get_or_insert(address);
                vec![Action::Reply(Reply::new(250, "2.1.5", "recipient ok"))]
            }
            Err(error) => {
                self.refused_recipients += 1;
                let mut actions = vec![Action::Count(Counter::RecipientsRefused)];
                // Addresses must not be found out by trying.
                match self.refused_recipients > self.limits.recipients {
                    true => actions.extend(self.closing(Reply::new(421, "4.7.0", "too many refused recipients"))),
                    false => actions.push(Action::Reply(error.into())),
                }
                actions
            }
        }
    }

    pub(super) fn data(&mut self, wall_ms: u64) -> Vec<Action<R>> {
        let Some(transaction) = &self.transaction else {
            return self.bad(Reply::new(503, "5.5.1", "send MAIL first"));
        };
        if transaction.recipients.is_empty() {
            // RFC 2033 section 4.2 wants 503.
            let code = if self.start.protocol == Protocol::Lmtp { 503 } else { 554 };
            return vec![Action::Reply(Reply::new(code, "5.5.1", "no valid recipients"))];
        }
        self.mails += 1;
        let received = Received {
            helo: &self.sender.helo,
            address: self.sender.address,
            hostname: &self.settings.hostname,
            with: self.protocol_word(transaction.utf8),
            id: format!("{:016x}-{}", self.start.id, self.mails),
            recipient: transaction.first.as_deref().filter(|_| transaction.recipients.len() == 1),
            wall_ms,
        };
        let limit = self.limits.mail;
        let reader = DataReader::new(received.header().into_bytes(), limit, self.limits.overrun);
        self.phase = Phase::Data(reader);
        let start = Reply::plain(354, "end with a dot alone on its line", Vec::new());
        vec![Action::Reply(start), Action::ReadData { limit }]
    }

    /// Keyword of the protocol in `Received` headers (RFC 3848, RFC 6531).
    fn protocol_word(&self, utf8: bool) -> String {
        let base = match (self.start.protocol, self.hello, utf8) {
            (Protocol::Lmtp, _, false) => "LMTP",
            (Protocol::Lmtp, _, true) => "UTF8LMTP",
            (Protocol::Smtp, Some(Hello::Helo), _) => return "SMTP".to_owned(),
            (Protocol::Smtp, _, false) => "ESMTP",
            (Protocol::Smtp, _, true) => "UTF8SMTP",
        };
        let (tls, user) = (self.sender.tls, self.sender.user.is_some());
        format!("{base}{}{}", if tls { "S" } else { "" }, if user { "A" } else { "" })
    }

    /// Takes content of a mail. Returns the number of bytes that belong to it, and the actions at its end.
    pub fn on_data_chunk(&mut self, chunk: &[u8]) -> (usize, Vec<Action<R>>) {
        let Phase::Data(reader) = &mut self.phase else { return (0, Vec::new()) };
        let (taken, outcome) = reader.push(chunk);
        let Some(outcome) = outcome else { return (taken, Vec::new()) };
        self.phase = Phase::Command;
        (taken, self.arrived(outcome))
    }

    fn arrived(&mut self, outcome: DataOutcome) -> Vec<Action<R>> {
        let Some(transaction) = self.transaction.take() else { return Vec::new() };
        let replies = self.replies(transaction.recipients.len());
        let (counter, reply, close) = match outcome {
            // The first of the headers is our own.
            DataOutcome::Complete(bytes) if count_received(&bytes) > self.limits.received_headers + 1 => {
                (Counter::MailsLooping, Reply::new(554, "5.4.6", "mail loop: too many Received headers"), false)
            }
            DataOutcome::Complete(bytes) => {
                let Transaction { sender, utf8, recipients, envelope_id, reports, .. } = transaction;
                self.phase = Phase::Deliveries(recipients.len());
                let (bytes, trust) = (Bytes::from(bytes), self.sender.clone());
                let mail = Mail { sender, recipients, bytes, trust, smtputf8: utf8, envelope_id, reports };
                return vec![Action::Deliver(mail)];
            }
            DataOutcome::Discarded { reason: Discard::TooBig, endless } => {
                (Counter::MailsTooBig, too_big(), endless)
            }
            DataOutcome::Discarded { reason: Discard::NoRoom, endless } => {
                let reply = Reply::new(452, "4.3.1", "no memory for more mails now; try again later");
                (Counter::MailsWithoutRoom, reply, endless)
            }
            DataOutcome::BareLineEnd => return self.smuggled(replies),
        };
        let mut actions = vec![Action::Count(counter)];
        actions.extend(std::iter::repeat_n(Action::Reply(reply), replies));
        if close {
            self.phase = Phase::Closed;
            actions.push(Action::Close);
        }
        actions
    }

    /// Number of replies to a mail with this many recipients.
    fn replies(&self, recipients: usize) -> usize {
        match self.start.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => recipients,
        }
    }

    pub(super) fn delivered(&mut self, recipients: usize, mut deliveries: Vec<Delivery>) -> Vec<Action<R>> {
        deliveries.resize(recipients, Delivery::Later { text: "not filed now; try again later".to_owned() });
        let Some(deciding) = deciding(&deliveries) else { return Vec::new() };
        let mut actions = vec![Action::Count(match deciding {
            Delivery::Accepted { .. } => Counter::MailsAccepted,
            Delivery::Later { .. } => Counter::MailsDeferred,
            Delivery::Refused { .. } => Counter::MailsRefused,
        })];
        match self.start.protocol {
            Protocol::Smtp => actions.push(Action::Reply(deciding.into())),
            Protocol::Lmtp => actions.extend(deliveries.iter().map(|delivery| Action::Reply(delivery.into()))),
        }
        actions
    }
}

fn too_big() -> Reply {
    Reply::new(552, "5.3.4", "mail too big; see SIZE")
}

fn no_reports() -> Reply {
    Reply::new(555, "5.5.4", "delivery reports are not offered; leave their parameters out")
}
