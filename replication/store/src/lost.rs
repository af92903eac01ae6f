//! Audio that changes were applied without, or rows copied without, since no node that could be asked had it (rule D12). The notes are
//! durable with the change, or before the row, so that the audio is requested and reported until it has come, over any number of starts.

use twinbox_disk::Transaction;
use twinbox_ids::BlobHash;
use twinbox_replication_core::BlobRef;

use crate::{Store, StoreError, blobs::Blobs, codec, keys};

/// Notes the blobs that are not here.
pub(crate) fn note_lost(
    transaction: &mut Transaction<'_>,
    blobs: &Blobs,
    lost: &[BlobRef],
) -> Result<(), StoreError> {
    for blob in lost {
        if !blobs.is_loose(&blob.hash) && transaction.get(&keys::blob(&blob.hash))?.is_none() {
            transaction.put(keys::lost(&blob.hash), codec::encode_blob(blob))?;
        }
    }
    Ok(())
}

impl Store {
    /// The blobs that changes were applied without and that were not found since.
    pub fn lost_blobs(&self) -> Result<Vec<BlobRef>, StoreError> {
        let mut lost = Vec::new();
        for entry in self.disk().scan(keys::LOST) {
            let format = |source| StoreError::Format { what: "a note of missing audio", source };
            lost.push(codec::decode_blob(&entry?.1).map_err(format)?);
        }
        Ok(lost)
    }

    /// Removes the note of a blob that is here, or that no record names any more.
    pub async fn forget_lost(&self, hash: BlobHash) -> Result<(), StoreError> {
        let forget = move |transaction: &mut Transaction<'_>| {
            transaction.remove(keys::lost(&hash));
            Ok::<_, StoreError>(())
        };
        Ok(self.disk().transact(forget).await?)
    }
}
