//! Bindings: the entry that a user comes from, its state, and the fields that it supplies.

use std::fmt;

use twinbox_ids::{DirectoryId, MailboxId, Pii, Timestamp};
use twinbox_replication_core::{Edit, Key, Record};

use super::{PasswordVerifier, schema};
use crate::{
    ViewError,
    by_epoch::{self, Author, StaleEpoch},
};

/// Kind of the record, for error texts.
const WHAT: &str = "a binding to a directory";

/// The stable id of an entry: entryUUID (RFC 4530) or objectGUID, 128 bits in the order of the UUID's text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u128);

/// A text is not the id of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the id of an entry: give a UUID such as 597ae2f6-16a6-1027-98f4-d28b5365dc14")]
pub struct InvalidEntryId(String);

impl EntryId {
    /// The id of a UUID's text (RFC 9562 section 4), in upper or lower case.
    pub fn parse(text: &str) -> Result<Self, InvalidEntryId> {
        let is_dash = |at| matches!(at, 8 | 13 | 18 | 23);
        let fine = text.len() == 36
            && text.bytes().enumerate().all(
                |(at, byte)| {
                    if is_dash(at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
                },
            );
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let id = fine.then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
        id.map(Self).ok_or_else(|| InvalidEntryId(text.chars().take(64).flat_map(char::escape_debug).collect()))
    }

    /// The 16 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`Self::to_bytes`]; `None` unless there are exactly 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default());
        f.write_str(&parts.join("-"))
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({self})")
    }
}

/// The mailbox of a new entry: the same on every node and in every run, so that two runs make one user.
pub fn mailbox_of(directory: DirectoryId, entry: EntryId) -> MailboxId {
    let mut hasher = blake3::Hasher::new_derive_key("twinbox directory mailbox v1");
    hasher.update(&directory.to_bytes());
    hasher.update(&entry.to_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    MailboxId(u128::from_be_bytes(id))
}

/// A field of a user that a directory may supply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncedField {
    /// The number that callers dial.
    Number,
    /// The owner's name.
    Name,
    /// The owner's mail address.
    Mail,
    /// Language of prompts.
    Language,
    /// Time zone.
    Timezone,
    /// Class of service.
    Class,
}

impl SyncedField {
    /// All fields.
    pub const ALL: [Self; 6] = [Self::Number, Self::Name, Self::Mail, Self::Language, Self::Timezone, Self::Class];

    /// The word for people and in settings.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Name => "name",
            Self::Mail => "mail",
            Self::Language => "language",
            Self::Timezone => "timezone",
            Self::Class => "class",
        }
    }

    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Number => 1,
            Self::Name => 2,
            Self::Mail => 3,
            Self::Language => 4,
            Self::Timezone => 5,
            Self::Class => 6,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.byte() == byte)
    }
}

impl fmt::Display for SyncedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A set of synced fields: the field of permanent number n is bit n. Unknown bits of a newer release are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SyncedFields(pub u64);

impl SyncedFields {
    /// Whether the field is in the set.
    pub const fn contains(self, field: SyncedField) -> bool {
        self.0 & (1_u64 << field.byte()) != 0
    }

    /// The set with the field in it.
    #[must_use]
    pub const fn with(self, field: SyncedField) -> Self {
        Self(self.0 | (1_u64 << field.byte()))
    }

    /// The fields, in the order of [`SyncedField::ALL`].
    pub fn iter(self) -> impl Iterator<Item = SyncedField> {
        SyncedField::ALL.into_iter().filter(move |field| self.contains(*field))
    }
}

impl FromIterator<SyncedField> for SyncedFields {
    fn from_iter<I: IntoIterator<Item = SyncedField>>(fields: I) -> Self {
        fields.into_iter().fold(Self::default(), Self::with)
    }
}

/// State of a bound user's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BindingState {
    /// The entry is there, and its account is enabled.
    Active,
    /// The directory disabled the account.
    Disabled,
    /// A search that ended with success did not find the entry.
    Gone,
}

impl BindingState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Active, Self::Disabled, Self::Gone];

    /// The word for people and programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Gone => "gone",
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Disabled => 2,
            Self::Gone => 3,
        }
    }
}

impl fmt::Display for BindingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The binding of a user to an entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The directory.
    pub directory: DirectoryId,
    /// Its entry.
    pub entry: EntryId,
    /// The user.
    pub mailbox: MailboxId,
    /// Distinguished name of the entry, as found last.
    pub dn: Pii<String>,
    /// Name by which the owner signs in, as found last; empty for none.
    pub login: Pii<String>,
    /// State of the entry.
    pub state: BindingState,
    /// Time since which it has that state.
    pub since: Timestamp,
    /// Latest time at which the directory disabled or dropped it: the 24-hour sum counts it.
    pub lost_at: Option<Timestamp>,
    /// Fields that the directory supplies: local edits of these are refused.
    pub fields: SyncedFields,
}

impl Binding {
    /// The edits that write its record over `current`. [`Self::lost_at`] never goes back.
    pub fn edits(&self, current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        let lost_at = self.lost_at.max(latest_loss(current)).map_or(0, |at| at.0);
        let mut bytes = self.mailbox.to_bytes().to_vec();
        bytes.push(self.state.byte());
        bytes.extend_from_slice(&self.since.0.to_be_bytes());
        bytes.extend_from_slice(&lost_at.to_be_bytes());
        bytes.extend_from_slice(&self.fields.0.to_be_bytes());
        put_text(&mut bytes, self.dn.reveal());
        put_text(&mut bytes, self.login.reveal());
        Ok(vec![by_epoch::put(current, author, at, &bytes)?])
    }

    /// The edits of its record that remove it: the user is local.
    pub fn removal(current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        let mut edits = PasswordVerifier::removal();
        edits.push(by_epoch::put(current, author, at, &[])?);
        Ok(edits)
    }

    /// Reads a binding; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let (directory, entry) = schema::binding_of(key).ok_or(ViewError::Key { what: WHAT })?;
        let Some(version) = by_epoch::newest(record).filter(|version| !version.value.is_empty()) else {
            return Ok(None);
        };
        let unreadable = ViewError::Unreadable { what: WHAT, tag: crate::schema::BY_EPOCH };
        let fixed = fixed(version.value).ok_or(unreadable)?;
        let state = BindingState::ALL.into_iter().find(|state| state.byte() == fixed.state).ok_or(unreadable)?;
        let (dn, rest) = take_text(fixed.texts).ok_or(unreadable)?;
        let (login, _) = take_text(rest).ok_or(unreadable)?;
        Ok(Some(Self {
            directory,
            entry,
            mailbox: fixed.mailbox,
            dn: Pii::new(dn),
            login: Pii::new(login),
            state,
            since: fixed.since,
            lost_at: latest_loss(record),
            fields: fixed.fields,
        }))
    }
}

/// The part of a stored binding before its texts.
struct Fixed<'a> {
    mailbox: MailboxId,
    state: u8,
    since: Timestamp,
    lost_at: u64,
    fields: SyncedFields,
    texts: &'a [u8],
}

fn fixed(bytes: &[u8]) -> Option<Fixed<'_>> {
    let (mailbox, rest) = bytes.split_at_checked(16)?;
    let (state, rest) = rest.split_first()?;
    let (since, rest) = rest.split_first_chunk::<8>()?;
    let (lost_at, rest) = rest.split_first_chunk::<8>()?;
    let (fields, texts) = rest.split_first_chunk::<8>()?;
    Some(Fixed {
        mailbox: MailboxId::from_slice(mailbox)?,
        state: *state,
        since: Timestamp(u64::from_be_bytes(*since)),
        lost_at: u64::from_be_bytes(*lost_at),
        fields: SyncedFields(u64::from_be_bytes(*fields)),
        texts,
    })
}

/// The latest loss of all epochs: a deletion that an older epoch saw counts too.
fn latest_loss(record: &Record) -> Option<Timestamp> {
    by_epoch::versions(record)
        .filter_map(|version| fixed(version.value))
        .map(|fixed| Timestamp(fixed.lost_at))
        .max()
        .filter(|at| at.0 > 0)
}

/// Appends a text with its length in bytes (u16); a longer one is cut.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let cut = (0..=text.len().min(LONGEST_TEXT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let text = text.get(..cut).unwrap_or_default();
    // At most `LONGEST_TEXT`, which a u16 holds.
    bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// Maximum length of a stored text, in bytes.
const LONGEST_TEXT: usize = 4_096;

/// The text that [`put_text`] wrote, and the bytes after it.
pub(super) fn take_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}
