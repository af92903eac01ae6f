//! Flow control between committer and applier: the bytes that wait to be applied, and the end of either.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Bounds of the writes that wait in memory and in the journal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of writes after which a group takes no further job.
    pub(crate) group: usize,
    /// Bytes of new writes that are applied immediately.
    pub(crate) apply_at: usize,
    /// Time after which fewer bytes of new writes are applied.
    pub(crate) apply_after: Duration,
    /// Bytes of writes that may wait in memory. While more do, commits wait.
    pub(crate) held: usize,
    /// Bytes in the journal after which a checkpoint is due.
    pub(crate) journal: u64,
    /// Bytes of replayed writes that the opening itself applies. More of them wait in memory for the applier.
    pub(crate) opening: usize,
}

impl Limits {
    /// Bytes in the journal whose writes may wait in memory after a replay. A process at its limits leaves fewer: a layer that is
    /// applied, what came after it, what was applied since the last checkpoint, and the rest of its segments.
    pub(crate) fn replayed(&self) -> u64 {
        self.journal.saturating_add(self.held as u64).saturating_mul(2)
    }
}

/// The work of the applier's next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// There is something to apply.
    Apply,
    /// There was nothing to apply for a while.
    Idle,
    /// The committer has ended: these are the last writes.
    Last,
}

pub(crate) struct Flow {
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that were published and not taken by the applier.
    new: usize,
    /// Bytes that were published and are not in the index.
    held: usize,
    /// The committer has ended.
    closing: bool,
    /// The applier has ended.
    stopped: bool,
}

impl Flow {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Notes that the committer has published this number of bytes.
    pub(crate) fn published(&self, bytes: usize) {
        let mut state = self.state();
        let before = state.new;
        state.new += bytes;
        state.held += bytes;
        // The applier waits for the first bytes, and then for enough.
        if before == 0 || (before < self.limits.apply_at && state.new >= self.limits.apply_at) {
            self.changed.notify_all();
        }
    }

    /// Blocks the committer while too many writes wait in memory: the disk does not keep up.
    pub(crate) fn wait_for_room(&self) {
        let full = |state: &mut State| state.held >= self.limits.held && !state.stopped;
        drop(self.changed.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner));
    }

    /// Blocks the applier until there is something to apply, or for `idle`.
    pub(crate) fn wait_for_work(&self, idle: Option<Duration>) -> Work {
        let nothing = |state: &mut State| state.new == 0 && !state.closing;
        let state = match idle {
            Some(time) => {
                let waited = self.changed.wait_timeout_while(self.state(), time, nothing);
                let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                if waited.timed_out() {
                    return Work::Idle;
                }
                state
            }
            None => self.changed.wait_while(self.state(), nothing).unwrap_or_else(PoisonError::into_inner),
        };
        // A key that is written often is then applied once.
        let few = |state: &mut State| state.new < self.limits.apply_at && !state.closing;
        let waited = self.changed.wait_timeout_while(state, self.limits.apply_after, few);
        match waited.unwrap_or_else(PoisonError::into_inner).0.closing {
            true => Work::Last,
            false => Work::Apply,
        }
    }

    /// Number of published bytes since the last call, all of which the applier takes.
    pub(crate) fn take(&self) -> usize {
        std::mem::take(&mut self.state().new)
    }

    /// Notes that the applier has written this number of bytes to the index.
    pub(crate) fn applied(&self, bytes: usize) {
        let mut state = self.state();
        state.held = state.held.saturating_sub(bytes);
        self.changed.notify_all();
    }

    /// Notes that the committer has ended.
    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.changed.notify_all();
    }

    /// Notes that the applier has ended.
    pub(crate) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
