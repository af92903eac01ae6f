//! Clocks that drift.

use std::time::Duration;

/// Global time in microseconds.
pub(crate) type Micros = u64;

const PPM: u128 = 1_000_000;

/// A member's boot clock: its own zero, its own rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    offset: Micros,
    /// Local microseconds in a million global ones.
    rate: u64,
}

impl Clock {
    /// `drift` in parts per million, positive for a clock that is fast.
    pub(crate) fn new(offset: Micros, drift: i64) -> Self {
        Self { offset, rate: 1_000_000_u64.saturating_add_signed(drift) }
    }

    /// What this clock shows at a moment of global time.
    pub(crate) fn at(self, global: Micros) -> Duration {
        let passed = u128::from(global) * u128::from(self.rate) / PPM;
        Duration::from_micros(self.offset + u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// How much global time passes while this clock counts `local`.
    pub(crate) fn span(self, local: Duration) -> Micros {
        u64::try_from(local.as_micros() * PPM / u128::from(self.rate)).unwrap_or(u64::MAX)
    }
}
