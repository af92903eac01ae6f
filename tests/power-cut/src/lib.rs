//! A disk for tests that loses its power: a block device that forgets what was not flushed (rule P2).
//!
//! [`PowerDisk`] is an ext4 file system on a loop device on an image file, and a FUSE file system of this crate serves
//! that file. Its process is the drive: writes stay in its memory until the block layer sends a flush, which arrives as
//! an FSYNC. A cut keeps a subset of the sectors that were not flushed, in any order and also torn, chosen by a seed;
//! the rest is forgotten, and all further requests fail. The next start mounts the image that survived. One flush alone
//! may fail too: the drive forgets what it would have made durable, and the page cache has it.
//!
//! The process of the drive is the test program again, so that a test never waits for itself. Each test file that uses a
//! [`PowerDisk`] has a test for that process alone:
//!
//! ```ignore
//! #[test]
//! fn drive() {
//!     twinbox_power_cut::serve_if_asked();
//! }
//! ```

mod cache;
mod disk;
mod drive;
mod leftovers;
mod no_sync;
mod protocol;
mod server;
mod session;

pub use disk::{NEEDS, PowerDisk, possible};
pub use drive::Cut;
pub use no_sync::no_sync;
pub use server::serve_if_asked;
