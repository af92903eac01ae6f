//! Boot time as a dependency.

use std::sync::Arc;

use crate::BootInstant;

/// Clock that a part of the node is given, so that its tests can move it. Cheap to clone. Default: `CLOCK_BOOTTIME`.
#[derive(Clone)]
pub struct BootClock(Arc<dyn Fn() -> BootInstant + Send + Sync>);

impl BootClock {
    /// A clock that this function reads.
    pub fn new(read: impl Fn() -> BootInstant + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The current time.
    pub fn now(&self) -> BootInstant {
        (self.0)()
    }
}

impl Default for BootClock {
    fn default() -> Self {
        Self::new(BootInstant::now)
    }
}
