//! The right to act in one epoch of the duty.

use std::sync::Arc;

use twinbox_gate::{Gate, Permit, SocketOwner};
use twinbox_ids::Epoch;
use twinbox_imap::ImapError;

use crate::error::SyncError;

/// An epoch of the duty behind its gate. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DutyLease {
    pub gate: Gate,
    pub epoch: Epoch,
}

impl DutyLease {
    /// Permit for a write in this epoch. The duty is not released while it exists.
    pub(crate) fn permit(&self) -> Option<Permit> {
        self.gate.enter(&self.epoch).ok()
    }

    /// Whether this node holds the duty in this epoch.
    pub(crate) fn is_held(&self) -> bool {
        self.gate.check(&self.epoch).is_ok()
    }

    /// Owner of a new connection.
    pub(crate) fn owner(&self) -> Result<Arc<dyn SocketOwner>, ImapError> {
        Ok(Arc::new(self.permit().ok_or(ImapError::NotHolder)?))
    }

    /// Resolves when this node does not hold the duty in this epoch any more.
    pub(crate) async fn lost(&self) {
        self.gate.lost(&self.epoch).await;
    }

    /// An exchange with a server, which ends with the lease.
    pub(crate) async fn while_held<T>(
        &self,
        exchange: impl Future<Output = Result<T, ImapError>>,
    ) -> Result<T, ImapError> {
        tokio::select! {
            biased;
            () = self.lost() => Err(ImapError::NotHolder),
            done = exchange => done,
        }
    }

    /// A read or a sign-in, which ends with the lease. Not for commits: one under way is finished.
    pub(crate) async fn unless_lost<T>(&self, work: impl Future<Output = T>) -> Result<T, SyncError> {
        tokio::select! {
            biased;
            () = self.lost() => Err(SyncError::DutyLost),
            done = work => Ok(done),
        }
    }
}
