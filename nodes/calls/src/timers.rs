//! The loop for the timers of the transactions. It sleeps until the earliest timer is due, and runs at most one pass in
//! 20 ms, however many timers there are.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

/// Minimum time between two passes; retransmissions (RFC 3261 section 17) need no finer resolution.
const TICK: Duration = Duration::from_millis(20);

/// Sleep state of the loop.
#[derive(Default)]
pub(crate) struct Timers {
    /// A timer due before this time wakes the loop, in milliseconds of the caller's clock. 0 from a pass to the next
    /// sleep.
    wake_before: AtomicU64,
    armed: Notify,
}

impl Timers {
    /// Runs forever. `pass` runs the timers that are due. `next_due` returns the due time of the earliest timer, on the
    /// clock `now`.
    pub(crate) async fn run(&self, now: impl Fn() -> u64, pass: impl Fn(), next_due: impl Fn() -> Option<u64>) {
        loop {
            pass();
            sleep(TICK).await;
            // From here on every new timer wakes the loop, until the due time of the earliest timer is known.
            self.wake_before.store(u64::MAX, SeqCst);
            let due = next_due();
            self.wake_before.store(due.unwrap_or(u64::MAX), SeqCst);
            let pause = due.map(|due| Duration::from_millis(due.saturating_sub(now())));
            tokio::select! {
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                () = self.armed.notified() => {}
            }
            self.wake_before.store(0, SeqCst);
        }
    }

    /// To be called after each change of timers; `next_due` is the due time of the earliest one.
    pub(crate) fn changed(&self, next_due: Option<u64>) {
        if next_due.is_some_and(|due| due < self.wake_before.load(SeqCst)) {
            self.armed.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/timers.rs"]
mod tests;
