//! Raft's calls to other members, each with a time limit; heartbeats and snapshots have their own connections.

use std::{future::Future, sync::Arc};

use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    },
};
use tonic::{Response, Status};
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply};

use super::{
    Peer, Types, codec,
    types::{AppendRequest, Snapshot, Vote, VoteRequest, VoteResponse},
};
use crate::{
    dialer::{Client, Dialer, Lane},
    failure_detector::FailureDetector,
    store_identity::StoreIdentity,
};

/// Factory of openraft's clients.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) identity: Arc<StoreIdentity>,
    pub(crate) detector: Arc<FailureDetector>,
}

/// Raft's calls to one member.
pub(crate) struct Link {
    network: Network,
    target: u64,
    peer: Peer,
    lane: Lane,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: Lane::Raft }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: Lane::Heartbeat }
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Peer) -> Link {
        Link { network: self.clone(), target, peer: node.clone(), lane: Lane::Snapshot }
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
        let client = self.network.dialer.client(&self.peer.name, Some(&self.peer.address), self.lane);
        client.ok_or_else(|| unreachable(format!("no usable address for {}", self.peer.name)))
    }

    async fn heartbeat(&self, request: wire::AppendRequest) -> Result<wire::AppendAnswer, Status> {
        let stream = self.network.dialer.request_stream(&self.peer.name, Some(&self.peer.address), self.lane);
        let stream = stream.ok_or_else(|| Status::unavailable("no usable address"))?;
        match stream.ask(Question::Heartbeat(request)).await? {
            Reply::Heartbeat(answer) => Ok(answer),
            _ => Err(Status::internal("an answer of another kind")),
        }
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
                self.network.detector.note_contact(&self.peer.name, None);
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
            Lane::Heartbeat if request.entries.is_empty() => self.bounded(&option, self.heartbeat(request)).await?,
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

    fn backoff(&self) -> Option<Backoff> {
        // Members may come back at any time: never wait longer than an election.
        let patience = self.network.identity.timing().election_max;
        let steps = (0..).map(move |i: u32| patience.min(std::time::Duration::from_millis(25 << i.min(5))));
        Some(Backoff::new(steps))
    }
}
