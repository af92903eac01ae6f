//! The blobs with bytes in each pack: compaction asks for them.
//!
//! The store has them in memory only, each as the first eight bytes of its hash. On disk a blob took a row for each of its packs: more than
//! a third of all writes while thousands recorded. The price is that the first compaction of a process reads the places of all blobs.

use std::collections::HashMap;

use twinbox_disk::{DiskError, Transaction, Urgency};
use twinbox_ids::BlobHash;
use twinbox_packs::{Label, frame_bytes};

use super::{Blobs, lost_packs};
use crate::{StoreError, codec::FORMAT, keys, pieces::Row, store::lock};

/// Notes that are removed in one transaction: commits of callers wait for it.
const AT_A_TIME: usize = 256;

/// The blobs of each pack, and their bytes, by the rows.
type Listed = HashMap<u32, (Vec<Label>, u64)>;

impl Blobs {
    /// Writes the places of a blob, instead of those before, and notes their packs.
    pub(crate) fn put_row(
        &self,
        transaction: &mut Transaction<'_>,
        hash: &BlobHash,
        row: &Row,
    ) -> Result<(), DiskError> {
        // Before the row is visible. If the row is never written, the label is superfluous, which is harmless.
        self.0.contents.add(label(hash), row.packs());
        transaction.put(keys::blob(hash), row.encode())?;
        for pack in row.packs() {
            if !self.is_noted(pack)? && transaction.get(&keys::pack(pack))?.is_none() {
                transaction.put(keys::pack(pack), vec![FORMAT])?;
            }
        }
        Ok(())
    }

    /// True when the index notes a pack, durably; a note that only the transaction sees may still fail.
    fn is_noted(&self, pack: u32) -> Result<bool, DiskError> {
        let is_known = lock(&self.0.noted).contains(&pack);
        let is_noted = is_known || self.0.disk.get(&keys::pack(pack))?.is_some();
        if is_noted && !is_known {
            lock(&self.0.noted).insert(pack);
        }
        Ok(is_noted)
    }

    /// The blobs with bytes in a pack, and their places. Waits for the disk.
    pub(crate) fn in_pack(&self, pack: u32) -> Result<Vec<(BlobHash, Row)>, StoreError> {
        self.list_contents()?;
        let mut blobs = Vec::new();
        for label in self.0.contents.of(pack) {
            for entry in self.0.disk.scan(&keys::blobs(&label)) {
                let (key, value) = entry?;
                let (Some(hash), row) = (keys::blob_hash(&key), Row::decode(&value)?) else { continue };
                if row.in_pack(pack).next().is_some() {
                    blobs.push((hash, row));
                }
            }
        }
        Ok(blobs)
    }

    /// Reads the places of all blobs, unless that was done, and counts the bytes of blobs in each pack.
    pub(crate) fn list_contents(&self) -> Result<(), StoreError> {
        let mut listed = lock(&self.0.listed);
        if *listed {
            return Ok(());
        }
        let mut packs = self.packs().list();
        packs.retain(|pack| self.0.live.is_to_be_counted(*pack));
        packs.iter().for_each(|pack| self.0.live.begin(*pack));
        let found = self.list_rows();
        for pack in packs {
            let live = found.as_ref().ok().map(|found| found.get(&pack).map_or(0, |(_, live)| *live));
            self.0.live.end(pack, live);
        }
        for (pack, (blobs, _)) in found? {
            self.0.contents.add_all(pack, blobs);
        }
        *listed = true;
        // Lost packs whose audio was all fetched again, or purged.
        let lost = lost_packs(self.packs(), &self.0.disk)?;
        lost.into_iter()
            .filter(|pack| self.0.contents.of(*pack).is_empty())
            .try_for_each(|pack| self.forget_pack(pack))
    }

    fn list_rows(&self) -> Result<Listed, StoreError> {
        let mut packs = Listed::new();
        for entry in self.0.disk.scan(keys::BLOBS) {
            let (key, value) = entry?;
            let Some(hash) = keys::blob_hash(&key) else { continue };
            // An unreadable row may name any pack.
            let row = Row::decode(&value).inspect_err(|error| {
                tracing::error!(blob = %hash, %error, "no pack is compacted until this blob is stored again or removed");
            })?;
            for pack in row.packs() {
                packs.entry(pack).or_default().0.push(label(&hash));
            }
            for piece in &row.pieces {
                packs.entry(piece.pack).or_default().1 += frame_bytes(piece.length);
            }
        }
        Ok(packs)
    }

    /// Removes what the index notes of a pack that no row names; in a store of an earlier release that is a row for each blob.
    pub(crate) fn forget_pack(&self, pack: u32) -> Result<(), StoreError> {
        loop {
            let notes = self.0.disk.scan(&keys::pack(pack)).take(AT_A_TIME).map(|note| note.map(|(key, _)| key));
            let notes = notes.collect::<Result<Vec<_>, _>>()?;
            if notes.is_empty() {
                self.0.contents.forget(pack);
                return Ok(());
            }
            lock(&self.0.noted).remove(&pack);
            self.0.disk.at(Urgency::Background).transact_blocking(move |transaction| {
                notes.into_iter().for_each(|note| transaction.remove(note));
                Ok::<_, StoreError>(())
            })?;
        }
    }
}

/// The first bytes of a hash: its row is found by them.
fn label(hash: &BlobHash) -> Label {
    hash.0.first_chunk().copied().unwrap_or_default()
}
