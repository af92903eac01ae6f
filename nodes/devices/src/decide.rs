//! Decisions about notifications: the first one, its repeats, the fallback, gathering.
//!
//! Every function is a function of its arguments, so that the node that takes over the duty decides the same.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use twinbox_ids::Pii;

use crate::{Device, DeviceId};

/// A message as the decisions see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFacts {
    /// Number of the caller.
    pub caller: Option<Pii<String>>,
    /// Length in milliseconds.
    pub length_ms: u64,
    /// Flagged as urgent by the caller.
    pub urgent: bool,
    /// Not yet heard.
    pub new: bool,
    /// Flagged as deleted, or purged.
    pub deleted: bool,
}

/// The earliest moment of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotBefore(pub Timestamp);

impl NotBefore {
    /// The moment in milliseconds since 1970.
    pub fn ms(self) -> u64 {
        u64::try_from(self.0.as_millisecond()).unwrap_or_default()
    }
}

/// Result of a notification, once it is final. The sender retries temporary failures: they are no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotificationOutcome {
    /// The next system took it.
    Delivered,
    /// It failed for good: refused, or its time is over.
    Failed,
}

/// The notification that came to its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Number of the repeat; 0 for the first notification of this device.
    pub repeat: u32,
    /// Devices that notified of the message before this one, and fell back.
    pub before: Vec<DeviceId>,
}

/// The step that follows a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// No further notification.
    Nothing,
    /// The same device again.
    Repeat {
        /// Number of the repeat, from 1.
        number: u32,
        /// Earliest moment.
        not_before: NotBefore,
    },
    /// Another device. Its delay and times count from `not_before`: see the argument `since` of [`first`].
    Fallback {
        /// The device.
        device: DeviceId,
        /// Earliest moment.
        not_before: NotBefore,
    },
}

/// The earliest moment of the first notification, in the user's `zone`; `None`: the device does not notify of this
/// message. The delay counts from `since`: the time of the message, or for a fallback the end of the failed device.
pub fn first(device: &Device, facts: &MessageFacts, since: Timestamp, zone: &TimeZone) -> Option<NotBefore> {
    if !still_wanted(device, facts) || !device.filter.admits(facts) {
        return None;
    }
    opens(device, later(since, device.delay_s), zone)
}

/// Whether a notification is still to be sent, asked just before: the device is enabled, and the message was neither
/// heard nor deleted since.
pub fn still_wanted(device: &Device, facts: &MessageFacts) -> bool {
    device.enabled && facts.new && !facts.deleted
}

/// The step after a notification's outcome at `now`. A fallback that already notified of this message is not used again,
/// so that devices which name each other end.
pub fn after(
    device: &Device,
    outcome: NotificationOutcome,
    facts: &MessageFacts,
    attempt: &Attempt,
    now: Timestamp,
    zone: &TimeZone,
) -> Next {
    if !facts.new || facts.deleted {
        return Next::Nothing;
    }
    let fallback = |from| match device.fallback {
        Some(next) if next != device.id && !attempt.before.contains(&next) => {
            Next::Fallback { device: next, not_before: NotBefore(from) }
        }
        _ => Next::Nothing,
    };
    match (outcome, device.repeat) {
        (NotificationOutcome::Failed, _) => fallback(now),
        (NotificationOutcome::Delivered, None) => Next::Nothing,
        // A message that its mail deletes needs no reminder.
        (NotificationOutcome::Delivered, Some(_)) if !device.enabled || device.deletes_after() => Next::Nothing,
        (NotificationOutcome::Delivered, Some(repeat)) => {
            // After the last repeat the user has the same time to hear the message.
            let due = later(now, repeat.every_s);
            match opens(device, due, zone) {
                Some(not_before) if attempt.repeat < repeat.most => {
                    Next::Repeat { number: attempt.repeat.saturating_add(1), not_before }
                }
                _ => fallback(due),
            }
        }
    }
}

/// The moment until which further notifications are gathered into one, when the device's limit for an hour is reached;
/// `None`: it may notify now. `sent` are the moments of its earlier notifications, in any order.
pub fn digest(device: &Device, sent: &[Timestamp], now: Timestamp) -> Option<Timestamp> {
    let most = usize::try_from(device.per_hour).ok().filter(|most| *most > 0)?;
    let mut free: Vec<Timestamp> = sent.iter().map(|at| later(*at, 3_600)).filter(|free| *free > now).collect();
    free.sort_unstable();
    // The oldest of the latest `most` notifications leaves the hour first.
    free.len().checked_sub(most).and_then(|at| free.get(at)).copied()
}

/// The earliest moment from `at` on at which the device may be notified; `None`: its hours never come.
pub fn opens(device: &Device, at: Timestamp, zone: &TimeZone) -> Option<NotBefore> {
    match &device.schedule {
        None => Some(NotBefore(at)),
        Some(schedule) => schedule.next_open(at, zone).map(NotBefore),
    }
}

fn later(at: Timestamp, seconds: u32) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(Timestamp::MAX)
}
