//! The decisions of one member of the role manager, as steps: an event in, actions out.
//!
//! [`HolderStep`] is the node's side of its leases: it decides when a keep-alive is due, which gates are open and until
//! which time, which epochs are released, and which calls the node inherits by exit proof alone. [`SoloStep`] is the
//! solo work of a node of a pair: it decides what is stored, when the gates close, and in which epoch the node may act.
//! [`LeaderStep`] is the leader's side: the ledger for as long as the member leads, what is proposed, and when.
//! [`MembershipStep`] is the leader's changes of its group: which stores vote, which members are admitted and removed.
//!
//! No clock, no IO, no tasks: each event brings the time of the local boot clock as a [`std::time::Duration`]. The
//! service carries the actions out with real gates and connections; `tests/simulation` does so on a virtual clock. Both
//! run the same decisions.

mod holder;
mod leader;
mod membership;
mod solo;
mod votes;

pub use holder::{HolderAction, HolderEvent, HolderStep, LeaseDenied, ReportedFacts};
pub use leader::{LeaderAction, LeaderEvent, LeaderStep, NotGranted, ProposalOutcome, RaftFacts};
pub use membership::{MembershipFacts, MembershipStep};
pub use solo::{SoloAction, SoloEvent, SoloStep};
pub use votes::{RaftGroup, RaftPeer, VoterStep};
