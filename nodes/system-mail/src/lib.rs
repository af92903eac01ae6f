//! Mails of the system to users and administrators: warnings to the owners of mailboxes, the texts, and the queueing of
//! any such mail in the outbox.
//!
//! ```text
//! used share, rules, earlier warnings ─► warning (pure) ─► one commit: the warning is noted, its effect is in the outbox
//! facts in the effect ─► text (pure) ─► the duty that sends mails
//! ```
//!
//! A warning is noted in the record of its mailbox, so that a run that is repeated, by this node or another, warns no
//! owner twice.

mod mails;
pub mod schema;
mod text;
mod warning;

pub use mails::{NoMailOut, SystemMails, Warned};
pub use text::{SystemText, system_text};
pub use warning::{AgeingNote, AgeingWarning, QuotaNote, QuotaStep, ageing_warning, quota_step};
