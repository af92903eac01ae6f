//! The duty `mailbox-sync`: keeps the voicemail of users in a folder of their mail accounts, both ways, by IMAP.
//!
//! ```text
//! service ─► duty_loop ─► epoch_loop ─► schedule (pure): due accounts, connections, back-off
//!                             │
//!                             ├─► work ─► mail_server: tokens and sign-in          (proto/imap, proto/oauth)
//!                             │      └─► session: look ─► plan ─► act ─► store     (nodes/mailbox-sync, …-store)
//!                             └─► IDLE on the connections of active accounts
//! ```
//!
//! One loop serves all accounts: an account at rest is an entry in a queue, without a task and without a connection.
//! Every connection belongs to the gate of the duty, every commit and every command on it is under its permit (rule R6).
//! A round that is interrupted at any point is repeated by this or the next holder without a second mail and without a loss:
//! see `session`.

mod alarm_board;
mod duty_lease;
mod duty_loop;
mod epoch_loop;
mod error;
mod folder;
mod look;
mod mail;
mod mail_server;
mod names;
mod orders;
mod parts;
mod probe;
mod refusals;
mod schedule;
mod service;
mod session;
mod work;

pub use orders::SyncReport;
pub use probe::{ProbeStep, probe};
pub use service::{MailboxSyncConfig, MailboxSyncCounts, MailboxSyncDuty};
pub use twinbox_duty_service::orders::OrderRefused;
