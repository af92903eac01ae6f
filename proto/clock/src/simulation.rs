//! The clocks of simulated machines, for programs that run several of them on one thread.

use std::cell::Cell;

use twinbox_ids::Timestamp;

use crate::BootInstant;

/// The clock readings of the machine that is active on this thread.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Its `CLOCK_BOOTTIME`.
    pub boot: BootInstant,
    /// Its wall clock.
    pub wall: Timestamp,
}

thread_local! {
    static CLOCK: Cell<Option<fn() -> Moment>> = const { Cell::new(None) };
}

/// From now on `clock` gives the time on this thread, instead of the machine's own clocks.
pub fn install(clock: fn() -> Moment) {
    CLOCK.set(Some(clock));
}

/// Whether this thread simulates machines.
pub fn is_on() -> bool {
    CLOCK.get().is_some()
}

pub(crate) fn now() -> Option<Moment> {
    CLOCK.get().map(|clock| clock())
}
