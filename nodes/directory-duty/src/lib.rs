//! The duty `directory-sync`: users from LDAP directories, and on every node the check of their passwords.
//!
//! ```text
//! service ─► duty_loop ─► worker (one per directory) ─► decide (pure): full search, changes, ids, follow, wait
//!                            │
//!                            ├─► found: people from the servers        (directory-sync/service)
//!                            └─► run: difference, guard, steps         (directory-sync/core)
//!                                  └─► the store, in groups, each under the permit of the gate (rule R6)
//! ```
//!
//! One directory that fails holds up no other: each has a task of its own. A worker that loses the duty ends before its
//! next commit; the next holder goes on from the stored position, and applying a step twice changes nothing.

mod decide;
mod duty_loop;
mod entry_names;
mod follow;
mod found;
mod orders;
mod probe;
mod run;
mod service;
mod sign_in;
mod steps;
mod worker;

pub use entry_names::entry_names;
pub use orders::{RunReport, SyncOrder};
pub use probe::{ProbeReport, ProbeStep, probe};
pub use service::{DirectoryCounts, DirectoryDuty};
pub use sign_in::{DecidedBy, PasswordCheck, PasswordVerdict};
pub use twinbox_duty_service::orders::OrderRefused;
