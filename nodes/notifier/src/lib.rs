//! The duty `notifier`: keeps the message-waiting indication (MWI) of every mailbox up to date (rule E2).
//!
//! There is no queue. For each mailbox there is the desired and the last sent state; if they differ, the latest
//! state is sent and retried until it is delivered. [`board`] schedules the sends, without side effects, for one
//! [`Target`]: a trunk, or the subscribers of one node. [`Notifier`] runs a board per target while this node holds
//! the duty, and checks the gate at each write (rule R6). A dead target, or a node on the other side of a network
//! partition, keeps its undelivered states on its own board: it delays no other target and is updated when it
//! answers again.

pub mod board;
mod lease;
mod notifier;
mod sender;

pub use board::{LightState, Policy};
pub use lease::Lease;
pub use notifier::Notifier;
pub use sender::{Guard, Light, LightSender, SendError, Target};
