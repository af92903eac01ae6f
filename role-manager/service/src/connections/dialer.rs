//! Connections to other members: one per purpose, so that a large answer never delays a heartbeat or a lease.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tonic::Status;
use twinbox_ids::NodeName;
use twinbox_pki::NodeIdentity;
use twinbox_raft::{Client, Dial, Peer, RaftLane};
use twinbox_roles_core::Timing;
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply, roles_client::RolesClient};

use crate::{
    connections::request_stream::RequestStream, failures::failure_detector::FailureDetector, group::roster::Roster,
};

/// The longest accepted message, in bytes: snapshots contain only a few members.
pub(crate) const MESSAGE_LIMIT: usize = 1 << 20;

/// Purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Log entries, votes.
    Raft,
    /// Raft's heartbeats.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Leases and probes.
    KeepAlive,
    /// Orders, joining, run numbers.
    Control,
}

impl From<RaftLane> for Lane {
    fn from(lane: RaftLane) -> Self {
        match lane {
            RaftLane::Log => Self::Raft,
            RaftLane::Heartbeat => Self::Heartbeat,
            RaftLane::Snapshot => Self::Snapshot,
        }
    }
}

/// Makes connections and reuses them.
pub(crate) struct Dialer {
    tls: Arc<NodeIdentity>,
    roster: Arc<Roster>,
    detector: Arc<FailureDetector>,
    patience: Duration,
    /// Runtime of all connections, whichever task requests one first.
    runtime: Handle,
    open: Mutex<BTreeMap<(NodeName, Lane), Open>>,
}

/// A connection, with its target address.
struct Open {
    address: String,
    client: Client,
    stream: Arc<RequestStream>,
}

impl Dialer {
    pub(crate) fn new(
        tls: Arc<NodeIdentity>,
        roster: Arc<Roster>,
        detector: Arc<FailureDetector>,
        timing: &Timing,
    ) -> Self {
        let (patience, runtime) = (timing.election_max, Handle::current());
        Self { tls, roster, detector, patience, runtime, open: Mutex::default() }
    }

    /// A client for `name`, which connects at its first use. `None` when the member has no usable address.
    pub(crate) fn client(&self, name: &NodeName, address: Option<&str>, lane: Lane) -> Option<Client> {
        self.with(name, address, lane, |open| open.client.clone())
    }

    /// The stream to `name` for small requests; as [`Self::client`].
    pub(crate) fn request_stream(
        &self,
        name: &NodeName,
        address: Option<&str>,
        lane: Lane,
    ) -> Option<Arc<RequestStream>> {
        self.with(name, address, lane, |open| open.stream.clone())
    }

    fn with<T>(
        &self,
        name: &NodeName,
        address: Option<&str>,
        lane: Lane,
        take: impl FnOnce(&Open) -> T,
    ) -> Option<T> {
        // The roster is newer than the address in Raft's log.
        let address = self.roster.member(name).map(|member| member.address).or(address.map(str::to_owned))?;
        let mut connections = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), lane);
        if let Some(open) = connections.get(&key).filter(|open| open.address == address) {
            return Some(take(open));
        }
        let client = self.connect(name, &address)?;
        let stream = Arc::new(RequestStream::new(name.clone(), client.clone(), self.detector.clone()));
        let open = Open { address, client, stream };
        let taken = take(&open);
        connections.insert(key, open);
        Some(taken)
    }

    fn connect(&self, name: &NodeName, address: &str) -> Option<Client> {
        let endpoint = match self.tls.endpoint(name, address) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::warn!(peer = %name, %error, "cannot connect to a member; check its address");
                return None;
            }
        };
        let _runtime = self.runtime.enter();
        // A link that was cut silently must not outlive the cut: TCP's own timeout is a quarter of an hour. An idle
        // lane costs nothing.
        let channel = endpoint
            .for_roles()
            .connect_timeout(self.patience)
            .http2_keep_alive_interval(self.patience * 2)
            .keep_alive_timeout(self.patience * 2)
            .silent_while_idle()
            .connect_lazy();
        let client = RolesClient::new(channel);
        Some(client.max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT))
    }
}

#[tonic::async_trait]
impl Dial for Dialer {
    fn client(&self, peer: &Peer, lane: RaftLane) -> Option<Client> {
        Dialer::client(self, &peer.name, Some(&peer.address), lane.into())
    }

    async fn heartbeat(&self, peer: &Peer, request: wire::AppendRequest) -> Result<wire::AppendAnswer, Status> {
        let stream = self.request_stream(&peer.name, Some(&peer.address), Lane::Heartbeat);
        let stream = stream.ok_or_else(|| Status::unavailable("no usable address"))?;
        match stream.ask(Question::Heartbeat(request)).await? {
            Reply::Heartbeat(answer) => Ok(answer),
            _ => Err(Status::internal("an answer of another kind")),
        }
    }

    fn note_contact(&self, member: &NodeName) {
        self.detector.note_contact(member, None);
    }
}
