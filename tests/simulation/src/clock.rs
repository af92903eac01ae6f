//! Clocks that drift, and wall clocks that are wrong.

use std::time::Duration;

/// Global time in microseconds.
pub(crate) type Micros = u64;

pub(crate) const MS: Micros = 1_000;
const PPM: u128 = 1_000_000;
/// Reading of wall clocks at the beginning: some day at 01:00 UTC.
const DAY: u64 = 1_700_006_400_000;

/// A member's clocks: the boot clock with its own zero and its own rate, and a wall clock that jumps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    offset: Micros,
    /// Local microseconds in a million global ones.
    rate: u64,
    /// Error of the wall clock, in milliseconds.
    pub(crate) wrong_ms: i64,
    /// Time for which it has stopped in suspend: the behaviour of a clock of the wrong kind.
    pub(crate) stood_still: Micros,
}

impl Clock {
    /// `drift` in parts per million, positive for a clock that is fast.
    pub(crate) fn new(offset: Micros, drift: i64) -> Self {
        Self { offset, rate: 1_000_000_u64.saturating_add_signed(drift), wrong_ms: 0, stood_still: 0 }
    }

    /// Reading of the boot clock at a moment of global time.
    pub(crate) fn at(self, global: Micros) -> Duration {
        let passed = u128::from(global.saturating_sub(self.stood_still)) * u128::from(self.rate) / PPM;
        Duration::from_micros(self.offset + u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// Reading of the wall clock, in milliseconds since 1970.
    pub(crate) fn wall_ms(self, global: Micros) -> u64 {
        (DAY + global / MS).saturating_add_signed(self.wrong_ms)
    }

    /// Global time that passes while this clock counts `local`.
    pub(crate) fn span(self, local: Duration) -> Micros {
        u64::try_from(local.as_micros() * PPM / u128::from(self.rate)).unwrap_or(u64::MAX)
    }
}
