//! Requests of other members to a member: its state, its clock, and what only this node can do for another.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use twinbox_calls::{Calls, CallsService, ListenerConfig};
use twinbox_clock::{BootInstant, wall};
use twinbox_config::NodeConfig;
use twinbox_diagnostics::comparison;
use twinbox_directory_duty::DirectoryDuty;
use twinbox_health::{Health, ROLE_MANAGER, RestartRefused};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_mailbox_sync_duty::MailboxSyncDuty;
use twinbox_mailstore::Mailstore;
use twinbox_notifier::{NotifierService, mwi};
use twinbox_pki::NodeIdentity;
use twinbox_reconciler::SharedDrain;
use twinbox_replication_peer::Peers;
use twinbox_roles::Roles;
use twinbox_wire::admin::{
    self, ClockReply, ClockRequest, CompareReply, CompareRequest, Done, LightChange, LightReply, NodeInfoReply,
    NodeInfoRequest, ResyncMwiReply, ResyncMwiRequest, ServiceRestartRequest, SubscribedReply, SubscribedRequest,
    SyncDirectoryReply, SyncDirectoryRequest, SyncMailboxReply, SyncMailboxRequest,
    node_info_server::{NodeInfo, NodeInfoServer},
};

use crate::{delivery::answer_resync, directory::answer_sync, mailbox_sync::answer_run};

/// Sources of the state of a node, in addition to what every member has.
pub struct NodeState {
    /// Configuration as read at the start.
    pub config: Arc<NodeConfig>,
    /// SIP server.
    pub calls: CallsService,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Mailboxes and messages.
    pub mailstore: Mailstore,
    /// Role manager.
    pub roles: Roles,
    /// Drain time of this node.
    pub drain: SharedDrain,
    /// Services, and their restart.
    pub health: Arc<Health>,
    /// Duty `notifier` on this node.
    pub notifier: NotifierService,
    /// Duty `directory-sync` on this node.
    pub directory_sync: DirectoryDuty,
    /// Duty `mailbox-sync` on this node.
    pub mailbox_sync: MailboxSyncDuty,
}

/// Source of a member's reported state.
pub struct NodeFacts {
    name: NodeName,
    incarnation: Incarnation,
    started: BootInstant,
    node: Option<NodeState>,
    /// Reason why the role manager of a witness does not run, if so.
    trouble: Option<String>,
}

impl NodeFacts {
    /// Facts of a node.
    pub fn of_node(name: &NodeName, incarnation: Incarnation, node: NodeState) -> Self {
        let (name, started) = (name.clone(), BootInstant::now());
        Self { name, incarnation, started, node: Some(node), trouble: None }
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
        let Some(node) = &self.node else { return reply };
        let own = node.roles.watch().borrow().member(&self.name).map(|member| member.status.to_string());
        reply.status = own.unwrap_or_else(|| "removed from the cluster".to_owned());
        reply.lacks_records = !node.mailstore.has_all_records();
        reply.sip = node.config.calls.listeners.iter().map(ListenerConfig::external_address).collect();
        reply.sip_of_trunks = node.calls.config().external_addresses();
        let calls = node.calls.running();
        reply.calls = calls.as_ref().map_or(0, |c| u32::try_from(c.active()).unwrap_or(u32::MAX));
        reply.max_calls = u32::try_from(node.config.calls.max_calls).unwrap_or(u32::MAX);
        reply.passive = calls.as_ref().is_some_and(Calls::is_passive);
        let left = node.drain.lock().left(BootInstant::now());
        reply.drain_left_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let peers = node.peers.status();
        reply.lag = peers.iter().filter(|p| p.connected).map(|p| p.lag_changes).max().unwrap_or(0);
        reply.peers_counting = u32::try_from(node.peers.counting()).unwrap_or(u32::MAX);
        let counts = node.peers.counters();
        reply.acknowledged_on_two = counts.on_two;
        reply.acknowledged_alone = counts.alone;
        reply.services = node
            .health
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

    /// Restarts a service of this member; with `force` also if that ends calls.
    pub(crate) async fn restart(&self, service: &str, force: bool) -> Result<Response<Done>, Status> {
        let node = self.node.as_ref().ok_or_else(|| Status::unimplemented("a witness has no services"))?;
        match node.health.restart(service, force).await {
            Ok(()) => Ok(Response::new(Done {})),
            Err(refused @ RestartRefused::Unknown { .. }) => Err(Status::not_found(refused.to_string())),
            Err(refused) => Err(Status::failed_precondition(refused.to_string())),
        }
    }

    /// Values that members compare with each other.
    pub fn compare(&self) -> CompareReply {
        match &self.node {
            Some(node) => comparison::own_values(&node.config, &node.calls),
            None => CompareReply { now_ms: wall().0, ..Default::default() },
        }
    }
}

/// Answers requests of other members.
#[derive(Clone)]
pub struct NodeInfoService {
    facts: Arc<NodeFacts>,
    tls: Arc<NodeIdentity>,
}

impl NodeInfoService {
    /// Serves these facts to members with a certificate of the cluster.
    pub fn new(facts: Arc<NodeFacts>, tls: Arc<NodeIdentity>) -> Self {
        Self { facts, tls }
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
impl NodeInfo for NodeInfoService {
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
        let ServiceRestartRequest { service, force, .. } = request.into_inner();
        tracing::info!(%from, service, "administrator restarts service through another node");
        self.facts.restart(&service, force).await
    }

    async fn resync_mwi(&self, request: Request<ResyncMwiRequest>) -> Result<Response<ResyncMwiReply>, Status> {
        let from = self.admit(&request)?;
        let Some(node) = &self.facts.node else {
            return Err(Status::unimplemented("a witness has no notifier"));
        };
        tracing::info!(%from, "administrator has MWI states sent again through another node");
        answer_resync(&node.notifier, request.get_ref()).map(Response::new)
    }

    async fn sync_directory(
        &self,
        request: Request<SyncDirectoryRequest>,
    ) -> Result<Response<SyncDirectoryReply>, Status> {
        let from = self.admit(&request)?;
        let Some(node) = &self.facts.node else {
            return Err(Status::unimplemented("a witness synchronises no directories"));
        };
        tracing::info!(%from, "administrator has a directory synchronised through another node");
        answer_sync(&node.directory_sync, request.into_inner()).await.map(Response::new)
    }

    async fn sync_mailbox(
        &self,
        request: Request<SyncMailboxRequest>,
    ) -> Result<Response<SyncMailboxReply>, Status> {
        let from = self.admit(&request)?;
        let Some(node) = &self.facts.node else {
            return Err(Status::unimplemented("a witness synchronises no mailboxes"));
        };
        tracing::info!(%from, "administrator has a mailbox synchronised through another node");
        answer_run(&node.mailbox_sync, request.get_ref()).await.map(Response::new)
    }

    async fn tell_subscribers(&self, request: Request<LightChange>) -> Result<Response<LightReply>, Status> {
        let from = self.admit(&request)?;
        let Some(node) = &self.facts.node else {
            return Err(Status::unimplemented("a witness has no subscribers"));
        };
        let margin = node.config.cluster.timing.margin;
        mwi::notify_for(&node.calls, &node.roles, margin, &from, request.into_inner()).await.map(Response::new)
    }

    async fn subscribed_mailboxes(
        &self,
        request: Request<SubscribedRequest>,
    ) -> Result<Response<SubscribedReply>, Status> {
        self.admit(&request)?;
        let Some(node) = &self.facts.node else {
            return Err(Status::unimplemented("a witness has no subscribers"));
        };
        mwi::list_for(&node.calls, request.get_ref()).map(Response::new)
    }
}
