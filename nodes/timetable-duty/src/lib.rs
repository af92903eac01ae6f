//! The duty `timetable`: runs the jobs of the timetable.
//!
//! Jobs of the publisher run behind the gate of the duty, jobs of every node on each node for itself. A run is durable
//! on two nodes before its work begins, and so is its outcome. A job does not run beside itself; each has a time limit
//! and a task of its own, so that one that hangs holds up no other.
//!
//! The composition root gives the work of each kind of job as a [`JobWork`] in one list, [`Works`].

mod active;
mod order;
mod run_loop;
mod service;
mod works;

pub use order::{JobOrder, JobWork, RunFuture, Works};
pub use service::TimetableDuty;
pub use works::{ageing, backup, quota_warnings};
