//! The clocks of the simulated machines: each runs a little too fast or too slow, for ever. Wall clocks jump besides.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use twinbox_clock::{
    BootInstant,
    simulation::{self, Moment},
};
use twinbox_ids::Timestamp;

use crate::pauses;

/// Of the wall clocks, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_790_000_000_000;
/// Between one machine's boot and the next's: what one calls now means nothing to another.
const APART: u64 = 1_000_000_000_000;

thread_local! {
    /// In parts per million, by machine.
    static DRIFTS: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
    static GLOBAL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// By how many milliseconds the wall clock of each machine is wrong.
    static WRONG: RefCell<BTreeMap<usize, i64>> = const { RefCell::new(BTreeMap::new()) };
    /// `CLOCK_BOOTTIME` stands still in suspend, as other clocks do.
    static STANDING: Cell<bool> = const { Cell::new(false) };
}

/// Simulated machines have these clocks from now on. The machine of index `i` has to be added to the simulation `i`
/// milliseconds after its start: that tells whose clock is asked.
pub fn install(drifts: Vec<i64>) {
    DRIFTS.set(drifts);
    simulation::install(read);
}

/// The clocks by which leases run stand still while their machine is suspended: the wrong kind of clock.
pub fn stand_still_in_suspend() {
    STANDING.set(true);
}

/// The wall clock of this machine is wrong by so many milliseconds from now on.
pub fn set_wrong(machine: usize, ms: i64) {
    WRONG.with_borrow_mut(|wrong| wrong.insert(machine, ms));
}

/// The index of the machine that is at work.
pub fn machine() -> Option<usize> {
    let global = turmoil::sim_elapsed()?;
    Some(global.saturating_sub(turmoil::elapsed()).as_millis() as usize)
}

/// The time by which everything is judged.
pub fn global() -> Duration {
    if let Some(now) = turmoil::sim_elapsed() {
        GLOBAL.set(now);
    }
    GLOBAL.get()
}

/// The same as it was asked for last, for places where the simulation must not be asked.
pub fn last() -> Duration {
    GLOBAL.get()
}

/// Set by whoever steps the simulation, outside of any machine.
pub fn set_global(now: Duration) {
    GLOBAL.set(now);
}

fn read() -> Moment {
    let (Some(global), Some(index)) = (turmoil::sim_elapsed(), machine()) else {
        let nanos = u64::try_from(GLOBAL.get().as_nanos()).unwrap_or(u64::MAX);
        return Moment { boot: BootInstant::from_nanos(nanos), wall: Timestamp(EPOCH_MS) };
    };
    GLOBAL.set(global);
    let drift = DRIFTS.with_borrow(|drifts| drifts.get(index).copied().unwrap_or(0));
    let counted = match STANDING.get() {
        true => global.saturating_sub(pauses::suspended(index, global)),
        false => global,
    };
    let nanos = counted.as_nanos() as i128;
    let local = u64::try_from(nanos + nanos * i128::from(drift) / 1_000_000).unwrap_or(0);
    let wrong = WRONG.with_borrow(|wrong| wrong.get(&index).copied().unwrap_or(0));
    Moment {
        boot: BootInstant::from_nanos((index as u64 + 1) * APART + local),
        wall: Timestamp((EPOCH_MS + local / 1_000_000).saturating_add_signed(wrong)),
    }
}
