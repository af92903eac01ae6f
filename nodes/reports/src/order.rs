//! A report as a job of the timetable orders it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use twinbox_call_records::{Format, MOST_ROWS, Query, ReportKind, ReportRange, range_start};
use twinbox_ids::{Pii, Timestamp};
use twinbox_mailbox::UserAddress;
use twinbox_timetable::{Job, MissedTimes};

/// Length of the range, unless the job says otherwise.
const USUAL_LAST: &str = "7d";
/// Time from the end of the range to the due time, in milliseconds. A call is recorded when it ends, and belongs to the range
/// in which it began: one that goes on at the due time is in the next report, unless it is longer than this.
const ENDS_BEFORE_MS: u64 = 15 * 60 * 1_000;
/// The longest change of a clock, in milliseconds.
const CLOCK_CHANGE_MS: u64 = 2 * 60 * 60 * 1_000;
/// Maximum number of days.
const MOST_DAYS: u64 = 3_650;

/// A report that a job orders.
#[derive(Debug)]
pub(crate) struct Order {
    pub query: Query,
    pub range: ReportRange,
    /// The range begins earlier than usual, because earlier reports were missed.
    pub makes_up: bool,
    pub format: Format,
    /// The file, if the job has a folder.
    pub file: Option<PathBuf>,
    /// Addresses that get it by mail.
    pub to: Vec<Pii<String>>,
}

/// The report of a job that is due at this time. Its range follows that of the due time before. A run by hand is in no such
/// row: its range ends at its request. The range of a run that makes up for missed reports begins with what is in no earlier one,
/// but not longer ago than `keep`, for which records are kept.
pub(crate) fn order(
    job: &Job,
    due: Timestamp,
    missed: Option<MissedTimes>,
    keep: Duration,
) -> Result<Order, String> {
    let argument = |word: &str| job.arguments.get(word).map(String::as_str);
    let kind = argument("report").unwrap_or_default().parse::<ReportKind>().map_err(|error| error.to_string())?;
    let last = match (argument("days"), argument("last")) {
        (Some(_), Some(_)) => return Err("the job has both days= and last=: remove one of them".to_owned()),
        (Some(text), None) => {
            let days = text.parse::<u64>().ok().filter(|days| (1..=MOST_DAYS).contains(days));
            let days =
                days.ok_or_else(|| format!("'{text}' is no number of days: give days=1 to days={MOST_DAYS}"))?;
            format!("{days}d")
        }
        (None, last) => last.unwrap_or(USUAL_LAST).to_owned(),
    };
    let word = argument("format").unwrap_or("table");
    let format = Format::from_word(word)
        .ok_or_else(|| format!("there is no format '{word}': give format=table, format=csv or format=json"))?;
    let folder = match argument("folder") {
        Some(folder) if !Path::new(folder).is_absolute() => {
            return Err(format!("'{folder}' is no path from the root on: give folder=PATH"));
        }
        folder => folder,
    };
    let to = addresses(argument("to").unwrap_or_default())?;
    if folder.is_none() && to.is_empty() {
        return Err("the job has nowhere to send the report: give folder=PATH or to=ADDRESS".to_owned());
    }
    let zone = twinbox_call_records::zone(job.zone.as_str()).map_err(|error| error.to_string())?;
    let range = |due: Timestamp| {
        let start = range_start(due, &last, &zone)?;
        if job.requested == Some(due) {
            return ReportRange::new(start, due);
        }
        let from = if last.ends_with(['d', 'w']) { due_time_near(job, start) } else { start };
        let [from, to] = [from, due].map(|time| Timestamp(time.0.saturating_sub(ENDS_BEFORE_MS)));
        ReportRange::new(from, to)
    };
    let usual = range(due).map_err(|error| error.to_string())?;
    let mut from = usual.from;
    if let Some(MissedTimes { last, first }) = missed {
        let oldest = due.0.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let reported = last.map_or(0, |last| last.0.saturating_sub(ENDS_BEFORE_MS));
        let missing = range(first).map_err(|error| error.to_string())?.from;
        from = from.min(missing.max(Timestamp(oldest.max(reported))));
    }
    let makes_up = from < usual.from;
    let range = ReportRange::new(from, usual.to).map_err(|error| error.to_string())?;
    let name = format!("{}-{kind}-{}.{}", job.name, stamp(due), format.extension());
    let query = Query { kind, period: range.period(), zone, most: MOST_ROWS };
    let file = folder.map(|folder| Path::new(folder).join(name));
    Ok(Order { query, range, makes_up, format, file, to })
}

/// The due time of the job nearest to `at`, which is some days before another of its due times. It is `at` itself, unless a
/// clock change skips an hour: a job that is due in that hour runs after it.
fn due_time_near(job: &Job, at: Timestamp) -> Timestamp {
    let next = |after: &Timestamp| job.cron.next_after(*after, &job.zone);
    let first = Timestamp(at.0.saturating_sub(CLOCK_CHANGE_MS + 1));
    let near = std::iter::successors(next(&first), next).take_while(|due| due.0 <= at.0 + CLOCK_CHANGE_MS);
    near.min_by_key(|due| due.0.abs_diff(at.0)).unwrap_or(at)
}

/// Addresses separated by commas; each counts once.
fn addresses(text: &str) -> Result<Vec<Pii<String>>, String> {
    let mut all = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let address =
            UserAddress::address(word).map_err(|error| format!("'{}' in to=: {error}", word.escape_debug()))?;
        let address = Pii::new(address.as_str().to_owned());
        if !all.contains(&address) {
            all.push(address);
        }
    }
    Ok(all)
}

/// The due time in a file's name: seconds since 1970, so that names sort by time and are the same on all nodes.
fn stamp(due: Timestamp) -> u64 {
    due.0 / 1_000
}

#[cfg(test)]
mod tests {
    use twinbox_ids::JobId;
    use twinbox_timetable::{JobChange, JobKind};

    use super::*;

    const DUE: Timestamp = Timestamp(1_793_620_800_000);
    const HOUR_MS: u64 = 3_600_000;
    const KEEP: Duration = Duration::from_secs(90 * 86_400);

    fn order(job: &Job, due: Timestamp) -> Result<Order, String> {
        super::order(job, due, None, KEEP)
    }

    fn job(settings: &[&str]) -> Job {
        let all = [&["cron=0 7 * * MON", "report=traffic", "folder=/tmp/reports"][..], settings].concat();
        let read = |text: &&str| JobChange::parse(JobKind::Report, text).expect(text);
        let changes: Vec<_> = all.iter().map(read).collect();
        Job::new(JobId(7), "weekly", JobKind::Report, &changes, Timestamp(1)).expect("a job")
    }

    #[test]
    fn job_orders_the_time_before_its_due_time_as_a_file_of_its_name_and_as_mails() {
        let length = |made: &Order| made.range.to.0 - made.range.from.0;
        let made = order(&job(&["days=2", "format=csv"]), DUE).expect("an order");
        assert_eq!((length(&made), made.format), (48 * HOUR_MS, Format::Csv));
        assert_eq!(made.file.as_deref(), Some(Path::new("/tmp/reports/weekly-traffic-1793620800.csv")));
        assert!(made.to.is_empty());
        let usual = order(&job(&[]), DUE).expect("an order");
        assert_eq!((length(&usual), usual.format), (7 * 24 * HOUR_MS, Format::Table));

        let mailed = order(&job(&["folder=", "to=B@x.example, a@x.example,b@x.example", "last=24h"]), DUE);
        let mailed = mailed.expect("an order");
        let to: Vec<_> = mailed.to.iter().map(|to| to.reveal().as_str()).collect();
        assert_eq!((&mailed.file, to), (&None, vec!["b@x.example", "a@x.example"]));
        assert_eq!(length(&mailed), 24 * HOUR_MS);
    }

    /// A record is written when its call ends.
    #[test]
    fn call_that_goes_on_at_the_due_time_is_in_the_next_report() {
        let (day, began) = (24 * HOUR_MS, DUE.0 - 60_000);
        let range = |due| order(&job(&["days=1"]), Timestamp(due)).expect("an order").range;
        let (this, next) = (range(DUE.0), range(DUE.0 + day));
        assert_eq!((this.to, next.to.0 - this.to.0), (next.from, day), "one follows the other");
        assert!(this.to.0 <= began && next.from.0 <= began && began < next.to.0, "{this:?} {next:?}");
        // A run by hand shows the calls up to now.
        let by_hand = Job { requested: Some(DUE), ..job(&["days=1"]) };
        let range = order(&by_hand, DUE).expect("an order").range;
        assert_eq!((range.from.0, range.to), (DUE.0 - day, DUE));
    }

    #[test]
    fn report_that_makes_up_for_missed_ones_begins_at_the_end_of_the_last_one_within_the_time_of_records() {
        let (weekly, days) = (job(&["missed=run-once"]), |days: u64| days * 24 * HOUR_MS);
        let first_due = weekly.cron.next_after(DUE, &weekly.zone).expect("a due time");
        let due = |weeks: u64| Timestamp(first_due.0 + days(7 * weeks));
        let make = |job: &Job, due, missed| super::order(job, due, missed, KEEP).expect("an order");
        let last = make(&weekly, due(0), None);
        let since_first = Some(MissedTimes { last: Some(due(0)), first: due(1) });
        let late = make(&weekly, due(4), since_first);
        assert_eq!((late.range.from, late.makes_up), (last.range.to, true));
        assert_eq!(late.range.to.0, due(4).0 - ENDS_BEFORE_MS);
        assert!(!last.makes_up && !make(&weekly, due(4), None).makes_up);
        // No records are older.
        let bounded = make(&weekly, due(40), since_first);
        assert_eq!((bounded.range.from.0, bounded.makes_up), (due(40).0 - days(90), true));
        // The usual range reaches back behind the last report, or ends long after it.
        let (wide, narrow) = (job(&["days=60"]), job(&["days=1"]));
        let made = make(&wide, due(4), since_first);
        assert_eq!((made.range.from, made.makes_up), (make(&wide, due(4), None).range.from, false));
        assert_eq!(make(&narrow, due(4), since_first).range.from, make(&narrow, due(1), None).range.from);
        // The first report of a job.
        let never = Some(MissedTimes { last: None, first: due(1) });
        assert_eq!(make(&weekly, due(4), never).range.from, last.range.to);
        // Up to the request, as any run by hand.
        let request = Timestamp(due(4).0 + HOUR_MS);
        let by_hand = make(&Job { requested: Some(request), ..weekly.clone() }, request, since_first);
        assert_eq!((by_hand.range.from, by_hand.range.to), (last.range.to, request));
    }

    /// The clock of Berlin goes back on 25 October 2026.
    #[test]
    fn days_are_those_of_the_calendar_in_the_zone_of_the_job() {
        let hours = |settings: &[&str]| {
            let made = order(&job(settings), Timestamp(DUE.0 - 24 * HOUR_MS)).expect("an order");
            (made.range.to.0 - made.range.from.0) / HOUR_MS
        };
        for last in ["days=14", "last=14d", "last=2w"] {
            assert_eq!(hours(&["zone=Europe/Berlin", last]), 14 * 24 + 1, "{last}");
        }
        assert_eq!((hours(&["zone=Europe/Berlin", "last=336h"]), hours(&["days=14"])), (336, 336));
    }

    /// The clock of Berlin goes forward on 29 March 2026 at 2:00, which is 1774746000.
    #[test]
    fn ranges_follow_each_other_where_the_due_time_is_in_a_skipped_hour() {
        let job = job(&["cron=30 2 * * *", "zone=Europe/Berlin", "days=1"]);
        let mut due = Timestamp(1_774_746_000_000 - 2 * 24 * HOUR_MS);
        let ranges = [(); 4].map(|()| {
            due = job.cron.next_after(due, &job.zone).expect("a due time");
            order(&job, due).expect("an order").range
        });
        for two in ranges.windows(2) {
            assert_eq!(two[0].to, two[1].from, "{ranges:?}");
        }
        let lengths = ranges.map(|range| (range.to.0 - range.from.0) * 2 / HOUR_MS);
        assert_eq!(lengths, [48, 48, 47, 47], "in half hours");
    }

    #[test]
    fn wrong_arguments_are_refused_with_input_and_remedy() {
        for (settings, part) in [
            (&["days=0"][..], "'0'"),
            (&["days=x"], "'x'"),
            (&["last=7"], "'7'"),
            (&["days=1", "last=1d"], "both"),
            (&["format=pdf"], "'pdf'"),
            (&["report=calls"], "'calls'"),
            (&["folder=reports"], "'reports'"),
        ] {
            // As a release stored them that did not check them.
            let mut job = job(&[]);
            let arguments = settings.iter().filter_map(|text| text.split_once('='));
            job.arguments.extend(arguments.map(|(word, value)| (word.to_owned(), value.to_owned())));
            let refused = order(&job, DUE).expect_err(part);
            assert!(refused.contains(part), "{settings:?}: {refused}");
        }
    }
}
