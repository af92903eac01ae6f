//! Waits for a condition, never for a fixed time.

use std::{thread::sleep, time::Duration};

use twinbox_clock::BootInstant;

/// Polls until `condition` holds; panics with `what` when it does not within `limit`. Returns the elapsed time.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = BootInstant::now();
    wait_for(what, limit, || condition().then_some(()));
    begun.elapsed()
}

/// Polls until `look` returns a value; panics with `what` when it does not within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    holds(limit, look).unwrap_or_else(|| panic!("waited {limit:?} in vain for: {what}"))
}

/// Polls until `look` returns a value, or `None` after `limit`.
pub fn holds<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = BootInstant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        let looked = BootInstant::now();
        if let Some(found) = look() {
            return Some(found);
        }
        if begun.elapsed() >= limit {
            return None;
        }
        // A look that starts a program leaves the processor to the other tests for twice as long as it took.
        sleep(pause.max((looked.elapsed() * 2).min(Duration::from_millis(250))));
        pause = (pause * 3 / 2).min(Duration::from_millis(50));
    }
}
