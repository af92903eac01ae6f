//! Admission control: limits for concurrent calls and for new requests per second. Memory use stays bounded, and
//! accepted calls are answered without delay.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::{Notify, watch};
use twinbox_clock::BootInstant;

use crate::Overload;

/// A token bucket.
pub struct Bucket {
    per_second: f64,
    burst: f64,
    level: Mutex<(f64, BootInstant)>,
}

impl Bucket {
    /// A full bucket: `burst` tokens, filled with `per_second`.
    pub fn new(per_second: u32, burst: u32, now: BootInstant) -> Self {
        let burst = f64::from(burst);
        Self { per_second: f64::from(per_second), burst, level: Mutex::new((burst, now)) }
    }

    /// Takes one token; `false` if the bucket is empty.
    pub fn take(&self, now: BootInstant) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, then) = *level;
        let filled = (tokens + now.since(then).as_secs_f64() * self.per_second).min(self.burst);
        let enough = filled >= 1.0;
        *level = (if enough { filled - 1.0 } else { filled }, now);
        enough
    }
}

/// Settings of a passive node, which leaves calls to another (active-passive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passive {
    /// `Retry-After` for refused calls, in seconds.
    pub retry_after: u32,
    /// Calls are accepted nevertheless: a caller that reaches this node could not reach the active one.
    pub on_call: bool,
}

/// State of the admission control of one SIP server.
pub struct Admission {
    max_calls: usize,
    active: AtomicUsize,
    draining: AtomicBool,
    leaving: AtomicBool,
    passive: Mutex<Option<Passive>>,
    /// No other node serves calls.
    sole: AtomicBool,
    /// Number of new calls that arrived while this node was passive.
    pub reached: watch::Sender<u64>,
    empty: Notify,
    /// Overload control.
    pub overload: Overload,
    /// Limit for new calls.
    pub calls: Bucket,
    /// Limit for other requests outside of dialogs: OPTIONS, SUBSCRIBE.
    pub others: Bucket,
    /// Limit for answers to strangers: forged requests could use this node as a reflector.
    pub strangers: Bucket,
    /// Limit for answers to probes of members: separate, so that a flood of strangers cannot block these answers.
    pub members: Bucket,
}

impl Admission {
    /// Admission of a node that takes at most `max_calls` calls, and `per_second` new ones a second.
    pub fn new(max_calls: usize, per_second: u32, overload: Overload, now: BootInstant) -> Self {
        Self {
            max_calls,
            active: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            passive: Mutex::new(None),
            sole: AtomicBool::new(false),
            reached: watch::Sender::new(0),
            empty: Notify::new(),
            overload,
            calls: Bucket::new(per_second, per_second, now),
            others: Bucket::new(1000, 1000, now),
            strangers: Bucket::new(50, 100, now),
            members: Bucket::new(50, 100, now),
        }
    }

    /// Number of calls in progress.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Whether the node drains.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed) || self.leaving()
    }

    /// Whether the node drains permanently.
    pub fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Drains permanently, because the process ends.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Begins or ends a drain; a permanent one continues.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Whether no other node serves calls.
    pub fn sole(&self) -> bool {
        self.sole.load(Ordering::Relaxed)
    }

    /// Sets whether no other node serves calls.
    pub fn set_sole(&self, sole: bool) {
        self.sole.store(sole, Ordering::Relaxed);
    }

    /// Settings of the passive node; `None` while the node is active.
    pub fn passive(&self) -> Option<Passive> {
        *self.passive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the node passive, or active again.
    pub fn set_passive(&self, passive: Option<Passive>) {
        *self.passive.lock().unwrap_or_else(PoisonError::into_inner) = passive;
    }

    /// Returns the permit for a call; dropping it ends the call in the counts.
    pub fn enter(self: &Arc<Self>, now: BootInstant) -> Result<CallPermit, Full> {
        let one_more = |n: usize| (n < self.max_calls).then_some(n + 1);
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| Full::MaxCalls)?;
        let mut permit = CallPermit { admission: self.clone(), counted: false };
        permit.counted = self.overload.admit(now);
        if permit.counted { Ok(permit) } else { Err(Full::Overload) }
    }

    /// Waits until no call is in progress.
    pub async fn empty(&self) {
        loop {
            let emptied = self.empty.notified();
            if self.active() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// Reason why a call is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The limit `max_calls` is reached.
    MaxCalls,
    /// Another call would endanger the response times of calls in progress.
    Overload,
}

/// Permit of an admitted call; dropped at the end of the call.
pub struct CallPermit {
    admission: Arc<Admission>,
    /// The overload control counts this call until it ends.
    counted: bool,
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        if self.counted {
            self.admission.overload.ended();
        }
        if self.admission.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.admission.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use twinbox_clock::BootClock;

    use super::*;
    use crate::Commits;

    #[test]
    fn bucket_allows_its_burst_and_then_its_rate() {
        let start = BootInstant::from_nanos(1_000_000_000);
        let bucket = Bucket::new(10, 5, start);
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 5);
        let later = start + Duration::from_millis(300);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 3);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.take(much_later)).count(), 5, "no more than the burst");
    }

    #[test]
    fn dropped_permit_allows_another_call() {
        let now = BootInstant::now();
        let overload = Overload::new(Duration::from_millis(350), Commits::default(), BootClock::default());
        let admission = Arc::new(Admission::new(2, 1, overload, now));
        let first = admission.enter(now);
        let second = admission.enter(now);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(admission.enter(now).err(), Some(Full::MaxCalls));
        drop(first);
        assert_eq!(admission.active(), 1);
        assert!(admission.enter(now).is_ok());
    }
}
