//! The interface to the part that knows recipients and files mails.

use std::{fmt, future::Future, net::IpAddr};

use bytes::Bytes;
use thiserror::Error;
use twinbox_ids::Pii;

/// Decides about recipients and takes mails.
pub trait MailHandler: Clone + Send + Sync + 'static {
    /// Id of a recipient that is known here.
    type Recipient: Clone + Send + Sync;

    /// Finds the recipient with this address, or refuses it.
    fn recipient(
        &self,
        address: &str,
        sender: &Sender,
    ) -> impl Future<Output = Result<Self::Recipient, RecipientError>> + Send;

    /// Files a mail. Returns one result per recipient, in their order; a missing one counts as [`Delivery::Later`].
    ///
    /// May be dropped before it ends, at a time limit or at a stop; the sender then repeats the mail.
    fn deliver(&self, mail: Mail<Self::Recipient>) -> impl Future<Output = Vec<Delivery>> + Send;

    /// Checks the password of a user that signs in from this address.
    fn check_password(
        &self,
        user: &str,
        password: &str,
        client: IpAddr,
    ) -> impl Future<Output = PasswordCheck> + Send;

    /// Mails can be taken. Without, new connections are answered `421`.
    fn ready(&self) -> bool;
}

/// Result of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordCheck {
    /// The password is right.
    Right,
    /// User or password are wrong.
    Wrong,
    /// It was not checked, and may be later: `454 4.7.0` (RFC 4954 section 6), so that no client asks for another one.
    Later,
}

/// A mail that has arrived completely.
#[derive(Clone, PartialEq, Eq)]
pub struct Mail<R> {
    /// Address of the envelope sender; `None` for the empty one (`<>`).
    pub sender: Option<String>,
    /// Recipients in the order of their `RCPT` commands, at least one.
    pub recipients: Vec<R>,
    /// The mail, with this node's `Received` header on top, without dot-stuffing.
    pub bytes: Bytes,
    /// The client that sent it.
    pub trust: Sender,
    /// The sender announced addresses or headers in UTF-8 (RFC 6531).
    pub smtputf8: bool,
    /// Identification of the envelope in reports (RFC 3461), at most 100 bytes.
    pub envelope_id: Option<String>,
    /// Reports of success that the sender wants, one entry per recipient, in their order.
    pub reports: Vec<Option<SuccessReport>>,
}

/// A report of success that the sender of a mail wants about one recipient (RFC 3461).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuccessReport {
    /// Address of the recipient, as it was given.
    pub address: Pii<String>,
    /// Type and address of the recipient before it was redirected, separated by a semicolon.
    pub original: Option<Pii<String>>,
}

impl<R> fmt::Debug for Mail<R> {
    // Addresses and content are private: they never go to a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail")
            .field("recipients", &self.recipients.len())
            .field("bytes", &self.bytes.len())
            .field("trusted", &self.trust.trusted())
            .finish_non_exhaustive()
    }
}

/// A client of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Its IP address.
    pub address: IpAddr,
    /// The address lies in a network whose hosts may send without a password.
    pub trusted_network: bool,
    /// Name of the user that signed in.
    pub user: Option<String>,
    /// The connection is encrypted.
    pub tls: bool,
    /// Name given with `HELO`, `EHLO` or `LHLO`; other characters than those of a host name are replaced by `?`.
    pub helo: String,
}

impl Sender {
    /// The client signed in or is in a trusted network. Its name and envelope sender prove nothing.
    pub fn trusted(&self) -> bool {
        self.user.is_some() || self.trusted_network
    }
}

/// Reason for the refusal of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecipientError {
    /// No such mailbox here: `550 5.1.1`.
    #[error("mailbox unknown; check the address")]
    Unknown,
    /// No mailbox here takes mail for postmaster: `550 5.1.1`.
    #[error(
        "no mailbox takes mail for postmaster; the administrator gives one this alias: twinbox user set NUMBER --alias \
         postmaster"
    )]
    NoPostmaster,
    /// This node cannot tell now: `451 4.3.2`.
    #[error("mailboxes not available now; try again later")]
    NotReady,
    /// The mailbox takes no more: `452 4.2.2`.
    #[error("mailbox full; try again later")]
    MailboxFull,
    /// The user is disabled: `550 5.2.1`.
    #[error("mailbox disabled")]
    Disabled,
    /// The domain is not one of this cluster: `550 5.7.1`.
    #[error("relaying denied; use the server of that domain")]
    RelayingDenied,
}

/// Result of a delivery to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Filed.
    Accepted {
        /// Text for the reply, such as the id of the message.
        detail: String,
    },
    /// Refused for good.
    Refused {
        /// Reply code, 500 to 599.
        code: u16,
        /// Enhanced status code (RFC 3463), such as `5.6.0`.
        enhanced: String,
        /// Text for the reply.
        text: String,
    },
    /// Not filed now; the sender repeats the mail.
    Later {
        /// Text for the reply.
        text: String,
    },
}
