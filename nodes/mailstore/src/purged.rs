//! Messages whose content is removed.

use twinbox_ids::{MessageId, RecordingId};
use twinbox_mailbox::{message_purged, schema};
use twinbox_replication_store::Draft;

use crate::MailError;

/// The record of its recording remembers a purged message.
pub fn note_purged(draft: &mut Draft<'_>, message: MessageId) -> Result<(), MailError> {
    let key = schema::recording_key(RecordingId(message.0));
    if draft.get(&key)?.is_some() {
        draft.edit(key, message_purged())?;
    }
    Ok(())
}
