//! Settings of the mail store.

use twinbox_ids::{Incarnation, NodeName};
use twinbox_mailbox::{
    NewMailbox,
    pin::{AttemptPolicy, HashCost},
};

/// Settings of the mail store.
#[derive(Debug, Clone)]
pub struct MailstoreSettings {
    /// This node.
    pub node: NodeName,
    /// This incarnation of its process, as the role manager knows it.
    pub incarnation: Incarnation,
    /// Refuse messages while no peer counts (rule A3).
    pub require_two: bool,
    /// Minimum length of a message, in milliseconds.
    pub min_message_ms: u64,
    /// Minimum length of a new PIN, in digits.
    pub min_pin_length: u8,
    /// Cost of a PIN hash.
    pub pin_cost: HashCost,
    /// Limits of attempts at the PIN of one mailbox.
    pub mailbox_attempts: AttemptPolicy,
    /// Limits of attempts by one source, at any mailbox.
    pub source_attempts: AttemptPolicy,
}

/// Settings that may change while the process runs.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// Refuse messages while no peer counts (rule A3).
    pub require_two: bool,
    /// Minimum length of a message, in milliseconds.
    pub min_message_ms: u64,
    /// Minimum length of a new PIN, in digits.
    pub min_pin_length: u8,
    /// Cost of a PIN hash.
    pub pin_cost: HashCost,
    /// A new mailbox, without number and PIN.
    pub usual: NewMailbox,
}

impl LiveSettings {
    /// The settings of the start.
    pub(crate) fn of(settings: &MailstoreSettings) -> Self {
        Self {
            require_two: settings.require_two,
            min_message_ms: settings.min_message_ms,
            min_pin_length: settings.min_pin_length,
            pin_cost: settings.pin_cost,
            usual: NewMailbox { pin: None, ..NewMailbox::new("", "") },
        }
    }
}

impl MailstoreSettings {
    /// The usual settings of a node.
    pub fn new(node: NodeName, incarnation: Incarnation) -> Self {
        Self {
            node,
            incarnation,
            require_two: false,
            min_message_ms: 1_000,
            min_pin_length: 4,
            pin_cost: HashCost::default(),
            mailbox_attempts: AttemptPolicy::mailbox(),
            source_attempts: AttemptPolicy::source(),
        }
    }
}
