//! Access for operators of other machines: the services of the administrators' socket over mutual TLS. Each request
//! requires that the cluster admits the operator at that time: a dismissed operator, or one with an expired
//! certificate, is refused also on an open connection.

use axum::{
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, metadata::MetadataMap, service::Routes};
use tracing::{error, info};
use twinbox_clock::wall;
use twinbox_pki::{OperatorConnection, OperatorRoute, operator_of};
use twinbox_roles::Roles;

/// Maximum number of connections that wait to be served.
const WAITING: usize = 16;

/// Receiver of operators' connections.
pub struct Operators(mpsc::Receiver<OperatorConnection>);

impl Operators {
    /// Route for the listener of members, and the receiver of its connections.
    pub fn route() -> (OperatorRoute, Self) {
        let (route, coming) = mpsc::channel(WAITING);
        (route, Self(coming))
    }

    /// Serves these services to operators until stopped.
    pub async fn serve(self, services: Routes, roles: Roles, stop: CancellationToken) {
        let guarded = services.into_axum_router().layer(middleware::from_fn_with_state(roles, guard));
        let served = tonic::transport::Server::builder()
            .add_routes(Routes::from(guarded))
            .serve_with_incoming(ReceiverStream::new(self.0));
        // An open stream would block a graceful end: connections are dropped.
        tokio::select! {
            outcome = served => {
                if let Err(error) = outcome {
                    error!(%error, "the listener for operators has ended");
                }
            }
            () = stop.cancelled() => {}
        }
    }
}

async fn guard(State(roles): State<Roles>, request: Request, next: Next) -> Response {
    let shown = tonic::Request::from_parts(MetadataMap::new(), request.extensions().clone(), ());
    let refused = |status: Status| status.into_http();
    let Some((operator, certificate)) = operator_of(&shown) else {
        return refused(Status::unauthenticated("no operator's certificate was shown"));
    };
    let path = request.uri().path().to_owned();
    if !roles.agreed().admits_operator(&operator.name, &certificate, wall().0) {
        info!(operator = %operator.name, path, "refused an operator whom the cluster does not admit");
        return refused(Status::permission_denied(format!(
            "operator '{}' is not admitted: the certificate has ended, or was revoked, or its authority was replaced; \
             'twinbox cluster operator-cert' on a node makes another",
            operator.name
        )));
    }
    info!(operator = %operator.name, path, "request of an operator");
    next.run(request).await
}
