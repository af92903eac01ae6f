//! Mail servers and accounts as stored: names, settings as text by permanent number.

use std::{collections::BTreeMap, fmt};

use twinbox_ids::{MailServerId, MailboxId, Timestamp};
use twinbox_mailbox::{
    ViewError,
    by_epoch::{Author, StaleEpoch},
};
use twinbox_replication_core::{Edit, Key, Record, Tag};

use crate::{
    AccountState,
    schema::{self, account, server},
    value::{Fields, read_text, read_u64, set, set_u64},
};

/// A mail server. The settings are text by permanent number; [`ServerSettings`](crate::ServerSettings) gives them
/// meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredServer {
    /// Opaque, never changes.
    pub id: MailServerId,
    /// The name in lists.
    pub name: String,
    /// Time of its creation: of two servers with one name, made on both sides of a split, the earlier one keeps it.
    pub created: Timestamp,
    /// Settings by permanent number (0 to 4,095); unset ones are left out.
    pub settings: BTreeMap<u16, String>,
}

impl StoredServer {
    /// The edits that write its record.
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits = vec![set_u64(server::CREATED, self.created.0), set(server::NAME, self.name.as_bytes())];
        edits.extend(self.settings.iter().flat_map(|(number, text)| Self::change(*number, Some(text.as_str()))));
        edits
    }

    /// The edits that change one setting; none for a number that is out of range.
    pub fn change(number: u16, value: Option<&str>) -> Vec<Edit> {
        change(server::SETTINGS, server::MOST_SETTINGS, number, value)
    }

    /// The edits of its record that remove it.
    pub fn removal() -> Vec<Edit> {
        vec![Edit::Delete]
    }

    /// Reads a server; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let what = "a mail server";
        let id = schema::server_of(key).ok_or(ViewError::Key { what })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields { what, record };
        Ok(Some(Self {
            id,
            name: fields.required(server::NAME, read_text)?,
            created: Timestamp(fields.required(server::CREATED, read_u64)?),
            settings: settings(&fields, server::SETTINGS, server::MOST_SETTINGS)?,
        }))
    }
}

/// An account that is synchronised. The settings are text by permanent number;
/// [`AccountSettings`](crate::AccountSettings) gives them meaning.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredAccount {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its server.
    pub server: Option<MailServerId>,
    /// Time at which an administrator added it. `None`: the duty made the row only to hold the state of a user that the
    /// setting `users` of the server includes.
    pub created: Option<Timestamp>,
    /// Settings by permanent number (0 to 4,095); unset ones are left out.
    pub settings: BTreeMap<u16, String>,
}

impl StoredAccount {
    /// The edits that write its record. The state is written by [`AccountState::edits`].
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits: Vec<Edit> = self.created.iter().map(|at| set_u64(account::CREATED, at.0)).collect();
        edits.extend(self.server.iter().map(|id| set(account::SERVER, &id.to_bytes())));
        edits.extend(self.settings.iter().flat_map(|(number, text)| Self::change(*number, Some(text.as_str()))));
        edits
    }

    /// The edits that change one setting; none for a number that is out of range.
    pub fn change(number: u16, value: Option<&str>) -> Vec<Edit> {
        change(account::SETTINGS, account::MOST_SETTINGS, number, value)
    }

    /// The edits of its record `current` that remove it with its state. It can be added again.
    ///
    /// # Errors
    /// The row has a value of a newer epoch.
    pub fn removal(current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        let mut edits = AccountState::removal(current, author, at)?;
        edits.push(Edit::Delete);
        Ok(edits)
    }

    /// Reads an account; `Ok(None)` when it was removed. Its state is read by [`AccountState::read`].
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let what = "an account of a mail server";
        let mailbox = schema::account_of(key).ok_or(ViewError::Key { what })?;
        let fields = Fields { what, record };
        let created = fields.optional(account::CREATED, read_u64)?.map(Timestamp);
        if created.is_none() && AccountState::stored(record).is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            mailbox,
            server: fields.optional(account::SERVER, MailServerId::from_slice)?,
            created,
            settings: settings(&fields, account::SETTINGS, account::MOST_SETTINGS)?,
        }))
    }
}

/// The settings may name a person: only their numbers are printed.
impl fmt::Debug for StoredAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredAccount")
            .field("mailbox", &self.mailbox)
            .field("server", &self.server)
            .field("created", &self.created)
            .field("settings", &self.settings.keys())
            .finish()
    }
}

fn change(first: Tag, most: Tag, number: u16, value: Option<&str>) -> Vec<Edit> {
    let tag = (number < most).then(|| first + number);
    tag.map(|tag| set(tag, value.unwrap_or_default().as_bytes())).into_iter().collect()
}

fn settings(fields: &Fields<'_>, first: Tag, most: Tag) -> Result<BTreeMap<u16, String>, ViewError> {
    let mut read = BTreeMap::new();
    for (at, _) in fields.record.fields().filter(|(at, _)| (first..first + most).contains(at)) {
        if let Some(text) = fields.optional(at, read_text)? {
            read.insert(at - first, text);
        }
    }
    Ok(read)
}
