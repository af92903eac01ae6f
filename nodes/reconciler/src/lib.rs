//! Tasks that bring a node in line with the agreed and replicated state of the cluster: which node takes calls, drains and
//! hand-overs, recordings of lost nodes and of earlier incarnations, prompts, records of calls, purging, UIDs.

mod call_records;
mod drain;
mod fill_watch;
mod hand_over;
mod leftovers;
mod node_reconciler;
mod orphans;
mod passive_watch;
mod prompts;
mod purge;
mod uids;
mod unfiled;

pub use call_records::keep_call_records;
pub use drain::{Drain, SharedDrain};
pub use fill_watch::{FillFacts, FillSteps, FillWatch};
pub use hand_over::HandOver;
pub use leftovers::{file_leftovers, file_leftovers_when_filled};
pub use node_reconciler::{NodeReconciler, ReconcilerParts, first_measures, follow_members};
pub use orphans::{LostNodes, file_orphans};
pub use passive_watch::{PassiveCall, PassiveWatch};
pub use prompts::CustomPrompts;
pub use purge::{PURGED_WHOLE, Purge, purge_deleted};
pub use uids::UidKeeper;
pub use unfiled::retry_unfiled;
