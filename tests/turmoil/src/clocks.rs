//! The clocks of the simulated machines: each runs slightly too fast or too slow, permanently. Wall clocks also jump.

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

/// Start of the wall clocks, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_790_000_000_000;
/// Distance between the boot times of two machines, in nanoseconds: boot times of different machines are not
/// comparable.
const APART: u64 = 1_000_000_000_000;

thread_local! {
    /// Drift in parts per million, by machine.
    static DRIFTS: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
    static GLOBAL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// Error of each machine's wall clock, in milliseconds.
    static WALL_ERROR: RefCell<BTreeMap<usize, i64>> = const { RefCell::new(BTreeMap::new()) };
    /// Flaw: `CLOCK_BOOTTIME` stops in suspend, as other clocks do.
    static STOPS_IN_SUSPEND: Cell<bool> = const { Cell::new(false) };
}

/// Installs these clocks on the simulated machines. Add the machine of index `i` to the simulation `i` milliseconds
/// after its start: that identifies the machine whose clock is read.
pub fn install(drifts: Vec<i64>) {
    DRIFTS.set(drifts);
    simulation::install(read);
}

/// Makes the clocks of leases stop while their machine is suspended: the wrong kind of clock.
pub fn stop_in_suspend() {
    STOPS_IN_SUSPEND.set(true);
}

/// Sets the error of this machine's wall clock, in milliseconds.
pub fn set_wall_error(machine: usize, ms: i64) {
    WALL_ERROR.with_borrow_mut(|errors| errors.insert(machine, ms));
}

/// The index of the running machine.
pub fn machine() -> Option<usize> {
    let global = turmoil::sim_elapsed()?;
    Some(global.saturating_sub(turmoil::elapsed()).as_millis() as usize)
}

/// The global time, by which everything is judged.
pub fn global() -> Duration {
    if let Some(now) = turmoil::sim_elapsed() {
        GLOBAL.set(now);
    }
    GLOBAL.get()
}

/// The last reading of the global time, for places where the simulation must not be asked.
pub fn last() -> Duration {
    GLOBAL.get()
}

/// Sets the global time; called by the code that steps the simulation, outside of any machine.
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
    let counted = match STOPS_IN_SUSPEND.get() {
        true => global.saturating_sub(pauses::suspended(index, global)),
        false => global,
    };
    let nanos = counted.as_nanos() as i128;
    let local = u64::try_from(nanos + nanos * i128::from(drift) / 1_000_000).unwrap_or(0);
    let error = WALL_ERROR.with_borrow(|errors| errors.get(&index).copied().unwrap_or(0));
    Moment {
        boot: BootInstant::from_nanos((index as u64 + 1) * APART + local),
        wall: Timestamp((EPOCH_MS + local / 1_000_000).saturating_add_signed(error)),
    }
}
