//! What carries a light to its subscribers. The duty does not know SIP; whoever wires the node does.

use std::{fmt, sync::Arc};

use serde::Serialize;
use twinbox_ids::{Epoch, MailboxId, NodeName};
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

/// Who is to be told. Each has a board of its own, so that one that is dead holds up no other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The trunk of this name, by unsolicited NOTIFYs.
    Trunk(String),
    /// Those whose dialogs this node holds, by NOTIFYs in them.
    Subscribers(NodeName),
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
    /// No answer, or not reachable: soon again, then less and less often, and at once when the target answers again.
    #[error("not delivered: {0}")]
    Unreachable(String),
    /// The target is there, but not all behind it have answered: soon again, then less and less often.
    #[error("not delivered to all: {0}")]
    Incomplete(String),
    /// The receiver said no: again when the light changes, or after a long wait.
    #[error("refused: {0}")]
    Refused(String),
    /// The guard said no.
    #[error("not sent: this node does not hold the duty any more")]
    NotHolder,
}

/// Carries lights.
pub trait LightSender: Send + Sync + 'static {
    /// All that are to be told; asked when the duty begins.
    fn targets(&self) -> Vec<Target>;

    /// Tells one of them: a trunk by an unsolicited NOTIFY (RFC 3842), subscribers through the node that holds their
    /// dialogs. The epoch goes along, so that a receiver can tell an old holder's. Done when it has arrived.
    fn send(
        &self,
        target: &Target,
        light: &Light,
        epoch: &Epoch,
        guard: Guard,
    ) -> impl Future<Output = Result<(), SendError>> + Send;
}
