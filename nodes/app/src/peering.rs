//! What nodes and witnesses share: the certificate, the listener for other members, the start of the role manager.

use std::{path::Path, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_pki::{Doors, MemberKind as CertificateKind, NodeIdentity, OperatorDoor};
use twinbox_replication_peer::Peers;
use twinbox_roles::{ExitsService, MemberKind, Roles, RolesConfig, RolesService};
use twinbox_wire::roles::{exits_server::ExitsServer, roles_server::RolesServer};

use crate::{
    AppError,
    certificates::{self, Signer},
    config::ClusterConfig,
    joining::Host,
    learned, members, release,
};

/// Starts the role manager of one cluster, with its Raft data in `dir`.
pub async fn start_roles(
    cluster: &ClusterConfig,
    own: &NodeName,
    kind: MemberKind,
    incarnation: Incarnation,
    dir: &Path,
    found: bool,
) -> Result<Roles, AppError> {
    Ok(Roles::start(RolesConfig {
        node: own.clone(),
        kind,
        cluster: cluster.id,
        incarnation,
        members: learned::addresses(&cluster.members),
        learned: learned::addresses(&learned::known(cluster)),
        removed: learned::removed(cluster),
        dir: dir.to_owned(),
        timing: cluster.timing,
        tls: cluster.tls.clone(),
        speaks: release::speaks(),
        found,
    })
    .await?)
}

/// As a certificate says it.
pub fn certificate_kind(kind: MemberKind) -> CertificateKind {
    match kind {
        MemberKind::Node => CertificateKind::Node,
        MemberKind::Witness => CertificateKind::Witness,
    }
}

/// What a node serves beside what every member does.
pub struct NodeServices {
    /// Its part in replication.
    pub peers: Peers,
    /// Its means to sign certificates.
    pub signer: Arc<Signer>,
    /// Who lets newcomers in.
    pub host: Arc<Host>,
    /// Where operators are let in.
    pub operators: OperatorDoor,
}

/// The bound listener for other members: mutual TLS, all gRPC services on one port.
pub struct PeerListener {
    listener: TcpListener,
    tls: Arc<NodeIdentity>,
    stop: CancellationToken,
}

impl PeerListener {
    /// Binds; nothing is served yet.
    pub async fn bind(cluster: &ClusterConfig) -> Result<Self, AppError> {
        let address = cluster.bind;
        let listener = TcpListener::bind(address).await.map_err(|source| AppError::Bind {
            address,
            what: "other members (cluster.bind)",
            source,
        })?;
        Ok(Self { listener, tls: cluster.tls.clone(), stop: CancellationToken::new() })
    }

    /// Cancel it to end [`Self::serve`].
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until stopped. A witness has neither replication nor the authority.
    pub async fn serve(
        self,
        (roles, exits): (RolesServer<RolesService>, ExitsServer<ExitsService>),
        node: Option<NodeServices>,
        members: members::Service,
    ) {
        let certificates =
            node.as_ref().map(|n| certificates::Service::new(n.signer.clone(), n.host.roles.clone()).into_server());
        let routes = self
            .tls
            .server()
            .add_service(roles)
            .add_service(exits)
            .add_service(members.into_server())
            .add_optional_service(certificates)
            .add_optional_service(node.as_ref().map(|node| node.peers.service()));
        let incoming = match node {
            Some(node) => {
                let (door, newcomers) = node.host.open(self.stop.clone());
                tokio::spawn(newcomers);
                let doors = Doors { newcomers: Some(door), operators: Some(node.operators) };
                self.tls.listen_with(self.listener, doors)
            }
            None => self.tls.listen(self.listener),
        };
        // Long streams would hold a graceful end up for ever: when told to stop, connections are dropped.
        tokio::select! {
            outcome = routes.serve_with_incoming(incoming) => {
                if let Err(error) = outcome {
                    error!(%error, "the listener for other members has ended");
                }
            }
            () = self.stop.cancelled() => {}
        }
    }
}
