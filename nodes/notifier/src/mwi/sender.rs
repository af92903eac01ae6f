//! Interface that delivers MWI states to their receivers. The duty does not depend on SIP; the node supplies the
//! sender.

use std::collections::BTreeSet;

use serde::Serialize;
use twinbox_gate::{NotHolder, Permit};
use twinbox_ids::{MailboxId, NodeName};
use twinbox_mailstore::MessageCounts;

/// MWI state of one mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MwiUpdate {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Number of the mailbox, digits only.
    pub number: String,
    /// Message counts.
    pub counts: MessageCounts,
}

/// Receiver of MWI states. Each has its own queue, so that a dead one delays no other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Trunk of this name, by unsolicited NOTIFYs.
    Trunk(String),
    /// Subscribers whose dialogs this node holds, by NOTIFYs in these dialogs.
    Subscribers(NodeName),
}

/// Mailboxes with receivers behind a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receivers {
    /// No other mailbox had a receiver when the list was made.
    Of(BTreeSet<MailboxId>),
    /// Not known: each mailbox may have some.
    Unknown,
}

impl Receivers {
    /// Whether the mailbox may have receivers.
    pub fn may_include(&self, mailbox: MailboxId) -> bool {
        match self {
            Self::Of(mailboxes) => mailboxes.contains(&mailbox),
            Self::Unknown => true,
        }
    }
}

/// Reason why a state was not delivered. The send is retried with the latest state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No answer, or not reachable: retried soon, then with growing waits, and immediately when the target answers
    /// again.
    #[error("not delivered: {0}")]
    Unreachable(String),
    /// The target answered, but not all receivers behind it: retried soon, then with growing waits.
    #[error("not delivered to all: {0}")]
    Incomplete(String),
    /// The receiver refused: retried when the state changes, or after a long wait.
    #[error("refused: {0}")]
    Refused(String),
    /// The gate refused.
    #[error("not sent: this node does not hold the duty any more")]
    NotHolder,
}

impl From<NotHolder> for SendError {
    fn from(_: NotHolder) -> Self {
        Self::NotHolder
    }
}

/// Delivers MWI states.
pub trait MwiSender: Send + Sync + 'static {
    /// All targets at present; read when the duty begins, and at least each second.
    fn targets(&self) -> Vec<Target>;

    /// Lists the mailboxes with receivers behind a target, made after this call. A later receiver must get its state without
    /// the duty, as a subscriber does from the store of its node (rule E2).
    fn receivers(&self, target: &Target) -> impl Future<Output = Result<Receivers, SendError>> + Send;

    /// Sends to one target: to a trunk by an unsolicited NOTIFY (RFC 3842), to subscribers through the node that
    /// holds their dialogs. The permit is checked at the write of every datagram, retransmissions included. Its epoch is
    /// sent along, so that a receiver can recognize a previous holder. Resolves after delivery, with an outcome for each
    /// update.
    fn send(
        &self,
        target: &Target,
        updates: &[MwiUpdate],
        permit: &Permit,
    ) -> impl Future<Output = Vec<Result<(), SendError>>> + Send;
}
