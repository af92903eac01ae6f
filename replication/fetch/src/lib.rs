//! Blobs from node to node: the side that asks and the side that serves.
//!
//! A change names its audio by hash. A node that lacks the audio makes it from the live chunks that are here, or asks the
//! other nodes ([`Fetcher`]): one request names many blobs, and their answers follow each other in one stream, so that a
//! short message costs its bytes and not a round trip. The received blobs are verified and stored together. [`serve`] answers.

mod ask;
mod batch;
mod error;
mod fetcher;
mod no_space;
mod receipt;
mod serve;

pub use batch::{Batch, batches};
pub use error::TooLarge;
pub use fetcher::{Fetcher, Got, Nodes};
pub use serve::{BlobsRequest, serve};

/// The largest blob that is fetched, in bytes; an hour of G.711 is 29 MB.
pub const MAX_BLOB: u64 = 128 * 1024 * 1024;

/// Maximum number of blobs in one request.
pub const MAX_ASKED: usize = 1_024;

/// Bytes of audio from which on a message of an answer is full.
const MESSAGE: usize = 256 * 1024;
