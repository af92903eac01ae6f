//! The replicated data as pure values: records of mergeable fields, the changes to them, the vectors that list the
//! changes of a node, the hybrid clock, and the tracker of acknowledgements.
//!
//! No IO, no async, no clock: every function is a function of its arguments. Merging is commutative,
//! associative and idempotent, so that nodes which saw the same changes in any order hold the same records.

pub mod ack;
mod change;
mod clock;
mod dots;
mod edit;
mod field;
mod key;
mod ranges;
mod record;
mod value;

pub use change::{Change, Gap, Vector};
pub use clock::Clock;
pub use dots::Dots;
pub use edit::Edit;
pub use field::{Field, Member, Members};
pub use key::{Key, Table, Tag};
pub use ranges::Ranges;
pub use record::{Record, Tombstone};
pub use value::{BlobRef, Value};
