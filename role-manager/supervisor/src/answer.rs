//! The supervisor's own port: mutual TLS, one kind of question. It reports only its own observations.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, time::sleep};
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use twinbox_ids::Incarnation;
use twinbox_pki::NodeIdentity;
use twinbox_wire::roles::{
    AskAnswer, AskRequest, Empty,
    ask_answer::Result as Answer,
    supervisor_server::{Supervisor, SupervisorServer},
};

use crate::{Spec, report::ExitHistory};

/// Pause before another try for a port in use: neither reports nor the node depend on it.
const RETRY_IN: Duration = Duration::from_secs(2);
/// Maximum size of a question, in bytes.
const MAX_LENGTH: usize = 4_096;

struct AnswerService {
    tls: Arc<NodeIdentity>,
    known: watch::Receiver<ExitHistory>,
}

/// Answers questions for as long as the process runs.
pub(crate) async fn serve(spec: Arc<Spec>, known: watch::Receiver<ExitHistory>) {
    let mut warned = false;
    let listener = loop {
        match TcpListener::bind(spec.bind).await {
            Ok(listener) => break listener,
            Err(error) if warned => tracing::debug!(address = %spec.bind, %error, "address still in use"),
            Err(error) => {
                warned = true;
                warn!(address = %spec.bind, %error, "cannot listen for questions of members: free the port, or set \
                    cluster.supervisor to another");
            }
        }
        sleep(RETRY_IN).await;
    };
    if warned {
        info!(address = %spec.bind, "listening for questions of members");
    }
    let incoming = spec.tls.listen(listener);
    let service =
        SupervisorServer::new(AnswerService { tls: spec.tls.clone(), known }).max_decoding_message_size(MAX_LENGTH);
    if let Err(error) = spec.tls.server().add_service(service).serve_with_incoming(incoming).await {
        warn!(%error, "the listener for questions of members has failed");
    }
}

#[tonic::async_trait]
impl Supervisor for AnswerService {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskAnswer>, Status> {
        self.tls.admit(&request)?;
        let asked = &request.get_ref().incarnation;
        let incarnation = Incarnation::from_slice(asked)
            .ok_or_else(|| Status::invalid_argument("an incarnation has 16 bytes"))?;
        let known = self.known.borrow();
        let result = match known.exit(asked) {
            Some(exit) => Answer::Exited(exit.clone()),
            None if known.current == Some(incarnation) => Answer::Runs(Empty {}),
            None => Answer::Unknown(Empty {}),
        };
        Ok(Response::new(AskAnswer { result: Some(result) }))
    }
}
