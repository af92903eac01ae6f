//! The changes of a store, for the parts of its process that follow them. Each part says which changes it wants, and others do not wake
//! it: of some ten parts, one or two want those of a commit.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
};

use tokio::sync::Notify;
use twinbox_replication_core::Change;

/// Maximum changes that a reader may be behind before it has to read the records instead.
const MOST: usize = 4096;

/// Reason why a reader gets no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LiveError {
    /// The reader was too far behind, and changes were dropped: it must read the records. Later changes follow.
    #[error("changes came faster than they were taken")]
    Lagged,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// The changes that a reader wants.
type Wants = Box<dyn Fn(&Change) -> bool + Send + Sync>;

/// All readers of a store's changes.
#[derive(Default)]
pub struct LiveChanges(RwLock<Vec<Weak<Reading>>>);

/// One reader. A change is in it before its commit is answered.
pub struct LiveReader(Arc<Reading>);

struct Reading {
    wants: Wants,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    changes: VecDeque<Arc<Change>>,
    has_lagged: bool,
    is_closed: bool,
}

impl LiveChanges {
    /// A reader of the changes from now on that it wants. `wants` is called by [`Self::send`]: it must be short.
    pub fn reader(&self, wants: impl Fn(&Change) -> bool + Send + Sync + 'static) -> LiveReader {
        let reading = Arc::new(Reading { wants: Box::new(wants), state: Mutex::default(), arrived: Notify::new() });
        let mut readers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(&reading));
        LiveReader(reading)
    }

    /// Passes changes on, in this order, to those who want them.
    pub fn send(&self, changes: Vec<Change>) {
        let changes: Vec<_> = changes.into_iter().map(Arc::new).collect();
        let readers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.take_in(&changes));
    }
}

impl Drop for LiveChanges {
    fn drop(&mut self) {
        let readers = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for reader in readers.iter().filter_map(Weak::upgrade) {
            reader.state().is_closed = true;
            reader.arrived.notify_one();
        }
    }
}

impl Reading {
    fn take_in(&self, changes: &[Arc<Change>]) {
        let mut wanted = changes.iter().filter(|change| (self.wants)(change)).peekable();
        if wanted.peek().is_none() {
            return;
        }
        let mut state = self.state();
        state.changes.extend(wanted.map(Arc::clone));
        if state.changes.len() > MOST {
            state.changes = VecDeque::new();
            state.has_lagged = true;
        }
        drop(state);
        self.arrived.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveReader {
    /// The next change. Safe to cancel.
    pub async fn recv(&mut self) -> Result<Arc<Change>, LiveError> {
        loop {
            if let Some(change) = self.try_recv()? {
                return Ok(change);
            }
            // A change that has come since then has left a permit.
            self.0.arrived.notified().await;
        }
    }

    /// The next change, if it has come.
    pub fn try_recv(&mut self) -> Result<Option<Arc<Change>>, LiveError> {
        let mut state = self.0.state();
        if std::mem::take(&mut state.has_lagged) {
            return Err(LiveError::Lagged);
        }
        match state.changes.pop_front() {
            None if state.is_closed => Err(LiveError::Closed),
            change => Ok(change),
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/live.rs"]
mod tests;
