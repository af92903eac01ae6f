//! The only access to a disk: an ordered key-value store with durable commits, and the few file operations that rule A4
//! requires.
//!
//! Only this crate uses sled, and it makes sled's flush a real `fdatasync` (see `sync.rs`). All writes go through one
//! committer thread, which commits all waiting transactions with one sync. After a failed sync nothing is written any
//! more: the kernel may have dropped the pages, so a successful retry would prove nothing.

mod committer;
mod disk;
mod error;
pub mod file;
mod leftovers;
mod reserve;
#[cfg(feature = "simulation")]
pub mod simulation;
mod sync;
mod transaction;

#[cfg(not(feature = "simulation"))]
pub use disk::Disk;
pub use error::{DiskError, TransactError};
pub use reserve::{Need, Reserve, Space};
#[cfg(feature = "simulation")]
pub use simulation::Disk;
pub use transaction::{MAX_KEY, MAX_VALUE, Pair, Transaction};
