//! Values of registers.

use std::fmt;

use serde::{Deserialize, Serialize};
use twinbox_ids::{BlobHash, RecordingId};

/// The value of a register. Its bytes may be private, so they are never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// Bytes with a meaning defined by the owner of the table.
    Bytes(Vec<u8>),
    /// A blob: a node shows the record only when the blob is there.
    Blob(BlobRef),
}

impl Value {
    /// The bytes, if it holds bytes.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Blob(_) => None,
        }
    }

    /// The blob, if it names one.
    pub fn blob(&self) -> Option<&BlobRef> {
        match self {
            Self::Bytes(_) => None,
            Self::Blob(blob) => Some(blob),
        }
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<BlobRef> for Value {
    fn from(blob: BlobRef) -> Self {
        Self::Blob(blob)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Blob(blob) => write!(f, "{blob:?}"),
        }
    }
}

/// Names a blob, and the recording whose live chunks are that blob, if there was one (rule C1): a peer that has the
/// chunks does not need the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// BLAKE3 of the content.
    pub hash: BlobHash,
    /// Length of the content in bytes.
    pub length: u64,
    /// Recording and take.
    pub recording: Option<(RecordingId, u32)>,
}
