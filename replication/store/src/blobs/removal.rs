//! Removal of blobs that are in no use.

use std::{collections::HashSet, time::Duration};

use twinbox_disk::{Transaction, Urgency};
use twinbox_ids::BlobHash;

use crate::{
    StoreError,
    blobs::Blobs,
    index::Access,
    keys,
    pieces::{self, Row},
    store::{IN_A_TRANSACTION, lock},
};

impl Blobs {
    /// Removes the blobs among these that are not in use, a few in each transaction: neither pinned, nor named by a record, nor
    /// among the `unfiled` ones, which are read once no caller can begin to use these. Returns the lengths of the removed blobs.
    pub(crate) fn remove_unless_used(
        &self,
        hashes: &[BlobHash],
        grace: Duration,
        unfiled: impl FnOnce() -> HashSet<BlobHash>,
    ) -> Result<Vec<u64>, StoreError> {
        self.writable()?;
        self.0.uses.removing(hashes, grace, |free| {
            let unfiled = unfiled();
            let free: Vec<_> = free.iter().filter(|hash| !unfiled.contains(*hash)).copied().collect();
            let mut lengths = Vec::with_capacity(free.len());
            for part in free.chunks(IN_A_TRANSACTION) {
                match self.remove(part.to_vec()) {
                    Ok(removed) => lengths.extend(removed),
                    Err(error) if lengths.is_empty() => return Err(error),
                    // The caller counts the removed blobs. The next attempt meets the error again.
                    Err(_) => break,
                }
            }
            Ok(lengths)
        })
    }

    fn remove(&self, hashes: Vec<BlobHash>) -> Result<Vec<u64>, StoreError> {
        let blobs = self.clone();
        let removed =
            self.0.disk.at(Urgency::Background).transact_blocking(move |transaction: &mut Transaction<'_>| {
                let mut removed = Vec::with_capacity(hashes.len());
                for hash in hashes {
                    // As of now: a commit may have named it since.
                    if transaction.any(&keys::references(&hash))? {
                        continue;
                    }
                    // A loose blob has no row, or the same content again.
                    let loose = lock(&blobs.0.loose).get(&hash).map(|loose| loose.row.clone());
                    let row = pieces::remove(transaction, &hash)?.or(loose);
                    transaction.remove(keys::unreferenced(&hash));
                    removed.push((hash, row));
                }
                Ok::<Vec<(BlobHash, Option<Row>)>, StoreError>(removed)
            })?;
        let mut loose = lock(&self.0.loose);
        for (hash, row) in &removed {
            let loose = loose.remove(hash).map(|loose| loose.row);
            self.0.live.removed(row.iter().chain(&loose).flat_map(|row| &row.pieces));
        }
        Ok(removed.into_iter().map(|(_, row)| row.map_or(0, |row| row.length)).collect())
    }
}
