//! The report of traffic: calls by hour or day, and node.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use twinbox_ids::{NodeName, Timestamp};

use crate::{
    CallOutcome, CallRecord, Period, Report,
    report::MOST_ROWS,
    times::{period_start, shown},
};

const COLUMNS: [&str; 14] = [
    "from",
    "node",
    "#calls",
    "#message_left",
    "#nothing_left",
    "#hung_up",
    "#refused",
    "#failed",
    "#node_died",
    "#transferred",
    "#signed_in",
    "#failed_sign_in",
    "#call_seconds",
    "#message_seconds",
];
/// Outcomes in the order of their columns.
const OUTCOMES: [CallOutcome; 9] = [
    CallOutcome::MessageLeft,
    CallOutcome::NothingLeft,
    CallOutcome::HungUp,
    CallOutcome::Refused,
    CallOutcome::Failed,
    CallOutcome::NodeDied,
    CallOutcome::Transferred,
    CallOutcome::SignedIn,
    CallOutcome::FailedSignIn,
];

/// Sums of a period and node.
#[derive(Default)]
struct Sums {
    outcomes: [u64; OUTCOMES.len()],
    call_seconds: u64,
    message_ms: u64,
}

/// Rows by time, then node.
pub(crate) fn report(records: impl IntoIterator<Item = CallRecord>, period: Period, zone: &TimeZone) -> Report {
    let mut report = Report::new(&COLUMNS);
    let mut groups: BTreeMap<(Timestamp, NodeName), Sums> = BTreeMap::new();
    for record in records {
        let key = (period_start(record.began, period, zone), record.node.clone());
        if groups.len() >= MOST_ROWS && !groups.contains_key(&key) {
            report.truncated = true;
            continue;
        }
        let sums = groups.entry(key).or_default();
        for (outcome, count) in OUTCOMES.iter().zip(&mut sums.outcomes) {
            *count += u64::from(*outcome == record.outcome);
        }
        sums.call_seconds = sums.call_seconds.saturating_add(record.seconds());
        sums.message_ms = sums.message_ms.saturating_add(record.message_ms);
    }
    for ((from, node), sums) in groups {
        let calls: u64 = sums.outcomes.iter().sum();
        let mut row = vec![shown(from, zone), node.to_string(), calls.to_string()];
        row.extend(sums.outcomes.iter().map(u64::to_string));
        row.extend([sums.call_seconds.to_string(), sums.message_ms.div_ceil(1_000).to_string()]);
        report.rows.push(row);
    }
    report
}
