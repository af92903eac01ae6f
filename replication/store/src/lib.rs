//! A node's own copy of all data: records with their changes, blobs, and recordings in progress.
//!
//! [`Store::commit`] is durable on this node when it resolves; the streams of [`Store::live`] and
//! [`Store::changes_after`] bring it to peers. The disk holds the protobuf messages of `twinbox-wire`, each behind a
//! format-version byte; [`codec`] converts them, for the streams too.

mod apply;
mod blobs;
pub mod codec;
mod draft;
mod error;
mod filled;
mod index;
mod keys;
mod purge;
mod recordings;
mod store;

pub use blobs::Blobs;
pub use draft::{Committed, Draft};
pub use error::{CommitError, StoreError};
pub use filled::Filled;
pub use purge::{DeletedRow, FreedSpace, PurgeCounts, PurgedRows, Removal};
pub use recordings::{ChunkEvent, Recordings};
pub use store::{Store, StoreConfig, StoreHealth};
pub use twinbox_disk::Space;
