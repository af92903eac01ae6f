//! The shape of a duty that works from the outbox: its service in the process, and the loop that attempts the effects
//! while this node holds the duty.
//!
//! A duty is a crate with a type that implements [`Channels`]; [`OutboxDuty`] does the rest: attempts are durable on two
//! nodes before their act (rule E1), no effect is attempted by two nodes at a time (R6), an effect during whose attempt
//! a process died is attempted with no other beside it (R11), and dead letters raise an alarm. DESIGN.md has the reasons.

mod channels;
mod earlier;
mod failing_routes;
mod notifications;
mod outbox_loop;
mod outcomes;
mod secrets;
mod service;
mod sweep;

pub use channels::{ActOutcome, Channels, Prepared};
pub use notifications::{DueNotification, Notifications};
pub use secrets::forget_secrets;
pub use service::{DutyCounts, OutboxDuty};
