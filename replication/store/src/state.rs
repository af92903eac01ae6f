//! Filling by state: pages of rows for a peer that the log does not reach, and the taking of such pages (rules D1, D3).

use std::{collections::BTreeSet, sync::Arc};

use twinbox_disk::Transaction;
use twinbox_ids::{BlobHash, Origin};
use twinbox_replication_core::{Change, CommitPart, Key, Record, Tombstone, Vector};

use crate::{
    Store, StoreError,
    apply::raise_prefix,
    blobs::hash_of,
    compare::set_aside_change,
    draft::{decode_record, decode_upto, encode_upto},
    index::Indexed,
    keys,
    sums::RowChange,
};

/// Rows of one page at most.
const ROWS: usize = 4_096;

/// Rows in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePage {
    /// The rows; `None` for one that cannot be read here.
    pub rows: Vec<(Key, Option<Record>)>,
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

fn behind(after: Option<&Key>) -> Vec<u8> {
    after.map_or_else(|| keys::RECORDS.to_vec(), |key| [&keys::record(key)[..], &[0]].concat())
}

impl Store {
    /// The rows behind `after`, deleted ones included, of about `bytes` bytes, at least one if there is any. Reads the disk.
    pub fn state_page(&self, after: Option<&Key>, bytes: usize) -> Result<StatePage, StoreError> {
        let mut page = StatePage { rows: Vec::new(), upto: None };
        let mut size = 0;
        for entry in self.disk().scan_range(&behind(after), keys::RECORDS_END) {
            if size >= bytes || page.rows.len() >= ROWS {
                page.upto = page.rows.last().map(|(key, _)| key.clone());
                break;
            }
            let (row, value) = entry?;
            let Some(key) = keys::record_key(&row) else { continue };
            size += row.len() + value.len();
            page.rows.push((key, decode_record(&value).ok()));
        }
        Ok(page)
    }

    /// The rows here behind `after` up to `upto` that are not in `listed`, at most `limit`. An unreadable row is left out: it
    /// stays. Reads the disk.
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
            let Ok(record) = decode_record(&value) else { continue };
            extra.push(ExtraRow { key, record, bytes: hash_of(&value) });
        }
        Ok(extra)
    }

    /// Removes rows that every other member has purged; one that has changed since it was read stays. Makes no change that
    /// peers see; observers hear of it as of a repair. Call with a few rows: commits wait for it.
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
            after.tell(notes.into_iter().map(Arc::new));
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

    /// All rows of a scan are here: takes the source's vector as of the start of the scan, the one exception of rule D1. The
    /// log begins there for each origin whose prefix rises: the changes before it are not here.
    pub async fn take_vector(&self, start: Vector) -> Result<(), StoreError> {
        let after = self.clone();
        let run = move |transaction: &mut Transaction<'_>| {
            let mut risen = Vec::new();
            for (origin, upto) in start.iter() {
                let (prefix, begins) = (keys::prefix(origin), keys::log_begins(origin));
                let is_ahead = upto > decode_upto(transaction.get(&prefix)?.as_deref())?;
                // Without that, a change which cannot be applied would keep the vector before it, and lead to one fill after another.
                let stands_for_aside = first_set_aside(transaction, origin)?.is_some_and(|seq| seq <= upto)
                    && upto > decode_upto(transaction.get(&begins)?.as_deref())?;
                if is_ahead {
                    transaction.put(prefix, encode_upto(upto))?;
                }
                if is_ahead || stands_for_aside {
                    transaction.put(begins, encode_upto(upto))?;
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
            Ok::<_, StoreError>(risen)
        };
        let then = move |risen: Vec<(Origin, u64)>| {
            // The beginning first: a reader that sees the prefix must not miss that the log lacks it.
            risen.iter().for_each(|(origin, upto)| after.log().raise(*origin, *upto));
            let shared = after.shared();
            shared.add_to_have(risen);
        };
        Ok(self.disk().transact_then(run, then).await?)
    }
}

fn first_set_aside(transaction: &Transaction<'_>, origin: Origin) -> Result<Option<u64>, StoreError> {
    let first = transaction.scan_from(&keys::set_aside_of(origin), &keys::set_aside(origin, 0), 1)?;
    Ok(first.first().and_then(|(mark, _)| set_aside_change(mark)).map(|(_, seq)| seq))
}

/// Notes that rows show changes of a source up to these numbers.
pub(crate) fn note_scanned(transaction: &mut Transaction<'_>, seen: &Vector) -> Result<(), StoreError> {
    for (origin, upto) in seen.iter() {
        let key = keys::scanned(origin);
        if upto > decode_upto(transaction.get(&key)?.as_deref())? {
            transaction.put(key, encode_upto(upto))?;
        }
    }
    Ok(())
}
