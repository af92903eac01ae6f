//! Packs: large append-only files that hold all audio of a store. Audio is written once and never moved, except by a
//! caller that makes room.
//!
//! A caller appends *frames*, pieces of audio with their meaning, gets the place of each payload (an [`Extent`]), and
//! keeps the places in its own index. [`Packs::sync`] makes everything appended durable; callers that come together
//! share one `fdatasync`. The index is enough to read; [`Packs::scan`] finds the frames that no index names yet. A
//! process never writes into a pack of an earlier one. Format, crash cases and decisions are in DESIGN.md beside this
//! crate.

mod ahead;
mod contents;
mod error;
mod folder;
mod format;
mod frame;
mod group;
mod hashed;
mod live_bounds;
mod opening;
mod packs;
mod pieces;
mod reading;
mod sums;
mod table;

pub use contents::{Contents, Label};
pub use error::PackError;
pub use folder::Config;
pub use format::{BLOCK, MAX_PAYLOAD, MIN_PACK};
pub use frame::{Extent, Found, Frame, Kind};
pub use hashed::Hashed;
pub use live_bounds::{LiveBounds, frame_bytes};
pub use packs::Packs;
pub use pieces::Pieces;
