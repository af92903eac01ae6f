//! The clock of the thread that plays a history. Threads of a store have that of the machine.

use std::cell::Cell;

use twinbox_clock::{
    BootInstant,
    simulation::{self, Moment},
};
use twinbox_ids::Timestamp;

/// Start of the wall clock, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_790_000_000_000;

thread_local! {
    /// Milliseconds since the beginning of the history.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Installs the clock on this thread, at the beginning of a history.
pub(crate) fn install() {
    NOW.set(0);
    simulation::install(read);
}

/// Milliseconds since the beginning.
pub(crate) fn now_ms() -> u64 {
    NOW.get()
}

/// Lets time pass.
pub(crate) fn advance(ms: u64) {
    NOW.set(NOW.get() + ms);
}

fn read() -> Moment {
    let now = NOW.get();
    Moment { boot: BootInstant::from_nanos(now * 1_000_000), wall: Timestamp(EPOCH_MS + now) }
}
