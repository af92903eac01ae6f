//! Configuration of the replication.

use std::{sync::Arc, time::Duration};

use twinbox_ids::{ClusterId, NodeName};
use twinbox_pki::NodeIdentity;

/// The other nodes, and the timeout for their answers.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// This node.
    pub node: NodeName,
    /// Its cluster.
    pub cluster: ClusterId,
    /// All nodes that hold the data; an entry for this node itself is left out.
    pub peers: Vec<PeerAddress>,
    /// Timeout of a writer's wait for a peer, and of a peer's answer (rule A2; lan 250 ms, wan 1 s), at the start; see
    /// [`Peers::set_ack_timeout`](crate::Peers::set_ack_timeout).
    pub ack_timeout: Duration,
    /// The certificate that this node shows.
    pub tls: Arc<NodeIdentity>,
}

/// Name and address of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// `host:port`.
    pub address: String,
}

/// The limits that follow from `ack_timeout`, and the fixed ones.
pub(crate) mod limits {
    use std::time::Duration;

    /// Protocol version; both sides of a stream must use the same.
    pub(crate) const PROTOCOL: u32 = 3;
    /// Changes in one frame, and bytes after which a frame is full.
    pub(crate) const FRAME_CHANGES: usize = 256;
    pub(crate) const FRAME_BYTES: usize = 128 * 1024;
    /// Bytes of audio in one frame, of a recording that is catching up.
    pub(crate) const PIECE: u64 = 64 * 1024;
    /// Maximum size of a message between nodes, in bytes.
    pub(crate) const MESSAGE: usize = 16 * 1024 * 1024;
    /// Frames queued for a stream. Few: queued frames delay a live change.
    pub(crate) const OUTGOING: usize = 4;
    /// History batches sent and not yet taken. Batches under way delay a live change.
    pub(crate) const HISTORY_UNDER_WAY: u64 = 2;
    /// Frames received and not yet applied; above this number the stream is not read.
    pub(crate) const INCOMING: usize = 32;
    /// Ranges of changes beyond the prefixes in one report.
    pub(crate) const REPORTED_RUNS: usize = 4_096;
    /// Blobs in one report that changes were applied without.
    pub(crate) const REPORTED_AUDIO: usize = 65_536;
    /// Changes applied in one round.
    pub(crate) const APPLY: usize = 1_024;
    /// Changes that wait for others of their commits in one stream, and bytes of these.
    pub(crate) const INCOMPLETE: usize = 1 << 18;
    pub(crate) const INCOMPLETE_BYTES: usize = 128 * 1024 * 1024;
    /// Commits that wait for blobs in one stream.
    pub(crate) const PARKED: usize = 1_024;
    /// A live change whose blob is missing for this long no longer holds back the answers to probes.
    pub(crate) const SET_ASIDE: Duration = Duration::from_secs(5);
    /// Maximum concurrent answers to one peer that asks for blobs or compares: the number of a node's concurrent requests.
    pub(crate) const SERVED: usize = 32;
    /// Maximum concurrent repairs for one peer, which compares once at a time.
    pub(crate) const REPAIRS: usize = 4;
    /// A stream ends after this silence of the peer in the first exchange.
    pub(crate) const SILENCE: Duration = Duration::from_secs(5);
    /// A stream that lasted this long was good: the pauses start again at the first.
    pub(crate) const SETTLED: Duration = Duration::from_secs(5);
    /// Pause between attempts when the peer refused: an administrator has to correct that.
    pub(crate) const RETRY_REFUSED: Duration = Duration::from_secs(5);
}
