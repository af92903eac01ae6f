//! The users of the store, as far as they matter to a directory.

use std::{collections::HashMap, fmt};

use twinbox_ids::{DirectoryId, MailboxId};
use twinbox_mailbox::{Binding, EntryId, SyncedField};

/// A user of the store.
#[derive(Clone, PartialEq, Eq)]
pub struct Present {
    /// The user.
    pub mailbox: MailboxId,
    /// The entry that it comes from; `None` for a local user.
    pub binding: Option<Binding>,
    /// Number that callers dial.
    pub number: String,
    /// Another user has the number since a split: callers reach that one.
    pub number_lost: bool,
    /// The owner's name.
    pub name: String,
    /// The owner's mail address, in lower case.
    pub mail: Option<String>,
    /// Language of prompts.
    pub language: String,
    /// IANA name of the time zone.
    pub timezone: String,
    /// Name of the class of service, in lower case; `None`: the default one.
    pub class: Option<String>,
    /// The user is disabled: [`crate::DirectorySettings::disabled_callers`] says what its callers hear.
    pub disabled: bool,
}

impl Present {
    /// The value of a field; `None` for an empty one.
    pub fn value(&self, field: SyncedField) -> Option<&str> {
        let text = match field {
            SyncedField::Number => Some(self.number.as_str()),
            SyncedField::Name => Some(self.name.as_str()),
            SyncedField::Mail => self.mail.as_deref(),
            SyncedField::Language => Some(self.language.as_str()),
            SyncedField::Timezone => Some(self.timezone.as_str()),
            SyncedField::Class => self.class.as_deref(),
        };
        text.filter(|text| !text.is_empty())
    }

    /// The binding to an entry of this directory.
    pub(crate) fn bound_to(&self, directory: DirectoryId) -> Option<&Binding> {
        self.binding.as_ref().filter(|binding| binding.directory == directory)
    }
}

/// Users are private: the id alone is printed.
impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Present({})", self.mailbox)
    }
}

/// The users of the store, found by their ids and unique values.
pub(crate) struct Users<'a> {
    pub directory: DirectoryId,
    pub all: &'a [Present],
    by_mailbox: HashMap<MailboxId, &'a Present>,
    by_entry: HashMap<EntryId, &'a Present>,
    by_number: HashMap<&'a str, Vec<&'a Present>>,
    by_mail: HashMap<&'a str, Vec<&'a Present>>,
}

impl<'a> Users<'a> {
    pub(crate) fn new(directory: DirectoryId, all: &'a [Present]) -> Self {
        let mut users = Self {
            directory,
            all,
            by_mailbox: HashMap::new(),
            by_entry: HashMap::new(),
            by_number: HashMap::new(),
            by_mail: HashMap::new(),
        };
        for user in all {
            users.by_mailbox.insert(user.mailbox, user);
            if let Some(binding) = user.bound_to(directory) {
                users.by_entry.insert(binding.entry, user);
            }
            users.by_number.entry(user.number.as_str()).or_default().push(user);
            if let Some(mail) = user.value(SyncedField::Mail) {
                users.by_mail.entry(mail).or_default().push(user);
            }
        }
        users
    }

    pub(crate) fn of_mailbox(&self, mailbox: MailboxId) -> Option<&'a Present> {
        self.by_mailbox.get(&mailbox).copied()
    }

    pub(crate) fn of_entry(&self, entry: EntryId) -> Option<&'a Present> {
        self.by_entry.get(&entry).copied()
    }

    /// The users that have this number, or this mail address.
    pub(crate) fn with(&self, field: SyncedField, value: &str) -> &[&'a Present] {
        let found = match field {
            SyncedField::Number => self.by_number.get(value),
            SyncedField::Mail => self.by_mail.get(value),
            _ => None,
        };
        found.map_or(&[], Vec::as_slice)
    }
}
