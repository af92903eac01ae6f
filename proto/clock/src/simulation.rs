//! The clocks of a simulated machine, for whoever runs several of them on one thread.

use std::cell::Cell;

use twinbox_ids::Timestamp;

use crate::BootInstant;

/// What the clocks of the machine that is at work on this thread say.
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

/// From now on `clock` is asked for the time on this thread, instead of the machine's own clocks.
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
