//! State that a member reports about itself, and requests to other members.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::{Request, Response, Status, transport::Channel};
use twinbox_calls::{Calls, ListenerConfig};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_pki::NodeIdentity;
use twinbox_roles::{MemberAddress, MemberKind, Roles};
use twinbox_wire::admin::{
    self, ClockReply, ClockRequest, CompareReply, CompareRequest, Done, LightChange, NodeInfoReply,
    NodeInfoRequest, ServiceRestartRequest,
    node_info_client::NodeInfoClient,
    node_info_server::{NodeInfo, NodeInfoServer},
};

use crate::{
    drift,
    health::{Health, ROLE_MANAGER, RestartRefused},
    lights,
    node::Node,
};

/// Timeout for another member's answer; tables are shown without that member then.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// Timeout for the restart of a service: its calls may have to end first.
const RESTARTED_WITHIN: Duration = Duration::from_secs(15);

/// Outcome of a restart as an RPC result.
pub fn restarted(outcome: Result<(), RestartRefused>) -> Result<Response<Done>, Status> {
    match outcome {
        Ok(()) => Ok(Response::new(Done {})),
        Err(refused @ RestartRefused::Unknown { .. }) => Err(Status::not_found(refused.to_string())),
        Err(refused) => Err(Status::failed_precondition(refused.to_string())),
    }
}

/// Source of a member's reported state.
pub struct NodeFacts {
    name: NodeName,
    incarnation: Incarnation,
    started: BootInstant,
    node: Option<(Arc<Node>, Arc<Health>)>,
    /// Reason why the role manager of a witness does not run, if so.
    trouble: Option<String>,
}

impl NodeFacts {
    /// Facts of a node.
    pub fn of_node(node: Arc<Node>, health: Arc<Health>) -> Self {
        Self {
            name: node.name.clone(),
            incarnation: node.incarnation,
            started: BootInstant::now(),
            node: Some((node, health)),
            trouble: None,
        }
    }

    /// Facts of a witness: it has no calls and no data.
    pub fn of_witness(name: &NodeName) -> Self {
        let (name, incarnation, started) = (name.clone(), Incarnation::random(), BootInstant::now());
        Self { name, incarnation, started, node: None, trouble: None }
    }

    /// Facts of a witness in a cluster whose store it cannot read: it does not vote there.
    pub fn of_witness_without_store(name: &NodeName, why: String) -> Self {
        Self { trouble: Some(why), ..Self::of_witness(name) }
    }

    /// Present facts.
    pub fn show(&self) -> NodeInfoReply {
        let mut reply = NodeInfoReply {
            node: self.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.incarnation.to_string(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            now_ms: wall().0,
            ..Default::default()
        };
        reply.services.extend(self.trouble.clone().map(|detail| admin::Service {
            name: ROLE_MANAGER.to_owned(),
            detail,
            critical: true,
            ..Default::default()
        }));
        let Some((node, health)) = &self.node else { return reply };
        reply.sip = node.config.calls.listeners.iter().map(ListenerConfig::outside).collect();
        reply.sip_of_trunks = node.config.calls.outside_of_trunks();
        let calls = node.calls();
        reply.calls = calls.as_ref().map_or(0, |c| u32::try_from(c.active()).unwrap_or(u32::MAX));
        reply.max_calls = u32::try_from(node.config.calls.max_calls).unwrap_or(u32::MAX);
        reply.passive = calls.as_ref().is_some_and(Calls::is_passive);
        let left = node.drain().left(BootInstant::now());
        reply.drain_left_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let peers = node.peers.status();
        reply.lag = peers.iter().filter(|p| p.connected).map(|p| p.lag_changes).max().unwrap_or(0);
        reply.peers_counting = u32::try_from(node.peers.counting()).unwrap_or(u32::MAX);
        let counts = node.peers.counters();
        reply.acknowledged_on_two = counts.on_two;
        reply.acknowledged_alone = counts.alone;
        reply.services = health
            .services()
            .into_iter()
            .map(|s| admin::Service {
                name: s.name.to_owned(),
                ok: s.ok,
                detail: s.detail,
                restarts: s.restarts,
                for_ms: u64::try_from(s.since.elapsed().as_millis()).unwrap_or(u64::MAX),
                last_error: s.last_error,
                critical: s.critical,
            })
            .collect();
        reply
    }
}

impl NodeFacts {
    /// Values that members compare with each other.
    pub fn compare(&self) -> CompareReply {
        let mut reply = CompareReply { now_ms: wall().0, ..Default::default() };
        let Some((node, _)) = &self.node else { return reply };
        reply.calls = node.calls().map_or(0, |calls| u32::try_from(calls.active()).unwrap_or(u32::MAX));
        reply.max_calls = u32::try_from(node.config.calls.max_calls).unwrap_or(u32::MAX);
        reply.settings = drift::fingerprints(&node.config).into_iter().collect();
        reply
    }
}

/// Compare reply of another member.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The reply.
    pub reply: CompareReply,
    /// Offset of its clock, positive if ahead of this one, in milliseconds; accurate to half the round-trip time.
    pub ahead_ms: i64,
}

/// Answers requests of other members.
#[derive(Clone)]
pub struct Service {
    facts: Arc<NodeFacts>,
    others: Option<Arc<Others>>,
    tls: Arc<NodeIdentity>,
}

impl Service {
    /// Serves these facts to members with a certificate of the cluster.
    pub fn new(facts: Arc<NodeFacts>, tls: Arc<NodeIdentity>) -> Self {
        Self { facts, others: None, tls }
    }

    /// The same on a node that has connections to the other members.
    pub fn reaching(self, others: Arc<Others>) -> Self {
        Self { others: Some(others), ..self }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<NodeName, Status> {
        let peer = self.tls.admit(request).map_err(|error| Status::permission_denied(error.to_string()))?;
        Ok(peer.name)
    }

    /// Converts it into a tonic service.
    pub fn into_server(self) -> NodeInfoServer<Self> {
        NodeInfoServer::new(self)
    }
}

#[tonic::async_trait]
impl NodeInfo for Service {
    async fn show(&self, request: Request<NodeInfoRequest>) -> Result<Response<NodeInfoReply>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.facts.show()))
    }

    async fn clock(&self, request: Request<ClockRequest>) -> Result<Response<ClockReply>, Status> {
        self.admit(&request)?;
        Ok(Response::new(ClockReply { boot_ns: BootInstant::now().as_nanos() }))
    }

    async fn compare(&self, request: Request<CompareRequest>) -> Result<Response<CompareReply>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.facts.compare()))
    }

    async fn restart_service(&self, request: Request<ServiceRestartRequest>) -> Result<Response<Done>, Status> {
        let from = self.admit(&request)?;
        let (Some((node, health)), Some(others)) = (&self.facts.node, &self.others) else {
            return Err(Status::unimplemented("a witness has no services"));
        };
        let ServiceRestartRequest { service, force, .. } = request.into_inner();
        tracing::info!(%from, service, "a restart was asked for by way of another node");
        restarted(health.restart(&service, force, node, others).await)
    }

    async fn tell_subscribers(&self, request: Request<LightChange>) -> Result<Response<Done>, Status> {
        let from = self.admit(&request)?;
        let Some((node, _)) = &self.facts.node else {
            return Err(Status::unimplemented("a witness has no subscribers"));
        };
        lights::tell_for(node, &from, request.into_inner()).await?;
        Ok(Response::new(Done {}))
    }
}

/// Connections to the other members.
pub struct Others {
    own: NodeName,
    roles: Roles,
    tls: Arc<NodeIdentity>,
    /// Open connections, with their addresses.
    open: Mutex<BTreeMap<NodeName, (MemberAddress, Channel)>>,
}

impl Others {
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
    pub async fn compare(&self) -> BTreeMap<NodeName, Heard> {
        let mut asked = JoinSet::new();
        for (MemberAddress { name, .. }, channel) in self.channels() {
            let mut client = NodeInfoClient::new(channel);
            asked.spawn(async move {
                let (sent, begun) = (wall().0, BootInstant::now());
                let reply = tokio::time::timeout(ANSWER_WITHIN, client.compare(CompareRequest {})).await;
                let reply = reply.ok()?.ok()?.into_inner();
                let half_way = sent.saturating_add(begun.elapsed().as_millis() as u64 / 2);
                let ahead_ms = (i128::from(reply.now_ms) - i128::from(half_way)) as i64;
                Some((name, Heard { reply, ahead_ms }))
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
