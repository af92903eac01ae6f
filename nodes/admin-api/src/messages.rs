//! Messages as programs see them.

use twinbox_ids::Pii;
use twinbox_mailstore::{Folder, Message};
use twinbox_wire::admin;

pub(crate) fn shown(message: Message) -> admin::Message {
    admin::Message {
        id: message.id.to_string(),
        state: match message.folder {
            _ if message.deleted => "deleted",
            Folder::New => "new",
            Folder::Heard => "heard",
            Folder::Saved => "saved",
        }
        .to_owned(),
        received_ms: message.received.0,
        caller: message.caller.map(Pii::into_revealed).unwrap_or_default(),
        length_ms: message.length_ms,
        partial: message.audio.as_ref().is_some_and(|audio| audio.partial),
        uid: message.uid.unwrap_or_default(),
        audio: message.audio.map(|audio| audio.blob.hash.to_string()).unwrap_or_default(),
        caller_name: message.caller_name.map(Pii::into_revealed).unwrap_or_default(),
        urgent: message.urgent,
        private: message.private,
    }
}
