//! Removal of deleted records and of audio that no record names (rules D2, D3, D9).
//!
//! This module removes the records and blobs that its caller names, and checks only the state of this store: that a record
//! is as the caller saw it, that a blob has no reference, is old enough and is not in use. The caller decides that the deletion is
//! stable on all members.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use twinbox_disk::{Transaction, Urgency};
use twinbox_ids::{BlobHash, Timestamp};
use twinbox_replication_core::{Key, Record, Table};

use crate::{
    Store, StoreError,
    blobs::blocking,
    codec,
    draft::decode_record,
    index::Indexed,
    keys,
    store::{IN_A_TRANSACTION, versioned},
};

/// Blobs whose uses are looked at together.
const AT_A_TIME: usize = 64;

/// A record with a tombstone as it was read; a part may outlive the tombstone ([`Record::is_deleted`]).
#[derive(Debug, Clone)]
pub struct DeletedRow {
    /// Its key.
    pub key: Key,
    /// The record.
    pub record: Record,
    /// Time by the clock of this node at which its tombstone was first seen here.
    pub seen: Timestamp,
    /// Its bytes: a record that has changed since is not removed.
    bytes: Vec<u8>,
}

/// The extent of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The record and its audio. Only for a record that no member writes again once it knows of the deletion.
    Whole,
    /// The audio only: the record stays, because its key is remembered or used again.
    Audio,
}

/// Number of records that were removed, as a whole or in part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PurgedRows {
    /// Records that were removed.
    pub whole: u64,
    /// Records that stay and gave up their audio.
    pub audio: u64,
}

/// Audio that was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FreedSpace {
    /// Number of blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Counts of removals since the start of the process.
#[derive(Debug, Default)]
pub struct PurgeCounts {
    /// Records.
    pub records: AtomicU64,
    /// Blobs.
    pub blobs: AtomicU64,
    /// Bytes of the blobs.
    pub bytes: AtomicU64,
    /// One compaction at a time.
    pub(crate) compacting: tokio::sync::Mutex<()>,
}

impl std::ops::AddAssign for FreedSpace {
    fn add_assign(&mut self, other: Self) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
    }
}

impl Store {
    /// Records of a table that have a tombstone, with an id above `after`, in order, at most `limit`; those that gave up
    /// their audio are left out. The cost grows with the number of such records. May show a delete whose sync is still under way.
    pub fn deleted_rows(
        &self,
        table: Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        let behind = |id: &[u8]| [&keys::deleted(&Key::new(table, id))[..], &[0]].concat();
        let from = after.map_or_else(|| keys::deleted(&Key::new(table, "")), behind);
        let mut rows = Vec::new();
        for entry in self.disk().scan_range(&from, &keys::deleted_end(table)) {
            if rows.len() >= limit {
                break;
            }
            let (mark, value) = entry?;
            let Some(key) = keys::deleted_key(&mark) else { continue };
            // A record without a time of its own stays.
            let Ok(seen) = time(&value, "the time at which a deletion was seen") else { continue };
            let Some(bytes) = self.disk().get(&keys::record(&key))? else { continue };
            // An unreadable record stays.
            let Ok(record) = decode_record(&bytes) else { continue };
            rows.push(DeletedRow { key, record, seen, bytes });
        }
        Ok(rows)
    }

    /// Removes these records, or their audio, durably; one that has changed since it was read stays. Makes no change that peers see. The
    /// deletion must be stable: a change by a member that did not know of it would create the record again, in part.
    pub async fn purge(&self, rows: Vec<(DeletedRow, Removal)>) -> Result<PurgedRows, StoreError> {
        let (disk, mut purged) = (self.disk().at(Urgency::Background), PurgedRows::default());
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let part: Vec<_> = rows.by_ref().take(IN_A_TRANSACTION).collect();
            let removed = disk.transact(move |transaction| purge(transaction, part)).await?;
            purged.whole += removed.whole;
            purged.audio += removed.audio;
            self.purge_counts().records.fetch_add(removed.whole, Relaxed);
        }
        Ok(purged)
    }

    /// The time up to which records age for the purge, as last stored; `None`: it was never stored.
    pub fn purge_clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let stored = self.disk().get(keys::PURGE_CLOCK)?;
        stored.map(|bytes| time(&bytes, "the clock of the purge")).transpose()
    }

    /// Stores the time up to which records age for the purge.
    pub async fn set_purge_clock(&self, to: Timestamp) -> Result<(), StoreError> {
        let write = move |transaction: &mut Transaction<'_>| {
            Ok::<_, StoreError>(transaction.put(keys::PURGE_CLOCK, versioned(&to.0.to_be_bytes()))?)
        };
        Ok(self.disk().transact(write).await?)
    }

    /// Removes blobs whose last reference was removed longer than `grace` before `now`: looks at `limit` of them behind
    /// `cursor`, and moves it; after the last one it begins again.
    pub async fn remove_unreferenced(
        &self,
        cursor: &mut Option<BlobHash>,
        grace: Duration,
        now: Timestamp,
        limit: usize,
    ) -> Result<FreedSpace, StoreError> {
        let (store, after) = (self.clone(), *cursor);
        let (freed, next) = blocking(move || {
            let behind = |hash| [&keys::unreferenced(&hash)[..], &[0]].concat();
            let from = after.map_or_else(|| keys::UNREFERENCED.to_vec(), behind);
            let mut noted = Vec::new();
            for entry in store.disk().scan_range(&from, keys::UNREFERENCED_END).take(limit) {
                noted.extend(keys::unreferenced_hash(&entry?.0));
            }
            let freed = store.remove_blobs(&noted, grace, now)?;
            let next = noted.last().copied().filter(|_| noted.len() == limit);
            Ok((freed, next))
        })
        .await?;
        *cursor = next;
        Ok(freed)
    }

    /// Removes blobs that no record has named for `grace` until `now`: looks at `limit` of all behind `cursor`, and moves
    /// it; after the last one it begins again. Blobs whose change was never committed are found only so.
    pub async fn remove_orphan_blobs(
        &self,
        cursor: &mut Option<BlobHash>,
        grace: Duration,
        now: Timestamp,
        limit: usize,
    ) -> Result<FreedSpace, StoreError> {
        let (store, after) = (self.clone(), *cursor);
        let (freed, next) = blocking(move || {
            let behind = |hash| [&keys::blob(&hash)[..], &[0]].concat();
            let from = after.map_or_else(|| keys::BLOBS.to_vec(), behind);
            let mut found = Vec::new();
            for entry in store.disk().scan_range(&from, keys::BLOBS_END).take(limit) {
                found.extend(keys::blob_hash(&entry?.0));
            }
            let next = found.last().copied().filter(|_| found.len() == limit);
            // Blobs without a row are few.
            if after.is_none() {
                found.extend(store.blobs().loose());
            }
            Ok((store.remove_blobs(&found, grace, now)?, next))
        })
        .await?;
        *cursor = next;
        Ok(freed)
    }

    /// Removes the blobs among these that are not in use and cannot be again. Their bytes stay in the packs until compaction.
    fn remove_blobs(&self, hashes: &[BlobHash], grace: Duration, now: Timestamp) -> Result<FreedSpace, StoreError> {
        let mut freed = FreedSpace::default();
        for part in hashes.chunks(AT_A_TIME) {
            let mut unused = Vec::with_capacity(part.len());
            for hash in part {
                // A record that cannot be read may name it.
                if !self.is_indexed() || self.health().set_aside > 0 {
                    return Ok(freed);
                }
                let referenced = self.is_referenced(hash);
                match referenced.and_then(|named| Ok(!named && self.is_unused_for(hash, grace, now)?)) {
                    Ok(true) => unused.push(*hash),
                    Ok(false) => {}
                    // This blob stays; the others are removed all the same.
                    Err(error) => {
                        tracing::warn!(blob = %hash, %error, "unused audio cannot be examined, and stays")
                    }
                }
            }
            for bytes in self.blobs().remove_unless_used(&unused, grace, || self.recordings().unfiled())? {
                freed += FreedSpace { blobs: u64::from(bytes > 0), bytes };
                self.purge_counts().blobs.fetch_add(u64::from(bytes > 0), Relaxed);
                self.purge_counts().bytes.fetch_add(bytes, Relaxed);
            }
        }
        Ok(freed)
    }

    /// True when every record is in the index of references: until then no blob is removed.
    pub fn is_indexed(&self) -> bool {
        self.indexing().is_done()
    }

    /// True when a record here names the blob, and was not purged.
    pub fn is_referenced(&self, hash: &BlobHash) -> Result<bool, StoreError> {
        Ok(self.disk().scan(&keys::references(hash)).next().transpose()?.is_some())
    }

    /// Whether the blob has been in no use for `grace`: since its last reference, but not before it was written.
    fn is_unused_for(&self, hash: &BlobHash, grace: Duration, now: Timestamp) -> Result<bool, StoreError> {
        let note = self.disk().get(&keys::unreferenced(hash))?;
        let note = note.map_or(Ok(Timestamp(0)), |bytes| time(&bytes, "the time of a blob's last reference"))?.0;
        let written = match self.blobs().written(hash) {
            // Places that cannot be read are no reason to keep them.
            Err(StoreError::Format { .. }) => 0,
            written => written?,
        };
        let since = note.max(written);
        Ok(since.saturating_add(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)) <= now.0)
    }
}

fn purge(transaction: &mut Transaction<'_>, rows: Vec<(DeletedRow, Removal)>) -> Result<PurgedRows, StoreError> {
    let mut purged = PurgedRows::default();
    for (row, removal) in rows {
        let key = keys::record(&row.key);
        if transaction.get(&key)?.as_ref() != Some(&row.bytes) {
            continue;
        }
        Indexed::of(&row.record).remove(transaction, &row.key)?;
        match removal {
            Removal::Whole => {
                transaction.remove(key);
                purged.whole += 1;
            }
            Removal::Audio => purged.audio += 1,
        }
    }
    Ok(purged)
}

/// A time as the indexes hold it.
fn time(bytes: &[u8], what: &'static str) -> Result<Timestamp, StoreError> {
    codec::decode_upto(Some(bytes)).map(Timestamp).map_err(|source| StoreError::Format { what, source })
}
