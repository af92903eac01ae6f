//! Indexes of records: those that purging needs, which are the records that name each blob, and the records with a tombstone, and that of
//! present records. Each is written in the same transaction as the record, so it is right unless the disk damages it; a count of all rows
//! mends the third, by which callers find messages. For a store that an earlier release wrote to, the first two are made again in steps
//! ([`Store::index_step`]), and until that has ended no blob is removed; the third is made again by the opening.

use std::{collections::BTreeSet, sync::Mutex};

use twinbox_clock::wall;
use twinbox_disk::{Disk, DiskError, Pair, Transaction};
use twinbox_ids::{BlobHash, Stamp};
use twinbox_replication_core::{Key, Record, row_sums::CountedRow};

use crate::{
    Store, StoreError,
    codec::{
        self, FORMAT,
        hashes::{ContentHash, content_hash, content_hash_of, row_hash},
    },
    draft::decode_record,
    keys,
    store::{lock, versioned},
    sums::RowChange,
};

/// Entries that one step of the indexing reads: it holds up commits for a moment only.
const STEP: usize = 256;

/// Entries of one transaction of an opening, for which no commit waits.
const OPENING_STEP: usize = 4_096;

/// The operations of a transaction that a commit needs, behind a trait so that a draft has one lifetime.
pub(crate) trait Access {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, DiskError>;
    /// True when there is a key that begins with `prefix`.
    fn any(&self, prefix: &[u8]) -> Result<bool, DiskError>;
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), DiskError>;
    fn remove(&mut self, key: Vec<u8>);
}

impl Access for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Transaction::get(self, key)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, DiskError> {
        Transaction::scan(self, prefix)
    }

    fn any(&self, prefix: &[u8]) -> Result<bool, DiskError> {
        Ok(!self.scan_from(prefix, prefix, 1)?.is_empty())
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), DiskError> {
        Transaction::put(self, key, value)
    }

    fn remove(&mut self, key: Vec<u8>) {
        Transaction::remove(self, key);
    }
}

/// The indexed properties of a record; by default those of a row that is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexed {
    blobs: BTreeSet<BlobHash>,
    /// Stamp of its tombstone, even if a part of the record outlives it.
    tombstone: Option<Stamp>,
    /// No part of it outlives its tombstone.
    deleted: bool,
    /// Hash of its content, for the comparison of stores.
    content: Option<ContentHash>,
}

impl Indexed {
    pub(crate) fn of(record: &Record) -> Self {
        Self::with(record, content_hash(record))
    }

    fn with(record: &Record, content: Option<ContentHash>) -> Self {
        let blobs = record.blobs().map(|blob| blob.hash).collect();
        let tombstone = record.tombstone().map(|tombstone| tombstone.stamp);
        Self { blobs, tombstone, deleted: record.is_deleted(), content }
    }

    /// Writes the difference between a record as it was, `self`, and as it is `now`, which is `encoded` on disk; returns it for the sums.
    pub(crate) fn update(
        &self,
        access: &mut (dyn Access + '_),
        key: &Key,
        now: &Record,
        encoded: &[u8],
    ) -> Result<RowChange, DiskError> {
        let now = Self::with(now, content_hash_of(now, encoded));
        // The blobs of a deleted record may have been given up: a record that is present again names them again.
        let again = self.deleted && !now.deleted;
        for hash in now.blobs.iter().filter(|hash| again || !self.blobs.contains(*hash)) {
            add_reference(access, hash, key)?;
        }
        for hash in self.blobs.difference(&now.blobs) {
            remove_reference(access, hash, key)?;
        }
        // A tombstone stays for as long as its record; a later one is another deletion, and its time begins again.
        if now.tombstone.is_some() && now.tombstone != self.tombstone {
            add_deleted(access, key)?;
        }
        if key.table == keys::LISTED {
            match (self.content, now.content) {
                (None, Some(_)) => access.put(keys::present(key), vec![FORMAT])?,
                (Some(_), Some(_)) => {}
                // A record that could not be read may have an entry, too.
                (_, None) => access.remove(keys::present(key)),
            }
        }
        Ok(RowChange::new(key, self.content, now.content))
    }

    /// Removes the entries of a record from the indexes. The sums have none for a deleted record.
    pub(crate) fn remove(&self, access: &mut (dyn Access + '_), key: &Key) -> Result<(), DiskError> {
        access.remove(keys::deleted(key));
        if self.content.is_some() && key.table == keys::LISTED {
            access.remove(keys::present(key));
        }
        self.blobs.iter().try_for_each(|hash| remove_reference(access, hash, key))
    }

    /// Writes all entries of a record into the indexes.
    fn add(&self, access: &mut (dyn Access + '_), key: &Key) -> Result<(), DiskError> {
        if self.tombstone.is_some() {
            add_deleted(access, key)?;
        }
        self.blobs.iter().try_for_each(|hash| add_reference(access, hash, key))
    }
}

/// Marks a record as deleted, with the time at which this store first saw its tombstone: the stamp of the tombstone
/// is by the clock of the node that deleted.
fn add_deleted(access: &mut (dyn Access + '_), key: &Key) -> Result<(), DiskError> {
    access.put(keys::deleted(key), versioned(&wall().0.to_be_bytes()))
}

fn add_reference(access: &mut (dyn Access + '_), hash: &BlobHash, key: &Key) -> Result<(), DiskError> {
    // A note is rarely there, and a removal costs more than a read.
    if access.get(&keys::unreferenced(hash))?.is_some() {
        access.remove(keys::unreferenced(hash));
    }
    access.put(keys::reference(hash, key), vec![FORMAT])
}

/// With the last reference, the time is noted: the grace of the blob runs from then on.
fn remove_reference(access: &mut (dyn Access + '_), hash: &BlobHash, key: &Key) -> Result<(), DiskError> {
    access.remove(keys::reference(hash, key));
    match access.any(&keys::references(hash))? {
        true => Ok(()),
        false => access.put(keys::unreferenced(hash), versioned(&wall().0.to_be_bytes())),
    }
}

/// Whether all `openings` before this one wrote the index of this mark. A release that does not write the index adds an
/// origin all the same: the mark counts those of the openings that wrote it.
pub(crate) fn is_complete(disk: &Disk, mark: &[u8], new: bool, openings: usize) -> Result<bool, StoreError> {
    let Some(bytes) = disk.get(mark)? else { return Ok(new) };
    let format = |source| StoreError::Format { what: "the mark of an index", source };
    Ok(codec::decode_upto(Some(&bytes)).map_err(format)? == openings as u64)
}

/// Makes the index of present records again, for a store that an earlier release wrote to: some seconds for a million messages. An
/// opening that is cut in the middle does it again.
pub(crate) fn list_present(disk: &Disk) -> Result<(), StoreError> {
    tracing::info!("an earlier release wrote to this store: present messages are indexed");
    loop {
        let old = disk.scan(keys::PRESENT).take(OPENING_STEP).collect::<Result<Vec<Pair>, _>>()?;
        if old.is_empty() {
            break;
        }
        disk.transact_blocking(move |transaction| {
            old.into_iter().for_each(|(entry, _)| transaction.remove(entry));
            Ok::<_, StoreError>(())
        })?;
    }
    let mut rows = disk.scan(&keys::records(keys::LISTED, &[])).peekable();
    while rows.peek().is_some() {
        let part = rows.by_ref().take(OPENING_STEP).collect::<Result<Vec<Pair>, _>>()?;
        // A reader is to get the error of a record that cannot be read.
        let is_deleted = |value: &[u8]| decode_record(value).is_ok_and(|record| record.is_deleted());
        let present = part.into_iter().filter(|(_, value)| !is_deleted(value));
        let entries: Vec<_> =
            present.filter_map(|(row, _)| Some(keys::present(&keys::record_key(&row)?))).collect();
        disk.transact_blocking(move |transaction| {
            entries.into_iter().try_for_each(|entry| transaction.put(entry, vec![FORMAT])).map_err(StoreError::from)
        })?;
    }
    Ok(())
}

/// The records of these rows with a wrong entry, or none, in the index of present records: by damage, or a commit since they were read.
pub(crate) fn wrongly_listed(disk: &Disk, read: &[CountedRow]) -> Result<Vec<Key>, DiskError> {
    let rows = read.iter().filter(|row| row.is_readable);
    let rows = rows.filter_map(|row| Some((keys::record_key(&row.key)?, row.hash.is_some())));
    let mut rows: Vec<(Key, bool)> = rows.filter(|(key, _)| key.table == keys::LISTED).collect();
    let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
    let entries = disk.scan_range(&keys::present(first), &[&keys::present(last)[..], &[0]].concat());
    let entries: BTreeSet<Vec<u8>> = entries.map(|entry| Ok(entry?.0)).collect::<Result<_, DiskError>>()?;
    rows.retain(|(key, is_present)| entries.contains(&keys::present(key)) != *is_present);
    Ok(rows.into_iter().map(|(key, _)| key).collect())
}

/// Progress of the indexing.
pub(crate) struct Indexing(Mutex<Phase>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Entries of an earlier indexing are removed.
    Clear,
    /// Records from this key on are indexed; whether one before it could not be read.
    Records(Vec<u8>, bool),
    /// A record cannot be read, and may name any blob: none is removed.
    Unreadable,
    Done,
}

impl Indexing {
    /// The state for a store that is being opened.
    pub(crate) fn read(disk: &Disk, new: bool, openings: usize) -> Result<Self, StoreError> {
        let complete = is_complete(disk, keys::INDEXED, new, openings)?;
        Ok(Self(Mutex::new(if complete { Phase::Done } else { Phase::Clear })))
    }

    pub(crate) fn is_done(&self) -> bool {
        *lock(&self.0) == Phase::Done
    }
}

/// Writes the mark of an index after this many openings, this one included.
pub(crate) fn put_mark(transaction: &mut Transaction<'_>, mark: &[u8], openings: usize) -> Result<(), DiskError> {
    transaction.put(mark, codec::encode_upto(openings as u64))
}

impl Store {
    /// The records of the table [`codec::keys::LISTED`] whose id begins with `prefix`, as [`Self::rows`] has them, but none that is
    /// deleted as a whole: those are not read, however many there are.
    pub fn present_rows(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Key, Record), StoreError>> + Send + use<> {
        let (store, entries) = (self.clone(), self.disk().scan(&keys::present(&Key::new(keys::LISTED, prefix))));
        entries.filter_map(move |entry| {
            let key = entry.map(|(entry, _)| keys::present_key(&entry)).map_err(StoreError::from).transpose()?;
            // A record may have been removed since its entry was read.
            key.and_then(|key| Ok(store.get(&key)?.map(|record| (key, record)))).transpose()
        })
    }

    /// As [`Self::get`], for the table [`codec::keys::LISTED`]: `None` also for a record that is deleted as a whole, which is not read.
    pub fn get_present(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        match self.disk().get(&keys::present(key))? {
            Some(_) => self.get(key),
            None => Ok(None),
        }
    }

    /// Mends the entries of these records in the index of present records, as the records are now.
    pub(crate) async fn mend_entries(&self, records: Vec<Key>) -> Result<(), StoreError> {
        let mend = move |transaction: &mut Transaction<'_>| {
            let mut mended = 0;
            for key in records {
                let bytes = transaction.get(&keys::record(&key))?;
                let Some(Ok(record)) = bytes.map(|bytes| decode_record(&bytes)) else { continue };
                let entry = keys::present(&key);
                match (row_hash(&key, &record).is_some(), transaction.get(&entry)?.is_some()) {
                    (true, false) => transaction.put(entry, vec![FORMAT])?,
                    (false, true) => transaction.remove(entry),
                    _ => continue,
                }
                mended += 1;
            }
            Ok::<_, StoreError>(mended)
        };
        match self.disk().transact(mend).await? {
            0 => {}
            mended => tracing::error!(mended, "the disk had damaged the index of present messages; it was mended"),
        }
        Ok(())
    }

    /// Does a part of the indexing of a store that an earlier release wrote to; true when the indexing is complete. One caller at a time.
    pub async fn index_step(&self) -> Result<bool, StoreError> {
        let phase = lock(&self.indexing().0).clone();
        let next = match phase {
            Phase::Done | Phase::Unreadable => return Ok(true),
            Phase::Clear => self.clear_step().await?,
            Phase::Records(from, unreadable) => self.records_step(from, unreadable).await?,
        };
        let ended = matches!(next, Phase::Done | Phase::Unreadable);
        *lock(&self.indexing().0) = next;
        Ok(ended)
    }

    async fn clear_step(&self) -> Result<Phase, StoreError> {
        let mut old = Vec::new();
        // The notes of blobs without a reference stay: their grace is running. A reference that is added removes its note.
        for prefix in [keys::DELETED, keys::REFERENCES] {
            let entries = self.disk().scan(prefix).take(STEP).map(|entry| Ok(entry?.0));
            old.extend(entries.collect::<Result<Vec<_>, StoreError>>()?);
        }
        if old.is_empty() {
            return Ok(Phase::Records(keys::RECORDS.to_vec(), false));
        }
        // Entries of a concurrent commit may be among them: its record is indexed again in the next phase.
        let remove = move |transaction: &mut Transaction<'_>| {
            old.into_iter().for_each(|key| transaction.remove(key));
            Ok::<_, StoreError>(())
        };
        self.disk().transact(remove).await?;
        Ok(Phase::Clear)
    }

    async fn records_step(&self, from: Vec<u8>, mut unreadable: bool) -> Result<Phase, StoreError> {
        let rows = self.disk().scan_range(&from, keys::RECORDS_END).take(STEP).map(|entry| Ok(entry?.0));
        let rows = rows.collect::<Result<Vec<_>, StoreError>>()?;
        let Some(last) = rows.last() else {
            if unreadable {
                tracing::warn!("a record cannot be read: audio of deleted messages stays on this disk");
                return Ok(Phase::Unreadable);
            }
            let openings = self.own_origins().len();
            self.disk()
                .transact(move |transaction| Ok::<_, StoreError>(put_mark(transaction, keys::INDEXED, openings)?))
                .await?;
            return Ok(Phase::Done);
        };
        let next = [&last[..], &[0]].concat();
        let index = move |transaction: &mut Transaction<'_>| {
            let mut all_read = true;
            for row in rows {
                // As it is now: a commit may have changed it since it was listed.
                let (Some(key), Some(bytes)) = (keys::record_key(&row), transaction.get(&row)?) else { continue };
                match decode_record(&bytes) {
                    Ok(record) => Indexed::of(&record).add(transaction, &key)?,
                    Err(_) => all_read = false,
                }
            }
            Ok::<_, StoreError>(all_read)
        };
        unreadable |= !self.disk().transact(index).await?;
        Ok(Phase::Records(next, unreadable))
    }
}
