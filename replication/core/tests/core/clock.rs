//! The hybrid clock (rule D5).

use std::time::Duration;

use proptest::prelude::*;
use twinbox_ids::{Origin, Stamp, Timestamp};
use twinbox_replication_core::Clock;

use crate::stamp;

const BOUND: Duration = Duration::from_millis(1000);

#[test]
fn restored_clock_continues_above_the_restored_stamp() {
    let mut clock = Clock::new(Origin(1));
    clock.restore(Stamp { wall: 5000, counter: 7, origin: Origin(9) });
    // The wall clock went back in the night.
    let first = clock.tick(Timestamp(100), None);
    assert_eq!((first.wall, first.counter), (5000, 8));
    assert!(clock.tick(Timestamp(6000), None) > first);
    assert_eq!(clock.reading().wall, 6000);
}

#[test]
fn corrected_clock_stamps_by_the_clusters_time_and_never_goes_back() {
    const HOUR: i64 = 3_600_000;
    let (hour, now) = (3_600_000, 100 * 3_600_000);
    let mut behind = Clock::new(Origin(1));
    assert_eq!(behind.tick(Timestamp(now - hour), None).wall, now - hour);
    behind.correct(HOUR);
    assert_eq!(behind.tick(Timestamp(now - hour), None).wall, now);
    assert!(
        behind.observe(stamp(now + 900, 2), Timestamp(now - hour), BOUND),
        "the bound is by the cluster's time"
    );

    let mut ahead = Clock::new(Origin(1));
    let before = ahead.tick(Timestamp(now + hour), None);
    ahead.correct(-HOUR);
    let after = ahead.tick(Timestamp(now + hour + 1), None);
    assert!(after > before && after.wall == before.wall);
    // An hour later the cluster's time has come there.
    assert_eq!(ahead.tick(Timestamp(now + 2 * hour + 5), None).wall, now + hour + 5);
    ahead.correct(0);
    assert_eq!(ahead.tick(Timestamp(now + 2 * hour), None).wall, now + 2 * hour, "it was set right");
}

#[test]
fn foreign_stamp_advances_the_clock_only_within_the_bound() {
    let mut clock = Clock::new(Origin(1));
    assert!(clock.observe(stamp(1900, 2), Timestamp(1000), BOUND));
    assert!(clock.tick(Timestamp(1000), None) > stamp(1900, 2));
    assert!(!clock.observe(stamp(99_000, 2), Timestamp(1000), BOUND));
    assert!(clock.tick(Timestamp(2000), None) < stamp(99_000, 2));
}

#[test]
fn write_is_stamped_above_the_replaced_value_without_advancing_the_clock() {
    let mut clock = Clock::new(Origin(1));
    let ahead = stamp(99_000, 2);
    let over = clock.tick(Timestamp(1000), Some(ahead));
    assert!(over > ahead && over.wall == 99_000);
    assert_eq!(clock.tick(Timestamp(1000), None).wall, 1000);
    assert_eq!(clock.reading().wall, 1000);
    // At the end of a counter the next millisecond begins.
    let brim = Stamp { wall: 5, counter: u32::MAX, origin: Origin(3) };
    assert!(Clock::new(Origin(1)).tick(Timestamp(5), Some(brim)) > brim);
}

proptest! {
    #[test]
    fn stamps_of_one_clock_increase(
        walls in prop::collection::vec(0..50u64, 1..50), seen in prop::collection::vec((0..60u64, 0..3u32), 50)
    ) {
        let mut clock = Clock::new(Origin(1));
        let mut last = Stamp::ZERO;
        for (wall, (other, counter)) in walls.into_iter().zip(seen) {
            clock.observe(Stamp { wall: other, counter, origin: Origin(2) }, Timestamp(wall), Duration::from_millis(5));
            let stamp = clock.tick(Timestamp(wall), None);
            prop_assert!(stamp > last && stamp.wall >= wall);
            last = stamp;
        }
    }
}
