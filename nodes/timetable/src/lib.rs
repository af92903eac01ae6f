//! The pure core of timetables: jobs, the times at which they are due, and the history of their runs.
//!
//! ```text
//! cron text + zone ─► due times ─┐
//! history of the job's runs ─────┼─► decide: run, skip or wait
//! present time ──────────────────┘
//! ```
//!
//! [`next_step`] is the turn of a node's loop: it also ends and repeats runs whose process died.
//!
//! No clock, no disk, no task. Views are read from a [`Record`](twinbox_replication_core::Record), changes are lists of
//! [`Edit`](twinbox_replication_core::Edit), one register for each setting.

mod change;
mod cron_text;
mod decide;
mod job;
mod kind;
mod run;
pub mod schema;
mod step;
mod value;

pub use change::{JobChange, JobError};
pub use cron_text::{CronError, CronText, Zone, ZoneError};
pub use decide::{
    Decision, LOOK_BACK_MS, MOST_ATTEMPTS, MissedTimes, ON_TIME_MS, Recovery, decide, missed_before, recover,
};
pub use job::{Job, JobPlace, Missed};
pub use kind::JobKind;
pub use run::{JobRun, LONGEST_OUTCOME, RunState};
pub use step::{JobStep, Runner, next_step};
pub use twinbox_ids::JobId;
