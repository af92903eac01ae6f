//! Blobs: immutable audio named by its hash. A row of the index has the places of its bytes in the packs.
//!
//! A blob is here when it has a row, or is *loose*: the audio of a sealed take, which is durable in the packs, and whose
//! row is written in the transaction of the first change that names it.

mod contents;
mod reader;
mod removal;
mod storing;
mod syncing;
mod uses;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    ops::Range,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use twinbox_clock::{BootInstant, wall};
use twinbox_disk::{Disk, DiskError, Folder, InOrder, Need, Reserve, TransactError, Transaction};
use twinbox_ids::BlobHash;
use twinbox_packs::{Contents, Extent, LiveBounds, PackError, Packs};
use twinbox_replication_core::{BlobRef, Change};

pub use self::reader::BlobReader;
use self::{syncing::Syncing, uses::Uses};
use crate::{
    StoreError,
    audio::stored_floor,
    index::Access,
    keys,
    pieces::Row,
    store::{lock, versioned},
};

/// The packs of a store.
pub(crate) type AudioPacks = Packs<Folder>;

/// Bytes that must be free for a new pack: its own, and those that no new file takes.
const NEW_PACK: u64 = 48 * 1024 * 1024;

/// The blobs of this node. A blob that is here is complete and durable.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    packs: AudioPacks,
    disk: Disk,
    reserve: Reserve,
    /// Packs that rows name and that were missing at the start: audio in them is not here.
    lost: HashSet<u32>,
    loose: Mutex<HashMap<BlobHash, Loose>>,
    floor: Mutex<Floor>,
    uses: Uses,
    live: LiveBounds,
    contents: Contents,
    /// Packs that the index notes: the note is durable.
    noted: Mutex<HashSet<u32>>,
    syncing: Syncing,
    /// Whether `contents` has all blobs. Held while their rows are read.
    listed: Mutex<bool>,
}

/// A blob without a row, or whose row names damaged bytes.
#[derive(Clone)]
struct Loose {
    row: Row,
    /// The bytes that the blob's row names are damaged: this row replaces it.
    replaces: bool,
}

/// The first pack that a start must scan for takes in progress. A stored number that is too low costs time only.
#[derive(Default)]
struct Floor {
    now: Option<u32>,
    /// Written by a transaction that may not be durable yet.
    written: Option<u32>,
    stored: Option<u32>,
}

/// An append in progress: until this is dropped, no pack is removed that it may have written to.
pub(crate) struct Appending {
    blobs: Blobs,
    number: u64,
}

impl Drop for Appending {
    fn drop(&mut self) {
        self.blobs.0.uses.appended(self.number);
    }
}

impl Blobs {
    pub(crate) fn open(packs: AudioPacks, disk: Disk, reserve: Reserve) -> Result<Self, StoreError> {
        let lost = lost_packs(&packs, &disk)?;
        if !lost.is_empty() {
            tracing::error!(packs = ?lost, "packs of audio are missing: their audio is fetched from the other nodes");
        }
        let live = LiveBounds::new(&packs.list(), BootInstant::now());
        let (loose, floor, uses, contents, noted, syncing, listed) = Default::default();
        let inner =
            Inner { packs, disk, reserve, lost, loose, floor, uses, live, contents, noted, syncing, listed };
        let blobs = Self(Arc::new(inner));
        lock(&blobs.0.floor).stored = Some(blobs.stored_floor()?);
        Ok(blobs)
    }

    pub(crate) fn packs(&self) -> &AudioPacks {
        &self.0.packs
    }

    /// Upper bounds of the live bytes of packs.
    pub(crate) fn live_bounds(&self) -> &LiveBounds {
        &self.0.live
    }

    /// True when the blob is here, durably.
    pub fn has(&self, hash: &BlobHash) -> bool {
        let row = || self.row(hash).is_ok_and(|row| row.is_some_and(|row| !self.is_lost(&row)));
        !self.0.uses.is_removing(hash) && (self.is_loose(hash) || row())
    }

    /// Removes those that are here from blobs in the order of their hashes.
    pub(crate) fn retain_missing(&self, blobs: &mut Vec<BlobRef>) {
        let mut rows = self.rows_in_order();
        blobs.retain(|BlobRef { hash, .. }| {
            let mut row = || rows.get(&keys::blob(hash)).ok().flatten().and_then(|row| Row::decode(&row).ok());
            let is_here = self.is_loose(hash) || row().is_some_and(|row| !self.is_lost(&row));
            self.0.uses.is_removing(hash) || !is_here
        });
    }

    /// The rows of blobs that are looked for in the order of their hashes.
    fn rows_in_order(&self) -> InOrder<'_> {
        InOrder::new(&self.0.disk, keys::BLOBS_END)
    }

    /// As [`Self::has`], for a caller that relies on the answer: a blob that is here stays for an hour, even if no record names it.
    pub fn keep(&self, hash: &BlobHash) -> bool {
        self.0.uses.keep(hash) && self.has(hash)
    }

    /// True while the blob is being stored or removed: it is not certain yet whether it will be here.
    pub fn is_changing(&self, hash: &BlobHash) -> bool {
        self.0.uses.is_changing(hash)
    }

    /// A complete blob, whose hash is verified.
    pub async fn read(&self, hash: &BlobHash) -> Result<Bytes, StoreError> {
        let (blobs, hash) = (self.clone(), *hash);
        blocking(move || {
            let bytes = blobs.bytes_of(&hash, |length| 0..length)?;
            if hash_of(&bytes) == hash { Ok(bytes.into()) } else { Err(StoreError::Corrupt(hash)) }
        })
        .await
    }

    /// Bytes of a blob from `start` on, at most `most`, and whether they are its last. Not verified: the caller that joins
    /// the parts verifies the whole. Waits for the disk.
    pub fn read_part(&self, hash: &BlobHash, start: u64, most: u64) -> Result<(Bytes, bool), StoreError> {
        let mut is_last = false;
        let bytes = self.bytes_of(hash, |length| {
            let end = length.min(start.saturating_add(most));
            is_last = end == length;
            start..end
        })?;
        Ok((bytes.into(), is_last))
    }

    /// True when [`Self::add_loose`] waits for the disk, or for the end of a removal.
    pub(crate) fn waits_to_add(&self, hash: &BlobHash) -> bool {
        self.0.uses.is_removing(hash) || !matches!(self.row(hash), Ok(None))
    }

    /// Takes over sealed audio, which is durable at these places, in order, from offset 0. It is here from now on. `is_new`: by
    /// [`Self::waits_to_add`] it is not here; otherwise this waits for the disk.
    pub(crate) fn add_loose(&self, blob: BlobRef, pieces: Vec<Extent>, is_new: bool) {
        self.0.uses.keep_new(&blob.hash);
        let replaces = !is_new
            && match self.row(&blob.hash) {
                Ok(Some(row)) => !self.is_intact(&blob.hash, &row),
                Ok(None) => false,
                Err(_) => true,
            };
        lock(&self.0.loose).insert(blob.hash, Loose { row: Row::new(pieces, wall().0), replaces });
    }

    /// Gives a loose blob its row if a record names it already: its history came before its audio. The row is durable
    /// when this resolves, or, if that history is being committed just now, soon afterwards.
    pub(crate) async fn settle_named(&self, hash: &BlobHash) -> Result<(), StoreError> {
        let is_named = self.0.disk.scan(&keys::references(hash)).next().transpose()?.is_some();
        let (before, after, hash) = (self.clone(), self.clone(), *hash);
        let write = move |transaction: &mut Transaction<'_>| match transaction.any(&keys::references(&hash))? {
            true => Ok(before.write_row(transaction, &hash)?),
            false => Ok::<_, StoreError>(()),
        };
        if is_named {
            return Ok(self.0.disk.transact_then(write, move |()| after.row_written(&hash)).await?);
        }
        // Through the queue of the commits: a commit that is neither durable nor visible may name the blob. Not waited for.
        let done = move |result: Result<(), TransactError<StoreError>>| {
            if result.is_ok() {
                after.row_written(&hash);
            }
        };
        Ok(self.0.disk.submit(write, done).await?)
    }

    /// Writes the rows of the loose blobs that these changes name, and the floor if it has changed.
    pub(crate) fn write_rows(
        &self,
        transaction: &mut Transaction<'_>,
        changes: &[Change],
    ) -> Result<(), DiskError> {
        for blob in changes.iter().flat_map(|change| change.delta.blobs()) {
            self.write_row(transaction, &blob.hash)?;
        }
        let mut floor = lock(&self.0.floor);
        if let Some(now) = floor.now.filter(|now| !changes.is_empty() && Some(*now) != floor.stored) {
            transaction.put(keys::TAKES, versioned(&now.to_be_bytes()))?;
            floor.written = Some(now);
        }
        Ok(())
    }

    fn write_row(&self, transaction: &mut Transaction<'_>, hash: &BlobHash) -> Result<(), DiskError> {
        let Some(Loose { row, replaces }) = lock(&self.0.loose).get(hash).cloned() else { return Ok(()) };
        if replaces || transaction.get(&keys::blob(hash))?.is_none() {
            self.put_row(transaction, hash, &row)?;
        }
        Ok(())
    }

    /// Notes that the transaction with these changes is durable: the rows serve from now on.
    pub(crate) fn rows_written(&self, changes: &[Change]) {
        changes.iter().flat_map(|change| change.delta.blobs()).for_each(|blob| self.row_written(&blob.hash));
        let mut floor = lock(&self.0.floor);
        floor.stored = floor.written.or(floor.stored);
    }

    /// A blob that became loose after its row was to be written stays loose.
    fn row_written(&self, hash: &BlobHash) {
        let Some(loose) = lock(&self.0.loose).get(hash).cloned() else { return };
        let Ok(Some(row)) = self.row(hash) else { return };
        if row == loose.row || !loose.replaces {
            lock(&self.0.loose).remove(hash);
        }
        // The same audio came again.
        if row != loose.row && !loose.replaces {
            self.0.live.removed(&loose.row.pieces);
        }
    }

    pub(crate) fn is_loose(&self, hash: &BlobHash) -> bool {
        lock(&self.0.loose).contains_key(hash)
    }

    /// The loose blobs.
    pub(crate) fn loose(&self) -> Vec<BlobHash> {
        lock(&self.0.loose).keys().copied().collect()
    }

    /// True when a loose blob has bytes in this pack.
    pub(crate) fn has_loose_in(&self, pack: u32) -> bool {
        lock(&self.0.loose).values().any(|loose| loose.row.in_pack(pack).next().is_some())
    }

    /// Sets the first pack that a start must scan for takes in progress. The next commit stores it.
    pub(crate) fn set_floor(&self, pack: u32) {
        lock(&self.0.floor).now = Some(pack);
    }

    /// The first pack that a start must scan, as last set; the stored one may be behind.
    pub(crate) fn floor(&self) -> Option<u32> {
        lock(&self.0.floor).now
    }

    /// The first pack that a start must scan for takes in progress, as last stored.
    pub(crate) fn stored_floor(&self) -> Result<u32, StoreError> {
        stored_floor(&self.0.disk)
    }

    /// The stored places of a blob.
    pub(crate) fn row(&self, hash: &BlobHash) -> Result<Option<Row>, StoreError> {
        self.0.disk.get(&keys::blob(hash))?.map(|bytes| Row::decode(&bytes)).transpose()
    }

    /// The places of a blob that is here: of a loose one first, which becomes a row before it ceases to be loose.
    fn locate(&self, hash: &BlobHash) -> Result<Option<Row>, StoreError> {
        let loose = lock(&self.0.loose).get(hash).map(|loose| loose.row.clone());
        loose.map_or_else(|| self.row(hash), |row| Ok(Some(row)))
    }

    fn is_lost(&self, row: &Row) -> bool {
        !self.0.lost.is_empty() && row.pieces.iter().any(|piece| self.0.lost.contains(&piece.pack))
    }

    fn is_intact(&self, hash: &BlobHash, row: &Row) -> bool {
        self.0.packs.read_range(&row.pieces, &(0..row.length)).is_ok_and(|bytes| hash_of(&bytes) == *hash)
    }

    /// Bytes of a blob, not verified: those that `part` chooses by its length.
    fn bytes_of(&self, hash: &BlobHash, mut part: impl FnMut(u64) -> Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut tried = None;
        loop {
            let row = self.locate(hash)?.ok_or(StoreError::NoBlob(*hash))?;
            let range = part(row.length);
            if range.start > range.end || range.end > row.length {
                return Err(StoreError::NotThere { range });
            }
            match self.0.packs.read_range(&row.pieces, &range) {
                Ok(bytes) => return Ok(bytes),
                // Compaction may have moved it to other packs since its places were read.
                Err(PackError::NoPack { .. }) if tried.as_ref() != Some(&row) => tried = Some(row),
                Err(PackError::NoPack { .. } | PackError::Short { .. } | PackError::Range { .. }) => {
                    return Err(StoreError::Corrupt(*hash));
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// The time at which a blob was written, in milliseconds since 1970; 0 for one that is not here.
    pub(crate) fn written(&self, hash: &BlobHash) -> Result<u64, StoreError> {
        Ok(self.locate(hash)?.map_or(0, |row| row.written))
    }

    /// To be held from before an append until a row, a take or a loose blob names its places: compaction removes no pack
    /// that the append may have written to. `stored`: the blob that is being stored.
    pub(crate) fn appending(&self, stored: Option<BlobHash>) -> Appending {
        let pack = self.0.packs.active().unwrap_or(0);
        Appending { blobs: self.clone(), number: self.0.uses.append(pack, stored) }
    }

    /// True when an append in progress may have written to this pack.
    pub(crate) fn is_appended_to(&self, pack: u32) -> bool {
        self.0.uses.first_append().is_some_and(|first| first <= pack)
    }

    /// Makes all appended bytes durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.0.packs.sync().map_err(|error| self.failed(error))
    }

    /// True when there is room to move audio from one pack to another.
    pub(crate) fn has_room(&self) -> bool {
        self.0.reserve.check(Need::Small).is_ok()
    }

    /// The failure after which the store refuses writes. The thread of the packs may meet it too: it breaks the whole store (rule A4).
    pub(crate) fn broken(&self) -> Option<String> {
        let packs = self.0.packs.broken();
        if let Some(detail) = packs.as_deref().filter(|_| self.0.disk.broken().is_none()) {
            self.0.disk.mark_broken(detail);
        }
        self.0.disk.broken().map(str::to_owned).or(packs)
    }

    pub(crate) fn writable(&self) -> Result<(), StoreError> {
        self.broken().map_or(Ok(()), |detail| Err(DiskError::Broken { detail }.into()))
    }

    /// The error of the store for one of the packs. A failed write or sync breaks the whole store (rule A4).
    pub(crate) fn failed(&self, error: PackError) -> StoreError {
        if let PackError::Broken { detail } = &error {
            self.0.disk.mark_broken(detail);
        }
        let free = || self.0.reserve.space().map_or(0, |space| space.free);
        pack_error(error, &self.0.disk, free).into()
    }
}

/// The error of the disk for one of the packs; `free`: bytes that are free on the disk.
pub(crate) fn pack_error(error: PackError, disk: &Disk, free: impl FnOnce() -> u64) -> DiskError {
    let dir = disk.dir().with_file_name("audio");
    match error {
        PackError::Broken { detail } => DiskError::Broken { detail },
        PackError::Full { .. } => {
            let free = free();
            DiskError::StoreFull { dir, free, needed: NEW_PACK.max(free.saturating_add(1)) }
        }
        PackError::Io { what, file, detail } => {
            DiskError::Io { what, path: dir.join(file), kind: io::ErrorKind::Other, detail }
        }
        error => DiskError::Io { what: "use", path: dir, kind: io::ErrorKind::Other, detail: error.to_string() },
    }
}

/// Packs that rows name and that are not in the folder.
fn lost_packs(packs: &AudioPacks, disk: &Disk) -> Result<HashSet<u32>, StoreError> {
    let here: BTreeSet<u32> = packs.list().into_iter().collect();
    let (mut lost, mut from) = (HashSet::new(), keys::PACKS.to_vec());
    // From pack to pack.
    while let Some(entry) = disk.scan_range(&from, keys::PACKS_END).next() {
        let Some(pack) = keys::pack_of(&entry?.0) else { break };
        if !here.contains(&pack) {
            lost.insert(pack);
        }
        let Some(next) = pack.checked_add(1) else { break };
        from = keys::pack(next);
    }
    Ok(lost)
}

pub(crate) fn hash_of(bytes: &[u8]) -> BlobHash {
    BlobHash(*blake3::hash(bytes).as_bytes())
}

/// Runs work that waits for the disk off the async runtime.
pub(crate) async fn blocking<R: Send + 'static>(
    f: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(StoreError::Closed))
}
