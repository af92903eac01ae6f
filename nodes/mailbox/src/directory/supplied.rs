//! The values of a user that the directory supplies, read over the registers of the mailbox.

use std::collections::BTreeMap;

use twinbox_ids::{ClassId, DirectoryId, Pii, Timestamp};
use twinbox_replication_core::{Edit, Record};

use super::{
    EntryId, SyncedField, SyncedFields,
    binding::{put_text, take_text},
};
use crate::{
    Mailbox, UserAddress, ViewError,
    by_epoch::{self, Author, StaleEpoch},
    is_timezone,
    schema::{self, mailbox as tag},
    value::{set_byte, set_bytes, set_text},
};

/// The values of a user that the directory supplies: one value by epoch in the row of the mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supplied {
    /// The directory.
    pub directory: DirectoryId,
    /// Its entry.
    pub entry: EntryId,
    /// The entry is disabled or gone.
    pub disabled: bool,
    /// Value of each supplied field; an empty text is none. A class is its id as text.
    pub values: BTreeMap<SyncedField, Pii<String>>,
}

impl Supplied {
    /// The supplied fields.
    pub fn fields(&self) -> SyncedFields {
        self.values.keys().copied().collect()
    }

    /// The edits that write it to the mailbox's record `current`.
    pub fn edits(&self, current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        let mut bytes = [self.directory.to_bytes(), self.entry.to_bytes()].concat();
        bytes.push(u8::from(self.disabled));
        for (field, value) in &self.values {
            bytes.push(field.byte());
            put_text(&mut bytes, value.reveal());
        }
        Ok(vec![by_epoch::put(current, author, at, &bytes)?])
    }

    /// The edits that set the registers of the mailbox to such values: a user who becomes local keeps them.
    pub fn registers(values: &BTreeMap<SyncedField, Pii<String>>) -> Vec<Edit> {
        let register = |(field, value): (&SyncedField, &Pii<String>)| {
            let text = value.reveal().as_str();
            match field {
                SyncedField::Number => Some(set_text(tag::NUMBER, text)),
                SyncedField::Name => Some(set_text(tag::NAME, text)),
                SyncedField::Mail => Some(set_text(tag::MAIL, text)),
                SyncedField::Language => (!text.is_empty()).then(|| set_text(tag::LANGUAGE, text)),
                SyncedField::Timezone => (!text.is_empty()).then(|| set_text(tag::TIMEZONE, text)),
                SyncedField::Class => {
                    let id = text.parse::<ClassId>().map_or_else(|_| Vec::new(), |id| id.to_bytes().to_vec());
                    Some(set_bytes(tag::CLASS, id))
                }
            }
        };
        values.iter().filter_map(register).collect()
    }

    /// The edits of the mailbox's record that disable or enable a local user.
    pub fn disable_local(on: bool) -> Vec<Edit> {
        vec![set_byte(tag::DISABLED, u8::from(on))]
    }

    /// The field that an edit of a mailbox's record changes, if a directory may supply it.
    pub fn field_of(edit: &Edit) -> Option<SyncedField> {
        let Edit::Set(at, _) = edit else { return None };
        match *at {
            tag::NUMBER => Some(SyncedField::Number),
            tag::NAME => Some(SyncedField::Name),
            tag::MAIL => Some(SyncedField::Mail),
            tag::LANGUAGE => Some(SyncedField::Language),
            tag::TIMEZONE => Some(SyncedField::Timezone),
            tag::CLASS => Some(SyncedField::Class),
            _ => None,
        }
    }

    /// The edits of the mailbox's record that make the user local.
    pub fn removal(current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        Ok(vec![by_epoch::put(current, author, at, &[])?])
    }

    /// Reads it from a mailbox's record; `Ok(None)` for a local user.
    pub fn read(record: &Record) -> Result<Option<Self>, ViewError> {
        let Some(version) = by_epoch::newest(record).filter(|version| !version.value.is_empty()) else {
            return Ok(None);
        };
        let unreadable = ViewError::Unreadable { what: "a mailbox", tag: schema::BY_EPOCH };
        read(version.value).map(Some).ok_or(unreadable)
    }

    /// The numbers and mail addresses that other epochs supplied: after a split the user may have claims of them.
    pub fn other_claims(record: &Record) -> Vec<(SyncedField, Pii<String>)> {
        let newest = by_epoch::newest(record).and_then(|version| read(version.value));
        let counts = |field: &SyncedField| newest.as_ref().and_then(|supplied| supplied.values.get(field));
        by_epoch::versions(record)
            .filter_map(|version| read(version.value))
            .flat_map(|supplied| supplied.values)
            .filter(|(field, _)| matches!(field, SyncedField::Number | SyncedField::Mail))
            .filter(|(field, value)| !value.reveal().is_empty() && counts(field) != Some(value))
            .collect()
    }

    pub(crate) fn lay_over(self, mailbox: &mut Mailbox) {
        mailbox.directory = Some((self.directory, self.entry));
        mailbox.disabled = self.disabled;
        for (field, value) in self.values {
            let text = value.reveal();
            match field {
                SyncedField::Number => mailbox.number.clone_from(text),
                SyncedField::Name => mailbox.name = value,
                SyncedField::Mail => mailbox.addresses.mail = UserAddress::address(text).ok(),
                SyncedField::Language if !text.is_empty() => mailbox.language.clone_from(text),
                SyncedField::Timezone if is_timezone(text) => mailbox.timezone.clone_from(text),
                SyncedField::Class => mailbox.class = text.parse().ok(),
                // Empty or unknown: what the mailbox has stays.
                SyncedField::Language | SyncedField::Timezone => {}
            }
        }
    }
}

fn read(bytes: &[u8]) -> Option<Supplied> {
    let (directory, rest) = bytes.split_at_checked(16)?;
    let (entry, rest) = rest.split_at_checked(16)?;
    let (disabled, mut rest) = rest.split_first()?;
    let mut values = BTreeMap::new();
    while let Some((field, text)) = rest.split_first() {
        let (text, after) = take_text(text)?;
        rest = after;
        // A field of a newer release is left out.
        if let Some(field) = SyncedField::from_byte(*field) {
            values.insert(field, Pii::new(text));
        }
    }
    Some(Supplied {
        directory: DirectoryId::from_slice(directory)?,
        entry: EntryId::from_slice(entry)?,
        disabled: *disabled == 1,
        values,
    })
}
