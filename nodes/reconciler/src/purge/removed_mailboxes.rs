//! Messages in a removed mailbox that are not deleted: a member that did not know of the removal filed or saved them, or a call was
//! in progress. The removal deleted those that it saw. These are deleted when the grace of the removal has ended, and purged as all
//! others. Nothing undoes a removal: a mailbox with a tombstone stays removed, whichever of its messages are left.

use std::collections::BTreeSet;

use tracing::info;
use twinbox_ids::{MailboxId, MessageId, RecordingId};
use twinbox_mailbox::{Mark, Message, Recording, schema};
use twinbox_mailstore::{MailError, Mailstore, rows::mark_in};
use twinbox_replication_store::{Draft, Store, StoreError};

use super::{AT_A_TIME, STEP};

/// The messages of a removed mailbox that are not deleted, [`STEP`] at most.
pub(super) fn left_messages(store: &Store, mailbox: MailboxId) -> Result<Vec<(MailboxId, MessageId)>, StoreError> {
    let mut left = Vec::new();
    for row in store.present_rows(&mailbox.to_bytes()) {
        let (key, record) = match row {
            // A message that cannot be read stays: a later release may read it.
            Err(StoreError::Format { .. }) => continue,
            row => row?,
        };
        if Message::read(&key, &record, |_| None).is_ok_and(|message| !message.deleted) {
            left.extend(schema::message_of(&key));
        }
        if left.len() >= STEP {
            break;
        }
    }
    Ok(left)
}

/// Deletes such messages, as the removal would have done.
pub(super) async fn delete_left(mailstore: &Mailstore, left: &[(MailboxId, MessageId)]) -> Result<(), MailError> {
    for part in left.chunks(AT_A_TIME).map(<[(MailboxId, MessageId)]>::to_vec) {
        let delete = move |draft: &mut Draft<'_>| {
            part.into_iter().try_for_each(|(mailbox, id)| match mark_in(draft, mailbox, id, Mark::Deleted) {
                // The message was purged meanwhile.
                Err(MailError::NoMessage(_)) => Ok(()),
                marked => marked,
            })
        };
        mailstore.commit_in_background(delete).await?;
    }
    if !left.is_empty() {
        info!(messages = left.len(), "deleted messages of removed mailboxes");
    }
    Ok(())
}

/// The mailboxes that these recordings are for: each may still become a message.
pub(super) fn mailboxes_of(store: &Store, recordings: &BTreeSet<RecordingId>) -> BTreeSet<MailboxId> {
    let keys = recordings.iter().map(|id| schema::recording_key(*id));
    let read = keys.filter_map(|key| Recording::read(&key, &store.get(&key).ok()??).ok());
    read.map(|recording| recording.mailbox).collect()
}
