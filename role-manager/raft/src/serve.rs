//! The server side of Raft's calls.

use openraft::raft::AppendEntriesResponse;
use tonic::Status;
use twinbox_clock::BootInstant;
use twinbox_wire::roles as wire;

use super::{
    Core, codec,
    codec::Malformed,
    types::{Raft, Vote},
};

fn bad(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn fatal(error: impl ToString) -> Status {
    Status::unavailable(error.to_string())
}

fn vote_of(vote: Option<&wire::Vote>) -> Result<Vote, Status> {
    vote.map(codec::read_vote).ok_or_else(|| Status::invalid_argument("a vote is missing"))
}

impl Core {
    fn running(&self) -> Result<Raft, Status> {
        self.raft().map_err(fatal)
    }

    /// Whether a call may be answered: not before the run number is confirmed (rule R8).
    fn taking_part(&self) -> Result<Raft, Status> {
        match self.identity.may_take_part() {
            true => self.running(),
            false => Err(Status::unavailable(self.identity.obstacle())),
        }
    }

    fn voting(&self) -> Result<Raft, Status> {
        match self.identity.may_vote() {
            true => self.taking_part(),
            false => Err(Status::unavailable("this member does not vote yet: it has just started")),
        }
    }

    /// Answers log entries and heartbeats of a leader.
    pub async fn serve_append(&self, request: &wire::AppendRequest) -> Result<wire::AppendAnswer, Status> {
        let raft = self.taking_part()?;
        let request = codec::read_append(request).map_err(bad)?;
        let received = BootInstant::now();
        let answer = raft.append_entries(request).await.map_err(fatal)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.leader_contact.send_modify(|known| *known = (*known).max(Some(received)));
        }
        Ok(codec::append_answer(&answer))
    }

    /// Answers the request for a vote.
    pub async fn serve_vote(&self, request: &wire::VoteRequest) -> Result<wire::VoteAnswer, Status> {
        let raft = self.voting()?;
        let request = codec::read_vote_request(request).map_err(bad)?;
        raft.vote(request).await.map(|answer| codec::vote_answer(&answer)).map_err(fatal)
    }

    /// Answers the question whether this member would vote for a candidate.
    pub async fn serve_pre_vote(&self, request: &wire::VoteRequest) -> Result<wire::VoteAnswer, Status> {
        let raft = self.voting()?;
        let request = codec::read_vote_request(request).map_err(bad)?;
        raft.pre_vote(request).await.map(|answer| codec::vote_answer(&answer)).map_err(fatal)
    }

    /// Installs a snapshot of the leader.
    pub async fn serve_install(&self, request: &wire::InstallRequest) -> Result<wire::InstallAnswer, Status> {
        let raft = self.taking_part()?;
        let vote = vote_of(request.vote.as_ref())?;
        let snapshot = request.snapshot.as_ref().ok_or_else(|| Status::invalid_argument("no snapshot"))?;
        let snapshot = codec::read_snapshot(snapshot).map_err(bad)?;
        // Unreadable data would end the core: refuse it here.
        serde_json::from_slice::<twinbox_roles_core::State>(&snapshot.snapshot)
            .map_err(|e| Status::invalid_argument(format!("a malformed snapshot: {e}")))?;
        let answer = raft.install_full_snapshot(vote, snapshot).await.map_err(fatal)?;
        Ok(wire::InstallAnswer { vote: Some(codec::vote(&answer.vote)) })
    }

    /// Stands for election at the request of the leader.
    pub async fn serve_transfer(&self, request: &wire::TransferRequest) -> Result<wire::TransferAnswer, Status> {
        let raft = self.voting()?;
        let from = vote_of(request.from_leader.as_ref())?;
        let last = request.last.as_ref().map(codec::read_log_id);
        let request = openraft::raft::TransferLeaderRequest::new(from, request.to, last);
        let answer = raft.handle_transfer_leader(request).await.map_err(fatal)?;
        Ok(wire::TransferAnswer { accepted: answer.is_ok() })
    }
}
