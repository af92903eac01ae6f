//! Messages of a backup that come back to a mailbox of a running cluster, as new messages (rule D8).

use std::collections::HashSet;

use bytes::Bytes;
use twinbox_ids::{MailboxId, MessageId};
use twinbox_mailbox::{
    Filing, Folder, Mark, Message, NewMessage, Numbers, restored_from, schema, set_restored_from,
};
use twinbox_replication_core::Record;

use crate::{Acknowledgement, MailError, Mailstore, mailboxes::mailbox_in, work::blocking};

/// A message of a backup.
#[derive(Debug, Clone)]
pub struct RestoredMessage {
    /// The mailbox that it goes to.
    pub mailbox: MailboxId,
    /// Its id in the backup.
    pub from: MessageId,
    /// Its data besides the audio.
    pub new: NewMessage,
    /// Its folder.
    pub folder: Folder,
    /// Only a part of its audio is available.
    pub partial: bool,
    /// The audio: raw G.711 in the codec of `new`.
    pub audio: Bytes,
}

impl Mailstore {
    /// Ids of the messages that are present in a mailbox, and of those from which present ones were restored.
    pub async fn present_or_restored(&self, mailbox: MailboxId) -> Result<HashSet<MessageId>, MailError> {
        let (store, rows) = (self.clone(), self.store().present_rows(&mailbox.to_bytes()));
        let read = move || -> Result<HashSet<MessageId>, MailError> {
            let mut ids = HashSet::new();
            for row in rows {
                let row = row?;
                if let Some(message) = store.readable(mailbox, &row)?.filter(Message::is_present) {
                    ids.extend([message.id].into_iter().chain(restored_from(&row.1)));
                }
            }
            Ok(ids)
        };
        blocking(read).await?
    }

    /// Files a message of a backup under a new id and a new UID; durable when this returns. A full mailbox accepts it all
    /// the same. Devices do not notify of it: they may have done so before.
    pub async fn restore_message(
        &self,
        message: RestoredMessage,
    ) -> Result<(MessageId, Acknowledgement), MailError> {
        let RestoredMessage { mailbox, from, new, folder, partial, audio } = message;
        let blob = self.store().blobs().put(audio).await?;
        let id = MessageId::at(twinbox_clock::wall());
        let ((), acknowledgement) = self
            .commit(move |draft| {
                mailbox_in(draft, mailbox)?;
                let (key, counters) = (schema::message_key(mailbox, id), schema::counters_key(mailbox));
                let numbers = Numbers::after(&draft.get(&counters)?.unwrap_or_default());
                let filing = if partial { Filing::Recovered } else { Filing::Complete };
                let mut edits = new.edits(&Record::default(), filing, blob, numbers);
                edits.push(set_restored_from(from));
                draft.edit(key.clone(), edits)?;
                let mark = match folder {
                    Folder::New => None,
                    Folder::Heard => Some(Mark::Heard),
                    Folder::Saved => Some(Mark::Saved),
                };
                if let Some(mark) = mark {
                    let record = draft.get(&key)?.unwrap_or_default();
                    draft.edit(key, mark.edits(&record, numbers))?;
                }
                Ok(draft.edit(counters, numbers.take_both())?)
            })
            .await?;
        Ok((id, acknowledgement))
    }
}
