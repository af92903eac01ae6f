//! The duty `notifier`: keeps every message light as it should be (rule E2).
//!
//! There is no queue. For each mailbox there is what its light should show and what was last sent; where they differ
//! something is sent, the latest state, again and again until it arrives. [`board`] decides that, purely, for one
//! [`Target`]: a trunk, or the subscribers of one node. [`Notifier`] runs a board for each while this node holds the
//! duty, and asks the gate at each write (rule R6). A target that is dead, or a node on the other side of a cut, keeps
//! what it was not told on its own board: the others wait for nothing, and it is told when it answers again.

pub mod board;
mod lease;
mod notifier;
mod sender;

pub use board::{LightState, Policy};
pub use lease::Lease;
pub use notifier::Notifier;
pub use sender::{Guard, Light, LightSender, SendError, Target};
