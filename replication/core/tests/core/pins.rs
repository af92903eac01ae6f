//! Pins of blobs.

use std::time::Duration;

use twinbox_ids::BlobHash;
use twinbox_replication_core::Pins;

const HOUR: Duration = Duration::from_secs(3_600);

fn blob(number: u64) -> BlobHash {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    BlobHash(hash)
}

#[test]
fn pin_holds_for_its_time() {
    let mut pins = Pins::default();
    pins.pin(&blob(1), 1_099, HOUR);
    for (now, time_ms, holds) in
        [(1_099, 0, false), (1_099, 100, true), (1_200, 100, false), (1_999, 1_000, true), (2_099, 1_000, false)]
    {
        assert_eq!(pins.hold(&blob(1), now, Duration::from_millis(time_ms)), holds, "{now} {time_ms}");
    }
    assert!(!pins.hold(&blob(2), 1_099, HOUR));
    pins.pin(&blob(1), 3_000_000, HOUR);
    assert!(pins.hold(&blob(1), 6_599_999, HOUR), "from the last use on");
}

#[test]
fn none_is_forgotten_before_its_time_however_many_there_are() {
    let mut pins = Pins::default();
    for number in 0..20_000 {
        pins.pin(&blob(number), number * 1_000, HOUR);
    }
    let now = 19_999_000;
    let first = 20_000 - HOUR.as_secs();
    assert!((first..20_000).all(|number| pins.hold(&blob(number), now, HOUR)));
    assert!(!(0..first).any(|number| pins.hold(&blob(number), now, HOUR)));
}
