//! What a member tells others about itself, and asking them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::{Request, Response, Status, transport::Channel};
use twinbox_calls::ListenerConfig;
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_pki::NodeIdentity;
use twinbox_roles::{MemberAddress, MemberKind, Roles};
use twinbox_wire::admin::{
    self, ClockReply, ClockRequest, Done, LightChange, NodeInfoReply, NodeInfoRequest,
    node_info_client::NodeInfoClient,
    node_info_server::{NodeInfo, NodeInfoServer},
};

use crate::{health::Health, lights, node::Node};

/// How long another member may take to answer; the table is shown without it then.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// Where a member's facts come from.
pub struct NodeFacts {
    name: NodeName,
    incarnation: Incarnation,
    started: BootInstant,
    node: Option<(Arc<Node>, Arc<Health>)>,
}

impl NodeFacts {
    /// A node's.
    pub fn of_node(node: Arc<Node>, health: Arc<Health>) -> Self {
        Self {
            name: node.name.clone(),
            incarnation: node.incarnation,
            started: BootInstant::now(),
            node: Some((node, health)),
        }
    }

    /// A witness's: it has no calls and no data.
    pub fn of_witness(name: &NodeName) -> Self {
        Self { name: name.clone(), incarnation: Incarnation::random(), started: BootInstant::now(), node: None }
    }

    /// Why this member takes no calls, if it is a node that takes none.
    pub fn why_not_ready(&self) -> Option<String> {
        let (node, health) = self.node.as_ref()?;
        health.why_not_ready(node)
    }

    /// The facts now.
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
        let Some((node, health)) = &self.node else { return reply };
        reply.sip = node.config.calls.listeners.iter().map(ListenerConfig::outside).collect();
        let calls = node.calls();
        reply.calls = calls.as_ref().map_or(0, |c| u32::try_from(c.active()).unwrap_or(u32::MAX));
        reply.max_calls = u32::try_from(node.config.calls.max_calls).unwrap_or(u32::MAX);
        let peers = node.peers.status();
        reply.lag = peers.iter().filter(|p| p.connected).map(|p| p.lag_changes).max().unwrap_or(0);
        reply.peers_counting = u32::try_from(node.peers.counting()).unwrap_or(u32::MAX);
        let counts = node.peers.counters();
        reply.acknowledged_on_two = counts.on_two;
        reply.acknowledged_alone = counts.alone;
        reply.services = health
            .services()
            .into_iter()
            .map(|s| admin::Service { name: s.name, ok: s.ok, detail: s.detail, restarts: s.restarts })
            .collect();
        reply
    }
}

/// Answers other members.
#[derive(Clone)]
pub struct Service {
    facts: Arc<NodeFacts>,
    tls: Arc<NodeIdentity>,
}

impl Service {
    /// Serves these facts to members that show a certificate of the cluster.
    pub fn new(facts: Arc<NodeFacts>, tls: Arc<NodeIdentity>) -> Self {
        Self { facts, tls }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<NodeName, Status> {
        let peer = self.tls.admit(request).map_err(|error| Status::permission_denied(error.to_string()))?;
        Ok(peer.name)
    }

    /// As tonic wants it.
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

    async fn tell_subscribers(&self, request: Request<LightChange>) -> Result<Response<Done>, Status> {
        let from = self.admit(&request)?;
        let Some((node, _)) = &self.facts.node else {
            return Err(Status::unimplemented("a witness has no subscribers"));
        };
        lights::tell_for(node, &from, request.into_inner()).await?;
        Ok(Response::new(Done {}))
    }
}

/// The other members, to be asked.
pub struct Others {
    own: NodeName,
    roles: Roles,
    tls: Arc<NodeIdentity>,
    /// Connections that were needed, with where they go.
    open: Mutex<BTreeMap<NodeName, (MemberAddress, Channel)>>,
}

impl Others {
    /// Connections are made when first needed.
    pub fn new(own: &NodeName, roles: &Roles, tls: &Arc<NodeIdentity>) -> Self {
        Self { own: own.clone(), roles: roles.clone(), tls: tls.clone(), open: Mutex::default() }
    }

    /// Those that are nodes.
    pub fn nodes(&self) -> Vec<(NodeName, Channel)> {
        let nodes = self.channels().into_iter().filter(|(member, _)| member.kind == MemberKind::Node);
        nodes.map(|(member, channel)| (member.name, channel)).collect()
    }

    /// Where a member is.
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

    /// Asks all at once; who does not answer in time is left out.
    pub async fn ask(&self) -> BTreeMap<NodeName, NodeInfoReply> {
        let mut asked = JoinSet::new();
        for (MemberAddress { name, .. }, channel) in self.channels() {
            let mut client = NodeInfoClient::new(channel);
            asked.spawn(async move {
                let reply = tokio::time::timeout(ANSWER_WITHIN, client.show(NodeInfoRequest {})).await;
                reply.ok().and_then(Result::ok).map(|reply| (name, reply.into_inner()))
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }
}
