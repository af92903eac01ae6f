//! A store that cannot be opened is built again: the old index is set aside, the changes that it and its journal still have
//! are applied to a new one, and the rest comes from the other nodes as in a first fill (rules D1, D2, D13).
//!
//! The same is done with a store that an administrator gives up ([`overwrite`]). Nothing is deleted. The next start continues an
//! interrupted one: until its changes are taken over, a folder that was set aside has no file `taken-over`.

mod audio;
mod folder;
mod open;

pub use folder::{SetAside, find};
pub use open::{Overwritten, RebuildError, TakenOver, open, overwrite};
