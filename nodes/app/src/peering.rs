//! Parts shared by nodes and witnesses: the certificate, the listener for members, the start of the role manager.

use std::{io, path::Path, sync::Arc};

use tokio::{net::TcpListener, runtime::Handle, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::error;
use twinbox_admin_api::NodeInfoService;
use twinbox_config::{ClusterConfig, members_file};
use twinbox_enrollment::{
    Host,
    certificates::{self, Signer},
    speaks,
};
use twinbox_ids::{Incarnation, NodeName};
use twinbox_pki::{AcceptRoutes, NodeIdentity, OperatorRoute};
use twinbox_replication_admin::MemberStorageService;
use twinbox_replication_peer::Peers;
use twinbox_roles::{ExitsService, MemberKind, Roles, RolesConfig, RolesService};
use twinbox_wire::roles::{exits_server::ExitsServer, roles_server::RolesServer};

use crate::AppError;

/// Maximum number of connections that wait for the role manager.
const WAITING: usize = 64;

/// Starts the role manager of one cluster, with its Raft data in `dir`, on the threads of `leases`.
pub async fn start_roles(
    cluster: &ClusterConfig,
    own: &NodeName,
    kind: MemberKind,
    incarnation: Incarnation,
    dir: &Path,
    found: bool,
    leases: &Handle,
) -> Result<Roles, AppError> {
    let config = RolesConfig {
        node: own.clone(),
        kind,
        cluster: cluster.id,
        incarnation,
        members: members_file::addresses(&cluster.members),
        learned: members_file::addresses(&members_file::known(cluster)),
        removed: members_file::removed(cluster),
        dir: dir.to_owned(),
        timing: cluster.timing,
        tls: cluster.tls.clone(),
        speaks: speaks(),
        found,
    };
    match leases.spawn(Roles::start(config)).await {
        Ok(started) => Ok(started?),
        Err(ended) => Err(AppError::Runtime(io::Error::other(ended))),
    }
}

/// Services of a node in addition to those of every member.
pub struct NodeServices {
    /// Replication.
    pub peers: Peers,
    /// Verification of this node's audio for others.
    pub storage: MemberStorageService,
    /// CA keys with which the node signs.
    pub signer: Arc<Signer>,
    /// Admission of joining members.
    pub host: Arc<Host>,
    /// Route for operators.
    pub operators: OperatorRoute,
}

/// The bound listener for other members: mutual TLS, all gRPC services on one port.
pub struct PeerListener {
    listener: TcpListener,
    tls: Arc<NodeIdentity>,
    /// Runtime that accepts connections and serves those for the role manager.
    leases: Handle,
    stop: CancellationToken,
}

impl PeerListener {
    /// Binds the listener; nothing is served yet.
    pub async fn bind(cluster: &ClusterConfig, leases: Handle) -> Result<Self, AppError> {
        let address = cluster.bind;
        // A socket belongs to the runtime on which it is bound.
        let bound =
            leases.spawn(TcpListener::bind(address)).await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
        let listener =
            bound.map_err(|source| AppError::Bind { address, what: "other members (cluster.bind)", source })?;
        Ok(Self { listener, tls: cluster.tls.clone(), leases, stop: CancellationToken::new() })
    }

    /// Token whose cancellation ends [`Self::serve`].
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until stopped. A witness has neither replication nor the CA.
    ///
    /// Members use separate connections for the role manager. These are served on the lease threads, so that a
    /// keep-alive waits neither for calls nor for replication. Members of earlier releases do not announce the use
    /// of a connection: their connections are served with the rest.
    pub async fn serve(
        self,
        (roles, exits): (RolesServer<RolesService>, ExitsServer<ExitsService>),
        node: Option<NodeServices>,
        members: NodeInfoService,
    ) {
        let certificates = node
            .as_ref()
            .map(|n| certificates::CertificateService::new(n.signer.clone(), n.host.roles.clone()).into_server());
        let for_roles = self.tls.server().add_service(roles.clone()).add_service(exits.clone());
        let routes = self
            .tls
            .server()
            .add_service(roles)
            .add_service(exits)
            .add_service(members.into_server())
            .add_optional_service(certificates)
            .add_optional_service(node.as_ref().map(|node| node.storage.clone().into_server()))
            .add_optional_service(node.as_ref().map(|node| node.peers.service()));
        let (route, calls) = mpsc::channel(WAITING);
        let mut accept = AcceptRoutes { roles: Some(route), ..AcceptRoutes::default() };
        if let Some(node) = node {
            let (route, joining) = node.host.open(self.stop.clone());
            tokio::spawn(joining);
            (accept.joining, accept.operators) = (Some(route), Some(node.operators));
        }
        let incoming = {
            let _leases = self.leases.enter();
            self.tls.listen_with(self.listener, accept)
        };
        let calls =
            self.leases.spawn(served(for_roles.serve_with_incoming(ReceiverStream::new(calls)), self.stop.clone()));
        served(routes.serve_with_incoming(incoming), self.stop).await;
        // The task has ended, or ends with its runtime.
        let _ = calls.await;
    }
}

impl PeerListener {
    /// Serves, until stopped, only the facts of this member: its role manager does not run.
    pub async fn serve_facts(self, members: NodeInfoService) {
        let incoming = {
            let _leases = self.leases.enter();
            self.tls.listen_with(self.listener, AcceptRoutes::default())
        };
        let routes = self.tls.server().add_service(members.into_server());
        served(routes.serve_with_incoming(incoming), self.stop).await;
    }
}

/// Serves until stopped, then drops the connections, because long streams would block a graceful end.
async fn served(serving: impl Future<Output = Result<(), tonic::transport::Error>>, stop: CancellationToken) {
    tokio::select! {
        outcome = serving => {
            if let Err(error) = outcome {
                error!(%error, "the listener for other members has ended");
            }
        }
        () = stop.cancelled() => {}
    }
}
