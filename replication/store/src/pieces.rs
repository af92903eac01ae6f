//! Rows of blobs: the places of a blob's bytes in the packs, and the packs that they name.

use std::collections::BTreeSet;

use twinbox_disk::{DiskError, Transaction};
use twinbox_ids::BlobHash;
use twinbox_packs::Extent;

use crate::{
    StoreError,
    codec::{DecodeError, FORMAT},
    keys,
    store::unversioned,
};

const WHAT: &str = "the places of a blob";

/// The places of a blob's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Time of writing, in milliseconds since 1970.
    pub(crate) written: u64,
    /// Length of the blob in bytes: the sum of its pieces.
    pub(crate) length: u64,
    /// The pieces, in order, from offset 0 on.
    pub(crate) pieces: Vec<Extent>,
}

impl Row {
    pub(crate) fn new(pieces: Vec<Extent>, written: u64) -> Self {
        let length = pieces.iter().map(|piece| u64::from(piece.length)).sum();
        Self { written, length, pieces }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 16 + self.pieces.len() * Extent::BYTES);
        bytes.push(FORMAT);
        bytes.extend(self.written.to_be_bytes());
        bytes.extend(self.length.to_be_bytes());
        bytes.extend(self.pieces.iter().flat_map(|piece| piece.to_bytes()));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let invalid = || StoreError::Format { what: WHAT, source: DecodeError::Invalid("length") };
        let rest = unversioned(bytes, WHAT)?;
        let (written, rest) = rest.split_first_chunk::<8>().ok_or_else(invalid)?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(invalid)?;
        let (pieces, []) = rest.as_chunks() else { return Err(invalid()) };
        let row = Self::new(pieces.iter().map(Extent::from_bytes).collect(), u64::from_be_bytes(*written));
        if row.length == u64::from_be_bytes(*length) { Ok(row) } else { Err(invalid()) }
    }

    /// The packs with bytes of the blob.
    pub(crate) fn packs(&self) -> BTreeSet<u32> {
        self.pieces.iter().map(|piece| piece.pack).collect()
    }

    /// The pieces in one pack.
    pub(crate) fn in_pack(&self, pack: u32) -> impl Iterator<Item = &Extent> {
        self.pieces.iter().filter(move |piece| piece.pack == pack)
    }
}

/// Removes the places of a blob. Returns them; `None` if there are none that can be read.
pub(crate) fn remove(transaction: &mut Transaction<'_>, hash: &BlobHash) -> Result<Option<Row>, DiskError> {
    let Some(bytes) = transaction.get(&keys::blob(hash))? else { return Ok(None) };
    transaction.remove(keys::blob(hash));
    Ok(Row::decode(&bytes).ok())
}

#[cfg(test)]
#[path = "../tests/unit/pieces.rs"]
mod tests;
