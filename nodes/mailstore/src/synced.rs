//! Fields that a directory supplies: local edits of them are refused.

use twinbox_ids::{DirectoryId, MailboxId};
use twinbox_mailbox::{
    Mailbox, StoredDirectory, SyncedField, UserAddresses,
    directory::{Supplied, schema as directory_schema},
    schema,
};
use twinbox_replication_core::Edit;
use twinbox_replication_store::Draft;

use crate::{MailError, Mailstore, mailboxes::mailbox_in};

/// Permanent number of the setting `disabled-callers` of a directory; see [`Mailstore::takes_messages`].
const DISABLED_CALLERS: u16 = 25;
/// Value of that setting with which callers hear the greeting and leave messages as usual.
const AS_USUAL: &str = "greeting";

/// Refuses edits of a mailbox's record that change a field which a directory supplies.
pub(crate) fn check_synced(draft: &Draft<'_>, id: MailboxId, edits: &[Edit]) -> Result<(), MailError> {
    let Some(supplied) = supplied_in(draft, id)? else { return Ok(()) };
    let field = edits.iter().filter_map(Supplied::field_of).find(|field| supplied.fields().contains(*field));
    match field {
        None => Ok(()),
        Some(field) => Err(MailError::SyncedField {
            field,
            number: mailbox_in(draft, id)?.number,
            directory: name_in(draft, supplied.directory)?,
        }),
    }
}

/// Refuses the removal of a user who comes from a directory.
pub(crate) fn check_removable(draft: &Draft<'_>, mailbox: &Mailbox) -> Result<(), MailError> {
    match mailbox.directory {
        None => Ok(()),
        Some((directory, _)) => {
            Err(MailError::SyncedUser { number: mailbox.number.clone(), directory: name_in(draft, directory)? })
        }
    }
}

/// Whether these changes touch a field which a directory supplies.
pub(crate) fn is_synced(
    draft: &Draft<'_>,
    id: MailboxId,
    edits: &[Edit],
    before: &UserAddresses,
    after: &UserAddresses,
) -> Result<bool, MailError> {
    let Some(supplied) = supplied_in(draft, id)? else { return Ok(false) };
    let fields = supplied.fields();
    let mail = before.mail != after.mail && fields.contains(SyncedField::Mail);
    Ok(mail || edits.iter().filter_map(Supplied::field_of).any(|field| fields.contains(field)))
}

impl Mailstore {
    /// A directory; `None` when there is none, or it was removed.
    pub fn directory(&self, id: DirectoryId) -> Result<Option<StoredDirectory>, MailError> {
        let key = directory_schema::directory_key(id);
        let record = self.store().get(&key)?;
        Ok(record.map(|record| StoredDirectory::read(&key, &record)).transpose()?.flatten())
    }

    /// Whether callers may leave messages for the owner: always, except for disabled users whose directory does not
    /// set `disabled-callers=greeting`. Those hear that the person is unavailable.
    pub fn takes_messages(&self, mailbox: &Mailbox) -> bool {
        let directory = || self.directory(mailbox.directory?.0).ok()?;
        !mailbox.disabled || directory().is_some_and(|directory| answers_as_usual(&directory))
    }

    /// The refusal of a local change of these fields of a user; `None` when no directory supplies one of them.
    pub(crate) fn synced_field(
        &self,
        mailbox: &Mailbox,
        changed: impl IntoIterator<Item = SyncedField>,
    ) -> Result<Option<MailError>, MailError> {
        let Some(record) = self.store().get(&schema::mailbox_key(mailbox.id))? else { return Ok(None) };
        let Some(supplied) = Supplied::read(&record)? else { return Ok(None) };
        let field = changed.into_iter().find(|field| supplied.fields().contains(*field));
        let Some(field) = field else { return Ok(None) };
        let directory = self.directory(supplied.directory)?;
        let directory = directory.map_or_else(|| supplied.directory.to_string(), |directory| directory.name);
        Ok(Some(MailError::SyncedField { field, number: mailbox.number.clone(), directory }))
    }
}

/// The same as [`Mailstore::takes_messages`], as the committer sees it.
pub(crate) fn takes_messages_in(draft: &Draft<'_>, mailbox: &Mailbox) -> Result<bool, MailError> {
    if !mailbox.disabled {
        return Ok(true);
    }
    let Some((directory, _)) = mailbox.directory else { return Ok(false) };
    Ok(directory_in(draft, directory)?.is_some_and(|directory| answers_as_usual(&directory)))
}

/// Whether callers of disabled users of the directory leave messages.
fn answers_as_usual(directory: &StoredDirectory) -> bool {
    directory.settings.get(&DISABLED_CALLERS).is_some_and(|value| value == AS_USUAL)
}

/// The directory as the committer sees it; `None` when there is none.
pub fn directory_in(draft: &Draft<'_>, id: DirectoryId) -> Result<Option<StoredDirectory>, MailError> {
    let key = directory_schema::directory_key(id);
    Ok(draft.get(&key)?.map(|record| StoredDirectory::read(&key, &record)).transpose()?.flatten())
}

/// The name of a directory for people; its id when the directory is not here.
pub fn name_in(draft: &Draft<'_>, id: DirectoryId) -> Result<String, MailError> {
    Ok(directory_in(draft, id)?.map_or_else(|| id.to_string(), |directory| directory.name))
}

/// Values that the directory supplies for a mailbox, as the committer sees it; `None` for a local user.
pub fn supplied_in(draft: &Draft<'_>, id: MailboxId) -> Result<Option<Supplied>, MailError> {
    Ok(draft.get(&schema::mailbox_key(id))?.map(|record| Supplied::read(&record)).transpose()?.flatten())
}
