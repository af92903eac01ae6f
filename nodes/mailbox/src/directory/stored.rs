//! A directory as stored: its name, its settings as text, and the state of its synchronisation.

use std::collections::BTreeMap;

use twinbox_ids::{DirectoryId, Timestamp};
use twinbox_replication_core::{Edit, Key, Record};

use super::{
    binding::{put_text, take_text},
    schema::{self, directory as tag},
};
use crate::{
    ViewError,
    by_epoch::{self, Author, StaleEpoch},
    value::{Fields, read_text, read_u64, set_text, set_u64},
};

/// Maximum length of a cursor, in bytes.
const LONGEST_CURSOR: usize = 16_384;

/// A directory. The settings are text by permanent number; `twinbox-directory-core` gives them meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDirectory {
    /// Opaque, never changes.
    pub id: DirectoryId,
    /// The name in lists.
    pub name: String,
    /// Time of its creation: of two with one name, made on both sides of a split, the earlier has it.
    pub created: Timestamp,
    /// Settings by permanent number (0 to 4,095); unset ones are left out.
    pub settings: BTreeMap<u16, String>,
}

impl StoredDirectory {
    /// The edits that write its record.
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits = vec![set_u64(tag::CREATED, self.created.0), set_text(tag::NAME, &self.name)];
        edits.extend(self.settings.iter().flat_map(|(number, text)| Self::change(*number, Some(text.as_str()))));
        edits
    }

    /// The edits that change one setting; none for a number that is out of range.
    pub fn change(number: u16, value: Option<&str>) -> Vec<Edit> {
        let tag = (number < tag::MOST_SETTINGS).then(|| tag::SETTINGS + number);
        tag.map(|tag| set_text(tag, value.unwrap_or_default())).into_iter().collect()
    }

    /// The edits of its record that remove it.
    pub fn removal() -> Vec<Edit> {
        vec![Edit::Delete]
    }

    /// Reads a directory; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let what = "a directory";
        let id = schema::directory_of(key).ok_or(ViewError::Key { what })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields { what, record };
        let numbers = tag::SETTINGS..tag::SETTINGS + tag::MOST_SETTINGS;
        let settings = record.fields().filter(|(at, _)| numbers.contains(at));
        let mut read = BTreeMap::new();
        for (at, _) in settings {
            if let Some(text) = fields.optional(at, read_text)?.filter(|text| !text.is_empty()) {
                read.insert(at - tag::SETTINGS, text);
            }
        }
        Ok(Some(Self {
            id,
            name: fields.required(tag::NAME, read_text)?,
            created: Timestamp(fields.required(tag::CREATED, read_u64)?),
            settings: read,
        }))
    }
}

/// State of a directory's synchronisation: one value by epoch in the row of the directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncState {
    /// Position in the directory's changes, opaque; empty for none. At most 16 KiB.
    pub cursor: Vec<u8>,
    /// End of the latest full search that ended with success.
    pub full_at: Option<Timestamp>,
    /// End of the latest run that ended with success.
    pub ended_at: Option<Timestamp>,
    /// Error of the latest run; `None` if it ended with success.
    pub error: Option<String>,
}

impl SyncState {
    /// The edits that write it to the directory's record `current`. A longer cursor is not stored: the next run is a
    /// full one.
    pub fn edits(&self, current: &Record, author: &Author, at: Timestamp) -> Result<Vec<Edit>, StaleEpoch> {
        let time = |at: Option<Timestamp>| at.map_or(0, |at| at.0).to_be_bytes();
        let mut bytes = [time(self.full_at), time(self.ended_at)].concat();
        put_text(&mut bytes, self.error.as_deref().unwrap_or_default());
        bytes.extend_from_slice(if self.cursor.len() <= LONGEST_CURSOR { &self.cursor } else { &[] });
        Ok(vec![by_epoch::put(current, author, at, &bytes)?])
    }

    /// Reads it from a directory's record; the empty state before the first run, and when it cannot be read: the next
    /// run is a full one.
    pub fn read(record: &Record) -> Self {
        by_epoch::newest(record).and_then(|version| read(version.value)).unwrap_or_default()
    }
}

fn read(bytes: &[u8]) -> Option<SyncState> {
    let (full, rest) = bytes.split_first_chunk::<8>()?;
    let (ended, rest) = rest.split_first_chunk::<8>()?;
    let (error, cursor) = take_text(rest)?;
    let time = |bytes: &[u8; 8]| Some(Timestamp(u64::from_be_bytes(*bytes))).filter(|at| at.0 > 0);
    Some(SyncState {
        cursor: cursor.to_vec(),
        full_at: time(full),
        ended_at: time(ended),
        error: Some(error).filter(|error| !error.is_empty()),
    })
}
