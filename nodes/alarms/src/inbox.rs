//! Queue of alarms and events that are not yet written: bounded, and merged on arrival. Callers never wait.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;
use twinbox_ids::{NodeName, Timestamp};

use crate::{Code, Kind, text};

/// Maximum number of waiting alarms per code, by subject: a flood of one code does not displace the others.
pub const WAITING_OF_A_CODE: usize = 64;
/// Maximum number of waiting events.
pub const WAITING_EVENTS: usize = 512;

/// A waiting alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingAlarm {
    /// Number of times that it was raised.
    pub raised: u64,
    /// Time of the latest report, raise or clear.
    pub at: Timestamp,
    /// Detail of the latest raise.
    pub detail: String,
    /// Whether it was cleared after the latest raise.
    pub cleared: bool,
}

/// A waiting event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEvent {
    /// Kind of the event.
    pub kind: Kind,
    /// Object of the event.
    pub subject: String,
    /// Detail as text.
    pub detail: String,
    /// Time of the event.
    pub at: Timestamp,
}

/// All waiting alarms and events.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PendingReports {
    /// Alarms, by code and subject.
    pub alarms: BTreeMap<(Code, String), PendingAlarm>,
    /// Events, in order.
    pub events: VecDeque<PendingEvent>,
    /// Number of events left out since the last [`Inbox::take`].
    pub left_out: u64,
    /// Removed members, whose conditions end.
    pub removed: BTreeSet<NodeName>,
}

impl PendingReports {
    fn has_room_for(&self, key: &(Code, String)) -> bool {
        let of_the_code =
            || self.alarms.range((key.0, String::new())..).take_while(|((code, _), _)| *code == key.0);
        self.alarms.contains_key(key) || of_the_code().count() < WAITING_OF_A_CODE
    }
}

/// Queue between the callers and the writer.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    pub(crate) arrived: Notify,
    dropped_alarms: AtomicU64,
    dropped_events: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: PendingReports,
    /// Alarms that are raised or may be raised: clearing any other alarm does nothing. `None` until this is known.
    raised: Option<BTreeSet<(Code, String)>>,
}

impl Inbox {
    /// Raises an alarm.
    pub fn raise(&self, code: Code, subject: &str, detail: &str, at: Timestamp) {
        let detail = text::detail(detail);
        self.alarm(code, subject, at, |pending| {
            pending.raised = pending.raised.saturating_add(1);
            pending.detail = detail;
            pending.cleared = false;
        });
    }

    /// Clears an alarm.
    pub fn clear(&self, code: Code, subject: &str, at: Timestamp) {
        let key = (code, text::subject(subject));
        let mut state = self.lock();
        if state.raised.as_mut().is_some_and(|raised| !raised.remove(&key)) {
            return;
        }
        drop(state);
        self.alarm(code, subject, at, |pending| pending.cleared = true);
    }

    fn alarm(&self, code: Code, subject: &str, at: Timestamp, update: impl FnOnce(&mut PendingAlarm)) {
        let key = (code, text::subject(subject));
        let mut state = self.lock();
        if !state.waiting.has_room_for(&key) {
            drop(state);
            self.dropped_alarms.fetch_add(1, Relaxed);
            return;
        }
        let nothing = PendingAlarm { raised: 0, at, detail: String::new(), cleared: false };
        let pending = state.waiting.alarms.entry(key.clone()).or_insert(nothing);
        pending.at = at;
        update(pending);
        let cleared = pending.cleared;
        if let Some(raised) = &mut state.raised
            && !cleared
        {
            raised.insert(key);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Queues a change again that was taken but not written, merged as older than changes that arrived meanwhile.
    pub fn put_back(&self, key: (Code, String), before: PendingAlarm) {
        let mut state = self.lock();
        if !state.waiting.has_room_for(&key) {
            self.dropped_alarms.fetch_add(before.raised, Relaxed);
            return;
        }
        match state.waiting.alarms.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(before);
            }
            Entry::Occupied(mut entry) => {
                let pending = entry.get_mut();
                if pending.raised == 0 {
                    pending.detail = before.detail;
                }
                pending.raised = pending.raised.saturating_add(before.raised);
            }
        }
    }

    /// Queues events again, before the events that arrived meanwhile.
    pub fn put_back_events(&self, events: Vec<PendingEvent>) {
        let mut state = self.lock();
        for event in events.into_iter().rev() {
            if state.waiting.events.len() < WAITING_EVENTS {
                state.waiting.events.push_front(event);
            } else {
                state.waiting.left_out = state.waiting.left_out.saturating_add(1);
                self.dropped_events.fetch_add(1, Relaxed);
            }
        }
    }

    /// Sets the raised alarms, in addition to those that wait here.
    pub fn set_raised(&self, raised: BTreeSet<(Code, String)>) {
        let mut state = self.lock();
        let waiting =
            state.waiting.alarms.iter().filter(|(_, pending)| !pending.cleared).map(|(key, _)| key.clone());
        let raised = waiting.chain(raised).collect();
        state.raised = Some(raised);
    }

    /// Queues an event.
    pub fn event(&self, kind: Kind, subject: &str, detail: &str, at: Timestamp) {
        let mut state = self.lock();
        if state.waiting.events.len() >= WAITING_EVENTS {
            state.waiting.left_out = state.waiting.left_out.saturating_add(1);
            drop(state);
            self.dropped_events.fetch_add(1, Relaxed);
            return;
        }
        state.waiting.events.push_back(PendingEvent {
            kind,
            subject: text::subject(subject),
            detail: text::detail(detail),
            at,
        });
        drop(state);
        self.arrived.notify_one();
    }

    /// Queues the end of all conditions that removed members raised.
    pub fn end_of(&self, removed: impl IntoIterator<Item = NodeName>) {
        self.lock().waiting.removed.extend(removed);
        self.arrived.notify_one();
    }

    /// Takes everything that waits.
    pub fn take(&self) -> PendingReports {
        mem::take(&mut self.lock().waiting)
    }

    /// Counts an event that was left out after it had been taken.
    pub fn drop_event(&self) {
        self.dropped_events.fetch_add(1, Relaxed);
    }

    /// Number of alarms and of events left out since the start.
    pub fn dropped(&self) -> (u64, u64) {
        (self.dropped_alarms.load(Relaxed), self.dropped_events.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp(1);

    #[test]
    fn flood_is_counted_and_does_not_displace_other_codes() {
        let inbox = Inbox::default();
        for n in 0..10_000 {
            inbox.raise(Code::DeadLetter, &n.to_string(), "", AT);
            inbox.raise(Code::Space, "a", "little is left", AT);
            inbox.event(Kind::SettingChanged, "x", "", AT);
        }
        inbox.raise(Code::Cpu, "a", "busy", AT);
        let waiting = inbox.take();
        assert_eq!(waiting.alarms.len(), WAITING_OF_A_CODE + 2);
        assert_eq!(waiting.alarms[&(Code::Space, "a".to_owned())].raised, 10_000);
        assert_eq!((waiting.events.len(), waiting.left_out), (WAITING_EVENTS, 10_000 - WAITING_EVENTS as u64));
        let dropped = (10_000 - WAITING_OF_A_CODE as u64, 10_000 - WAITING_EVENTS as u64);
        assert_eq!(inbox.dropped(), dropped);
        assert_eq!(inbox.take(), PendingReports::default());
    }

    #[test]
    fn latest_report_decides_whether_the_alarm_is_cleared() {
        let inbox = Inbox::default();
        let key = (Code::Space, "a".to_owned());
        let pending =
            || inbox.take().alarms.remove(&key).map(|pending| (pending.raised, pending.cleared, pending.detail));
        inbox.raise(Code::Space, "a", "one", AT);
        inbox.clear(Code::Space, "a", AT);
        assert_eq!(pending(), Some((1, true, "one".to_owned())));
        inbox.clear(Code::Space, "a", AT);
        inbox.raise(Code::Space, "a", "two", AT);
        assert_eq!(pending(), Some((1, false, "two".to_owned())));
        // A change that was put back is older than a change that arrived meanwhile.
        let before = PendingAlarm { raised: 4, at: AT, detail: "old".to_owned(), cleared: false };
        inbox.clear(Code::Space, "a", AT);
        inbox.put_back(key.clone(), before.clone());
        assert_eq!(pending(), Some((4, true, "old".to_owned())));
        inbox.raise(Code::Space, "a", "new", AT);
        inbox.put_back(key.clone(), before);
        assert_eq!(pending(), Some((5, false, "new".to_owned())));
    }

    #[test]
    fn clearing_an_alarm_that_is_not_raised_does_nothing() {
        let inbox = Inbox::default();
        inbox.set_raised(BTreeSet::new());
        inbox.clear(Code::Space, "a", AT);
        assert_eq!(inbox.take(), PendingReports::default());
        inbox.raise(Code::Space, "a", "", AT);
        assert_eq!(inbox.take().alarms.len(), 1);
        inbox.clear(Code::Space, "a", AT);
        inbox.clear(Code::Space, "a", AT);
        assert_eq!(inbox.take().alarms.len(), 1);
    }
}
