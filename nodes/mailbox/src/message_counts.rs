//! The counts of an MWI, and the check for free space in a mailbox.

use serde::{Deserialize, Serialize};

use crate::{Folder, Message};

/// The message counts of an MWI (RFC 3842 `Voice-Message: new/old`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MessageCounts {
    /// Not yet heard.
    pub new: u32,
    /// Heard or saved.
    pub saved: u32,
}

impl MessageCounts {
    /// Counts messages, except deleted and discarded ones and those without audio.
    pub fn count<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Self {
        let mut counts = Self::default();
        messages.into_iter().for_each(|message| counts.add(message));
        counts
    }

    /// Counts one more message, as in [`Self::count`].
    pub fn add(&mut self, message: &Message) {
        let count = match message.folder {
            _ if !message.is_present() => return,
            Folder::New => &mut self.new,
            Folder::Heard | Folder::Saved => &mut self.saved,
        };
        *count = count.saturating_add(1);
    }

    /// Whether there are new messages.
    pub fn has_new(self) -> bool {
        self.new > 0
    }
}

/// Capacity of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Maximum number of messages.
    pub max_messages: u64,
    /// Maximum length of a message, in milliseconds.
    pub max_message_ms: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { max_messages: 1000, max_message_ms: 300_000 }
    }
}

impl Quota {
    /// No more messages fit. Nodes separated by a split may each take the last one: then there is one too many, and
    /// none is lost.
    pub fn is_full(&self, counts: MessageCounts) -> bool {
        u64::from(counts.new) + u64::from(counts.saved) >= self.max_messages
    }
}
