//! Reports made of call records, and their forms.

use proptest::prelude::*;
use serde_json::json;
use twinbox_call_records::{
    CallOutcome, CallRecord, FailOver, Format, Period, Purpose, Query, RangeError, Report, ReportKind, ReportRange,
    csv, duration_ms, fail_overs, report, text, time, zone,
};
use twinbox_ids::{MailboxId, Pii, Timestamp};

use crate::common::{HOUR, NIGHT, any_record, call};

fn query(kind: ReportKind, period: Period) -> Query {
    Query { kind, period, zone: zone("Europe/Berlin").expect("a zone"), most: 1_000 }
}

fn column(report: &Report, name: &str) -> Vec<String> {
    let at = report.columns.iter().position(|column| column.name == name).expect(name);
    report.rows.iter().map(|row| row[at].clone()).collect()
}

fn at(hours: u64) -> Timestamp {
    Timestamp(NIGHT.0 + hours * HOUR)
}

#[test]
fn traffic_has_a_row_for_each_hour_also_for_the_one_that_the_clock_repeats() {
    let calls = [0, 2, 2, 3, 4].into_iter().zip(1..).map(|(hours, number)| call(number, at(hours)));
    let made = report(&query(ReportKind::Traffic, Period::Hour), calls);
    let hours = ["00:00:00+02:00", "02:00:00+02:00", "02:00:00+01:00", "03:00:00+01:00"];
    assert_eq!(column(&made, "from"), hours.map(|hour| format!("2026-10-25 {hour}")));
    assert_eq!(column(&made, "calls"), ["1", "2", "1", "1"]);
    assert_eq!(column(&made, "message_seconds"), ["3", "5", "3", "3"]);
    assert_eq!(column(&made, "call_seconds"), ["10", "20", "10", "10"]);
}

#[test]
fn day_of_traffic_has_25_hours_when_the_clock_goes_back_and_a_row_for_each_node() {
    let mut calls: Vec<CallRecord> = [0, 24, 25].into_iter().zip(1..).map(|(h, n)| call(n, at(h))).collect();
    calls[1].node = "b".parse().expect("a name");
    let made = report(&query(ReportKind::Traffic, Period::Day), calls);
    assert_eq!(column(&made, "node"), ["a", "b", "a"]);
    let days = ["2026-10-25 00:00:00+02:00", "2026-10-25 00:00:00+02:00", "2026-10-26 00:00:00+01:00"];
    assert_eq!(column(&made, "from"), days);
}

#[test]
fn traffic_counts_every_outcome_in_its_column() {
    let calls = CallOutcome::ALL.into_iter().zip(1..).map(|(outcome, n)| CallRecord { outcome, ..call(n, NIGHT) });
    let made = report(&query(ReportKind::Traffic, Period::Hour), calls);
    for outcome in CallOutcome::ALL {
        assert_eq!(column(&made, &outcome.word().replace('-', "_")), ["1"], "{outcome:?}");
    }
    assert_eq!(column(&made, "calls"), [CallOutcome::ALL.len().to_string()]);
}

#[test]
fn users_are_listed_by_number_with_their_calls() {
    let other = |n, hours, outcome| {
        let (mailbox, number) = (Some(MailboxId(2)), Some("99".to_owned()));
        CallRecord { mailbox, number, outcome, message_ms: 0, ..call(n, at(hours)) }
    };
    let calls = vec![
        call(1, at(0)),
        call(2, at(1)),
        other(3, 2, CallOutcome::HungUp),
        other(4, 3, CallOutcome::SignedIn),
        CallRecord { purpose: Purpose::SignIn, ..other(5, 4, CallOutcome::HungUp) },
        CallRecord { mailbox: None, number: None, ..call(6, at(5)) },
        CallRecord { mailbox: Some(MailboxId(3)), number: None, outcome: CallOutcome::NodeDied, ..call(7, at(6)) },
    ];
    let made = report(&query(ReportKind::Users, Period::Hour), calls);
    assert_eq!(column(&made, "mailbox"), ["99", "1001", &format!("{:032x}", 3)]);
    assert_eq!(column(&made, "calls"), ["3", "2", "1"]);
    assert_eq!(column(&made, "messages"), ["0", "2", "0"]);
    assert_eq!(column(&made, "unanswered"), ["1", "0", "1"]);
    assert_eq!(column(&made, "signed_in"), ["1", "0", "0"]);
    assert_eq!(column(&made, "last_call")[1], "2026-10-25 01:00:00+02:00");
}

#[test]
fn lists_have_their_calls_only_and_are_read_page_by_page() {
    let with = |outcome, purpose, n| CallRecord { outcome, purpose, ..call(n, at(n as u64)) };
    let calls: Vec<CallRecord> = vec![
        with(CallOutcome::HungUp, Purpose::Leave, 1),
        with(CallOutcome::MessageLeft, Purpose::Leave, 2),
        with(CallOutcome::Refused, Purpose::Nothing, 3),
        with(CallOutcome::FailedSignIn, Purpose::SignIn, 4),
        with(CallOutcome::HungUp, Purpose::SignIn, 5),
        with(CallOutcome::NodeDied, Purpose::Leave, 6),
    ];
    let mut query = query(ReportKind::Unanswered, Period::Hour);
    let whole = report(&query, calls.clone());
    assert_eq!(column(&whole, "outcome"), ["hung-up", "refused", "node-died"]);
    assert_eq!(whole.next, None);
    query.most = 2;
    let first = report(&query, calls.clone());
    let (began, id) = first.next.expect("more follow");
    let rest = calls.iter().filter(|record| (record.began, record.call) > (began, id)).cloned();
    let second = report(&query, rest);
    assert_eq!([first.rows, second.rows].concat(), whole.rows);
    assert_eq!(second.next, None);
    let failed = report(&Query { kind: ReportKind::SignIns, ..query }, calls);
    assert_eq!((column(&failed, "caller"), failed.rows.len()), (vec!["2001".to_owned()], 1));
}

proptest! {
    /// No record is lost or counted twice, whatever the zone and the period.
    #[test]
    fn sums_of_traffic_are_those_of_the_records(
        records in prop::collection::vec(any_record(), 0..40),
        by_day in any::<bool>(),
        place in 0..4_usize,
    ) {
        let zone = zone(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"][place]).expect("a zone");
        let period = if by_day { Period::Day } else { Period::Hour };
        let query = Query { kind: ReportKind::Traffic, period, zone, most: 1 };
        let made = report(&query, records.clone());
        let sum = |name: &str| column(&made, name).iter().map(|n| n.parse::<u64>().expect("a number")).sum::<u64>();
        prop_assert_eq!(sum("calls"), records.len() as u64);
        prop_assert_eq!(sum("call_seconds"), records.iter().map(CallRecord::seconds).sum::<u64>());
        prop_assert!(made.rows.iter().all(|row| row.len() == made.columns.len()));
    }

    /// A reader of RFC 4180 finds the cells again, and no cell of a text begins like a formula.
    #[test]
    fn csv_of_any_caller_has_the_same_cells_and_no_formula(caller in "\\PC{0,12}|[=+@\",\\-\r\n\t']{0,6}") {
        let record = CallRecord {
            caller: Some(Pii::new(caller.clone())),
            outcome: CallOutcome::HungUp,
            ..call(1, NIGHT)
        };
        let made = csv(&report(&query(ReportKind::Unanswered, Period::Hour), [record]));
        let lines = cells(&made);
        prop_assert_eq!(lines.len(), 2);
        let found = &lines[1][3];
        prop_assert!(!found.starts_with(['=', '+', '-', '@', '\t', '\r']), "{}", found);
        prop_assert_eq!(found.strip_prefix('\'').filter(|_| !caller.starts_with('\'')).unwrap_or(found), &caller);
    }
}

/// The cells of CSV, by RFC 4180.
fn cells(text: &str) -> Vec<Vec<String>> {
    let (mut lines, mut line, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => line.push(std::mem::take(&mut cell)),
            '\r' if !quoted && letters.next_if_eq(&'\n').is_some() => {
                line.push(std::mem::take(&mut cell));
                lines.push(std::mem::take(&mut line));
            }
            letter => cell.push(letter),
        }
    }
    assert!(!quoted && line.is_empty() && cell.is_empty(), "unfinished: {text:?}");
    lines
}

#[test]
fn fail_overs_are_shown_as_table_csv_and_json() {
    let event = FailOver {
        at: NIGHT,
        node: "b".parse().expect("a name"),
        event: "duty-moved".to_owned(),
        subject: "mta".to_owned(),
        detail: "from a to b: exit, 20 ms".to_owned(),
    };
    let made = fail_overs([event], &zone("UTC").expect("a zone"));
    let lines = "time,node,event,subject,detail\r\n\
                 2026-10-24 22:00:00+00:00,b,duty-moved,mta,\"from a to b: exit, 20 ms\"\r\n";
    assert_eq!(Format::Csv.render(&made), lines);
    let table = Format::Table.render(&made);
    assert!(table.starts_with("TIME ") && table.lines().count() == 2 && !table.contains(" \n"), "{table}");
    let value: serde_json::Value = serde_json::from_str(&Format::Json.render(&made)).expect("JSON");
    let expected = json!([{
        "time": "2026-10-24 22:00:00+00:00", "node": "b", "event": "duty-moved", "subject": "mta",
        "detail": "from a to b: exit, 20 ms",
    }]);
    assert_eq!(value, expected);
    let unknown = CallRecord { caller: None, outcome: CallOutcome::HungUp, ..call(1, NIGHT) };
    let made = report(&query(ReportKind::Unanswered, Period::Hour), [unknown]);
    let value: serde_json::Value = serde_json::from_str(&Format::Json.render(&made)).expect("JSON");
    assert_eq!((&value[0]["caller"], &value[0]["seconds"]), (&json!(null), &json!(10)));
    let caller = Some(Pii::new("1\r\n2".to_owned()));
    let broken = CallRecord { caller, outcome: CallOutcome::HungUp, ..call(1, NIGHT) };
    assert_eq!(text(&report(&query(ReportKind::Unanswered, Period::Hour), [broken])).lines().count(), 2);
}

#[test]
fn ranges_durations_times_and_zones_are_read_or_refused_with_the_input() {
    for (given, ms) in [("90m", 90 * 60_000), ("24h", 24 * HOUR), ("7d", 168 * HOUR), ("2w", 336 * HOUR)] {
        assert_eq!(duration_ms(given), Ok(ms), "{given}");
    }
    for wrong in ["", "d", "7", "7x", "-1d", "0h", "1.5h", "9999999999999999999d", "600w", "7é"] {
        assert_eq!(duration_ms(wrong), Err(RangeError::Duration(wrong.to_owned())));
    }
    let berlin = zone("Europe/Berlin").expect("a zone");
    assert_eq!(time("2026-10-25", &berlin), Ok(NIGHT));
    assert_eq!(time("2026-10-25 01:00", &berlin), Ok(at(1)));
    assert_eq!(time("2026-10-25T03:00", &berlin), Ok(at(4)));
    assert!(matches!(time("25.10.2026", &berlin), Err(RangeError::Time(_))));
    assert!(matches!(zone("Berlin"), Err(RangeError::Zone(_))));
    assert_eq!(ReportRange::new(NIGHT, NIGHT), Err(RangeError::Order));
    assert_eq!(ReportRange::new(Timestamp(0), NIGHT), Err(RangeError::Long));
    assert_eq!(ReportRange::new(NIGHT, at(48)).map(|range| range.period()), Ok(Period::Hour));
    assert_eq!(ReportRange::new(NIGHT, at(49)).map(|range| range.period()), Ok(Period::Day));
}
