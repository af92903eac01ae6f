//! Reports of the records in the store and of the events: for administrators, as files, and as mails.
//!
//! ```text
//! call records, events ─► ReportSource ─► Report ─┬─► request of an administrator
//!              job of the timetable ─► ReportWork ─┼─► file in a folder
//!                                                  └─► mail in the outbox ─► made when the mail is sent
//! ```
//!
//! A report that leaves by mail is not stored: the outbox has its parameters, and the node that sends the mail makes it.

mod file;
mod job;
mod mailed;
mod order;
mod source;

pub use job::ReportWork;
pub use mailed::{MailedReport, MailedReportError};
pub use source::{ReportError, ReportSource};
