//! The one way to a disk: an ordered key-value store whose commits are durable when they say so, and the
//! few file operations that rule A4 asks for.
//!
//! Only this crate names sled, and it makes sled's flush a real `fdatasync` (see `sync.rs`). All writes go
//! through one committer thread, which gathers whatever waits and pays for it with one sync. After a failed
//! sync nothing is written any more: the kernel may have dropped the pages, and a retry that succeeds would
//! be a lie.

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
