//! The boot clock as `twinbox-roles-core` counts it: a [`Duration`] since the start of the machine.

use std::time::Duration;

use twinbox_clock::BootInstant;

/// This time, as the core counts it.
pub(crate) fn since_boot(at: BootInstant) -> Duration {
    Duration::from_nanos(at.as_nanos())
}

/// The present time.
pub(crate) fn now() -> Duration {
    since_boot(BootInstant::now())
}
