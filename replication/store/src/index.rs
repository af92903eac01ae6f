//! Indexes that purging needs: the records that name each blob, and the records with a tombstone. Each is written in the same
//! transaction as the record, so it is never wrong; for a store that an earlier release wrote to, it is made again in
//! steps ([`Store::index_step`]), and until that has ended no blob is removed.

use std::{collections::BTreeSet, sync::Mutex};

use twinbox_clock::wall;
use twinbox_disk::{Disk, DiskError, Pair, Transaction};
use twinbox_ids::{BlobHash, Stamp};
use twinbox_replication_core::{Key, Record};

use crate::{
    Store, StoreError,
    codec::{self, DecodeError, FORMAT},
    draft::decode_record,
    keys,
    store::{lock, unversioned, versioned},
    sums::{self, RowChange},
};

/// Entries that one step of the indexing reads: it holds up commits for a moment only.
const STEP: usize = 256;

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

/// The indexed properties of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Indexed {
    blobs: BTreeSet<BlobHash>,
    /// Stamp of its tombstone, whatever outlives that.
    tombstone: Option<Stamp>,
    /// Nothing outlives its tombstone.
    deleted: bool,
    /// Hash of its content, for the comparison of stores.
    content: Option<sums::Content>,
}

impl Indexed {
    pub(crate) fn of(record: &Record) -> Self {
        Self::with(record, &codec::encode_record(record))
    }

    fn with(record: &Record, encoded: &[u8]) -> Self {
        let blobs = record.blobs().map(|blob| blob.hash).collect();
        let tombstone = record.tombstone().map(|tombstone| tombstone.stamp);
        Self { blobs, tombstone, deleted: record.is_deleted(), content: sums::content_of(record, encoded) }
    }

    /// Writes the difference between a record as it was, `self`, and as it is `now`, which is `encoded` on disk; returns it for the
    /// sums.
    pub(crate) fn update(
        &self,
        access: &mut (dyn Access + '_),
        key: &Key,
        now: &Record,
        encoded: &[u8],
    ) -> Result<RowChange, DiskError> {
        let now = Self::with(now, encoded);
        // The blobs of a deleted record may have been given up: one that is present again names them again.
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
        Ok(RowChange::new(key, self.content, now.content))
    }

    /// Removes what the indexes have of a record. The sums have none of a deleted one.
    pub(crate) fn remove(&self, access: &mut (dyn Access + '_), key: &Key) -> Result<(), DiskError> {
        access.remove(keys::deleted(key));
        self.blobs.iter().try_for_each(|hash| remove_reference(access, hash, key))
    }

    /// Writes all of a record into the indexes.
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
    /// The state for a store that is being opened. A release that does not write the indexes adds an origin all the
    /// same: the mark counts those of the openings that wrote them.
    pub(crate) fn read(disk: &Disk, new: bool, openings: usize) -> Result<Self, StoreError> {
        let what = "the mark of the indexes";
        let complete = match disk.get(keys::INDEXED)? {
            Some(bytes) => {
                let invalid = || StoreError::Format { what, source: DecodeError::Invalid("length") };
                let counted: [u8; 8] = unversioned(&bytes, what)?.try_into().map_err(|_| invalid())?;
                u64::from_be_bytes(counted) == openings as u64
            }
            None => new,
        };
        Ok(Self(Mutex::new(if complete { Phase::Done } else { Phase::Clear })))
    }

    pub(crate) fn is_done(&self) -> bool {
        *lock(&self.0) == Phase::Done
    }

    /// The mark, after this many openings, this one included.
    pub(crate) fn put(openings: usize, transaction: &mut Transaction<'_>) -> Result<(), DiskError> {
        transaction.put(keys::INDEXED, versioned(&(openings as u64).to_be_bytes()))
    }
}

impl Store {
    /// Does a part of the indexing of a store that an earlier release wrote to; true when nothing is left to do. One
    /// caller at a time.
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
        // The notes of blobs without a reference stay: their time goes on. A reference that is added removes its note.
        for prefix in [keys::DELETED, keys::REFERENCES] {
            for entry in self.disk().scan(prefix).take(STEP) {
                old.push(entry?.0);
            }
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
        let mut rows = Vec::new();
        for entry in self.disk().scan_range(&from, keys::RECORDS_END).take(STEP) {
            rows.push(entry?.0);
        }
        let Some(last) = rows.last() else {
            if unreadable {
                tracing::warn!("a record cannot be read: audio of deleted messages stays on this disk");
                return Ok(Phase::Unreadable);
            }
            let openings = self.own_origins().len();
            self.disk()
                .transact(move |transaction| Ok::<_, StoreError>(Indexing::put(openings, transaction)?))
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
