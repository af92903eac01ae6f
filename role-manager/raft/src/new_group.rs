//! A store leaves its group and becomes another store, the only one of a new group.
//!
//! The log is applied to its end, as by a leader elected with this log: it has all agreed entries that this member has
//! received. On disk this is one transaction: after a kill, the process finds the store of the former group or that of
//! the new one.

use std::{collections::BTreeMap, io};

use openraft::EntryPayload;
use tokio::sync::oneshot;
use twinbox_roles_core::{GoOnAloneFacts, NewGroup, State};

use super::{
    Core, Peer, codec,
    machine::try_apply,
    types::{Membership, SnapshotMeta, StoredMembership, Vote},
};

/// Reason for which a group was not left. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaveError {
    /// The log is empty.
    #[error("the log of this node is empty: there is no agreed state to go on with")]
    Nothing,
    /// Error of the disk, as text.
    #[error("the new group could not be stored: {0}")]
    Disk(String),
    /// Raft has been stopped.
    #[error("this node is shutting down")]
    Stopping,
}

/// Order to leave the group.
pub(crate) struct LeaveRequest {
    survivor: GoOnAloneFacts,
    own: Peer,
    /// Initial data of the new group, as far as known before.
    beginning: NewGroup,
    done: oneshot::Sender<Result<(), LeaveError>>,
}

impl Core {
    /// Ends Raft's core and starts it again as the only member of a new group. The caller has checked that this is
    /// permitted.
    pub async fn go_on_alone(
        &self,
        survivor: GoOnAloneFacts,
        own: Peer,
        beginning: NewGroup,
    ) -> Result<(), LeaveError> {
        let (done, answer) = oneshot::channel();
        let request = LeaveRequest { survivor, own, beginning, done };
        let leave_requests = self.leave_requests.get().ok_or(LeaveError::Stopping)?;
        leave_requests.send(request).await.map_err(|_| LeaveError::Stopping)?;
        answer.await.unwrap_or(Err(LeaveError::Stopping))
    }

    /// Leaves the group. The core has ended, and no other has been started yet.
    pub(super) async fn leave(&self, request: LeaveRequest) {
        let LeaveRequest { survivor, own, beginning, done } = request;
        let left = self.try_leave(&survivor, own, beginning).await;
        if let Err(error) = &left {
            tracing::error!(%error, "cannot go on alone; the former group stays");
        }
        // The caller may no longer wait; the change stays.
        let _ = done.send(left);
    }

    async fn try_leave(&self, survivor: &GoOnAloneFacts, own: Peer, beginning: NewGroup) -> Result<(), LeaveError> {
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
        let new_store = self.identity.new_group_store();
        let state = state.as_new_group(survivor, &NewGroup { raft_id: new_store.raft_id, ..beginning });
        let json = serde_json::to_vec(&state).map_err(|error| disk(io::Error::other(error)))?;
        let members = BTreeMap::from([(new_store.raft_id, own)]);
        let membership = Membership::new(vec![[new_store.raft_id].into()], members)
            .map_err(|error| disk(io::Error::other(error.to_string())))?;
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
        };
        let snapshot = codec::snapshot(&meta, json.into());
        // Terms go on rising: leases and gates of this node accept no lower one.
        let term = vote.map_or(0, |vote| vote.leader_id.term).max(last.leader_id.term) + 1;
        let vote = Vote::new(term, new_store.raft_id);
        self.store.replace_by_new_group(&new_store, &snapshot, last, vote).await.map_err(disk)?;
        tracing::warn!(lost = ?survivor.lost, generation = state.generation, "this node goes on alone, in a new group");
        self.identity.switch_to(new_store);
        Ok(())
    }
}
