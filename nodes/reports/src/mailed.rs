//! Reports as mails: a table in the text, all rows as CSV beside it.

use twinbox_call_records::{Query, RangeError, Report, ReportKind, ReportRange, UnknownKind, csv, text};
use twinbox_ids::Timestamp;

use crate::{ReportError, ReportSource};

/// Maximum number of rows in the file of a mail: some megabytes, which mail servers take.
const MOST_ROWS: usize = 20_000;
/// Maximum number of rows in the text of a mail.
const MOST_SHOWN: usize = 100;

/// A report as it leaves by mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailedReport {
    /// Lines for the text of the mail: a table of the first rows, and what it leaves out.
    pub lines: String,
    /// All rows as CSV, with the columns' names first.
    pub csv: String,
}

/// A report for a mail could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MailedReportError {
    /// There is no such report in this release.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// The range or the zone is not valid.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The records or events cannot be read now.
    #[error(transparent)]
    Source(#[from] ReportError),
}

impl ReportSource {
    /// The report of a word, such as `traffic`, for a mail.
    pub async fn mailed(
        &self,
        report: &str,
        from: Timestamp,
        to: Timestamp,
        zone: &str,
    ) -> Result<MailedReport, MailedReportError> {
        let kind = report.parse::<ReportKind>()?;
        let (zone, range) = (twinbox_call_records::zone(zone)?, ReportRange::new(from, to)?);
        let query = Query { kind, period: range.period(), zone, most: MOST_ROWS };
        Ok(mailed(self.make(query, range, None).await?))
    }
}

fn mailed(mut report: Report) -> MailedReport {
    let cut = report.truncated || report.next.is_some() || report.rows.len() > MOST_ROWS;
    report.rows.truncate(MOST_ROWS);
    let (csv, rows) = (csv(&report), report.rows.len());
    report.rows.truncate(MOST_SHOWN);
    let mut lines = if rows == 0 { "Nothing to report.\n".to_owned() } else { text(&report) };
    if rows > MOST_SHOWN {
        lines += &format!("\nThe table has the first {MOST_SHOWN} of {rows} rows; the file has all of them.\n");
    }
    if cut {
        lines += &format!("\nThe report is longer than {MOST_ROWS} rows and is cut: choose a shorter time.\n");
    }
    MailedReport { lines, csv }
}

#[cfg(test)]
mod tests {
    use twinbox_call_records::Column;

    use super::*;

    fn report(rows: usize) -> Report {
        let columns = ["node", "calls"].map(|name| Column { name: name.to_owned(), number: name == "calls" });
        let rows = (0..rows).map(|n| vec!["a".to_owned(), n.to_string()]).collect();
        Report { columns: columns.to_vec(), rows, next: None, truncated: false }
    }

    #[test]
    fn text_has_the_first_rows_and_the_file_has_all_up_to_the_bound() {
        for (rows, in_file, parts) in [
            (0, 0, &["Nothing to report"][..]),
            (3, 3, &["NODE", "CALLS"]),
            (MOST_SHOWN + 1, MOST_SHOWN + 1, &["first 100 of 101 rows"]),
            (MOST_ROWS + 1, MOST_ROWS, &["first 100 of 20000 rows", "is cut"]),
        ] {
            let made = mailed(report(rows));
            assert_eq!(made.csv.matches("\r\n").count(), in_file + 1, "{rows}");
            assert!(made.lines.lines().count() <= MOST_SHOWN + 6, "{rows}");
            assert!(parts.iter().all(|part| made.lines.contains(part)), "{rows}: {}", made.lines);
            assert_eq!(made.lines.contains("is cut"), rows > in_file, "{rows}");
        }
    }
}
