//! Errors, each with the remedy.

use twinbox_ids::{ClusterId, NodeName};
use twinbox_raft::StoreError;
use twinbox_roles_core::{OrderId, Refusal};

/// Reason for which the role manager does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolesError {
    /// Raft does not start on its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The list of members lacks this one.
    #[error("the configured members do not include '{node}' itself; add it, with its address")]
    NotAMember {
        /// Name of the member.
        node: NodeName,
    },
    /// Name or cluster of the certificate do not match the configuration.
    #[error("the certificate is of '{name}' in cluster {cluster}, the configuration is for '{node}' in {expected}")]
    Certificate {
        /// The certificate's name.
        name: NodeName,
        /// The certificate's cluster.
        cluster: ClusterId,
        /// The configured name.
        node: NodeName,
        /// The configured cluster.
        expected: ClusterId,
    },
    /// The thread that closes gates cannot be started.
    #[error("cannot start the thread that closes gates: {0}")]
    Thread(std::io::Error),
}

impl RolesError {
    /// Whether the store is unreadable or belongs to another member: the rest of the process may go on without it.
    pub fn is_of_store(&self) -> bool {
        let Self::Store(error) = self else { return false };
        matches!(error, StoreError::Disk(_) | StoreError::ForeignStore { .. } | StoreError::Unreadable { .. })
    }
}

/// Reason for which an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no majority.
    #[error("not done: {reason}")]
    NoMajority {
        /// Missing condition, as text.
        reason: String,
    },
    /// The order was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The leader did not accept the order.
    #[error("not done: {reason}")]
    Rejected {
        /// Reason in the leader's words.
        reason: String,
    },
    /// The majority was lost while the order was under way.
    #[error(
        "the outcome is unknown: the majority was lost while order {id} was under way; once there is one again, 'twinbox cluster outcome {id}' shows whether it was carried out"
    )]
    Unknown {
        /// Id of the order.
        id: OrderId,
    },
    /// The process is ending.
    #[error("not done: this node is shutting down; ask another")]
    Stopping,
}
