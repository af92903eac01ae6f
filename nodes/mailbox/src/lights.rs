//! What a message light shows, and whether another message fits.

use serde::{Deserialize, Serialize};

use crate::{Folder, Message};

/// The counts of a message light (RFC 3842 `Voice-Message: new/old`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lights {
    /// Not yet heard.
    pub new: u32,
    /// Heard or saved.
    pub saved: u32,
}

impl Lights {
    /// Counts messages; what is deleted, discarded or has no audio does not count.
    pub fn count<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Self {
        let mut lights = Self::default();
        for message in messages.into_iter().filter(|m| m.is_present()) {
            match message.folder {
                Folder::New => lights.new = lights.new.saturating_add(1),
                Folder::Heard | Folder::Saved => lights.saved = lights.saved.saturating_add(1),
            }
        }
        lights
    }

    /// The lamp is on.
    pub fn lit(self) -> bool {
        self.new > 0
    }
}

/// What fits into a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// The most messages it keeps.
    pub max_messages: u64,
    /// The longest message, in milliseconds.
    pub max_message_ms: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { max_messages: 1000, max_message_ms: 300_000 }
    }
}

impl Quota {
    /// No more messages fit. Two nodes that do not see each other may each take the last one: then there is one
    /// too many, and none lost.
    pub fn is_full(&self, lights: Lights) -> bool {
        u64::from(lights.new) + u64::from(lights.saved) >= self.max_messages
    }
}
