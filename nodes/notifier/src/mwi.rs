//! Message-waiting indication.
//!
//! There is no queue on disk. For each mailbox there is the desired and the last sent state; if they differ, the
//! latest state is sent and retried until it is delivered. A state that changed is sent before those that a take-over or a
//! resync repeats, as these take minutes where there are many. Of the subscribers of a node, only mailboxes that have some
//! are repeated: the node lists them. [`queue`] schedules the sends, without side effects, for
//! one [`Target`]: a trunk, or the subscribers of one node. [`Notifier`] runs a queue per target while this node
//! holds the duty, and checks the gate at each write (rule R6). A dead target, or a node on the other side of a
//! network partition, keeps its undelivered states in its own queue: it delays no other target and is updated when
//! it answers again. [`ClusterMwiSender`] sends from the node that can: this one, or the one with the dialog.

mod cluster_sender;
mod duty;
pub mod queue;
mod reported_times;
mod sender;

pub use cluster_sender::{ClusterMwiSender, list_for, notify_for};
pub use duty::Notifier;
pub use queue::{MwiPolicy, MwiState};
pub use reported_times::ReportedTimes;
pub use sender::{MwiSender, MwiUpdate, Receivers, SendError, Target};
