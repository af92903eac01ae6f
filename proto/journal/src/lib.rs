//! The append-only journal that is the commit path of a store: one writer, one write and one `fdatasync` per batch, and
//! all batches that are still needed in order when it is opened again.
//!
//! Batches are opaque bytes. They lie in segments, files of one length that are zeroed once and recycled for ever, so
//! that an append changes neither the size nor the blocks of a file. The [`Writer`] belongs to the thread that
//! commits; the [`Recycler`] prepares and removes segments on another one. Format, crash cases and decisions are in
//! DESIGN.md beside this crate.

mod error;
mod format;
mod medium;
mod recycler;
mod replay;
mod salvage;
mod segments;
mod writer;

pub use error::{AppendError, JournalError, OpenError};
pub use format::{BLOCK, Position};
pub use medium::{Blocks, Medium, MediumFile};
pub use recycler::Recycler;
pub use replay::open;
pub use salvage::{Salvaged, salvage};
pub use segments::Config;
pub use writer::Writer;
