//! The replicated outbox (rules E1, R11): effects on the outside world, each written in the same commit as its cause.
//!
//! Pure: an [`Effect`] is read from its record, changes are lists of edits, and [`OutboxQueue`] decides when each effect
//! is attempted. The states only rise under any merge: pending, failed, dead, done. An attempt is durable before its
//! act, and its outcome after it; an attempt without an outcome is of unknown result and is decided by [`take_over`].

mod backoff;
mod effect;
mod gathered;
mod hold;
mod index;
mod kind;
mod outcome;
mod queue;
mod removal;
mod report;
mod route_slots;
mod routes;
pub mod schema;
mod system_mail;
mod take_over;

pub use backoff::retry_after_ms;
pub use effect::{
    Attempt, Cause, Effect, EffectError, EffectState, Ended, NewEffect, attempt, bounced, dead, death, done, failed,
};
pub use gathered::{Gathered, GatheredEnd, MOST_GATHERED, covered_end, covers, gathered_in, not_taken};
pub use hold::{Destination, DestinationError, Hold, Holds, LIFE_AFTER_RELEASE_MS, MAX_HOLDS, due_now};
pub use index::{EffectIndex, Indexed, Phase};
pub use kind::{Channel, Transition};
pub use outcome::EffectOutcome;
pub use queue::{Limits, OutboxQueue, WaitingEffect};
pub use removal::{next_retry, outlived_cause, removal};
pub use report::Report;
pub use routes::{RouteFailure, RouteWorks, Routes, SilentRoute};
pub use system_mail::{SystemContent, SystemMail, forget_secret};
pub use take_over::{TakeOver, asks_for_attempts, knows_all_attempts, take_over};
