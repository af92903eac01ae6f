//! The connection to a node's Unix socket.

use std::{path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use twinbox_wire::admin::{admin_client::AdminClient, provisioning_client::ProvisioningClient};
use twinbox_wire::join::tokens_client::TokensClient;

use crate::error::CliError;

/// How long a node may take to answer; every administrator's question is bounded far below this.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Connects to the node behind `socket`.
pub async fn connect(socket: &Path) -> Result<AdminClient<Channel>, CliError> {
    Ok(AdminClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, to ask for join tokens.
pub async fn tokens(socket: &Path) -> Result<TokensClient<Channel>, CliError> {
    Ok(TokensClient::new(channel(socket).await?))
}

/// Asks of users in bulk, classes of service and prompts.
pub type Provisioning = ProvisioningClient<Channel>;

/// Connects to the node behind `socket`, to ask of users in bulk, classes of service and prompts.
pub async fn provisioning(socket: &Path) -> Result<Provisioning, CliError> {
    Ok(ProvisioningClient::new(channel(socket).await?))
}

async fn channel(socket: &Path) -> Result<Channel, CliError> {
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
