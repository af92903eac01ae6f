//! Reasons why a blob does not come.

use std::sync::Arc;

use tonic::Status;
use twinbox_ids::BlobHash;
use twinbox_pki::PkiError;
use twinbox_replication_store::StoreError;
use twinbox_wire::replication::Absence;

use crate::MAX_BLOB;

/// A blob exceeds the maximum size of a fetch: the change that names it is not applied.
#[derive(Debug, thiserror::Error)]
#[error("blob {hash} has {length} bytes according to its record; the maximum is {MAX_BLOB}")]
pub struct TooLarge {
    pub(crate) hash: BlobHash,
    pub(crate) length: u64,
}

/// The outcome of asking all nodes for a blob.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("no reachable node has it")]
    Nobody,
    #[error("every other node answers that it does not have it, or sends a damaged copy")]
    Denied,
    #[error("the records that named it were deleted and purged")]
    GivenUp,
    #[error("{0}")]
    Failed(Arc<AskError>),
}

/// The reason why one node's blob did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("it is no node of this cluster any more")]
    Unknown,
    #[error("{0}")]
    Pki(#[from] PkiError),
    #[error("the peer sent nothing in time")]
    Silent,
    #[error("{}", .0.message())]
    Rpc(#[from] Status),
    #[error("the peer sent an invalid answer: {0}")]
    Invalid(&'static str),
    #[error("the peer's answer ended before it")]
    Ended,
    #[error("the peer sent data of another length")]
    Length,
    #[error("the peer sent data of another hash")]
    Hash,
    #[error("the peer does not send it: {}", absence(*.0))]
    Absent(Absence),
    #[error("{0}")]
    Store(StoreError),
}

impl AskError {
    /// Whether the node answers the same as long as it gets no good copy itself.
    pub(crate) fn is_denial(&self) -> bool {
        match self {
            Self::Absent(absence) => matches!(absence, Absence::NotHere | Absence::GivenUp | Absence::Unreadable),
            error => matches!(error, Self::Hash),
        }
    }

    /// Whether this node has no space for the blob.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }
}

fn absence(absence: Absence) -> &'static str {
    match absence {
        Absence::Unspecified | Absence::NotHere => "it is not there",
        Absence::GivenUp => "the records that named it were deleted and purged there",
        Absence::Changing => "it is being stored or removed there",
        Absence::Unreadable => "it cannot be read there",
    }
}
