//! The gRPC service for members. A caller must be a member by its certificate, and may speak only for itself.

use std::sync::Arc;

use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use twinbox_ids::NodeName;
use twinbox_raft::{Core, ProposeError, StoreIdentity};
use twinbox_roles_core::Order;
use twinbox_wire::roles::{self as wire, roles_server};

use crate::{
    RolesConfig,
    connections::{convert, talk::Replies},
    failures::failure_detector::FailureDetector,
    group::{members::Members, roster::Roster},
    leading::leader::Leadership,
};

/// The role manager's gRPC service.
#[derive(Clone)]
pub struct RolesService {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) identity: Arc<StoreIdentity>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) members: Arc<Members>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) detector: Arc<FailureDetector>,
}

type Answer<T> = Result<Response<T>, Status>;

impl RolesService {
    /// Name of the caller, by its certificate of this cluster.
    pub(crate) fn certified<T>(&self, request: &Request<T>) -> Result<NodeName, Status> {
        self.running()?;
        Ok(self.config.tls.admit(request)?.name)
    }

    pub(crate) fn running(&self) -> Result<(), Status> {
        match self.identity.stopped() {
            true => Err(Status::unavailable("this member is shutting down")),
            false => Ok(()),
        }
    }

    /// Checks that the caller is a member known here.
    fn check_known(&self, caller: &NodeName) -> Result<(), Status> {
        if self.roster.member(caller).is_some() {
            return Ok(());
        }
        tracing::warn!(peer = %caller, "refused: the caller has a valid certificate, but is not a known member");
        Err(Status::permission_denied(format!("'{caller}' is not a member known here")))
    }

    /// As [`Self::check_known`], and notes the last contact with its process.
    fn check_and_note_contact(&self, caller: &NodeName) -> Result<(), Status> {
        self.check_known(caller)?;
        self.detector.note_contact(caller, None);
        Ok(())
    }

    /// Checks that the caller is the sender that the request names.
    pub(crate) fn check_sender(&self, caller: &NodeName, claimed: &str) -> Result<(), Status> {
        self.check_and_note_contact(caller)?;
        Self::check_name(caller, claimed)
    }

    /// The same for a supervisor, which presents its node's certificate. It is no last contact with that node.
    pub(crate) fn check_supervisor<T>(&self, request: &Request<T>, claimed: &str) -> Result<(), Status> {
        let node = self.certified(request)?;
        self.check_known(&node)?;
        Self::check_name(&node, claimed)
    }

    fn check_name(caller: &NodeName, claimed: &str) -> Result<(), Status> {
        if caller.as_str() == claimed {
            return Ok(());
        }
        tracing::warn!(peer = %caller, claimed, "refused: the caller names another member as the sender");
        Err(Status::permission_denied(format!("'{caller}' may not speak for '{claimed}'")))
    }

    /// As [`Self::check_sender`], but also permits a removed member, to notify it of its removal.
    fn check_sender_or_removed<T>(&self, request: &Request<T>, claimed: &str, raft_id: u64) -> Result<(), Status> {
        let name = self.certified(request)?;
        match name.as_str() == claimed && self.members.removal_notice(&name, raft_id).is_some() {
            true => Ok(()),
            false => self.check_sender(&name, claimed),
        }
    }

    /// Checks the sender, the target and the group of a Raft call.
    pub(crate) async fn check_raft_caller(
        &self,
        caller: &NodeName,
        envelope: Option<&wire::Envelope>,
    ) -> Result<(), Status> {
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("an envelope is missing"))?;
        if self.core.applied().borrow().state.was_removed(envelope.from) {
            return Err(Status::permission_denied("the sender was removed from the cluster"));
        }
        if envelope.to != self.identity.raft_id() {
            return Err(Status::failed_precondition("the request is for another store than the present one"));
        }
        let named = self.core.status().borrow().peer(envelope.from).map(|peer| peer.name.clone());
        if named.is_some_and(|name| name != *caller) {
            tracing::warn!(peer = %caller, "refused: the caller uses the Raft id of another member");
            return Err(Status::permission_denied("the Raft id belongs to another member"));
        }
        // Noted before the answer: a node that may go solo counts from here (rule R7).
        self.detector.note_contact(caller, None);
        match self.identity.group() {
            // A member that joined while this one was away may lead before this one knows it.
            Some(group) if group == envelope.group => Ok(()),
            Some(_) => Err(Status::failed_precondition("the sender belongs to another group of this cluster")),
            // Only a member that got a join request knows our Raft id.
            None if self.core.is_empty() && self.roster.member(caller).is_some() => {
                let adopted = self.identity.adopt(envelope.group.clone()).await;
                adopted.map_err(|e| Status::unavailable(e.to_string()))
            }
            None => Err(Status::failed_precondition("this member is in no group")),
        }
    }

    pub(crate) fn leader(&self) -> String {
        self.members.leader().map(String::from).unwrap_or_default()
    }
}

#[tonic::async_trait]
impl roles_server::Roles for RolesService {
    async fn append(&self, request: Request<wire::AppendRequest>) -> Answer<wire::AppendAnswer> {
        self.check_raft_caller(&self.certified(&request)?, request.get_ref().envelope.as_ref()).await?;
        self.core.serve_append(request.get_ref()).await.map(Response::new)
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Answer<wire::VoteAnswer> {
        self.check_raft_caller(&self.certified(&request)?, request.get_ref().envelope.as_ref()).await?;
        self.core.serve_vote(request.get_ref()).await.map(Response::new)
    }

    async fn pre_vote(&self, request: Request<wire::VoteRequest>) -> Answer<wire::VoteAnswer> {
        self.check_raft_caller(&self.certified(&request)?, request.get_ref().envelope.as_ref()).await?;
        self.core.serve_pre_vote(request.get_ref()).await.map(Response::new)
    }

    async fn install(&self, request: Request<wire::InstallRequest>) -> Answer<wire::InstallAnswer> {
        self.check_raft_caller(&self.certified(&request)?, request.get_ref().envelope.as_ref()).await?;
        self.core.serve_install(request.get_ref()).await.map(Response::new)
    }

    async fn transfer(&self, request: Request<wire::TransferRequest>) -> Answer<wire::TransferAnswer> {
        self.check_raft_caller(&self.certified(&request)?, request.get_ref().envelope.as_ref()).await?;
        self.core.serve_transfer(request.get_ref()).await.map(Response::new)
    }

    async fn confirm(&self, request: Request<wire::ConfirmRequest>) -> Answer<wire::ConfirmAnswer> {
        self.check_sender_or_removed(&request, &request.get_ref().node, request.get_ref().raft_id)?;
        Ok(Response::new(self.members.check_run_number(request.get_ref()).await))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Answer<wire::JoinAnswer> {
        self.check_sender_or_removed(&request, &request.get_ref().node, request.get_ref().raft_id)?;
        Ok(Response::new(self.members.serve_join(request.get_ref()).await))
    }

    type TalkStream = Replies;

    async fn talk(&self, request: Request<Streaming<wire::Question>>) -> Answer<Replies> {
        self.serve_talk(request)
    }

    async fn operate(&self, request: Request<wire::OperateRequest>) -> Answer<wire::OperateAnswer> {
        use wire::operate_answer::Result as Result_;
        let caller = self.certified(&request)?;
        self.check_and_note_contact(&caller)?;
        let (id, order) = convert::read_operate(request.get_ref())?;
        if let Some(Order::Certificates(order)) = &order
            && let Some(name) = order.reporter()
        {
            Self::check_name(&caller, name.as_str())?;
        }
        let proposed = timeout(self.config.timing.order_limit(), self.leadership.operate(id, order)).await;
        let result = match proposed {
            Ok(Ok(outcome)) => match serde_json::to_vec(&outcome) {
                Ok(json) => Result_::Outcome(json.into()),
                Err(error) => Result_::Refused(error.to_string()),
            },
            Ok(Err(ProposeError::NotLeader)) => Result_::NotLeader(self.leader()),
            Ok(Err(error @ (ProposeError::Stopped(_) | ProposeError::Changing | ProposeError::SetAside))) => {
                Result_::Refused(error.to_string())
            }
            Ok(Err(ProposeError::Unknown)) | Err(_) => Result_::Unknown(wire::Empty {}),
        };
        Ok(Response::new(wire::OperateAnswer { result: Some(result) }))
    }
}
