//! The wall clock by which a member's certificates are valid, due and expired.

use std::{fmt, sync::Arc, time::Duration};

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
use twinbox_clock::since_epoch;
use twinbox_ids::Timestamp;

/// Wall clock of a member's certificates, and of the TLS made from them. Default: the clock of the system.
#[derive(Clone)]
pub struct CertificateClock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl CertificateClock {
    /// A clock that this function reads.
    pub fn new(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Present time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    pub(crate) fn unix_time(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(self.now().0))
    }
}

impl Default for CertificateClock {
    fn default() -> Self {
        // Never simulated: certificates of simulated machines are made before their clocks run.
        Self::new(|| Timestamp(0) + since_epoch())
    }
}

impl fmt::Debug for CertificateClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateClock({:?})", self.now())
    }
}

impl TimeProvider for CertificateClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.unix_time())
    }
}
