//! Raft's calls to other members, each with a time limit; heartbeats and snapshots have their own connections, which
//! the caller makes ([`Dial`]).

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff as Delays, RPCOption},
    raft::{
        AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    },
};
use tonic::{Response, Status, transport::Channel};
use twinbox_ids::{Backoff, NodeName};
use twinbox_wire::roles::{self as wire, roles_client::RolesClient};

use super::{
    Peer, StoreIdentity, Types, codec,
    types::{AppendRequest, Snapshot, Vote, VoteRequest, VoteResponse},
};

/// Pauses after failures to reach a member.
const RETRY: Backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(800));

/// Client of another member's role manager.
pub type Client = RolesClient<Channel>;

/// Purpose of one of Raft's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftLane {
    /// Log entries, votes.
    Log,
    /// Heartbeats.
    Heartbeat,
    /// Snapshots.
    Snapshot,
}

/// Connections to the other members, as Raft uses them.
#[tonic::async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A client for `peer`, which connects at its first use. `None` when the member has no usable address.
    fn client(&self, peer: &Peer, lane: RaftLane) -> Option<Client>;

    /// Sends a heartbeat on the stream for small requests, and returns the answer. It may wait as long as the stream
    /// exists.
    async fn heartbeat(&self, peer: &Peer, request: wire::AppendRequest) -> Result<wire::AppendAnswer, Status>;

    /// Notes that this member has answered.
    fn note_contact(&self, member: &NodeName);
}

/// Factory of openraft's clients.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) identity: Arc<StoreIdentity>,
}

/// Raft's calls to one member.
pub(crate) struct Link {
    network: Network,
    target: u64,
    peer: Peer,
    lane: RaftLane,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: RaftLane::Log }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: RaftLane::Heartbeat }
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: RaftLane::Snapshot }
    }
}

fn unreachable(reason: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

async fn content<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    call.await.map(Response::into_inner)
}

impl Link {
    fn client(&self) -> Result<Client, RPCError<Types>> {
        // A voter whose own run number is in doubt sends no requests (rule R8).
        if !self.network.identity.may_take_part() {
            return Err(unreachable("this member may not take part in Raft yet"));
        }
        let client = self.network.dial.client(&self.peer, self.lane);
        client.ok_or_else(|| unreachable(format!("no usable address for {}", self.peer.name)))
    }

    fn envelope(&self) -> wire::Envelope {
        let (group, from) = self.network.identity.group_and_id();
        wire::Envelope { group, from, to: self.target }
    }

    async fn bounded<T>(
        &self,
        option: &RPCOption,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, RPCError<Types>> {
        match tokio::time::timeout(option.hard_ttl(), call).await {
            Ok(Ok(answer)) => {
                self.network.dial.note_contact(&self.peer.name);
                Ok(answer)
            }
            Ok(Err(status)) => Err(unreachable(format!("{}: {}", self.peer.name, status.message()))),
            Err(_) => Err(unreachable(format!("{} did not answer within {:?}", self.peer.name, option.hard_ttl()))),
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = bytes::Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let mut client = self.client()?;
        let request = codec::append(&rpc, self.envelope()).map_err(unreachable)?;
        let answer = match self.lane {
            RaftLane::Heartbeat if request.entries.is_empty() => {
                self.bounded(&option, self.network.dial.heartbeat(&self.peer, request)).await?
            }
            _ => self.bounded(&option, content(client.append(request))).await?,
        };
        codec::read_append_answer(&answer).map_err(unreachable)
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError<Types>> {
        let mut client = self.client()?;
        let request = codec::vote_request(&rpc, self.envelope());
        let answer = self.bounded(&option, content(client.vote(request))).await?;
        codec::read_vote_answer(&answer).map_err(unreachable)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError<Types>> {
        let mut client = self.client()?;
        let request = codec::vote_request(&rpc, self.envelope());
        let answer = self.bounded(&option, content(client.pre_vote(request))).await?;
        codec::read_vote_answer(&answer).map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut client = self.client()?;
        let request = wire::InstallRequest {
            envelope: Some(self.envelope()),
            vote: Some(codec::vote(&vote)),
            snapshot: Some(codec::snapshot(&snapshot.meta, snapshot.snapshot)),
        };
        let answer = tokio::select! {
            answer = self.bounded(&option, content(client.install(request))) => answer?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let vote = answer.vote.as_ref().map(codec::read_vote);
        Ok(SnapshotResponse::new(vote.ok_or_else(|| unreachable("an answer without a vote"))?))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let mut client = self.client()?;
        let message = wire::TransferRequest {
            envelope: Some(self.envelope()),
            from_leader: Some(codec::vote(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(codec::log_id),
        };
        let answer = self.bounded(&option, content(client.transfer(message))).await?;
        Ok(match answer.accepted {
            true => Ok(()),
            false => {
                let expected = request.last_log_id().copied();
                Err(TransferLeaderError::LogNotFlushed { expected, actual: None })
            }
        })
    }

    fn backoff(&self) -> Option<Delays> {
        // Members may come back at any time: never wait longer than an election.
        let patience = self.network.identity.timing().election_max;
        Some(Delays::new((1..).map(move |failures| RETRY.after(failures).min(patience))))
    }
}
