//! A node's own copy of all data: records with their changes, blobs, and recordings in progress.
//!
//! [`Store::commit`] is durable on this node when it resolves; the streams bring it to peers, from [`Store::feed`] and
//! [`Store::changes_after`]. The disk holds the protobuf messages of `twinbox-wire`, each behind a
//! format-version byte; [`codec`] converts them, for the streams too.

mod apply;
mod audio;
mod blobs;
mod compact;
mod compare;
mod draft;
mod error;
mod filled;
mod have;
mod identity;
mod index;
mod log;
mod lost;
mod pieces;
mod purge;
mod recordings;
mod repair;
pub mod salvage;
mod set_aside;
mod state;
mod store;
mod sums;

pub use audio::MissingAudio;
pub use blobs::{BlobReader, Blobs};
pub use compact::CompactedPacks;
pub use compare::{RowPage, StoreStats, StoredRow, TableStats};
pub use draft::{Committed, Draft};
pub use error::{CommitError, StoreError};
pub use log::LogPin;
pub use purge::{DeletedRow, FreedSpace, PurgeCounts, PurgedRows, Removal};
pub use recordings::{Recordings, Sealed};
pub use state::{ExtraRow, StatePage};
pub use store::{Store, StoreConfig, StoreHealth};
pub use twinbox_disk::{Space, Urgency};
pub use twinbox_replication_codec as codec;
pub use twinbox_replication_core::{Filled, RepairedRow, RowFault};
pub use twinbox_replication_feed::{LiveError, LiveReader};

use twinbox_replication_codec::keys;
