//! A store leaves its group and becomes another store, the only one of a new group.
//!
//! The log is applied to its end, as by a leader elected with this log: it has all agreed entries that this member has
//! received. On disk this is one transaction: after a kill, the process finds the store of the former group or that of
//! the new one.

use std::{collections::BTreeMap, io};

use openraft::EntryPayload;
use tokio::sync::oneshot;
use twinbox_roles_core::{Beginning, State, Survivor};

use super::{
    Core, Peer, codec,
    machine::try_apply,
    types::{Membership, SnapshotMeta, StoredMembership, Vote},
};
use crate::standing::Standing;

/// Reason for which a group was not left. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaveError {
    #[error("nothing was ever agreed on in this node's log, so there is nothing to go on with")]
    Nothing,
    #[error("it could not be written down: {0}")]
    Disk(String),
    #[error("this node is shutting down")]
    Stopping,
}

/// Order to leave the group.
pub(crate) struct Departing {
    survivor: Survivor,
    own: Peer,
    /// Initial data of the new group, as far as known before.
    beginning: Beginning,
    done: oneshot::Sender<Result<(), LeaveError>>,
}

impl Core {
    /// Ends Raft's core and starts it again as the only member of a new group. The caller has checked that this is
    /// permitted.
    pub(crate) async fn go_on_alone(
        &self,
        survivor: Survivor,
        own: Peer,
        beginning: Beginning,
    ) -> Result<(), LeaveError> {
        let (done, answer) = oneshot::channel();
        let departing = Departing { survivor, own, beginning, done };
        let leaving = self.leaving.get().ok_or(LeaveError::Stopping)?;
        leaving.send(departing).await.map_err(|_| LeaveError::Stopping)?;
        answer.await.unwrap_or(Err(LeaveError::Stopping))
    }

    /// Leaves the group. The core has ended, and no other has been started yet.
    pub(super) async fn leave(&self, departing: Departing) {
        let Departing { survivor, own, beginning, done } = departing;
        let left = self.try_leave(&survivor, own, beginning).await;
        if let Err(error) = &left {
            tracing::error!(%error, "this node does not go on alone");
        }
        // The caller may no longer wait; the change stays.
        let _ = done.send(left);
    }

    async fn try_leave(&self, survivor: &Survivor, own: Peer, beginning: Beginning) -> Result<(), LeaveError> {
        let disk = |error: io::Error| LeaveError::Disk(error.to_string());
        let applied = self.applied.borrow().clone();
        let (entries, last, vote) = self.store.beyond(applied.last);
        let last = last.ok_or(LeaveError::Nothing)?;
        let mut state = State::clone(&applied.state);
        for entry in entries {
            if let EntryPayload::Normal(command) = entry.payload {
                // A command that panics is skipped, as in normal operation.
                if let Ok((changed, _)) = try_apply(self.apply, &state, command) {
                    state = changed;
                }
            }
        }
        let anew = Standing::anew();
        let state = state.gone_on_alone(survivor, &Beginning { raft_id: anew.raft_id, ..beginning });
        let json = serde_json::to_vec(&state).map_err(|error| disk(io::Error::other(error)))?;
        let members = BTreeMap::from([(anew.raft_id, own)]);
        let membership = Membership::new(vec![[anew.raft_id].into()], members)
            .map_err(|error| disk(io::Error::other(error.to_string())))?;
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
        };
        let snapshot = codec::snapshot(&meta, json.into());
        // Terms go on rising: leases and gates of this node accept no lower one.
        let term = vote.map_or(0, |vote| vote.leader_id.term).max(last.leader_id.term) + 1;
        let vote = Vote::new(term, anew.raft_id);
        self.store.begin_anew(&anew, &snapshot, last, vote).await.map_err(disk)?;
        tracing::warn!(lost = ?survivor.lost, generation = state.generation, "this node goes on alone, in a group of its own");
        self.standing.become_anew(anew);
        Ok(())
    }
}
