//! Requests of other members: verification of the audio of this node for an administrator of another one.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Request, Response, Status, transport::Channel};
use tracing::info;
use twinbox_ids::NodeName;
use twinbox_pki::NodeIdentity;
use twinbox_replication_peer::{AudioCheck, Peers};
use twinbox_replication_store::{Filled, Store};
use twinbox_wire::storage::{
    Comparison, VerifyAudioRequest,
    member_storage_client::MemberStorageClient,
    member_storage_server::{MemberStorage, MemberStorageServer},
};

use crate::convert;

/// Time limit for reading all audio of a node: a day, for the largest disk and the slowest.
const READ_WITHIN: Duration = Duration::from_secs(86_400);

/// Serves other members. Cheap to clone.
#[derive(Clone)]
pub struct MemberStorageService {
    store: Store,
    peers: Peers,
    tls: Arc<NodeIdentity>,
}

impl MemberStorageService {
    /// Serves members with a certificate of the cluster.
    pub fn new(store: Store, peers: Peers, tls: Arc<NodeIdentity>) -> Self {
        Self { store, peers, tls }
    }

    /// Converts it into a tonic service.
    pub fn into_server(self) -> MemberStorageServer<Self> {
        MemberStorageServer::new(self)
    }
}

#[tonic::async_trait]
impl MemberStorage for MemberStorageService {
    async fn verify_audio(&self, request: Request<VerifyAudioRequest>) -> Result<Response<Comparison>, Status> {
        let admitted = self.tls.admit(&request).map_err(|error| Status::permission_denied(error.to_string()))?;
        info!(from = %admitted.name, "administrator has all recordings read through another node");
        has_all_audio(&self.store)?;
        let report = self.peers.compare(&admitted.name, AudioCheck::Content).await;
        let report = report.ok_or_else(|| Status::unavailable("it does not replicate with the node that asks"))?;
        Ok(Response::new(convert::comparison(&report, true)))
    }
}

/// Refuses a node that still fetches audio: what is not here is not lost.
pub(crate) fn has_all_audio(store: &Store) -> Result<(), Status> {
    match store.filled() {
        Filled::Complete => Ok(()),
        _ => Err(Status::failed_precondition(
            "it still receives recordings of the others: wait until 'twinbox replication status' there says that all data \
             is here",
        )),
    }
}

/// Has another node verify its audio.
pub(crate) async fn ask(node: &NodeName, channel: Channel) -> Comparison {
    let mut client = MemberStorageClient::new(channel);
    let asked = tokio::time::timeout(READ_WITHIN, client.verify_audio(VerifyAudioRequest {})).await;
    let mut comparison = match asked {
        Ok(Ok(answer)) => answer.into_inner(),
        failed => {
            let problem = match failed {
                Ok(Err(status)) if status.code() == Code::Unimplemented => {
                    format!("{node} runs an earlier release: run the command there, or upgrade it")
                }
                Ok(Err(status)) => format!("{node} has not read its recordings: {}", status.message()),
                _ => format!("{node} has not read its recordings within a day"),
            };
            Comparison { problem, ..Comparison::default() }
        }
    };
    comparison.by = node.to_string();
    comparison
}
