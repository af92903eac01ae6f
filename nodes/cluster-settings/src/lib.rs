//! The settings that all nodes share: their keys, the check of a value, and the values in force.
//!
//! ```text
//! a node's file ─► FileValues ─► offered once, while the cluster has no value
//! rows of the store ─► Rows (an administrator's value, else the first offer)
//! FileValues + Rows ─► Values in force, and the values of the file that do not count
//! ```
//!
//! No clock, no disk, no task. A row is one [`Register`]: keys that make sense only together are one value (rule D4). A
//! trunk is a row of its own ([`TrunkRows`]), so that trunks that were added on both sides of a split are all there.

mod entries;
mod file;
mod key;
mod kind;
mod register;
mod rows;
pub mod schema;
mod trunk;
mod trunk_rows;
mod values;

pub use entries::{Entries, GroupError};
pub use file::FileValues;
pub use key::{Effect, Key, UnknownKey};
pub use kind::{Kind, ValueError, host_and_port};
pub use register::Register;
pub use rows::{Difference, Origin, Row, Rows, set_edit};
pub use trunk::{Property, Trunk, TrunkError};
pub use trunk_rows::{KnownTrunk, TrunkChange, TrunkRows};
pub use values::Values;
