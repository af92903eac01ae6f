//! What nodes and witnesses share: the certificate, the listener for other members, the start of the role manager.

use std::{path::Path, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;
use twinbox_ids::{Incarnation, NodeName};
use twinbox_pki::NodeIdentity;
use twinbox_replication_peer::Peers;
use twinbox_roles::{MemberAddress, MemberKind, Roles, RolesConfig, RolesService};
use twinbox_wire::roles::roles_server::RolesServer;

use crate::{AppError, config::ClusterConfig, members};

/// Starts the role manager of one cluster, with its Raft data in `dir`.
pub async fn start_roles(
    cluster: &ClusterConfig,
    own: &NodeName,
    kind: MemberKind,
    incarnation: Incarnation,
    dir: &Path,
    found: bool,
) -> Result<Roles, AppError> {
    let members = cluster
        .members
        .iter()
        .map(|m| MemberAddress { name: m.name.clone(), kind: m.kind, address: m.address.clone() })
        .collect();
    Ok(Roles::start(RolesConfig {
        node: own.clone(),
        kind,
        cluster: cluster.id,
        incarnation,
        members,
        dir: dir.to_owned(),
        timing: cluster.timing,
        tls: cluster.tls.clone(),
        found,
    })
    .await?)
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

    /// Serves until stopped. A witness has no replication.
    pub async fn serve(self, roles: RolesServer<RolesService>, peers: Option<Peers>, members: members::Service) {
        let routes = self
            .tls
            .server()
            .add_service(roles)
            .add_service(members.into_server())
            .add_optional_service(peers.map(|peers| peers.service()));
        let incoming = self.tls.listen(self.listener);
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
