//! The rate at which the pages of a scan come. Pure.

use std::time::Duration;

use twinbox_wire::replication::{StatePage, StateRow};

/// A peer that sends no page for this long has failed.
pub(crate) const PAGE: Duration = Duration::from_secs(30);

/// Rows that a peer has to send in [`PAGE`], or [`BYTES`]: half of a full page. A peer that sends one row at a time would hold
/// up the fill for years, although another node has all rows.
const ROWS: u32 = 2_048;
/// Bytes of rows that a peer has to send in [`PAGE`], or [`ROWS`].
const BYTES: u32 = 128 * 1024;

/// Rows and bytes that a scan has brought, and the time that this node waited for them.
#[derive(Debug, Default)]
pub(crate) struct PageRate {
    waited: Duration,
    rows: u64,
    bytes: u64,
}

impl PageRate {
    /// Counts a page that this node waited for; false if all pages so far bring too little for the time.
    pub(crate) fn suffices(&mut self, waited: Duration, page: &StatePage) -> bool {
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
        let mut rate = PageRate::default();
        (0..1_000).take_while(|_| rate.suffices(Duration::from_secs(seconds), page)).count()
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
