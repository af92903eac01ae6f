//! Reports with a row for each call: unanswered calls, failed sign-ins.

use jiff::tz::TimeZone;
use twinbox_ids::{MailboxId, Pii};

use crate::{CallOutcome, CallRecord, Purpose, Query, Report, times::shown};

const UNANSWERED: [&str; 6] = ["time", "node", "mailbox", "caller", "outcome", "#seconds"];
const SIGN_INS: [&str; 5] = ["time", "node", "mailbox", "caller", "#seconds"];

/// Calls of callers that reached neither a message, nor a mailbox, nor a person.
pub(crate) fn unanswered(records: impl IntoIterator<Item = CallRecord>, query: &Query) -> Report {
    // An owner that hangs up before the PIN is no caller without an answer.
    let wanted = |record: &CallRecord| record.outcome.is_unanswered() && record.purpose != Purpose::SignIn;
    list(&UNANSWERED, records, query, wanted, |record, zone| {
        let mut row = first_cells(record, zone);
        row.extend([record.outcome.word().to_owned(), record.seconds().to_string()]);
        row
    })
}

/// Calls whose caller failed to sign in.
pub(crate) fn failed_sign_ins(records: impl IntoIterator<Item = CallRecord>, query: &Query) -> Report {
    let wanted = |record: &CallRecord| record.outcome == CallOutcome::FailedSignIn;
    list(&SIGN_INS, records, query, wanted, |record, zone| {
        let mut row = first_cells(record, zone);
        row.push(record.seconds().to_string());
        row
    })
}

fn list(
    columns: &[&str],
    records: impl IntoIterator<Item = CallRecord>,
    query: &Query,
    wanted: impl Fn(&CallRecord) -> bool,
    row: impl Fn(&CallRecord, &TimeZone) -> Vec<String>,
) -> Report {
    let mut report = Report::new(columns);
    let mut last = None;
    for record in records.into_iter().filter(wanted) {
        if report.rows.len() >= query.most.max(1) {
            report.next = last;
            return report;
        }
        last = Some((record.began, record.call));
        report.rows.push(row(&record, &query.zone));
    }
    report
}

/// Time, node, mailbox and caller.
fn first_cells(record: &CallRecord, zone: &TimeZone) -> Vec<String> {
    let id = record.mailbox.as_ref().map(MailboxId::to_string);
    vec![
        shown(record.began, zone),
        record.node.to_string(),
        record.number.clone().or(id).unwrap_or_default(),
        record.caller.clone().map(Pii::into_revealed).unwrap_or_default(),
    ]
}
