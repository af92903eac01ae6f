//! Turns: work on one message at a time, so that a repetition waits for the end of the first and then sees its result.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use twinbox_ids::MessageId;

/// Messages on which work is under way. An entry exists only while a task works on its message or waits for that.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<MessageId, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    /// Number of tasks: the one that works, and those that wait.
    tasks: usize,
    lock: Arc<AsyncMutex<()>>,
}

/// The right to work on a message, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Released before the entry is.
    _alone: OwnedMutexGuard<()>,
    _entry: TaskEntry,
}

/// A task's part of an entry.
#[derive(Debug)]
struct TaskEntry {
    turns: Arc<Turns>,
    id: MessageId,
}

impl Turns {
    /// Waits until no other task works on the message. Safe to cancel.
    pub(crate) async fn turn(self: &Arc<Self>, id: MessageId) -> Turn {
        let counted = TaskEntry { turns: self.clone(), id };
        let lock = {
            let mut entries = self.lock();
            let entry = entries.entry(id).or_default();
            entry.tasks += 1;
            entry.lock.clone()
        };
        Turn { _alone: lock.lock_owned().await, _entry: counted }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MessageId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        let mut entries = self.turns.lock();
        if let Some(entry) = entries.get_mut(&self.id) {
            entry.tasks = entry.tasks.saturating_sub(1);
            if entry.tasks == 0 {
                entries.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/turns.rs"]
mod tests;
