//! The decisions of one member of the role manager, as steps: an event in, actions out.
//!
//! [`HolderStep`] is the node's side of its leases: it decides when a keep-alive is due, which gates are open and until
//! which time, which epochs are released, and which calls the node inherits by exit proof alone. [`SoloStep`] is the
//! solo work of a node of a pair: it decides what is stored, when the gates close, and in which epoch the node may act.
//! [`NodeStep`] is one turn of a node, with both of them: the order in which solo work ends, a keep-alive reports that,
//! and gates open; also what stays after a panic.
//! [`LeaderStep`] is the leader's side: the ledger and the members' reports for as long as the member leads, what is
//! proposed and when, what an order carries, and which voter should lead instead.
//! [`MembershipStep`] is the leader's changes of its group: which stores vote, which members are admitted and removed.
//! [`ListeningStep`] is a survivor that is about to go on alone: how long it listens, and what stops it.
//! [`Contacts`] are the last contacts with the other members, by which these steps decide.
//! [`better_leader`] chooses the voter that should lead, [`call_policy`] whether a passive node answers calls.
//!
//! No clock, no IO, no tasks: each event brings the time of the local boot clock as a [`std::time::Duration`]. The
//! service carries the actions out with real gates and connections; `tests/simulation` does so on a virtual clock. Both
//! run the same decisions.

mod call_policy;
mod contacts;
mod holder;
mod leader;
mod leadership;
mod listening;
mod membership;
mod node;
mod orders;
mod reports;
mod solo;
mod votes;

pub use call_policy::{CallPolicy, call_policy};
pub use contacts::Contacts;
pub use holder::{HolderAction, HolderEvent, HolderStep, LeaseDenied, ReportedFacts};
pub use leader::{LeaderAction, LeaderEvent, LeaderStep, NotGranted, ProposalOutcome, RaftFacts};
pub use leadership::{Voter, better_leader};
pub use listening::{ListeningStep, ListeningVerdict, in_contact};
pub use membership::{MembershipFacts, MembershipStep};
pub use node::{NodeAction, NodeEvent, NodeFacts, NodeStep};
pub use orders::{NamedMember, NotProposed};
pub use reports::KeepAliveExtras;
pub use solo::{SoloAction, SoloEvent, SoloStep};
pub use votes::{RaftGroup, RaftPeer, VoterStep};
