//! Scans whose pages bring too little.

use std::time::Duration;

use twinbox_replication_core::page_rate::PageRate;

#[test]
fn scan_ends_when_its_pages_are_slow_and_small() {
    for (seconds, rows, bytes, expected) in [
        (29, 1, 100, 2),
        (29, 0, 0, 2),
        (29, 2_048, 0, 1_000),
        (29, 500, 500 * 300, 1_000),
        (29, 1, 128 * 1024, 1_000),
        (1, 1, 100, 62),
        (0, 1, 100, 1_000),
    ] {
        let mut rate = PageRate::default();
        let taken = (0..1_000).take_while(|_| rate.suffices(Duration::from_secs(seconds), rows, bytes)).count();
        assert_eq!(taken, expected, "{seconds} {rows} {bytes}");
    }
}
