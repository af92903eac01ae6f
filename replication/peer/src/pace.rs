//! The pace of the pages of a scan. Pure.

use std::time::Duration;

use twinbox_wire::replication::{StatePage, StateRow};

/// A peer that sends no page for this long has failed.
pub(crate) const PAGE: Duration = Duration::from_secs(30);

/// Rows, and bytes of rows, that a peer has to send in this time: half of a full page. One that sends a row at a time would hold
/// up the fill for years, although another node has all rows.
const ROWS: u32 = 2_048;
const BYTES: u32 = 128 * 1024;

/// Rows and bytes that came of a scan, and the time that was waited for them.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited: Duration,
    rows: u64,
    bytes: u64,
}

impl Pace {
    /// A page came after this time; false if the pages are too few for the time waited for them.
    pub(crate) fn keeps_up(&mut self, waited: Duration, page: &StatePage) -> bool {
        self.waited += waited;
        self.rows += page.row.len() as u64;
        let key = |row: &StateRow| row.key.as_ref().map_or(0, |key| key.id.len());
        let record = |row: &StateRow| row.record.as_ref().map_or(0, |record| record.len());
        self.bytes += page.row.iter().map(|row| (key(row) + record(row)) as u64).sum::<u64>();
        let halves = self.rows as f64 / f64::from(ROWS) + self.bytes as f64 / f64::from(BYTES);
        // The first pages, and the last one, may be small.
        self.waited <= PAGE.mul_f64(2.0 + halves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: usize, bytes: usize) -> StatePage {
        let record = (bytes > 0).then(|| vec![0; bytes].into());
        StatePage { row: vec![StateRow { record, ..StateRow::default() }; rows], ..StatePage::default() }
    }

    /// Number of pages of a kind, each after this time, that are taken before the scan ends; at most a thousand.
    fn taken(seconds: u64, page: &StatePage) -> usize {
        let mut pace = Pace::default();
        (0..1_000).take_while(|_| pace.keeps_up(Duration::from_secs(seconds), page)).count()
    }

    #[test]
    fn scan_ends_when_its_pages_are_slow_and_small() {
        for (seconds, rows, bytes, expected) in [
            (29, 1, 100, 2),
            (29, 0, 0, 2),
            (29, 2_048, 0, 1_000),
            (29, 500, 300, 1_000),
            (29, 1, 128 * 1024, 1_000),
            (1, 1, 100, 62),
            (0, 1, 100, 1_000),
        ] {
            assert_eq!(taken(seconds, &page(rows, bytes)), expected, "{seconds} {rows} {bytes}");
        }
    }
}
