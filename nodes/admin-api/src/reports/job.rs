//! The job `report` of the timetable: writes a report to a folder.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use twinbox_call_records::{Format, MOST_ROWS, Query, ReportKind, ReportRange};
use twinbox_ids::Timestamp;
use twinbox_timetable::Job;

use super::ReportSource;

const DAY_MS: u64 = 86_400_000;
/// Days up to the run, unless the job says otherwise.
const USUAL_DAYS: u64 = 7;
/// Maximum number of days.
const MOST_DAYS: u64 = 3_650;

/// The work of jobs of kind `report`.
#[derive(Clone)]
pub struct ReportWork {
    /// Sources of the reports.
    pub source: ReportSource,
}

/// A report as a job orders it.
#[derive(Debug)]
struct Order {
    query: Query,
    range: ReportRange,
    format: Format,
    file: PathBuf,
}

impl ReportWork {
    /// Writes the report of the days up to `due`; a repeated run replaces the file. Returns the outcome for the
    /// history, or the reason of the failure.
    pub async fn write(&self, job: &Job, due: Timestamp) -> Result<String, String> {
        let Order { query, range, format, file } = order(job, due)?;
        let report = self.source.make(query, range, None).await.map_err(|error| error.to_string())?;
        let text = format.render(&report);
        let cut = if report.truncated || report.next.is_some() { "; it is cut: give fewer days=" } else { "" };
        let shown = file.display().to_string();
        let written = tokio::task::spawn_blocking(move || write(&file, text.as_bytes())).await;
        match written {
            Ok(Ok(())) => Ok(format!("wrote {shown}{cut}")),
            Ok(Err(error)) => Err(format!("{shown} cannot be written: {error}; check folder=")),
            Err(_) => Err("the node is stopping".to_owned()),
        }
    }
}

fn order(job: &Job, due: Timestamp) -> Result<Order, String> {
    let argument = |word: &str| job.arguments.get(word).map(String::as_str);
    let kind = argument("report").unwrap_or_default().parse::<ReportKind>().map_err(|error| error.to_string())?;
    let days = match argument("days") {
        None => USUAL_DAYS,
        Some(text) => {
            let days = text.parse::<u64>().ok().filter(|days| (1..=MOST_DAYS).contains(days));
            days.ok_or_else(|| format!("'{text}' is no number of days: give days=1 to days={MOST_DAYS}"))?
        }
    };
    let word = argument("format").unwrap_or("table");
    let format = Format::from_word(word)
        .ok_or_else(|| format!("there is no format '{word}': give format=table, format=csv or format=json"))?;
    let folder = argument("folder").filter(|folder| Path::new(folder).is_absolute());
    let folder = folder.ok_or("the job has no folder: give folder=PATH, a path from the root on")?;
    let zone = twinbox_call_records::zone(&job.zone.to_string()).map_err(|error| error.to_string())?;
    let from = Timestamp(due.0.saturating_sub(days * DAY_MS));
    let range = ReportRange::new(from, due).map_err(|error| error.to_string())?;
    let name = format!("{}-{kind}-{}.{}", job.name, stamp(due), format.extension());
    let query = Query { kind, period: range.period(), zone, most: MOST_ROWS };
    Ok(Order { query, range, format, file: Path::new(folder).join(name) })
}

/// The due time in a file's name: seconds since 1970, so that names sort by time and are the same on all nodes.
fn stamp(due: Timestamp) -> u64 {
    due.0 / 1_000
}

/// Writes a file that only this user may read, whole or not at all: it has numbers of callers.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (part, folder) = (file.with_extension("part"), file.parent().unwrap_or(Path::new("/")));
    std::fs::create_dir_all(folder)?;
    // A new file: an earlier one may be a link, or readable by others.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    open.write_all(bytes)?;
    open.sync_all()?;
    std::fs::rename(&part, file)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use twinbox_ids::JobId;
    use twinbox_timetable::{JobChange, JobKind};

    use super::*;

    const DUE: Timestamp = Timestamp(1_793_620_800_000);

    fn job(settings: &[&str]) -> Job {
        let all = [&["cron=0 7 * * MON", "report=traffic", "folder=/tmp/reports"][..], settings].concat();
        let read = |text: &&str| JobChange::parse(JobKind::Report, text).expect(text);
        let changes: Vec<_> = all.iter().map(read).collect();
        Job::new(JobId(7), "weekly", JobKind::Report, &changes, Timestamp(1)).expect("a job")
    }

    #[test]
    fn job_orders_the_days_up_to_its_due_time_as_a_file_of_its_name() {
        let made = order(&job(&["days=2", "format=csv"]), DUE).expect("an order");
        assert_eq!((DUE.0 - made.range.from.0, made.range.to, made.format), (2 * DAY_MS, DUE, Format::Csv));
        assert_eq!(made.file, Path::new("/tmp/reports/weekly-traffic-1793620800.csv"));
        let usual = order(&job(&[]), DUE).expect("an order");
        assert_eq!((DUE.0 - usual.range.from.0, usual.format), (7 * DAY_MS, Format::Table));
    }

    #[test]
    fn wrong_arguments_are_refused_with_input_and_remedy() {
        for (setting, part) in [
            ("days=0", "'0'"),
            ("days=x", "'x'"),
            ("format=pdf", "'pdf'"),
            ("report=calls", "'calls'"),
            ("folder=reports", "folder=PATH"),
        ] {
            let refused = order(&job(&[setting]), DUE).expect_err(setting);
            assert!(refused.contains(part), "{setting}: {refused}");
        }
    }

    #[test]
    fn repeated_run_replaces_the_file_and_only_its_user_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("twinbox-report-{}", std::process::id()));
        let file = folder.join("weekly.csv");
        for text in ["first", "second"] {
            write(&file, text.as_bytes()).expect("written");
            assert_eq!(std::fs::read_to_string(&file).expect("readable"), text);
        }
        let mode = std::fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read_dir(&folder).expect("a folder").count()), (0o600, 1));
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
