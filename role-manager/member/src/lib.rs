//! The decisions of one member of the role manager, as steps: an event in, actions out.
//!
//! [`HolderStep`] is the node's side of its leases: it decides when a keep-alive is due, which gates are open and until
//! which time, which epochs are released, and which calls the node inherits by exit proof alone.
//!
//! No clock, no IO, no tasks: each event brings the time of the local boot clock as a [`std::time::Duration`]. The
//! service carries the actions out with real gates and connections; `tests/simulation` does so on a virtual clock. Both
//! run the same decisions.

mod holder;

pub use holder::{HolderAction, HolderEvent, HolderStep, LeaseDenied, ReportedFacts};
