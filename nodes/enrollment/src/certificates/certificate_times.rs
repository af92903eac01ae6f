//! Times at which a member's certificate is renewed, and at which its end is an alarm. Pure.

use std::time::Duration;

use twinbox_ids::Timestamp;
use twinbox_pki::NodeIdentity;

use super::left;

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Period before an expiry in which the alarm is raised.
const ALARM: Duration = DAY.saturating_mul(30);
/// Poll interval of certificates when nothing is due (the time of day may jump), and retry interval after a
/// failure. A poll costs almost nothing.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Minimum poll interval for a certificate that is due, and for a rotation that cannot continue.
pub(super) const SOONEST: Duration = Duration::from_secs(1);

/// Times of the certificate that a member shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct CertificateTimes {
    begins: Timestamp,
    renew_at: Timestamp,
    expires: Timestamp,
    authority_expires: Timestamp,
}

impl CertificateTimes {
    pub(super) fn of(tls: &NodeIdentity) -> Self {
        Self {
            begins: tls.begins(),
            renew_at: tls.renew_at(),
            expires: tls.expires(),
            authority_expires: tls.authority_expires(),
        }
    }

    /// Whether the certificate is to be renewed. One that is valid later only was signed while the clock was ahead; no
    /// other member accepts it.
    pub(super) fn is_due(self, now: Timestamp) -> bool {
        now < self.begins || now >= self.renew_at
    }

    /// Wait until the next poll, after an attempt to renew what was due.
    pub(super) fn pause(self, now: Timestamp) -> Duration {
        match left(self.renew_at, now) {
            Duration::ZERO => (left(self.expires, now) / 10).clamp(SOONEST, LOOK_EVERY),
            until => until.clamp(SOONEST, LOOK_EVERY),
        }
    }

    /// Time left until the certificate ends, if that is an alarm: it could not be renewed for long.
    pub(super) fn ending(self, now: Timestamp) -> Option<Duration> {
        Some(left(self.expires, now)).filter(|left| now >= self.renew_at && *left < ALARM)
    }

    /// Time left until the certificate of the CA ends, if that is an alarm.
    pub(super) fn authority_ending(self, now: Timestamp) -> Option<Duration> {
        Some(left(self.authority_expires, now)).filter(|left| *left < ALARM)
    }
}
