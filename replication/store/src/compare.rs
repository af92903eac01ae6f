//! Rows by bucket, and the count of all rows and changes.

use twinbox_ids::BlobHash;
use twinbox_replication_core::{BlobRef, Key, Lack, Record, RowFault, Table, buckets::BucketSet};

use crate::{
    Store, StoreError,
    codec::{self, hashes},
    draft::{decode_record, decode_row},
    keys,
    state::behind,
};

/// Rows that one page looks at.
const VISITED: usize = 16_384;
/// Rows that one page lists.
const LISTED: usize = 4_096;

/// A part of the present rows of some buckets, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPage {
    /// The rows, with their hashes.
    pub rows: Vec<(Key, u128)>,
    /// All rows of the buckets up to this key are listed, at most up to the requested end; `None`: all rows.
    pub upto: Option<Key>,
}

/// A row as stored on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredRow {
    /// There is no row.
    Absent,
    /// Its bytes cannot be decoded.
    Unreadable,
    /// The record, deleted or not.
    Record(Record),
}

impl StoredRow {
    /// The fault of this row, if the other copy has more; a deleted record may be purged on one side.
    pub fn fault_beside(&self, other: &Self) -> Option<RowFault> {
        match (self, other) {
            (Self::Unreadable, _) => Some(RowFault::Unreadable),
            (_, Self::Absent | Self::Unreadable) => None,
            (Self::Absent, Self::Record(other)) => {
                (!other.is_deleted() && !other.is_empty()).then_some(RowFault::Missing)
            }
            (Self::Record(row), Self::Record(other)) => {
                let are_deleted = row.is_deleted() && other.is_deleted();
                (!are_deleted && row.lacks(other).is_some()).then_some(RowFault::Incomplete)
            }
        }
    }

    /// The parts of the other copy that this row lacks.
    pub fn lacks(&self, other: &Self) -> Lack {
        let Self::Record(other) = other else { return Lack::default() };
        let lack = match self {
            Self::Record(row) => row.lacks(other),
            Self::Absent | Self::Unreadable => Record::new().lacks(other),
        };
        lack.unwrap_or_default()
    }
}

/// Rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStats {
    /// The table.
    pub table: Table,
    /// Records that are present.
    pub present: u64,
    /// Records that are deleted and not purged.
    pub deleted: u64,
    /// Records that cannot be read.
    pub unreadable: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// All rows and changes of a store, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// By table, ascending.
    pub tables: Vec<TableStats>,
    /// Changes in the log, and their bytes.
    pub log: (u64, u64),
    /// Keys of records that cannot be read, the first hundred.
    pub unreadable: Vec<Key>,
    /// Blobs that present records name, each once, ascending by hash.
    pub named: Vec<BlobRef>,
}

impl Store {
    /// The present rows of these buckets behind `after`, up to `upto` if given, as many as one page has. Reads the disk: not
    /// for a thread that serves calls.
    pub fn rows_of_buckets(
        &self,
        buckets: &BucketSet,
        after: Option<&Key>,
        upto: Option<&Key>,
    ) -> Result<RowPage, StoreError> {
        let end = upto.map_or_else(|| keys::RECORDS_END.to_vec(), |key| behind(Some(key)));
        let from = behind(after);
        let mut page = RowPage { rows: Vec::new(), upto: upto.cloned() };
        // A peer may ask for any range.
        if from >= end {
            return Ok(page);
        }
        for (visited, entry) in self.disk().scan_range(&from, &end).enumerate() {
            let (row, value) = entry?;
            if buckets.contains(hashes::bucket(&row))
                && let Ok((key, record)) = decode_row(&row, &value)
                && let Some(hash) = hashes::row_hash(&key, &record)
            {
                page.rows.push((key, hash.hash));
            }
            if visited + 1 >= VISITED || page.rows.len() >= LISTED {
                page.upto = keys::record_key(&row);
                break;
            }
        }
        Ok(page)
    }

    /// A row as it is, readable or not.
    pub fn stored_row(&self, key: &Key) -> Result<StoredRow, StoreError> {
        Ok(match self.disk().get(&keys::record(key))? {
            None => StoredRow::Absent,
            Some(bytes) => decode_record(&bytes).map_or(StoredRow::Unreadable, StoredRow::Record),
        })
    }

    /// Present rows that name this blob, at most `most`. Those that are not in the index of references yet are left out.
    /// Reads the disk: not for a thread that serves calls.
    pub fn rows_naming(&self, hash: &BlobHash, most: usize) -> Result<Vec<Key>, StoreError> {
        let mut rows = Vec::new();
        for reference in self.disk().scan(&keys::references(hash)) {
            if rows.len() >= most {
                break;
            }
            let Some(key) = keys::referring(&reference?.0) else { continue };
            if matches!(self.stored_row(&key)?, StoredRow::Record(record) if !record.is_deleted()) {
                rows.push(key);
            }
        }
        Ok(rows)
    }

    /// The rows of changes that were set aside, as far as the log has those changes.
    pub fn set_aside_rows(&self) -> Result<Vec<Key>, StoreError> {
        let mut rows = Vec::new();
        for entry in self.disk().scan(keys::SET_ASIDE) {
            let Some((origin, seq)) = keys::set_aside_change(&entry?.0) else { continue };
            let Some(bytes) = self.disk().get(&keys::change(origin, seq))? else { continue };
            rows.extend(codec::decode_change(&bytes).ok().map(|change| change.key));
        }
        Ok(rows)
    }

    /// Counts everything. Reads the whole store: not for a thread that serves calls.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut stats = StoreStats::default();
        for entry in self.disk().scan(keys::RECORDS) {
            let (row, value) = entry?;
            let Some(key) = keys::record_key(&row) else { continue };
            if stats.tables.last().is_none_or(|last| last.table != key.table) {
                stats.tables.push(TableStats { table: key.table, present: 0, deleted: 0, unreadable: 0, bytes: 0 });
            }
            let Some(table) = stats.tables.last_mut() else { continue };
            table.bytes += (row.len() + value.len()) as u64;
            match decode_record(&value) {
                Ok(record) if record.is_deleted() => table.deleted += 1,
                Ok(record) => {
                    table.present += 1;
                    stats.named.extend(record.blobs().copied());
                }
                Err(_) => {
                    table.unreadable += 1;
                    if stats.unreadable.len() < 100 {
                        stats.unreadable.push(key);
                    }
                }
            }
        }
        stats.named.sort_unstable_by_key(|blob| blob.hash);
        stats.named.dedup_by_key(|blob| blob.hash);
        for entry in self.disk().scan(keys::LOG) {
            let (key, value) = entry?;
            stats.log.0 += 1;
            stats.log.1 += (key.len() + value.len()) as u64;
        }
        Ok(stats)
    }
}
