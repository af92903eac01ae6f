//! The only access to a disk: an ordered key-value store with durable commits, and the few file operations that rule A4
//! requires.
//!
//! Only this crate uses sled, and it makes sled's flush a real `fdatasync` (see `sync.rs`). All writes go through one
//! committer thread, which commits all waiting transactions with one write and one sync of the journal. sled gets them
//! afterwards from another thread, and no reader waits for a sync of either. After a failed sync the store refuses
//! all writes: the kernel may have dropped the pages, so a successful retry would prove nothing. DESIGN.md has the details.

mod applier;
mod batch;
mod block;
mod block_cache;
mod blocks;
mod both_ends;
mod committer;
mod copying;
mod disk;
mod engine;
mod error;
pub mod file;
mod flow;
mod health;
mod in_order;
mod index;
mod insertion_order;
mod layers;
mod leftovers;
mod live;
mod medium;
mod options;
mod range;
mod replacement;
mod reserve;
mod rewrite;
mod rows;
mod runs;
mod salvage;
#[cfg(feature = "simulation")]
#[path = "../tests/simulated/mod.rs"]
pub mod simulation;
mod sled_index;
mod stored_block;
mod sync;
#[cfg(test)]
#[path = "../tests/unit/mod.rs"]
mod tests;
mod transaction;
mod tree;
mod verify;

pub use committer::Urgency;
#[cfg(not(feature = "simulation"))]
pub use disk::Disk;
pub use error::{DiskError, TransactError};
pub use in_order::InOrder;
#[cfg(not(feature = "simulation"))]
pub use medium::{Folder, OpenFile};
pub use options::Options;
pub use reserve::{Need, Reserve, Space};
pub use rewrite::IndexSpace;
pub use runs::Appended;
pub use salvage::{Findings, salvage, set_aside, set_asides};
#[cfg(feature = "simulation")]
pub use simulation::{Disk, Folder, OpenFile};
pub use transaction::{MAX_KEY, MAX_VALUE, Pair, Transaction, check_lengths};
pub use twinbox_journal::Salvaged;
