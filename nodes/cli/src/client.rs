//! Connection to a node: its Unix socket on this machine, or as an operator from another machine.

use std::{
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use twinbox_pki::{OperatorIdentity, OperatorObstacle};
use twinbox_wire::admin::{admin_client::AdminClient, provisioning_client::ProvisioningClient};
use twinbox_wire::events::events_client::EventsClient;
use twinbox_wire::{
    join::{authorities_client::AuthoritiesClient, tokens_client::TokensClient},
    steering::steering_client::SteeringClient,
};

use crate::{args::RemoteArgs, error::CliError};

/// Timeout of a node's answer, far above the limit of every administrator's request.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Node on another machine that this process contacts, if given: set once from the command line, for all requests
/// of the command.
static REMOTE: OnceLock<Remote> = OnceLock::new();

struct Remote {
    node: String,
    operator: OperatorIdentity,
}

/// From now on contacts the node in these arguments, if they name one, instead of the local socket.
pub fn go_through(remote: &RemoteArgs) -> Result<(), CliError> {
    let Some(node) = &remote.node else { return Ok(()) };
    let address = node.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if address.is_none() {
        return Err(CliError::Usage(format!("--node {node}: write HOST:PORT, as 'cluster status' shows it")));
    }
    let operator = match (&remote.cert, &remote.key, &remote.ca, &remote.identity) {
        (Some(cert), Some(key), Some(ca), _) => OperatorIdentity::load_files(cert, key, ca),
        (.., Some(folder)) => OperatorIdentity::load(folder),
        _ => {
            return Err(CliError::Usage(
                "--node needs an operator's certificate: --identity DIR, or --cert, --key and --ca; 'twinbox cluster \
                 operator-cert NAME --out DIR' on a node makes one"
                    .to_owned(),
            ));
        }
    };
    let operator = operator.map_err(|error| CliError::Usage(error.to_string()))?;
    // Cannot be set already: this function is called once.
    let _ = REMOTE.set(Remote { node: node.clone(), operator });
    Ok(())
}

impl Remote {
    /// Connects; a refused operator gets the reason before the first request.
    async fn channel(&self) -> Result<Channel, CliError> {
        let connection = self.operator.connect(&self.node).await.map_err(|error| self.refused(&error))?;
        let connection = Mutex::new(Some(connection));
        Endpoint::from_static("http://twinbox.invalid")
            .timeout(ANSWER_WITHIN)
            .connect_with_connector(tower::service_fn(move |_| {
                // A lost connection is not opened again without the command's knowledge.
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move { connection.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
            }))
            .await
            .map_err(|error| CliError::Unreachable(format!("the node at {} went away: {error}", self.node)))
    }

    fn refused(&self, error: &std::io::Error) -> CliError {
        let (node, name) = (&self.node, &self.operator.subject.name);
        let another = "'twinbox cluster operator-cert' on a node makes another";
        CliError::Failed(match OperatorObstacle::of(error) {
            Some(OperatorObstacle::OtherAuthority) => format!(
                "{node} shows a certificate of an authority that is not in this operator's ca.pem: it is another \
                 cluster, or its authority was replaced since; {another}"
            ),
            Some(OperatorObstacle::OtherTime) => {
                format!("the certificate of {node} is not good at this machine's time of day: look at both clocks")
            }
            Some(OperatorObstacle::OtherMember) => {
                format!("{node} is no node of the cluster that operator '{name}' may administrate")
            }
            Some(OperatorObstacle::Ended) => {
                format!("{node} does not let operator '{name}' in: the certificate has ended; {another}")
            }
            Some(OperatorObstacle::NotTaken) => format!(
                "{node} does not take the certificate of operator '{name}': the authority that signed it was replaced, \
                 perhaps; {another}"
            ),
            Some(OperatorObstacle::NoDoor) => {
                format!("{node} has no door for operators: it is a witness, or no node; name another")
            }
            None => {
                return CliError::Unreachable(format!(
                    "no node answers at {node} ({error}); give the address at which its members reach it"
                ));
            }
        })
    }
}

/// Connects to the node behind `socket`.
pub async fn connect(socket: &Path) -> Result<AdminClient<Channel>, CliError> {
    Ok(AdminClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, for join tokens.
pub async fn tokens(socket: &Path) -> Result<TokensClient<Channel>, CliError> {
    Ok(TokensClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, to steer the cluster.
pub async fn steering(socket: &Path) -> Result<SteeringClient<Channel>, CliError> {
    Ok(SteeringClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, for alarms and events.
pub async fn events(socket: &Path) -> Result<EventsClient<Channel>, CliError> {
    Ok(EventsClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, for the CA and operators.
pub async fn authorities(socket: &Path) -> Result<AuthoritiesClient<Channel>, CliError> {
    Ok(AuthoritiesClient::new(channel(socket).await?))
}

/// Client for bulk operations on users, classes of service and prompts.
pub type Provisioning = ProvisioningClient<Channel>;

/// Connects to the node behind `socket`, for bulk operations on users, classes of service and prompts.
pub async fn provisioning(socket: &Path) -> Result<Provisioning, CliError> {
    Ok(ProvisioningClient::new(channel(socket).await?))
}

async fn channel(socket: &Path) -> Result<Channel, CliError> {
    if let Some(remote) = REMOTE.get() {
        return remote.channel().await;
    }
    let path = socket.to_owned();
    Endpoint::from_static("http://twinbox.invalid")
        .timeout(ANSWER_WITHIN)
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|_| {
            CliError::Unreachable(format!(
                "no node answers at {}: is 'twinbox node' running on this machine? \
                 Name its socket with --socket PATH or TWINBOX_SOCKET",
                socket.display()
            ))
        })
}
