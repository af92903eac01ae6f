//! Messages whose content is removed, recordings that are not needed to remember them any more, and tries of PINs that count
//! no longer.

use twinbox_ids::{MessageId, RecordingId, Timestamp};
use twinbox_mailbox::{Recording, is_outlived, message_purged, schema};
use twinbox_replication_core::{Edit, Key, Record};
use twinbox_replication_store::{Draft, Store, StoreError};

use crate::{MailError, Mailstore};

/// The record of its recording remembers a purged message.
pub fn note_purged(draft: &mut Draft<'_>, message: MessageId) -> Result<(), MailError> {
    let key = schema::recording_key(RecordingId(message.0));
    if draft.get(&key)?.is_some() {
        draft.edit(key, message_purged())?;
    }
    Ok(())
}

/// Whether a recording is not needed any more at `now`: its record is outlived, and its message has left this store.
pub fn is_forgettable(store: &Store, key: &Key, record: &Record, now: Timestamp) -> Result<bool, StoreError> {
    if !is_outlived(key, record, now) {
        return Ok(false);
    }
    let Ok(recording) = Recording::read(key, record) else { return Ok(false) };
    let message = schema::message_key(recording.mailbox, MessageId::from(recording.id));
    Ok(store.get(&message)?.is_none())
}

/// Deletes the record of a recording that is not needed any more. From then on nothing is written to it.
pub fn forget_recording(draft: &mut Draft<'_>, key: Key, now: Timestamp) -> Result<(), MailError> {
    let record = draft.get(&key)?.filter(|record| record.tombstone().is_none());
    match record.is_some_and(|record| is_outlived(&key, &record, now)) {
        true => Ok(draft.edit(key, vec![Edit::Delete])?),
        false => Ok(()),
    }
}

impl Mailstore {
    /// Whether a record of tries of PINs counts no longer at `now`: its window and the one behind it are over for at least a
    /// window. No node whose clock is right writes or reads it again.
    pub fn is_outlived_try(&self, key: &Key, now: Timestamp) -> bool {
        let Some((is_source, window)) = schema::attempts_of(key) else { return false };
        let settings = self.settings();
        let policy = if is_source { settings.source_attempts } else { settings.mailbox_attempts };
        window.saturating_add(3) <= policy.window(now)
    }
}

/// Deletes a record of tries of PINs that count no longer.
pub fn forget_try(draft: &mut Draft<'_>, key: Key) -> Result<(), MailError> {
    match draft.get(&key)?.is_some_and(|record| !record.is_deleted()) {
        true => Ok(draft.edit(key, vec![Edit::Delete])?),
        false => Ok(()),
    }
}
