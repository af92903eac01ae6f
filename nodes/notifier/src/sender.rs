//! What carries a light to its subscribers. The duty does not know SIP; whoever wires the node does.

use std::{fmt, sync::Arc};

use twinbox_ids::{Epoch, MailboxId};
use twinbox_mailstore::Lights;

/// What a light should show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Light {
    /// Whose.
    pub mailbox: MailboxId,
    /// Its number, digits only.
    pub number: String,
    /// The counts.
    pub lights: Lights,
}

/// Asked at the write of every datagram, retransmissions included: `false` means that nothing may be sent any more.
#[derive(Clone)]
pub struct Guard(Arc<dyn Fn() -> bool + Send + Sync>);

impl Guard {
    /// A guard that asks this.
    pub fn new(ask: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Whether a datagram may leave now.
    pub fn allows(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({})", if self.allows() { "open" } else { "closed" })
    }
}

/// Why a light did not arrive. It is sent again, with whatever it shows by then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No answer, or not reachable: soon again, then less and less often.
    #[error("not delivered: {0}")]
    Unreachable(String),
    /// The receiver said no: again when the light changes, or after the longest wait.
    #[error("refused: {0}")]
    Refused(String),
    /// The guard said no.
    #[error("not sent: this node does not hold the duty any more")]
    NotHolder,
}

/// Carries lights.
pub trait LightSender: Send + Sync + 'static {
    /// Sends the unsolicited NOTIFYs of a mailbox (RFC 3842), to every trunk that wants them, with the epoch in each, so
    /// that a receiver can tell an old holder's. Done when all have arrived.
    fn send(
        &self,
        light: &Light,
        epoch: &Epoch,
        guard: Guard,
    ) -> impl Future<Output = Result<(), SendError>> + Send;

    /// Tells those who subscribed to a mailbox's light, through the nodes that hold their dialogs.
    fn changed(
        &self,
        light: &Light,
        epoch: &Epoch,
        guard: Guard,
    ) -> impl Future<Output = Result<(), SendError>> + Send;
}
