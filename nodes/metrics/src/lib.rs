//! `/metrics` for Prometheus, `/livez` and `/readyz` for process supervisors and load balancers.
//!
//! `/livez` reports only that the process lives (see [`liveness`]); `/readyz` that this node takes calls. They are
//! served outside the main event loop (see [`twinbox_health::watchdog`]), on a TCP port and on a local Unix socket.

mod alarms;
mod connections;
mod mail;
mod page;
mod render;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::error;
use twinbox_admin_api::NodeFacts;
use twinbox_alarms::Alarms;
use twinbox_calls::CallsService;
use twinbox_config::NodeConfig;
use twinbox_diagnostics::ProbeCounts;
use twinbox_health::{Health, liveness};
use twinbox_mail_gateway::GatewayCounts;
use twinbox_mailstore::Mailstore;
use twinbox_media::Engine;
use twinbox_replication_peer::Peers;
use twinbox_roles::Roles;

use connections::{LIMITS, LOCAL_LIMITS};

pub use mail::OutboxCounts;

/// Sources of the pages.
#[derive(Clone)]
pub struct Pages {
    /// Configuration as read at the start.
    pub config: Arc<NodeConfig>,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Role manager.
    pub roles: Roles,
    /// SIP server.
    pub calls: CallsService,
    /// Media engine (RTP).
    pub media: Engine,
    /// Alarms and events.
    pub alarms: Alarms,
    /// Health of the services.
    pub health: Arc<Health>,
    /// State of this node.
    pub facts: Arc<NodeFacts>,
    /// Results of the SIP probes.
    pub probe_counts: Arc<ProbeCounts>,
    /// Mailboxes, messages and the outbox.
    pub mailstore: Mailstore,
    /// Counts of the duties that work from the outbox.
    pub outbox: Vec<OutboxCounts>,
    /// Counts of mail in, if the node takes mail.
    pub gateway: Option<Arc<GatewayCounts>>,
}

/// A listener for the pages cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is in use, or not of this machine.
    #[error(
        "cannot listen on {address} for metrics (metrics.bind) ({source}): free the port or change the configuration"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Reason of the failure.
        source: io::Error,
    },
    /// The local socket cannot be made.
    #[error("cannot make the administrators' socket {path}: {source}")]
    Unix {
        /// Path of the socket.
        path: PathBuf,
        /// Reason of the failure.
        source: io::Error,
    },
}

/// A bound listener for the pages.
pub enum HttpListener {
    /// Listener for the network.
    Tcp(TcpListener),
    /// Listener for this machine, with its path.
    Unix(UnixListener, PathBuf),
}

/// Path of the local health socket: next to the administrators' socket.
pub fn local_socket(admin_socket: &Path) -> PathBuf {
    let mut name = admin_socket.as_os_str().to_owned();
    name.push(".health");
    name.into()
}

/// Binds the address.
pub fn bind(address: SocketAddr) -> Result<HttpListener, ListenError> {
    let bound = TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| HttpListener::Tcp(l)));
    bound.map_err(|source| ListenError::Tcp { address, source })
}

/// Binds the local socket; a socket left by a killed process is replaced.
pub fn bind_local(admin_socket: &Path) -> Result<HttpListener, ListenError> {
    let path = local_socket(admin_socket);
    let bound = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let taken = "another node answers there: give each its own node.admin_socket";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(HttpListener::Unix(listener, path.clone()))
    };
    bound().map_err(|source| ListenError::Unix { path: path.clone(), source })
}

/// Serves until stopped, on the runtime that it is spawned on.
pub fn serve(listener: HttpListener, pages: Pages, stop: CancellationToken) -> BoxFuture<'static, ()> {
    async move {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(pages);
        if let Err(error) = serve_until(listener, router, &stop).await {
            error!(%error, "the metrics listener has ended");
        }
    }
    .boxed()
}

async fn serve_until(listener: HttpListener, router: Router, stop: &CancellationToken) -> io::Result<()> {
    match listener {
        HttpListener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            connections::serve(listener, SocketAddr::ip, router, LIMITS, stop).await;
        }
        HttpListener::Unix(listener, path) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            connections::serve(listener, |_| Ipv4Addr::LOCALHOST.into(), router, LOCAL_LIMITS, stop).await;
            // The socket may have been removed already.
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

async fn livez(State(pages): State<Pages>) -> impl IntoResponse {
    match liveness::stall_reason(&pages.media) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.health.why_not_ready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

/// Rendered in a separate thread: a source of figures may hang, and the other pages must answer then.
async fn metrics(State(pages): State<Pages>) -> Result<impl IntoResponse, StatusCode> {
    let page = tokio::task::spawn_blocking(move || render::render(&pages)).await;
    let page = page.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page))
}
