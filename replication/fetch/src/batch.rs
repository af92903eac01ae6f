//! Blobs that are asked for together.

use twinbox_replication_core::BlobRef;

use crate::MAX_BLOB;

/// Maximum blobs and bytes of one request; a longer blob has a request of its own. One sync makes them durable.
const BATCH: (usize, u64) = (512, 4 * 1024 * 1024);

/// Blobs that one request asks for.
#[derive(Debug, Default)]
pub struct Batch {
    /// The blobs.
    pub blobs: Vec<BlobRef>,
    /// Their length; one that is too long counts as the longest that is fetched.
    pub bytes: u64,
}

/// Short blobs together, large ones each in a batch of its own.
pub fn batches(blobs: Vec<BlobRef>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for blob in blobs {
        let length = blob.length.min(MAX_BLOB);
        let has_room = |batch: &&mut Batch| batch.blobs.len() < BATCH.0 && batch.bytes + length <= BATCH.1;
        match batches.last_mut().filter(has_room) {
            Some(batch) => {
                batch.blobs.push(blob);
                batch.bytes += length;
            }
            None => batches.push(Batch { blobs: vec![blob], bytes: length }),
        }
    }
    batches
}

#[cfg(test)]
#[path = "../tests/unit/batch.rs"]
mod tests;
