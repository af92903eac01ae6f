//! The duty `notifier`: keeps every message light as it should be (rule E2).
//!
//! There is no queue. For each mailbox there is what its light should show and what was last sent; where they differ
//! something is sent, the latest state, again and again until it arrives. [`board`] decides that, purely; [`Notifier`]
//! runs it while this node holds the duty, and asks the gate at each write (rule R6).

pub mod board;
mod lease;
mod notifier;
mod sender;

pub use board::{LightState, Policy};
pub use lease::Lease;
pub use notifier::Notifier;
pub use sender::{Guard, Light, LightSender, SendError};
