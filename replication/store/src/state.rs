//! Filling by state: pages of rows for a peer that the log does not reach, and the taking of such pages (rules D1, D3).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use twinbox_disk::Transaction;
use twinbox_ids::{BlobHash, Origin};
use twinbox_replication_core::{Change, CommitPart, Key, Ranges, Record, Tombstone, Vector};

use crate::{
    Store, StoreError,
    apply::raise_prefix,
    blobs::hash_of,
    codec,
    draft::{decode_record, decode_upto},
    index::Indexed,
    keys,
    sums::RowChange,
};

/// Rows of one page at most.
const ROWS: usize = 4_096;

/// Rows in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePage {
    /// The rows, each as its message, which [`codec::record_from_bytes`] reads; `None` for one that cannot be read here.
    pub rows: Vec<(Key, Option<Bytes>)>,
    /// The key up to which there are no further rows; `None`: to the end.
    pub upto: Option<Key>,
}

/// A row here that a scan does not have, as it was read.
#[derive(Debug, Clone)]
pub struct ExtraRow {
    /// Its key.
    pub key: Key,
    record: Record,
    bytes: BlobHash,
}

impl ExtraRow {
    /// `None` for a row that stays as it is.
    fn new(key: Key, value: &[u8]) -> Option<Self> {
        let record = decode_record(value).ok().filter(|record| !record.is_deleted())?;
        Some(Self { key, record, bytes: hash_of(value) })
    }
}

/// The beginning of the rows behind a record; of all rows without one.
pub(crate) fn behind(after: Option<&Key>) -> Vec<u8> {
    after.map_or_else(|| keys::RECORDS.to_vec(), |key| [&keys::record(key)[..], &[0]].concat())
}

impl Store {
    /// All records, ordered by table and id, deleted ones included: each with its value as stored on disk, which
    /// [`codec::decode_record`](crate::codec::decode_record) reads. Memory for one record. Not a snapshot, as
    /// [`Self::scan`]: with the changes between two vectors, one read before and one after, it is the state at the second.
    pub fn all_rows(&self) -> impl Iterator<Item = Result<(Key, Vec<u8>), StoreError>> + Send + use<> {
        self.disk().scan(keys::RECORDS).map(|row| {
            let (key, value) = row?;
            let source = codec::DecodeError::Invalid("key");
            let key = keys::record_key(&key).ok_or(StoreError::Format { what: "a record", source })?;
            Ok((key, value))
        })
    }

    /// The rows behind `after`, deleted ones included, of about `bytes` bytes, at least one if there is any. Reads the disk.
    pub fn state_page(&self, after: Option<&Key>, bytes: usize) -> Result<StatePage, StoreError> {
        let (mut page, mut size) = (StatePage { rows: Vec::new(), upto: None }, 0);
        for entry in self.disk().scan_range(&behind(after), keys::RECORDS_END) {
            if size >= bytes || page.rows.len() >= ROWS {
                page.upto = page.rows.last().map(|(key, _)| key.clone());
                break;
            }
            let (row, value) = entry?;
            let Some(key) = keys::record_key(&row) else { continue };
            size += row.len() + value.len();
            page.rows.push((key, decode_record(&value).ok().map(|_| codec::stored_message(value))));
        }
        Ok(page)
    }

    /// The present rows here behind `after` up to `upto` that are not in `listed`, at most `limit`. An unreadable row is left out:
    /// it stays, as does a deleted one, which is purged when its deletion is stable. Reads the disk.
    pub fn extra_rows(
        &self,
        after: Option<&Key>,
        upto: Option<&Key>,
        listed: &BTreeSet<Key>,
        limit: usize,
    ) -> Result<Vec<ExtraRow>, StoreError> {
        let end = upto.map_or_else(|| keys::RECORDS_END.to_vec(), |key| behind(Some(key)));
        let (from, mut extra) = (behind(after), Vec::new());
        if from >= end {
            return Ok(extra);
        }
        for entry in self.disk().scan_range(&from, &end) {
            if extra.len() >= limit {
                break;
            }
            let (row, value) = entry?;
            let Some(key) = keys::record_key(&row).filter(|key| !listed.contains(key)) else { continue };
            extra.extend(ExtraRow::new(key, &value));
        }
        Ok(extra)
    }

    /// A present row here, as one of [`extra_rows`](Store::extra_rows). Reads the disk.
    pub fn extra_row(&self, key: &Key) -> Result<Option<ExtraRow>, StoreError> {
        let value = self.disk().get(&keys::record(key))?;
        Ok(value.and_then(|value| ExtraRow::new(key.clone(), &value)))
    }

    /// Removes rows that every other member has purged; one that has changed since it was read stays. Makes no change that
    /// peers see; observers are notified of it as of a repair. Call with a few rows: commits wait for it.
    pub async fn remove_extra(&self, rows: Vec<ExtraRow>) -> Result<u64, StoreError> {
        let (after, origin) = (self.shared(), self.origin());
        let run = move |transaction: &mut Transaction<'_>| {
            let (mut changes, mut notes) = (Vec::new(), Vec::new());
            for ExtraRow { key, record, bytes } in rows {
                let row = keys::record(&key);
                if transaction.get(&row)?.is_none_or(|now| hash_of(&now) != bytes) {
                    continue;
                }
                Indexed::of(&record).remove(transaction, &key)?;
                transaction.remove(row);
                changes.push(RowChange::removed(&key, &record));
                let tombstone = record.latest().map(|stamp| Tombstone { stamp, saw: Default::default() });
                let (delta, part) = (Record::from_parts([], tombstone), CommitPart::default());
                notes.push(Change { origin, seq: 0, key, delta, part });
            }
            Ok::<_, StoreError>((changes, notes))
        };
        let then = move |(changes, notes): (Vec<RowChange>, Vec<Change>)| {
            let removed = notes.len() as u64;
            after.sums.follow(changes);
            after.tell(notes);
            removed
        };
        Ok(self.disk().transact_then(run, then).await?)
    }

    /// The changes that rows of interrupted scans may show, the highest number of each origin.
    pub fn scanned(&self) -> Result<Vector, StoreError> {
        let mut scanned = Vector::new();
        for entry in self.disk().scan(keys::SCANNED) {
            let (key, value) = entry?;
            if let Some(origin) = keys::scanned_origin(&key) {
                scanned.raise(origin, decode_upto(Some(&value))?);
            }
        }
        Ok(scanned)
    }

    /// Completes a scan, all rows of which are here: takes the source's vector as of the start of the scan, the one exception of
    /// rule D1. The log begins there for each origin whose prefix rises: the changes before it are not here. False, without any
    /// effect, when the log has a change up to `start` that is not among the `judged` ones.
    pub async fn take_vector(
        &self,
        start: Vector,
        judged: Option<BTreeMap<Origin, Ranges>>,
    ) -> Result<bool, StoreError> {
        let after = self.clone();
        let run = move |transaction: &mut Transaction<'_>| {
            if judged.map_or(Ok(false), |judged| has_others(transaction, &start, &judged))? {
                return Ok(None);
            }
            let mut risen = Vec::new();
            for (origin, upto) in start.iter() {
                let (prefix, begins) = (keys::prefix(origin), keys::log_begins(origin));
                let is_ahead = upto > decode_upto(transaction.get(&prefix)?.as_deref())?;
                // Without that, a change which cannot be applied would keep the vector before it, and lead to one fill after another.
                let stands_for_aside = first_set_aside(transaction, origin)?.is_some_and(|seq| seq <= upto)
                    && upto > decode_upto(transaction.get(&begins)?.as_deref())?;
                if is_ahead {
                    transaction.put(prefix, codec::encode_upto(upto))?;
                }
                if is_ahead || stands_for_aside {
                    transaction.put(begins, codec::encode_upto(upto))?;
                    raise_prefix(transaction, origin)?;
                    risen.push((origin, upto));
                }
            }
            for (key, value) in transaction.scan(keys::SCANNED)? {
                let Some(origin) = keys::scanned_origin(&key) else { continue };
                let prefix = decode_upto(transaction.get(&keys::prefix(origin))?.as_deref())?;
                if decode_upto(Some(&value))? <= prefix {
                    transaction.remove(key);
                }
            }
            Ok::<_, StoreError>(Some(risen))
        };
        let then = move |risen: Option<Vec<(Origin, u64)>>| {
            let Some(risen) = risen else { return false };
            // The beginning first: a reader that sees the prefix must also see that the log lacks it.
            risen.iter().for_each(|(origin, upto)| after.log().raise(*origin, *upto));
            let shared = after.shared();
            shared.add_to_have(risen);
            true
        };
        Ok(self.disk().transact_then(run, then).await?)
    }
}

/// Whether the log has a change up to `start` that is not `judged`.
fn has_others(
    transaction: &Transaction<'_>,
    start: &Vector,
    judged: &BTreeMap<Origin, Ranges>,
) -> Result<bool, StoreError> {
    let none = Ranges::new();
    for (origin, upto) in start.iter() {
        for gap in judged.get(&origin).unwrap_or(&none).gaps(1..upto + 1) {
            let from = keys::change(origin, gap.start);
            let next = transaction.scan_from(&keys::changes(origin), &from, 1)?;
            if next.first().is_some_and(|(key, _)| *key < keys::change(origin, gap.end)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn first_set_aside(transaction: &Transaction<'_>, origin: Origin) -> Result<Option<u64>, StoreError> {
    let first = transaction.scan_from(&keys::set_aside_of(origin), &keys::set_aside(origin, 0), 1)?;
    Ok(first.first().and_then(|(mark, _)| keys::set_aside_change(mark)).map(|(_, seq)| seq))
}

/// Notes that rows show changes of a source up to these numbers.
pub(crate) fn note_scanned(transaction: &mut Transaction<'_>, seen: &Vector) -> Result<(), StoreError> {
    for (origin, upto) in seen.iter() {
        let key = keys::scanned(origin);
        if upto > decode_upto(transaction.get(&key)?.as_deref())? {
            transaction.put(key, codec::encode_upto(upto))?;
        }
    }
    Ok(())
}
