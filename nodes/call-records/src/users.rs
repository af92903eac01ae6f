//! The report of users: calls by mailbox.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use twinbox_ids::{MailboxId, Timestamp};

use crate::{CallOutcome, CallRecord, Purpose, Report, report::MOST_ROWS, times::shown};

const COLUMNS: [&str; 9] = [
    "mailbox",
    "#calls",
    "#messages",
    "#message_seconds",
    "#unanswered",
    "#transferred",
    "#signed_in",
    "#failed_sign_in",
    "last_call",
];

/// Sums of a mailbox.
#[derive(Default)]
struct Sums {
    /// Its latest known number.
    number: Option<String>,
    calls: u64,
    messages: u64,
    message_ms: u64,
    unanswered: u64,
    transferred: u64,
    signed_in: u64,
    failed: u64,
    last: Timestamp,
}

/// Rows by number, short numbers first. Calls to no mailbox are left out. A mailbox whose number is not known is shown
/// by its id.
pub(crate) fn report(records: impl IntoIterator<Item = CallRecord>, zone: &TimeZone) -> Report {
    let mut report = Report::new(&COLUMNS);
    let mut mailboxes: BTreeMap<MailboxId, Sums> = BTreeMap::new();
    for record in records {
        let Some(mailbox) = record.mailbox else { continue };
        if mailboxes.len() >= MOST_ROWS && !mailboxes.contains_key(&mailbox) {
            report.truncated = true;
            continue;
        }
        let sums = mailboxes.entry(mailbox).or_default();
        sums.calls += 1;
        sums.messages += u64::from(record.outcome == CallOutcome::MessageLeft);
        sums.message_ms = sums.message_ms.saturating_add(record.message_ms);
        // An owner that hangs up before the PIN is no caller without an answer.
        sums.unanswered += u64::from(record.outcome.is_unanswered() && record.purpose != Purpose::SignIn);
        sums.transferred += u64::from(record.outcome == CallOutcome::Transferred);
        sums.signed_in += u64::from(record.outcome == CallOutcome::SignedIn);
        sums.failed += u64::from(record.outcome == CallOutcome::FailedSignIn);
        sums.last = sums.last.max(record.began);
        if record.number.is_some() {
            sums.number = record.number;
        }
    }
    let mut rows: Vec<(String, Sums)> = mailboxes
        .into_iter()
        .map(|(id, mut sums)| (sums.number.take().unwrap_or_else(|| id.to_string()), sums))
        .collect();
    rows.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
    for (number, sums) in rows {
        let counts = [
            sums.calls,
            sums.messages,
            sums.message_ms.div_ceil(1_000),
            sums.unanswered,
            sums.transferred,
            sums.signed_in,
            sums.failed,
        ];
        let mut row = vec![number];
        row.extend(counts.iter().map(u64::to_string));
        row.push(shown(sums.last, zone));
        report.rows.push(row);
    }
    report
}
