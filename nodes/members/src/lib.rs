//! Connections of a member to the other members, and the requests that every member answers.

use std::{
    collections::BTreeMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::{Response, Status, transport::Channel};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::NodeName;
use twinbox_pki::NodeIdentity;
use twinbox_roles::{MemberAddress, MemberKind, Roles};
use twinbox_wire::admin::{
    CompareReply, CompareRequest, NodeInfoReply, NodeInfoRequest, ServiceRestartRequest,
    node_info_client::NodeInfoClient,
};

/// Timeout for another member's answer; tables are shown without that member then.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// Timeout for the restart of a service: its calls may have to end first.
const RESTARTED_WITHIN: Duration = Duration::from_secs(15);

/// Compare reply of another member.
#[derive(Debug, Clone)]
pub struct CompareResult {
    /// The reply.
    pub reply: CompareReply,
    /// Offset of its clock, positive if ahead of this one, in milliseconds; accurate to half the round-trip time.
    pub ahead_ms: i64,
}

/// Connections to the other members.
pub struct MemberClients {
    own: NodeName,
    roles: Roles,
    tls: Arc<NodeIdentity>,
    /// Open connections, with their addresses.
    open: Mutex<BTreeMap<NodeName, (MemberAddress, Channel)>>,
}

impl MemberClients {
    /// Connections are opened on first use.
    pub fn new(own: &NodeName, roles: &Roles, tls: &Arc<NodeIdentity>) -> Self {
        Self { own: own.clone(), roles: roles.clone(), tls: tls.clone(), open: Mutex::default() }
    }

    /// Connections to the other nodes.
    pub fn nodes(&self) -> Vec<(NodeName, Channel)> {
        let nodes = self.channels().into_iter().filter(|(member, _)| member.kind == MemberKind::Node);
        nodes.map(|(member, channel)| (member.name, channel)).collect()
    }

    /// Address of a member.
    pub fn address(&self, name: &NodeName) -> Option<String> {
        let members = self.roles.members().borrow().clone();
        members.iter().find(|member| member.name == *name).map(|member| member.address.clone())
    }

    fn channels(&self) -> Vec<(MemberAddress, Channel)> {
        let members = self.roles.members().borrow().clone();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for member in members.iter().filter(|member| member.name != self.own) {
            if open.get(&member.name).is_none_or(|(known, _)| known != member)
                && let Ok(endpoint) = self.tls.endpoint(&member.name, &member.address)
            {
                open.insert(member.name.clone(), (member.clone(), endpoint.connect_lazy()));
            }
        }
        open.values().cloned().collect()
    }

    /// Polls all members concurrently; a member that does not answer in time is left out.
    pub async fn compare(&self) -> BTreeMap<NodeName, CompareResult> {
        let mut asked = JoinSet::new();
        for (MemberAddress { name, .. }, channel) in self.channels() {
            let mut client = NodeInfoClient::new(channel);
            asked.spawn(async move {
                let (sent, begun) = (wall().0, BootInstant::now());
                let reply = tokio::time::timeout(ANSWER_WITHIN, client.compare(CompareRequest {})).await;
                let reply = reply.ok()?.ok()?.into_inner();
                let half_way = sent.saturating_add(begun.elapsed().as_millis() as u64 / 2);
                let ahead_ms = (i128::from(reply.now_ms) - i128::from(half_way)) as i64;
                Some((name, CompareResult { reply, ahead_ms }))
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    /// Requests another node to restart one of its services.
    pub async fn restart_service(&self, node: &NodeName, service: &str, force: bool) -> Result<(), Status> {
        let way = self.nodes().into_iter().find(|(name, _)| name == node);
        let (_, channel) = way.ok_or_else(|| Status::not_found(format!("there is no way to {node}")))?;
        let mut client = NodeInfoClient::new(channel);
        let request = ServiceRestartRequest { node: node.to_string(), service: service.to_owned(), force };
        match tokio::time::timeout(RESTARTED_WITHIN, client.restart_service(request)).await {
            // An error of this end of the connection has a source; an answer of the other node has none.
            Ok(Err(lost)) if lost.source().is_some() => {
                let lost = lost.message();
                let see = "check that it runs, and see with 'twinbox service list' what came of it";
                Err(Status::failed_precondition(format!("{node} does not answer ({lost}): {see}")))
            }
            Ok(answer) => answer.map(drop),
            Err(_) => {
                let why = format!("{node} has not answered: see with 'twinbox service list' what came of it");
                Err(Status::deadline_exceeded(why))
            }
        }
    }

    /// State of one member; `None` if it does not answer in time.
    pub async fn show(&self, node: &NodeName) -> Option<NodeInfoReply> {
        let (_, channel) = self.channels().into_iter().find(|(member, _)| member.name == *node)?;
        show(channel).await
    }

    /// State of all other members, polled concurrently; a member that does not answer in time is left out.
    pub async fn ask(&self) -> BTreeMap<NodeName, NodeInfoReply> {
        let mut asked = JoinSet::new();
        for (MemberAddress { name, .. }, channel) in self.channels() {
            asked.spawn(async move { show(channel).await.map(|reply| (name, reply)) });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }
}

async fn show(channel: Channel) -> Option<NodeInfoReply> {
    let mut client = NodeInfoClient::new(channel);
    let reply = tokio::time::timeout(ANSWER_WITHIN, client.show(NodeInfoRequest {})).await;
    reply.ok()?.ok().map(Response::into_inner)
}
