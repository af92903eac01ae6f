//! Reports: columns and rows of text, made of call records or of events.

use jiff::tz::TimeZone;
use twinbox_ids::{CallId, Timestamp};

use crate::{
    CallRecord, FailOver, Period, ReportKind, fail_overs::FAIL_OVER_COLUMNS, lists, times::shown, traffic, users,
};

/// Maximum number of groups or rows that a report holds in memory.
pub const MOST_ROWS: usize = 100_000;

/// A column of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name, stable: lower case with underscores.
    pub name: String,
    /// True if all values are whole numbers.
    pub number: bool,
}

/// A report, or a page of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, each with a value per column; an empty value is unknown.
    pub rows: Vec<Vec<String>>,
    /// Begin and id of the last listed call, if more calls follow that are not in this page.
    pub next: Option<(Timestamp, CallId)>,
    /// True if there were more groups than [`MOST_ROWS`]: those beyond are left out.
    pub truncated: bool,
}

/// Parameters of a report.
#[derive(Debug, Clone)]
pub struct Query {
    /// Its kind.
    pub kind: ReportKind,
    /// Period of the rows of traffic.
    pub period: Period,
    /// Time zone of all times.
    pub zone: TimeZone,
    /// Maximum number of calls in a page of a list, at least 1.
    pub most: usize,
}

/// A report made of call records in order of their begin. Fail-overs are no calls: that report is empty here, see
/// [`fail_overs`].
pub fn report(query: &Query, records: impl IntoIterator<Item = CallRecord>) -> Report {
    match query.kind {
        ReportKind::Traffic => traffic::report(records, query.period, &query.zone),
        ReportKind::Users => users::report(records, &query.zone),
        ReportKind::Unanswered => lists::unanswered(records, query),
        ReportKind::SignIns => lists::failed_sign_ins(records, query),
        ReportKind::FailOvers => fail_overs([], &query.zone),
    }
}

/// A report made of events of moves, in order of time. At most [`MOST_ROWS`].
pub fn fail_overs(events: impl IntoIterator<Item = FailOver>, zone: &TimeZone) -> Report {
    let mut report = Report::new(&FAIL_OVER_COLUMNS);
    for event in events {
        if report.rows.len() >= MOST_ROWS {
            report.truncated = true;
            break;
        }
        let FailOver { at, node, event, subject, detail } = event;
        report.rows.push(vec![shown(at, zone), node.to_string(), event, subject, detail]);
    }
    report
}

impl Report {
    /// A report without rows; a name that begins with `#` is of a column of numbers.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let column = |name: &&str| match name.strip_prefix('#') {
            Some(name) => Column { name: name.to_owned(), number: true },
            None => Column { name: (*name).to_owned(), number: false },
        };
        Self { columns: columns.iter().map(column).collect(), rows: Vec::new(), next: None, truncated: false }
    }
}
