//! What replication is told.

use std::{sync::Arc, time::Duration};

use twinbox_ids::{ClusterId, NodeName};
use twinbox_pki::NodeIdentity;

/// The other nodes, and how long to wait for them.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// This node.
    pub node: NodeName,
    /// Its cluster.
    pub cluster: ClusterId,
    /// All nodes that hold the data; an entry for this node itself is left out.
    pub peers: Vec<PeerAddress>,
    /// How long a writer waits for a peer, and a peer may take to answer (rule A2; lan 250 ms, wan 1 s).
    pub ack_timeout: Duration,
    /// The certificate that this node shows.
    pub tls: Arc<NodeIdentity>,
}

/// Where a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// `host:port`.
    pub address: String,
}

/// The measures that follow from `ack_timeout`, and the fixed ones.
pub(crate) mod limits {
    use std::time::Duration;

    /// What both sides of a stream speak.
    pub(crate) const PROTOCOL: u32 = 1;
    /// Changes in one frame, and bytes after which a frame is full.
    pub(crate) const FRAME_CHANGES: usize = 256;
    pub(crate) const FRAME_BYTES: usize = 128 * 1024;
    /// Bytes of audio in one frame: of a recording that is being caught up, and of a blob.
    pub(crate) const PIECE: u64 = 64 * 1024;
    /// No message between nodes is larger.
    pub(crate) const MESSAGE: usize = 16 * 1024 * 1024;
    /// Frames on their way into a stream. Few: what waits there delays a live change.
    pub(crate) const OUTGOING: usize = 4;
    /// History batches sent and not yet taken. What is under way delays a live change.
    pub(crate) const HISTORY_UNDER_WAY: u64 = 2;
    /// Frames received and not yet applied; then the stream is not read on.
    pub(crate) const INCOMING: usize = 32;
    /// Changes applied in one go.
    pub(crate) const APPLY: usize = 1_024;
    /// Changes that wait for blobs in one stream.
    pub(crate) const PARKED: usize = 1_024;
    /// A live change whose blob does not come for this long no longer holds back the answers to probes.
    pub(crate) const SET_ASIDE: Duration = Duration::from_secs(5);
    /// The largest blob that is fetched; an hour of G.711 is 29 MB.
    pub(crate) const BLOB: u64 = 128 * 1024 * 1024;
    /// Blobs fetched at once, and blobs served at once.
    pub(crate) const FETCHES: usize = 8;
    pub(crate) const SERVED: usize = 32;
    /// A peer that is silent for so long in the first exchange, or in the middle of a blob, is given up.
    pub(crate) const SILENCE: Duration = Duration::from_secs(5);
    /// Between attempts to reach a peer: from, doubling, to.
    pub(crate) const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
    /// A stream that lived for so long was a good one: the pauses begin anew.
    pub(crate) const SETTLED: Duration = Duration::from_secs(5);
    /// Between attempts when the peer refused: a person has to put that right.
    pub(crate) const RETRY_REFUSED: Duration = Duration::from_secs(5);
    /// Between attempts to get a blob: from, doubling, to.
    pub(crate) const RETRY_BLOB: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
}
