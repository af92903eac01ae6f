//! Reasons for the end of a stream, and for the refusal of one.

use tonic::{Code, Status};
use twinbox_ids::{ClusterId, NodeName, Origin};
use twinbox_pki::{PeerError, PkiError};
use twinbox_replication_store::StoreError;

/// The end of a stream. Both sides log it; the follower retries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("this node is shutting down")]
    Stopped,
    #[error("the peer closed the stream")]
    Closed,
    #[error("the peer sent nothing in time")]
    Silent,
    #[error("the peer has another address now; the stream is opened again there")]
    Moved,
    #[error("the peer has all records now; the stream is opened again to fetch them")]
    BecameSource,
    #[error("what this node lacks is here now; the stream is opened again to go on from the log")]
    Reached,
    #[error("the log was cut up to what the peer still lacked; it fills by state")]
    LogCut,
    #[error(
        "the log of this node begins after what the peer has, and the peer's release cannot fill by state: upgrade it"
    )]
    TooFarBehind,
    #[error("{0}")]
    Pki(#[from] PkiError),
    #[error("{0}")]
    Peer(#[from] PeerError),
    #[error("'{name}' is not a known node: it is not configured, or this node has not learned yet that it joined")]
    Unknown { name: NodeName },
    #[error("the certificate is of '{certificate}', but the stream names '{claimed}'")]
    NotItself { certificate: NodeName, claimed: String },
    #[error("the peer belongs to cluster {theirs}, this node to {ours}")]
    WrongCluster { theirs: ClusterId, ours: ClusterId },
    #[error("the peer uses protocol {theirs}, this node {ours}: upgrade the older one")]
    Protocol { theirs: u32, ours: u32 },
    #[error(
        "the peer has change {theirs} of this node's own origin {origin}, which has made only {ours}: the store \
         was copied or rolled back while it ran; restart this node with its own data"
    )]
    OwnOriginAhead { origin: Origin, theirs: u64, ours: u64 },
    #[error("the peer sent an invalid frame: {0}")]
    Frame(String),
    #[error("cannot reach the peer: {}", chain(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Rpc(#[from] Status),
    #[error("the store of this node failed: {0}")]
    Store(#[from] StoreError),
}

impl StreamError {
    /// True when only an administrator can change the answer.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Rpc(status) => matches!(
                status.code(),
                Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition | Code::Unimplemented
            ),
            Self::Pki(_)
            | Self::Peer(_)
            | Self::Unknown { .. }
            | Self::NotItself { .. }
            | Self::WrongCluster { .. }
            | Self::Protocol { .. }
            | Self::TooFarBehind
            | Self::OwnOriginAhead { .. } => true,
            _ => false,
        }
    }
}

impl From<StreamError> for Status {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Rpc(status) => status,
            StreamError::Peer(error) => error.into(),
            StreamError::Stopped | StreamError::Closed => Self::unavailable(error.to_string()),
            StreamError::Silent => Self::deadline_exceeded(error.to_string()),
            StreamError::Unknown { .. } | StreamError::NotItself { .. } | StreamError::WrongCluster { .. } => {
                Self::permission_denied(error.to_string())
            }
            StreamError::LogCut => Self::aborted(error.to_string()),
            StreamError::Protocol { .. } | StreamError::OwnOriginAhead { .. } | StreamError::TooFarBehind => {
                Self::failed_precondition(error.to_string())
            }
            StreamError::Frame(_) => Self::invalid_argument(error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

/// An error with its causes: tonic's own texts say only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
