//! The manifest of a backup, written last: a backup without it was interrupted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;
use twinbox_mailbox::schema::{MAILBOX, MESSAGE};

use crate::{BackupError, place::BackupPlace};

/// Version of the format of all files of a backup.
pub const FORMAT: u32 = 3;
/// Name of the file in the folder of a backup.
pub(crate) const MANIFEST: &str = "manifest.json";
/// Maximum length of a manifest in bytes: it names the audio that is missing.
const LARGEST: u64 = 1 << 30;

/// A complete backup: where and when it was made, and hashes of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Id of the cluster.
    pub cluster: String,
    /// The node that made it.
    pub node: NodeName,
    /// Release of that node.
    pub release: String,
    /// The node had all records of its cluster; false for one that was still filling from the others.
    #[serde(default = "all_records")]
    pub has_all_records: bool,
    /// Time of the begin, in milliseconds since 1970.
    pub began_ms: u64,
    /// Time of the end. Changes up to a time between the two are in it.
    pub ended_ms: u64,
    /// The records.
    pub rows: RowsSummary,
    /// The recordings, greetings and prompts.
    pub audio: AudioSummary,
    /// For each origin of changes, the number up to which its changes are in the backup.
    pub vector: BTreeMap<String, u64>,
}

/// The file of records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsSummary {
    /// Length of the file in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub hash: String,
    /// Number of records by table, deleted ones included.
    pub tables: BTreeMap<u16, u64>,
    /// Number of changes that were made while the records were read.
    pub changes: u64,
    /// Number of records that the release which made the backup could not read; they are in it all the same.
    pub unreadable: u64,
}

/// The audio that the records name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioSummary {
    /// Number of pieces of audio.
    pub count: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the list of their hashes.
    pub hash: String,
    /// Number of those that earlier backups did not have.
    pub copied: u64,
    /// Length of these in bytes.
    pub copied_bytes: u64,
    /// Audio of present records that no node had.
    pub missing: Vec<MissingAudio>,
}

/// Audio that a present record names, and that is not in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingAudio {
    /// BLAKE3 of the audio.
    pub hash: String,
    /// Length in bytes according to the record.
    pub bytes: u64,
    /// Reason.
    pub reason: String,
}

/// A backup of a release that did not note it.
const fn all_records() -> bool {
    true
}

impl Manifest {
    /// Number of records of mailboxes, removed ones included.
    pub fn mailboxes(&self) -> u64 {
        self.rows.tables.get(&MAILBOX.0).copied().unwrap_or_default()
    }

    /// Number of records of messages, deleted ones included.
    pub fn messages(&self) -> u64 {
        self.rows.tables.get(&MESSAGE.0).copied().unwrap_or_default()
    }

    /// Number of records of all tables.
    pub fn records(&self) -> u64 {
        self.rows.tables.values().sum()
    }

    /// The lack of a backup of a node without all records, for lists; empty for others.
    pub const fn lack(&self) -> &'static str {
        if self.has_all_records { "" } else { "its node did not have all records of the others" }
    }

    /// Reads the manifest in a backup's folder; `None` if there is none.
    pub(crate) fn read(place: &dyn BackupPlace, dir: &str) -> Result<Option<Self>, BackupError> {
        let file = format!("{dir}/{MANIFEST}");
        let path = place.locate(&file);
        let Some(bytes) = place.read(&file, LARGEST)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| BackupError::damaged(&path, error.to_string());
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(damaged)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(found) if found == u64::from(FORMAT) => Ok(Some(serde_json::from_value(value).map_err(damaged)?)),
            Some(found) => Err(BackupError::Format { path, found, known: FORMAT }),
            None => Err(BackupError::damaged(&path, "it names no format")),
        }
    }

    /// Writes the manifest: from now on the backup is complete.
    pub(crate) fn write(&self, place: &dyn BackupPlace, dir: &str) -> Result<(), BackupError> {
        let file = format!("{dir}/{MANIFEST}");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| BackupError::damaged(&place.locate(&file), error.to_string()))?;
        place.put(&file, text.into())?;
        place.sync(dir)
    }
}
