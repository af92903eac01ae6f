//! Writers that wait for a second disk: the pure tracker with a clock, a lock and the writers to wake.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};
use tracing::{info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::NodeName;
use twinbox_replication_core::ack::{Acknowledgement, Input, Output, Tracker, WriteId};
use twinbox_replication_feed::Feed;
use twinbox_replication_store::Committed;

/// A caller is answered `ack_timeout` and 100 ms after the hang-up (rule A1). This much of the 100 ms may pass before the wait ends.
const OWN_WORK: Duration = Duration::from_millis(50);

/// Minimum wait, even if the commit here took all of the time: a quick peer has the change by then, and the acknowledgement shows it.
const LEAST_WAIT: Duration = Duration::from_millis(25);

/// Time for which a caller waits for a peer, if `passed` since the hang-up until the commit was durable here.
pub(crate) fn time_left(ack_timeout: Duration, passed: Duration) -> Duration {
    (ack_timeout + OWN_WORK).saturating_sub(passed).max(LEAST_WAIT)
}

pub(crate) struct Acks {
    /// Timeout of a writer, in milliseconds.
    timeout: AtomicU64,
    state: Mutex<State>,
    pub(crate) on_two: AtomicU64,
    pub(crate) alone: AtomicU64,
    feed: Feed,
}

struct State {
    tracker: Tracker,
    writers: HashMap<WriteId, oneshot::Sender<Acknowledgement>>,
    next: WriteId,
    /// Time at which a peer ceased to count: only an answer to a later probe can make it count again.
    dropped: HashMap<NodeName, BootInstant>,
}

impl Acks {
    pub(crate) fn new(timeout: Duration, feed: Feed) -> Self {
        let timeout = millis(timeout);
        let tracker = Tracker::new(timeout);
        let state = Mutex::new(State { tracker, writers: HashMap::new(), next: 0, dropped: HashMap::new() });
        let [on_two, alone] = Default::default();
        Self { timeout: AtomicU64::new(timeout), state, on_two, alone, feed }
    }

    /// Waits until a peer has the changes, no peer counts, or the timeout or `within` expires.
    pub(crate) async fn acknowledge(&self, committed: &Committed, within: Duration) -> Acknowledgement {
        let (mut notified, wait) = {
            let mut state = self.lock();
            let wait = self.timeout().min(within);
            state.next += 1;
            let id = state.next;
            let (sender, notified) = oneshot::channel();
            state.writers.insert(id, sender);
            let &Committed { first, last, .. } = committed;
            self.step(&mut state, Input::Written { id, first, last, within: millis(wait) });
            (notified, wait)
        };
        self.feed.urge();
        let acknowledgement = match timeout(wait, &mut notified).await {
            Ok(Ok(acknowledgement)) => acknowledgement,
            // Timeout: the tracker acknowledges writes that waited too long, and drops the late peers.
            _ => {
                self.input(Input::Tick);
                notified.try_recv().unwrap_or(Acknowledgement::Alone)
            }
        };
        let counter = match acknowledgement {
            Acknowledgement::OnTwo { .. } => &self.on_two,
            Acknowledgement::Alone => &self.alone,
        };
        counter.fetch_add(1, Relaxed);
        acknowledgement
    }

    pub(crate) fn input(&self, input: Input) {
        self.step(&mut self.lock(), input);
    }

    /// Takes several inputs as one: no state between them is visible.
    pub(crate) fn inputs(&self, inputs: impl IntoIterator<Item = Input>) {
        let mut state = self.lock();
        inputs.into_iter().for_each(|input| self.step(&mut state, input));
    }

    /// `peer` answered, after `took` milliseconds, a probe sent at `sent`.
    pub(crate) fn answered(&self, peer: NodeName, sent: BootInstant, took: u64) {
        let mut state = self.lock();
        if state.dropped.get(&peer).is_none_or(|dropped| *dropped <= sent) {
            self.step(&mut state, Input::Answered { peer, took });
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.load(Relaxed))
    }

    /// Changes the timeout of writes that begin from now on.
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let (timeout, mut state) = (millis(timeout), self.lock());
        self.timeout.store(timeout, Relaxed);
        state.tracker.set_timeout(timeout);
    }

    pub(crate) fn counts(&self, peer: &NodeName) -> bool {
        self.lock().tracker.counts(peer)
    }

    pub(crate) fn counting(&self) -> usize {
        self.lock().tracker.counting()
    }

    fn step(&self, state: &mut State, input: Input) {
        let now = BootInstant::now();
        for output in state.tracker.handle(input, now.as_nanos() / 1_000_000) {
            match output {
                Output::Acknowledged { id, acknowledgement } => {
                    if let Some(writer) = state.writers.remove(&id) {
                        // A writer that was dropped needs no answer.
                        let _ = writer.send(acknowledgement);
                    }
                }
                Output::Counts { peer } => info!(%peer, "peer answers; writes wait for its acknowledgement"),
                Output::Dropped { peer } => {
                    warn!(%peer, "peer does not answer in time; writes are acknowledged without it");
                    state.dropped.insert(peer, now);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_commit_shortens_the_wait_and_leaves_time_for_a_quick_peer() {
        for (passed, left) in [(0, 300), (50, 250), (200, 100), (290, 25), (2_000, 25)] {
            let found = time_left(Duration::from_millis(250), Duration::from_millis(passed));
            assert_eq!(found, Duration::from_millis(left), "{passed} ms passed");
        }
    }
}
