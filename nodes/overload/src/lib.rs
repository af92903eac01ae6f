//! Overload control: a node refuses new calls before its promises to calls in progress suffer.
//!
//! ```text
//! commits, event loop, media threads, processor ─► Sample ─► Limiter ─► admit: a limit of new calls a second, and a gate
//!        (measured here, several times a second)             (pure)
//! ```
//!
//! [`limiter`] decides; this crate's [`Overload`] measures. `model` is a simulated node that tests it. [`admission`] adds
//! the limits that do not depend on load: concurrent calls, requests per second, draining, a passive node.

pub mod admission;
mod commits;
pub mod limiter;
#[cfg(test)]
mod model;
mod processor;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::sleep;
use tracing::warn;
use twinbox_clock::{BootClock, BootInstant};

pub use commits::{Commit, Commits};
use limiter::{Limiter, Sample, Signal, Targets};
use processor::Processor;

/// Sampling interval.
const SAMPLING_INTERVAL: Duration = Duration::from_millis(100);
/// Time after a refusal during which the node counts as refusing.
const REFUSING_PERIOD: Duration = Duration::from_secs(10);

/// The overload control of one node. Clones share it.
#[derive(Clone)]
pub struct Overload(Arc<Inner>);

struct Inner {
    limiter: Mutex<Limiter>,
    commits: Commits,
    clock: BootClock,
    admitted: AtomicU64,
    ended: AtomicU64,
    /// Time of the last refusal, in nanoseconds of boot time; 0 for never.
    refused: AtomicU64,
}

/// State of the overload control, for metrics and alarms.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// New calls a second that are admitted.
    pub limit: f64,
    /// No new call is admitted at the moment.
    pub closed: bool,
    /// A call was refused within the last ten seconds.
    pub refusing: bool,
    /// Pressure of each signal: 1 is the target.
    pub pressure: [(Signal, f64); Signal::ALL.len()],
    /// The signal under the greatest pressure.
    pub worst: Signal,
    /// The highest rate of new calls a second that went through in time for half a minute.
    pub sustained: f64,
}

impl Overload {
    /// Overload control of a node that answers a BYE within `bye_timeout` (rule A1) and measures its `commits`. It decides by
    /// the `clock` of the requests that it admits; it measures work in real time.
    pub fn new(bye_timeout: Duration, commits: Commits, clock: BootClock) -> Self {
        let limiter = Limiter::new(Targets::of(bye_timeout), at(clock.now()));
        Self(Arc::new(Inner {
            limiter: Mutex::new(limiter),
            commits,
            clock,
            admitted: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Admits one new call, or refuses it; `now` by its clock. An admitted call is followed by [`Self::ended`].
    pub fn admit(&self, now: BootInstant) -> bool {
        let admitted = self.limiter().admit(at(now));
        match admitted {
            true => self.0.admitted.fetch_add(1, Relaxed),
            false => self.0.refused.swap(now.as_nanos().max(1), Relaxed),
        };
        admitted
    }

    /// Counts the end of an admitted call.
    pub fn ended(&self) {
        self.0.ended.fetch_add(1, Relaxed);
    }

    /// Sets the rate, in new calls a second, that was carried in time before or elsewhere: see [`Limiter::expect`].
    pub fn expect(&self, calls: f64) {
        self.limiter().expect(calls);
    }

    /// The present state.
    pub fn view(&self) -> View {
        let limiter = self.limiter();
        let refused = self.0.refused.load(Relaxed);
        View {
            limit: limiter.limit(),
            closed: limiter.closed(),
            refusing: refused > 0 && self.0.clock.now().since(BootInstant::from_nanos(refused)) < REFUSING_PERIOD,
            pressure: Signal::ALL.map(|signal| (signal, limiter.pressure(signal))),
            worst: limiter.worst().0,
            sustained: limiter.sustained(),
        }
    }

    /// Measures and adapts without end. `media` returns the lateness of the latest of a hundred packets since it was last
    /// called; `None` without packets.
    pub async fn run(self, mut media: impl FnMut() -> Option<Duration>) {
        let (mut processor, mut logged) = (Processor::new(), None::<BootInstant>);
        loop {
            let due = BootInstant::now() + SAMPLING_INTERVAL;
            sleep(SAMPLING_INTERVAL).await;
            let now = BootInstant::now();
            let (used, available) = processor.read();
            let (commit, pending) = self.0.commits.take(now);
            let sample = Sample {
                admitted: self.0.admitted.load(Relaxed),
                ended: self.0.ended.load(Relaxed),
                commit,
                pending,
                lag: now.since(due),
                media: media(),
                processor: used,
                available,
            };
            let closes = {
                let mut limiter = self.limiter();
                let was_closed = limiter.closed();
                limiter.sample(at(self.0.clock.now()), &sample);
                (limiter.closed() && !was_closed)
                    .then(|| [Signal::Commit, Signal::Loop, Signal::Media].map(|signal| limiter.pressure(signal)))
            };
            if let Some([commit, event_loop, media]) = closes
                && logged.is_none_or(|logged| now.since(logged) >= REFUSING_PERIOD)
            {
                warn!(commit, event_loop, media, "new calls are refused until work is done in time again");
                logged = Some(now);
            }
        }
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.0.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Boot time as the limiter counts it.
fn at(instant: BootInstant) -> Duration {
    Duration::from_nanos(instant.as_nanos())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn hanging_commit_closes_the_gate_until_it_ends() {
        let commits = Commits::default();
        let overload = Overload::new(Duration::from_millis(30), commits.clone(), BootClock::default());
        assert!(overload.admit(BootInstant::now()));
        let commit = commits.begin();
        let watch = overload.clone();
        let running = tokio::spawn(async move { overload.run(|| None).await });
        let until = async |closed: bool| {
            while watch.view().closed != closed {
                // Paused time moves on; the commit ages by the real clock.
                tokio::time::sleep(Duration::from_millis(10)).await;
                thread::yield_now();
            }
        };
        until(true).await;
        assert!(!watch.admit(BootInstant::now()));
        let view = watch.view();
        assert!(view.refusing && view.worst == Signal::Commit, "{view:?}");
        drop(commit);
        until(false).await;
        running.abort();
    }
}
