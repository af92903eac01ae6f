//! The replicated state machine behind Raft: [`State`] in memory, snapshots on disk.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;
use twinbox_roles_core::{Outcome, State};

use super::{
    Types, codec,
    store::RaftStore,
    types::{LogId, Snapshot, SnapshotMeta, StoredMembership},
};

/// What has been applied here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied {
    /// The agreed state.
    pub(crate) state: Arc<State>,
    /// The term of the entry that was applied last; 0 when there is none.
    pub(crate) term: u64,
    pub(super) last: Option<LogId>,
    membership: StoredMembership,
}

/// The state machine. Everybody else sees it through a watch.
pub struct Machine {
    store: RaftStore,
    applied: watch::Sender<Applied>,
}

impl Machine {
    pub(crate) fn new(store: RaftStore, applied: watch::Sender<Applied>) -> Self {
        // A core that starts again begins from the snapshot; what was applied comes back from the log.
        applied.send_replace(Applied::default());
        Self { store, applied }
    }
}

/// A snapshot in the making: the state as it was when the snapshot was asked for.
pub struct Builder {
    store: RaftStore,
    applied: Applied,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let state = Bytes::from(serde_json::to_vec(&*self.applied.state).map_err(io::Error::other)?);
        let meta =
            SnapshotMeta { last_log_id: self.applied.last, last_membership: self.applied.membership.clone() };
        self.store.save_snapshot(&codec::snapshot(&meta, state.clone())).await?;
        Ok(Snapshot { meta, snapshot: state })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.applied.borrow();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut outcome = Outcome::Unchanged;
            if !self.store.is_current() {
                return Err(io::Error::other("another core has been started since"));
            }
            self.applied.send_modify(|applied| {
                applied.last = Some(entry.log_id);
                applied.term = entry.log_id.leader_id.term;
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(command) => outcome = Arc::make_mut(&mut applied.state).apply(command),
                    EntryPayload::Membership(membership) => {
                        applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                    }
                }
            });
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone(), applied: self.applied.borrow().clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let state: State = serde_json::from_slice(&snapshot).map_err(io::Error::other)?;
        self.store.save_snapshot(&codec::snapshot(meta, snapshot)).await?;
        self.applied.send_replace(Applied {
            state: Arc::new(state),
            term: meta.last_log_id.map_or(0, |id| id.leader_id.term),
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.store.snapshot()?;
        snapshot.map(|snapshot| codec::read_snapshot(&snapshot).map_err(io::Error::other)).transpose()
    }
}
