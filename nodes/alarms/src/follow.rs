//! Following the event stream: each reader at its own pace, from what is kept; nothing piles up for a slow one.

use std::{sync::PoisonError, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError, watch},
    time::timeout,
};
use tracing::warn;
use twinbox_ids::ClusterId;
use twinbox_replication_store::{Store, StoreError};

use crate::{
    Alarms,
    cursor::{Cursor, CursorError},
    history::{Here, History, Item},
    schema, store,
};

/// How often a reader that waits looks whether a hole is a gap.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// With the oldest event that is kept.
    Start,
    /// With what comes.
    Now,
    /// After what it has read, on whichever node.
    Cursor(String),
}

/// Why the event stream cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The cursor will not do.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// Too many do already.
    #[error("too many follow the event stream of this node already: ask another node, or end one of them")]
    TooMany,
    /// The store has no cluster yet, or cannot be read.
    #[error("events cannot be read: {0}")]
    Store(String),
}

/// A reader of the event stream.
pub struct Follower {
    alarms: Alarms,
    cursor: Cursor,
    changed: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Alarms {
    /// A reader, from there on.
    pub fn follow(&self, since: &Since) -> Result<Follower, FollowError> {
        let permit = self.inner().followers.clone().try_acquire_owned().map_err(|_| FollowError::TooMany)?;
        let changed = self.inner().changed.subscribe();
        let none = || FollowError::Store("this node belongs to no cluster yet".to_owned());
        let cluster: ClusterId = self.store().cluster_id().ok_or_else(none)?;
        let mut cursor = Cursor::new(cluster);
        let history = self.inner().history.read().unwrap_or_else(PoisonError::into_inner);
        match since {
            Since::Start => history.begin(&mut cursor),
            Since::Now => history.skip_all(&mut cursor),
            Since::Cursor(text) => cursor = Cursor::parse(text, cluster)?,
        }
        drop(history);
        Ok(Follower { alarms: self.clone(), cursor, changed, _permit: permit })
    }
}

impl Follower {
    /// How far it has read.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// What is next and there already; the cursor is behind it then.
    pub fn try_next(&mut self) -> Option<Item> {
        let mut cursor = self.cursor.clone();
        let item = {
            let history = self.alarms.inner().history.read().unwrap_or_else(PoisonError::into_inner);
            next(&history, &mut cursor, self.alarms.store())?
        };
        let item = match item {
            Item::Event(_) => item,
            // The history may lag behind the vector by a moment. The records do not: before events are said to be gone,
            // those are looked at.
            Item::Gap { .. } => {
                cursor = self.cursor.clone();
                self.look_closely(&mut cursor)?
            }
        };
        self.cursor = cursor;
        Some(item)
    }

    fn look_closely(&self, cursor: &mut Cursor) -> Option<Item> {
        let store = self.alarms.store();
        let vector = store.vector();
        let beyond = store::unsettled(store).ok()?;
        let history = store::history(store).ok()?;
        let unsettled = |origin| beyond.as_ref().is_none_or(|beyond| beyond.contains(&origin));
        history.next(cursor, &Here { vector: &vector, unsettled: &unsettled })
    }

    /// What is next; `None` when the node is being stopped. Safe to cancel.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            self.changed.mark_unchanged();
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            // Whether a hole will be filled may turn out by a change that is no event.
            tokio::select! {
                changed = timeout(LOOK_EACH, self.changed.changed()) => if let Ok(changed) = changed {
                    changed.ok()?;
                },
                () = self.alarms.inner().ended.cancelled() => return None,
            }
        }
    }
}

/// As the history has it: a hole is taken for a gap.
fn next(history: &History, cursor: &mut Cursor, store: &Store) -> Option<Item> {
    history.next(cursor, &Here { vector: &store.vector(), unsettled: &|_| false })
}

/// Takes over what is written, here and by other nodes, until the store closes.
pub async fn keep_up(alarms: Alarms) {
    let inner = alarms.inner();
    let mut live = alarms.store().live();
    // What was written between the first reading and now.
    reread(&alarms);
    loop {
        let changed = match live.recv().await {
            Ok(change) if change.key.table == schema::ALARM => true,
            Ok(change) => {
                let mut history = inner.history.write().unwrap_or_else(PoisonError::into_inner);
                store::update(&mut history, alarms.store(), &change).unwrap_or_else(|error| {
                    warn!(%error, "an event cannot be read");
                    false
                })
            }
            Err(RecvError::Lagged(_)) => reread(&alarms),
            Err(RecvError::Closed) => return,
        };
        if changed {
            inner.changed.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

fn reread(alarms: &Alarms) -> bool {
    match store::history(alarms.store()) {
        Ok(history) => {
            *alarms.inner().history.write().unwrap_or_else(PoisonError::into_inner) = history;
            true
        }
        Err(error) => {
            let error: StoreError = error;
            warn!(%error, "events cannot be read");
            false
        }
    }
}
