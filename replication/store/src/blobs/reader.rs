//! Reading of blobs for another node: many, in the order of their hashes.

use bytes::Bytes;
use twinbox_disk::InOrder;
use twinbox_ids::BlobHash;

use super::Blobs;
use crate::{StoreError, keys, pieces::Row};

/// Reads blobs in the order of their hashes. It reads places ahead and does not see later changes of them: each message has a new reader.
pub struct BlobReader<'a> {
    blobs: &'a Blobs,
    rows: InOrder<'a>,
}

impl Blobs {
    /// A reader of blobs in the order of their hashes; others are read too, each by a search of its own.
    pub fn reader(&self) -> BlobReader<'_> {
        BlobReader { blobs: self, rows: self.rows_in_order() }
    }
}

impl BlobReader<'_> {
    /// As [`Blobs::read_part`], of a blob that stays as by [`Blobs::keep`]; `None` for one that is not here.
    pub fn keep_and_read(
        &mut self,
        hash: &BlobHash,
        start: u64,
        most: u64,
    ) -> Result<Option<(Bytes, bool)>, StoreError> {
        if !self.blobs.0.uses.keep(hash) {
            return Ok(None);
        }
        // The places of a loose blob are in no row, or the row names damaged bytes.
        let row = if self.blobs.is_loose(hash) { None } else { self.rows.get(&keys::blob(hash))? };
        let row = row.and_then(|row| Row::decode(&row).ok());
        if let Some(row) = row.filter(|row| start <= row.length) {
            let end = row.length.min(start.saturating_add(most));
            if let Ok(bytes) = self.blobs.0.packs.read_range(&row.pieces, &(start..end)) {
                return Ok(Some((bytes.into(), end == row.length)));
            }
        }
        // Loose, stored or moved by compaction since the row was read, or not readable: a search by itself decides.
        if self.blobs.has(hash) { self.blobs.read_part(hash, start, most).map(Some) } else { Ok(None) }
    }
}
