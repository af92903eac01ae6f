//! Readers of the event stream: each reads at its own pace from the stored events; nothing is queued for a slow
//! reader.

use std::{sync::PoisonError, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::timeout,
};
use tracing::warn;
use twinbox_ids::ClusterId;
use twinbox_replication_core::Table;
use twinbox_replication_store::{LiveError, Store, StoreError};

use crate::{
    Alarms,
    cursor::{Cursor, CursorError},
    history::{History, Item, LocalChanges},
    schema, store,
};

/// Interval at which a waiting reader checks whether a hole is a gap.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Start position of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// The oldest stored event.
    Start,
    /// The next new event.
    Now,
    /// After the events read so far, on any node.
    Cursor(String),
}

/// Reason why the event stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The cursor is not valid.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// Too many readers.
    #[error("too many readers of the event stream on this node: use another node, or end one of them")]
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
    /// Creates a reader at this position.
    pub fn follow(&self, since: &Since) -> Result<Follower, FollowError> {
        let permit = self.inner().followers.clone().try_acquire_owned().map_err(|_| FollowError::TooMany)?;
        let changed = self.inner().changed.subscribe();
        let none = || FollowError::Store("this node does not belong to a cluster yet".to_owned());
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
    /// Position up to which events were read.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Next item if it is available; moves the cursor after it.
    pub fn try_next(&mut self) -> Option<Item> {
        let mut cursor = self.cursor.clone();
        let item = {
            let history = self.alarms.inner().history.read().unwrap_or_else(PoisonError::into_inner);
            next(&history, &mut cursor, self.alarms.store())?
        };
        let item = match item {
            Item::Event(_) => item,
            // The history may lag briefly behind the vector; the records do not. They are read before a gap is
            // reported.
            Item::Gap { .. } => {
                cursor = self.cursor.clone();
                self.next_from_records(&mut cursor)?
            }
        };
        self.cursor = cursor;
        Some(item)
    }

    fn next_from_records(&self, cursor: &mut Cursor) -> Option<Item> {
        let store = self.alarms.store();
        let vector = store.log_ends();
        let beyond = store::unsettled(store).ok()?;
        let history = store::history(store).ok()?;
        let unsettled = |origin| beyond.as_ref().is_none_or(|beyond| beyond.contains(&origin));
        history.next(cursor, &LocalChanges { vector: &vector, unsettled: &unsettled })
    }

    /// Next item; `None` when the node stops. Safe to cancel.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            self.changed.mark_unchanged();
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            // A change that is no event may decide whether a hole will be filled.
            tokio::select! {
                changed = timeout(POLL_INTERVAL, self.changed.changed()) => if let Ok(changed) = changed {
                    changed.ok()?;
                },
                () = self.alarms.inner().ended.cancelled() => return None,
            }
        }
    }
}

/// Next item of the history alone: a hole counts as a gap.
fn next(history: &History, cursor: &mut Cursor, store: &Store) -> Option<Item> {
    history.next(cursor, &LocalChanges { vector: &store.log_ends(), unsettled: &|_| false })
}

/// Applies changes by this and other nodes to the history, until the store closes.
pub fn apply_changes(alarms: Alarms) -> BoxFuture<'static, ()> {
    async move {
        const FOLLOWED: [Table; 3] = [schema::ALARM, schema::EVENT, schema::ORIGINS];
        let inner = alarms.inner();
        let mut live = alarms.store().live(|change| FOLLOWED.contains(&change.key.table));
        // Changes written between the first read and the subscription.
        reread(&alarms);
        loop {
            let changed = match live.recv().await {
                Ok(change) if change.key.table == schema::ALARM => true,
                Ok(change) => {
                    let mut history = inner.history.write().unwrap_or_else(PoisonError::into_inner);
                    store::update(&mut history, alarms.store(), &change).unwrap_or_else(|error| {
                        warn!(%error, "event cannot be read from the store");
                        false
                    })
                }
                Err(LiveError::Lagged) => reread(&alarms),
                Err(LiveError::Closed) => return,
            };
            if changed {
                inner.changed.send_modify(|n| *n = n.wrapping_add(1));
            }
        }
    }
    .boxed()
}

fn reread(alarms: &Alarms) -> bool {
    match store::history(alarms.store()) {
        Ok(history) => {
            *alarms.inner().history.write().unwrap_or_else(PoisonError::into_inner) = history;
            true
        }
        Err(error) => {
            let error: StoreError = error;
            warn!(%error, "events cannot be read from the store");
            false
        }
    }
}
