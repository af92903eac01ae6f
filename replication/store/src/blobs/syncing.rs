//! Syncs of the packs for tasks: those that come during a sync share the next one, and one thread waits for the disk.

use std::{mem, sync::Mutex};

use tokio::sync::oneshot;

use super::Blobs;
use crate::{StoreError, store::lock};

/// The tasks that wait for the next sync.
#[derive(Default)]
pub(super) struct Syncing(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// A thread syncs, or is about to begin.
    is_led: bool,
}

impl Blobs {
    /// As [`Self::sync`], for a task: it holds no thread.
    pub(crate) async fn synced(&self) -> Result<(), StoreError> {
        let (done, synced) = oneshot::channel();
        let is_led = {
            let mut state = lock(&self.0.syncing.0);
            state.waiting.push(done);
            mem::replace(&mut state.is_led, true)
        };
        if !is_led {
            let leader = Leader { blobs: self.clone(), is_done: false };
            tokio::task::spawn_blocking(move || leader.lead());
        }
        synced.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// The thread that syncs.
struct Leader {
    blobs: Blobs,
    is_done: bool,
}

impl Leader {
    /// Syncs until no task waits: the next one begins with another leader.
    fn lead(mut self) {
        while !self.is_done {
            let waiting = {
                let mut state = lock(&self.blobs.0.syncing.0);
                state.is_led = !state.waiting.is_empty();
                mem::take(&mut state.waiting)
            };
            self.is_done = waiting.is_empty();
            let outcome = if self.is_done { Ok(()) } else { self.blobs.sync() };
            waiting.into_iter().for_each(|done| drop(done.send(outcome.clone())));
        }
    }
}

impl Drop for Leader {
    /// A leader that a runtime at its end never ran, or that panicked, leaves no task waiting.
    fn drop(&mut self) {
        if !self.is_done {
            *lock(&self.blobs.0.syncing.0) = State::default();
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/syncing.rs"]
mod tests;
