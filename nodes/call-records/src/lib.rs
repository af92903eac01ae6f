//! Call records, one for each call that reached a conversation or was refused on the way, and the reports made of them.
//!
//! ```text
//! inputs and outputs of a conversation ─► CallProgress ─► CallRecord ─► report: traffic, users, unanswered, sign-ins
//! events of the cluster ───────────────────────────────────────────────► report: fail-overs
//! Report ─► rows of a table, CSV, JSON
//! ```
//!
//! Pure: no clock, no socket, no disk. Records are read from a [`Record`](twinbox_replication_core::Record) and written
//! as lists of [`Edit`](twinbox_replication_core::Edit).

mod fail_overs;
mod kind;
mod lists;
mod progress;
mod record;
mod render;
mod report;
pub mod schema;
mod times;
mod traffic;
mod users;

pub use fail_overs::FailOver;
pub use kind::{Period, ReportKind, UnknownKind};
pub use progress::CallProgress;
pub use record::{CallOutcome, CallRecord, Purpose};
pub use render::{Format, csv, headings, json, text};
pub use report::{Column, MOST_ROWS, Query, Report, fail_overs, report};
pub use times::{LONGEST_RANGE_MS, RangeError, ReportRange, duration_ms, range_start, time, zone};
