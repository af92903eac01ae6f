//! The file of records: first all rows, by table and id, then the changes that were made while the rows were read. Rows
//! and changes together are the state at one moment.
//!
//! After the first line each entry is the length of its body and the CRC-32 of it (4 bytes each, little endian), then the
//! body: kind (1 row, 2 change), table and length of the id (2 bytes each, big endian), the id, and the record as a
//! store has it on disk. The last entry has kind 0 and the number of the others (8 bytes).

use std::{collections::BTreeMap, path::PathBuf};

use twinbox_replication_core::{Key, Record, Table};
use twinbox_replication_store::codec;

use crate::{
    Backup, BackupError,
    manifest::RowsSummary,
    place::{BackupPlace, NewFile, OldFile},
};

/// Name of the file in the folder of a backup.
pub(crate) const ROWS: &str = "rows";
/// First bytes of the file.
const MAGIC: &[u8] = b"TWINBOX ROWS 1\n";
/// Maximum length of a body in bytes: far above that of a key and a record.
const LONGEST: u32 = 1 << 20;
const END: u8 = 0;
const ROW: u8 = 1;
const CHANGE: u8 = 2;

/// A row or a change.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// A change that was made while rows were read; it is merged into its row.
    pub(crate) is_change: bool,
    /// The key.
    pub(crate) key: Key,
    /// The record as a store has it on disk.
    pub(crate) value: Vec<u8>,
}

/// Writes the file.
pub(crate) struct RowsWriter {
    path: PathBuf,
    file: Box<dyn NewFile>,
    hasher: blake3::Hasher,
    count: u64,
    /// Its hash is set at the end.
    pub(crate) summary: RowsSummary,
}

impl RowsWriter {
    /// Begins the file in the folder of a backup.
    pub(crate) fn create(place: &dyn BackupPlace, dir: &str) -> Result<Self, BackupError> {
        let name = format!("{dir}/{ROWS}");
        let (path, file) = (place.locate(&name), place.create(&name)?);
        let (hasher, summary) = Default::default();
        let mut writer = Self { path, file, hasher, count: 0, summary };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.hasher.update(bytes);
        self.summary.bytes += bytes.len() as u64;
        self.file.write(bytes)
    }

    fn entry(&mut self, body: &[u8]) -> Result<(), BackupError> {
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
        let length =
            length.ok_or_else(|| BackupError::damaged(&self.path, "a record is too large for a backup"))?;
        self.write(&length.to_le_bytes())?;
        self.write(&crc32fast::hash(body).to_le_bytes())?;
        self.write(body)
    }

    /// Writes a row or a change.
    pub(crate) fn add(&mut self, is_change: bool, key: &Key, value: &[u8]) -> Result<(), BackupError> {
        // A key has at most 1 KiB.
        let length = u16::try_from(key.id.len()).unwrap_or(u16::MAX);
        let mut body = vec![if is_change { CHANGE } else { ROW }];
        body.extend_from_slice(&key.table.0.to_be_bytes());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&key.id);
        body.extend_from_slice(value);
        self.entry(&body)?;
        self.count += 1;
        match is_change {
            true => self.summary.changes += 1,
            false => *self.summary.tables.entry(key.table.0).or_default() += 1,
        }
        Ok(())
    }

    /// Ends the file, and syncs it.
    pub(crate) fn finish(mut self) -> Result<RowsSummary, BackupError> {
        let mut end = vec![END];
        end.extend_from_slice(&self.count.to_be_bytes());
        self.entry(&end)?;
        self.file.finish()?;
        self.summary.hash = self.hasher.finalize().to_string();
        Ok(self.summary)
    }
}

/// Reads the file. Ends after the first error.
pub(crate) struct RowsReader {
    path: PathBuf,
    file: Box<dyn OldFile>,
    hasher: blake3::Hasher,
    expected: RowsSummary,
    count: u64,
    ended: bool,
}

impl RowsReader {
    /// Opens the file of a backup.
    pub(crate) fn open(backup: &Backup) -> Result<Self, BackupError> {
        let name = format!("{}/{ROWS}", backup.dir());
        let (path, file, hasher) = (backup.place.locate(&name), backup.place.open(&name)?, blake3::Hasher::new());
        let expected = backup.manifest.rows.clone();
        let mut reader = Self { path, file, hasher, expected, count: 0, ended: false };
        let magic = reader.chunk(MAGIC.len())?;
        match magic == MAGIC {
            true => Ok(reader),
            false => Err(BackupError::damaged(&reader.path, "it is not a file of records")),
        }
    }

    fn chunk(&mut self, length: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = vec![0; length];
        if self.file.fill(&mut bytes)? < length {
            return Err(BackupError::damaged(&self.path, format!("it ends within record {}", self.count + 1)));
        }
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u32, BackupError> {
        let bytes = self.chunk(4)?;
        Ok(bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    fn read(&mut self) -> Result<Option<Row>, BackupError> {
        let (length, check) = (self.number()?, self.number()?);
        let here = |detail: &str, count: u64| format!("{detail} at record {}", count + 1);
        if length > LONGEST {
            return Err(BackupError::damaged(&self.path, here("impossible length", self.count)));
        }
        let body = self.chunk(length as usize)?;
        if crc32fast::hash(&body) != check {
            return Err(BackupError::damaged(&self.path, here("wrong checksum", self.count)));
        }
        let shape = || BackupError::damaged(&self.path, here("unknown entry", self.count));
        match body.split_first().ok_or_else(shape)? {
            (&END, count) => {
                let written = count.first_chunk::<8>().map(|count| u64::from_be_bytes(*count));
                if written != Some(self.count) {
                    return Err(BackupError::damaged(&self.path, "it lacks records"));
                }
                self.check_end().map(|()| None)
            }
            (&kind @ (ROW | CHANGE), rest) => {
                let (table, rest) = rest.split_first_chunk::<2>().ok_or_else(shape)?;
                let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(shape)?;
                let length = usize::from(u16::from_be_bytes(*length));
                let (id, value) = rest.split_at_checked(length).ok_or_else(shape)?;
                let key = Key::new(Table(u16::from_be_bytes(*table)), id);
                self.count += 1;
                Ok(Some(Row { is_change: kind == CHANGE, key, value: value.to_vec() }))
            }
            _ => Err(shape()),
        }
    }

    fn check_end(&mut self) -> Result<(), BackupError> {
        let mut rest = [0];
        let more = self.file.fill(&mut rest)?;
        if more > 0 || self.hasher.finalize().to_string() != self.expected.hash {
            return Err(BackupError::damaged(&self.path, "its content has another hash than the manifest says"));
        }
        Ok(())
    }
}

impl Iterator for RowsReader {
    type Item = Result<Row, BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The records of a backup, as of its one moment.
pub(crate) struct Records {
    reader: RowsReader,
    changes: BTreeMap<Key, Record>,
}

/// A record; one that this release cannot read has the reason instead.
pub(crate) type ReadRecord = (Key, Result<Record, String>);

impl Records {
    /// Reads the file once, which verifies it, and keeps the changes in memory; the records follow by
    /// [`Self::next_record`].
    pub(crate) fn open(backup: &Backup) -> Result<Self, BackupError> {
        let mut changes: BTreeMap<Key, Record> = BTreeMap::new();
        for row in RowsReader::open(backup)? {
            let row = row?;
            if row.is_change
                && let Ok(delta) = codec::decode_record(&row.value)
            {
                changes.entry(row.key).or_default().merge(delta);
            }
        }
        Ok(Self { reader: RowsReader::open(backup)?, changes })
    }

    /// The next record, in no particular order; `None` at the end.
    pub(crate) fn next_record(&mut self) -> Result<Option<ReadRecord>, BackupError> {
        loop {
            match self.reader.next().transpose()? {
                Some(row) if row.is_change => {}
                Some(row) => {
                    let record = codec::decode_record(&row.value).map_err(|error| error.to_string());
                    let change = self.changes.remove(&row.key);
                    let record = record.map(|mut record| {
                        record.merge(change.unwrap_or_default());
                        record
                    });
                    return Ok(Some((row.key, record)));
                }
                // Records that came into being while rows were read.
                None => return Ok(self.changes.pop_first().map(|(key, record)| (key, Ok(record)))),
            }
        }
    }
}
