//! The rate at which the pages of a scan come.

use std::time::Duration;

/// A peer that sends no page for this long has failed.
pub const PAGE: Duration = Duration::from_secs(30);

/// Rows that a peer has to send in [`PAGE`], or [`BYTES`]: half of a full page. A peer that sends one row at a time would hold
/// up the fill for years, although another node has all rows.
const ROWS: u32 = 2_048;
/// Bytes of rows that a peer has to send in [`PAGE`], or [`ROWS`].
const BYTES: u32 = 128 * 1024;

/// Rows and bytes that a scan has brought, and the time that this node waited for them.
#[derive(Debug, Default)]
pub struct PageRate {
    waited: Duration,
    rows: u64,
    bytes: u64,
}

impl PageRate {
    /// Counts a page of rows that this node waited for; false if all pages so far bring too little for
    /// the time.
    pub fn suffices(&mut self, waited: Duration, rows: u64, bytes: u64) -> bool {
        self.waited += waited;
        self.rows += rows;
        self.bytes += bytes;
        let halves = self.rows as f64 / f64::from(ROWS) + self.bytes as f64 / f64::from(BYTES);
        // The first pages, and the last one, may be small.
        self.waited <= PAGE.mul_f64(2.0 + halves)
    }
}
