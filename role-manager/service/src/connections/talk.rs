//! The server side of a [`RequestStream`](crate::connections::request_stream::RequestStream).

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};
use twinbox_ids::NodeName;
use twinbox_roles_core::NoGrant;
use twinbox_roles_member::NotGranted;
use twinbox_wire::roles::{self as wire, question::Question, reply::Reply};

use crate::{
    RolesService,
    connections::{convert, request_stream::INCARNATION_KEY},
};

/// Answers in the order of the questions. The next question is read after the answer before it has been taken, so
/// nothing queues up here.
pub type Replies = Pin<Box<dyn Stream<Item = Result<wire::Reply, Status>> + Send>>;

impl RolesService {
    /// Answers a caller with a certificate of this cluster. Its permissions are checked with each question, since
    /// members come and go.
    pub(crate) fn serve_talk(
        &self,
        request: Request<Streaming<wire::Question>>,
    ) -> Result<Response<Replies>, Status> {
        let ends = Arc::new((self.clone(), self.certified(&request)?));
        let replies = request.into_inner().then(move |question| {
            let ends = ends.clone();
            async move {
                let (service, caller) = &*ends;
                let wire::Question { number, question } = question?;
                let reply = service.reply(caller, question).await;
                let refused = |status: Status| {
                    let reason = status.message().to_owned();
                    Reply::Refused(wire::Refusal { code: status.code().into(), reason })
                };
                Ok(wire::Reply { number, reply: Some(reply.unwrap_or_else(refused)) })
            }
        });
        let mut answer = Response::new(replies.boxed());
        let incarnation = MetadataValue::from_bytes(&self.identity.incarnation().to_bytes());
        answer.metadata_mut().insert_bin(INCARNATION_KEY, incarnation);
        Ok(answer)
    }

    async fn reply(&self, caller: &NodeName, question: Option<Question>) -> Result<Reply, Status> {
        self.running()?;
        match question {
            Some(Question::Heartbeat(request)) => {
                self.check_raft_caller(caller, request.envelope.as_ref()).await?;
                self.core.serve_append(&request).await.map(Reply::Heartbeat)
            }
            Some(Question::KeepAlive(request)) => self.keep_alive(caller, &request).map(Reply::KeepAlive),
            Some(Question::Ping(request)) => {
                // Frequent, also from removed members that do not know of their removal: not logged each time.
                if caller.as_str() != request.node || self.roster.member(caller).is_none() {
                    let reason = format!("'{caller}' is not a member known here");
                    return Err(Status::permission_denied(reason));
                }
                self.detector.note_contact(caller, Some(convert::incarnation(&request.incarnation)?));
                Ok(Reply::Ping(wire::Empty {}))
            }
            None => Err(Status::unimplemented("a question unknown to this release")),
        }
    }

    fn keep_alive(
        &self,
        caller: &NodeName,
        message: &wire::KeepAliveRequest,
    ) -> Result<wire::KeepAliveAnswer, Status> {
        use wire::keep_alive_answer::Result as Result_;
        self.check_sender(caller, &message.node)?;
        let result = if message.timing != Some(convert::timing(&self.config.timing)) {
            Result_::Refused("its timing differs from the cluster's; set the same on all members".to_owned())
        } else {
            let (request, extras) = convert::read_keep_alive(message)?;
            self.detector.note_contact(&request.node, Some(request.incarnation));
            match self.leadership.keep_alive(&request, &extras) {
                Ok(grant) => Result_::Granted(convert::grant(&grant)),
                Err(NotGranted::NotLeader) => Result_::NotLeader(self.leader()),
                Err(NotGranted::No(NoGrant::NoQuorum { .. })) => Result_::NotLeader(String::new()),
                Err(NotGranted::No(reason)) => Result_::Refused(reason.to_string()),
            }
        };
        Ok(wire::KeepAliveAnswer { result: Some(result) })
    }
}
