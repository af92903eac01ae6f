//! The only code that reads clocks. All other code receives its time.
//!
//! Leases run on `CLOCK_BOOTTIME`, which also counts while the machine is suspended (rule R2): a monotonic clock stops
//! there, and a holder that wakes would trust an expired lease.

#![allow(clippy::disallowed_methods, reason = "clippy.toml forbids clocks in all other crates")]

use std::{
    ops::{Add, Sub},
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};
use twinbox_ids::Timestamp;

mod alarm;
mod boot_clock;
mod histogram;
#[cfg(feature = "simulation")]
pub mod simulation;

pub use alarm::BootAlarm;
pub use boot_clock::BootClock;
pub use histogram::{DurationHistogram, HistogramView};

/// Processor time that all threads of this process have used since its start.
pub fn processor_time() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// A moment on `CLOCK_BOOTTIME`, in nanoseconds since boot. Comparable within one machine's boot only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(u64);

impl BootInstant {
    /// The current time.
    pub fn now() -> Self {
        #[cfg(feature = "simulation")]
        if let Some(now) = simulation::now() {
            return now.boot;
        }
        let t = clock_gettime(ClockId::Boottime);
        Self(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    /// A moment at a given distance from boot: for tests and simulations.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`, zero if that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time passed since this moment.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for BootInstant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The wall clock. It may jump; use it for display and for hybrid stamps, never to measure durations.
pub fn wall() -> Timestamp {
    #[cfg(feature = "simulation")]
    if let Some(now) = simulation::now() {
        return now.wall;
    }
    Timestamp(u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX))
}

/// The wall clock as the time since the Unix epoch, in the resolution of the system: for stamps that are compared with
/// those of another machine. Not simulated.
pub fn since_epoch() -> Duration {
    // By the C library, which TLS uses too: a tool that shifts the clock of a process shifts both.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The same as the kernel has it, for stamps that the kernel has made: a tool that shifts the clock of a process does not shift
/// those.
pub fn kernel_time() -> Duration {
    let t = clock_gettime(ClockId::Realtime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_increases_and_never_underflows() {
        let a = BootInstant::now();
        let b = BootInstant::now();
        assert!(b >= a);
        assert_eq!(a.since(a + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((BootInstant::from_nanos(5) - Duration::from_secs(1)).as_nanos(), 0);
    }
}
