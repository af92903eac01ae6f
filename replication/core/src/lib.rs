//! The replicated data as pure values: records of mergeable fields, the changes to them, the vectors that list the
//! changes of a node, the hybrid clock, and the tracker of acknowledgements.
//!
//! No IO, no async, no clock: every function is a function of its arguments. Merging is commutative,
//! associative and idempotent, so that nodes which saw the same changes in any order hold the same records.

pub mod ack;
pub mod buckets;
mod change;
mod clock;
mod commits;
mod difference;
mod dots;
mod edit;
mod field;
mod fields;
mod filled;
pub mod first_fill;
mod have;
mod holdings;
mod key;
pub mod page_rate;
mod patience;
mod pins;
pub mod range_sums;
mod ranges;
mod record;
pub mod row_sums;
mod slots;
pub mod state_fill;
pub mod tails;
mod unknown;
mod value;

pub use change::{Change, CommitPart, Gap, Vector};
pub use clock::Clock;
pub use commits::CommitAssembly;
pub use difference::{Lack, RepairedRow, RowFault};
pub use dots::Dots;
pub use edit::{Edit, make_edits};
pub use field::{Field, Member, Members};
pub use filled::Filled;
pub use have::Have;
pub use holdings::Holdings;
pub use key::{Key, Table, Tag};
pub use patience::{AudioPatience, AudioWaits};
pub use pins::Pins;
pub use ranges::Ranges;
pub use record::{Record, Tombstone};
pub use slots::Slots;
pub use unknown::{Part, PartPlace, Unknown};
pub use value::{BlobRef, Value};
