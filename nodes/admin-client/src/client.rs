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
use twinbox_wire::admin::{
    ClusterStatusReply, Member, NodeInfoReply, admin_client::AdminClient, provisioning_client::ProvisioningClient,
};
use twinbox_wire::events::events_client::EventsClient;
use twinbox_wire::{
    backup::backups_client::BackupsClient,
    delivery::delivery_client::DeliveryClient,
    directory::directories_client::DirectoriesClient,
    join::{authorities_client::AuthoritiesClient, tokens_client::TokensClient},
    mailbox_sync::mailbox_syncs_client::MailboxSyncsClient,
    reports::reports_client::ReportsClient,
    sending::sending_client::SendingClient,
    settings::settings_client::SettingsClient,
    steering::steering_client::SteeringClient,
    storage::storage_client::StorageClient,
    timetable::timetables_client::TimetablesClient,
};

use crate::CliError;

/// Timeout of a node's answer, far above the limit of every administrator's request.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Interval of the pings while a request is open (RFC 9113 section 6.7).
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Node on another machine that this process contacts, if given: set once from the command line, for all requests
/// of the command.
static REMOTE: OnceLock<Remote> = OnceLock::new();

struct Remote {
    node: String,
    operator: OperatorIdentity,
}

/// A node on another machine, and the operator that contacts it.
#[derive(Debug, Clone, Copy)]
pub struct RemoteNode<'a> {
    /// `HOST:PORT`.
    pub node: &'a str,
    /// Folder with the operator's certificate, key and CA certificates.
    pub identity: Option<&'a Path>,
    /// Files with certificate, key and CA certificates, in place of the folder.
    pub files: Option<[&'a Path; 3]>,
}

/// From now on contacts this node instead of the local socket.
///
/// # Errors
/// The address or the operator's files cannot be used.
pub fn use_remote(remote: RemoteNode<'_>) -> Result<(), CliError> {
    let node = remote.node;
    let address = node.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if address.is_none() {
        return Err(CliError::Usage(format!("--node {node}: write HOST:PORT, as shown by 'cluster status'")));
    }
    let operator = match (remote.files, remote.identity) {
        (Some([cert, key, ca]), _) => OperatorIdentity::load_files(cert, key, ca),
        (None, Some(folder)) => OperatorIdentity::load(folder),
        _ => {
            return Err(CliError::Usage(
                "--node needs an operator's certificate: --identity DIR, or --cert, --key and --ca; create one with \
                 'twinbox cluster operator-cert NAME --out DIR' on a node"
                    .to_owned(),
            ));
        }
    };
    let operator = operator.map_err(|error| CliError::Usage(error.to_string()))?;
    // Cannot be set already: this function is called once.
    let _ = REMOTE.set(Remote { node: node.to_owned(), operator });
    Ok(())
}

impl Remote {
    /// Connects; a refused operator gets the reason before the first request.
    async fn channel(&self) -> Result<Channel, CliError> {
        let connection = self.operator.connect(&self.node).await.map_err(|error| self.refused(&error))?;
        let connection = Mutex::new(Some(connection));
        endpoint()
            .connect_with_connector(tower::service_fn(move |_| {
                // A lost connection is not opened again without the command's knowledge.
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move { connection.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
            }))
            .await
            .map_err(|error| {
                CliError::Unreachable(format!("the connection to the node at {} was lost: {error}", self.node))
            })
    }

    fn refused(&self, error: &std::io::Error) -> CliError {
        let (node, name) = (&self.node, &self.operator.subject.name);
        let remedy = "create another with 'twinbox cluster operator-cert' on a node";
        CliError::Failed(match OperatorObstacle::of(error) {
            Some(OperatorObstacle::OtherAuthority) => format!(
                "{node} shows a certificate of an authority that is not in this operator's ca.pem: it belongs to \
                 another cluster, or the authority was replaced since; {remedy}"
            ),
            Some(OperatorObstacle::OtherTime) => {
                format!("the certificate of {node} is not valid at this machine's time: check both clocks")
            }
            Some(OperatorObstacle::OtherMember) => {
                format!("{node} is not a node of the cluster of operator '{name}'")
            }
            Some(OperatorObstacle::Expired) => {
                format!("{node} refuses operator '{name}': the certificate has expired; {remedy}")
            }
            Some(OperatorObstacle::NotAccepted) => format!(
                "{node} does not accept the certificate of operator '{name}': perhaps the authority that signed it was \
                 replaced; {remedy}"
            ),
            Some(OperatorObstacle::NoOperatorRoute) => {
                format!("{node} does not accept operators: it is a witness, or not a node; use another address")
            }
            None => {
                return CliError::Unreachable(format!(
                    "no node answers at {node} ({error}); use the address at which its members reach it"
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

/// Connects to the node behind `socket`, for settings that all nodes share.
pub async fn settings(socket: &Path) -> Result<SettingsClient<Channel>, CliError> {
    Ok(SettingsClient::new(channel(socket).await?))
}

/// Client for notifications and mail out.
pub type Delivery = DeliveryClient<Channel>;

/// Connects to the node behind `socket`, for notifications and mail out.
pub async fn delivery(socket: &Path) -> Result<Delivery, CliError> {
    Ok(DeliveryClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, for locations and sent messages.
pub async fn sending(socket: &Path) -> Result<SendingClient<Channel>, CliError> {
    Ok(SendingClient::new(channel(socket).await?))
}

/// Client for directories and sign-in with their passwords.
pub type Directories = DirectoriesClient<Channel>;

/// Connects to the node behind `socket`, for directories and sign-in with their passwords.
pub async fn directories(socket: &Path) -> Result<Directories, CliError> {
    Ok(DirectoriesClient::new(channel(socket).await?))
}

/// Client for the synchronisation of mailboxes with mail accounts.
pub type MailboxSyncs = MailboxSyncsClient<Channel>;

/// Connects to the node behind `socket`, for the synchronisation of mailboxes with mail accounts.
pub async fn mailbox_syncs(socket: &Path) -> Result<MailboxSyncs, CliError> {
    Ok(MailboxSyncsClient::new(channel(socket).await?))
}

/// Client for jobs that run at set times.
pub type Timetables = TimetablesClient<Channel>;

/// Connects to the node behind `socket`, for jobs that run at set times.
pub async fn timetables(socket: &Path) -> Result<Timetables, CliError> {
    Ok(TimetablesClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, for reports.
pub async fn reports(socket: &Path) -> Result<ReportsClient<Channel>, CliError> {
    Ok(ReportsClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, for backups.
pub async fn backups(socket: &Path) -> Result<BackupsClient<Channel>, CliError> {
    Ok(BackupsClient::new(channel(socket).await?))
}

/// Connects to the node behind `socket`, for replication and the store.
pub async fn storage(socket: &Path) -> Result<StorageClient<Channel>, CliError> {
    Ok(StorageClient::new(channel(socket).await?))
}

/// The limits of each connection. A stream, which has no limit of its own, ends when the node's machine is lost.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://twinbox.invalid")
        .timeout(ANSWER_WITHIN)
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ANSWER_WITHIN)
}

async fn channel(socket: &Path) -> Result<Channel, CliError> {
    if let Some(remote) = REMOTE.get() {
        return remote.channel().await;
    }
    let path = socket.to_owned();
    endpoint()
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|_| {
            CliError::Unreachable(format!(
                "no node answers at {}: is 'twinbox node' running on this machine? \
                 Name its socket, admin.sock in its folder, with --socket PATH or TWINBOX_SOCKET; it is for root and \
                 the node's user",
                socket.display()
            ))
        })
}

/// Whether every member is in service and there is a publisher. False without a majority: the reply then shows the
/// last agreed state. False, too, while a node does not answer, or answers as another incarnation than that of its
/// status: the status is then of before its restart.
pub fn all_in_service(reply: &ClusterStatusReply) -> bool {
    reply.quorum
        && !reply.publisher.is_empty()
        && !reply.members.is_empty()
        && reply.members.iter().all(|member| member.status == "in-service" && is_of_now(member))
}

/// Names of the members whose status is not known to be of their present incarnation.
pub fn unconfirmed(reply: &ClusterStatusReply) -> Vec<&str> {
    reply.members.iter().filter(|member| !is_of_now(member)).map(|member| member.name.as_str()).collect()
}

/// Whether the status of a member is of its present incarnation. A witness reports none that its status could name.
fn is_of_now(member: &Member) -> bool {
    let same = |info: &NodeInfoReply| member.incarnation.is_empty() || info.incarnation == member.incarnation;
    member.kind == "witness" || member.info.as_ref().is_some_and(same)
}
