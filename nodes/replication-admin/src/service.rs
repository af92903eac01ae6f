//! The service for administrators.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;
use twinbox_alarm_rules::name_conflicts;
use twinbox_ids::NodeName;
use twinbox_mailstore::{Mailstore, blocking};
use twinbox_members::MemberClients;
use twinbox_replication_peer::{AudioCheck, ComparisonReport, Peers, ScanProgress};
use twinbox_replication_store::{Filled, Store};
use twinbox_wire::storage::{
    CheckReply, CheckRequest, CompactReply, CompactRequest, Comparison, Conflict, ConflictsReply, ConflictsRequest,
    PeerReplication, RecordScan, ReplicationStatusReply, ReplicationStatusRequest, StatsReply, StatsRequest,
    VerifyRequest,
    storage_server::{Storage, StorageServer},
};

use crate::{convert, member, store};

/// The parts of a node that the service needs.
#[derive(Clone)]
pub struct StorageParts {
    /// Name of the node.
    pub name: NodeName,
    /// Store of records and audio.
    pub store: Store,
    /// Folder of the store.
    pub dir: PathBuf,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Mailboxes, for conflicts of their names.
    pub mailstore: Mailstore,
    /// Connections to the other members.
    pub members: Arc<MemberClients>,
}

/// Serves administrators' requests about replication and the store.
pub struct StorageService(Arc<StorageParts>);

impl StorageService {
    /// Creates the service for this node.
    pub fn new(parts: StorageParts) -> Self {
        Self(Arc::new(parts))
    }

    /// Converts it into a service of the administrators' socket.
    pub fn server(self) -> StorageServer<Self> {
        StorageServer::new(self)
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

/// Answers that take longer than a request may: the client reads them from a stream. The work ends when its client is gone.
fn later<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Response<Answers<T>> {
    let (answers, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let done = tokio::select! {
            done = work => done,
            () = answers.closed() => return,
        };
        // A client that went away needs no answer.
        let _ = answers.send(done).await;
    });
    Response::new(ReceiverStream::new(receiver))
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl Storage for StorageService {
    type VerifyStream = Answers<Comparison>;
    type CheckStream = Answers<CheckReply>;
    type StatsStream = Answers<StatsReply>;
    type CompactStream = Answers<CompactReply>;

    async fn replication_status(
        &self,
        _: Request<ReplicationStatusRequest>,
    ) -> Result<Response<ReplicationStatusReply>, Status> {
        let parts = self.0.clone();
        // It reads a part of the log.
        let read = tokio::task::spawn_blocking(move || status(&parts)).await;
        Ok(Response::new(read.map_err(internal)?))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let everywhere = request.into_inner().audio;
        let audio = if everywhere { AudioCheck::Content } else { AudioCheck::Presence };
        let parts = self.0.clone();
        if everywhere {
            member::has_all_audio(&parts.store)?;
        }
        let (answers, receiver) = mpsc::channel(1);
        info!("administrator compares the stores");
        tokio::spawn(async move {
            let peers = parts.peers.status().into_iter().map(|peer| peer.name);
            for (peer, audio) in peers.zip([audio].into_iter().chain(std::iter::repeat(AudioCheck::None))) {
                let Some(report) = parts.peers.compare(&peer, audio).await else {
                    // A peer that was removed meanwhile is not compared.
                    if parts.peers.status().iter().any(|status| status.name == peer) {
                        let _ = answers.send(Err(Status::unavailable("this node is shutting down"))).await;
                        return;
                    }
                    continue;
                };
                if answers.send(Ok(convert::comparison(&report, true))).await.is_err() {
                    return;
                }
            }
            // Another node finds and replaces what is damaged on its own disk.
            for (node, channel) in parts.members.nodes().into_iter().filter(|_| everywhere) {
                let read = tokio::select! {
                    read = member::ask(&node, channel) => read,
                    () = answers.closed() => return,
                };
                let _ = answers.send(Ok(read)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn conflicts(&self, _: Request<ConflictsRequest>) -> Result<Response<ConflictsReply>, Status> {
        if !self.0.store.filled().has_records() {
            return Err(Status::unavailable(
                "this node still receives records of the others: ask another node (--node)",
            ));
        }
        let mailstore = self.0.mailstore.clone();
        let found = blocking(move || name_conflicts(&mailstore)).await.map_err(internal)?.map_err(internal)?;
        let conflict = |conflict: twinbox_alarm_rules::NameConflict| {
            let mut mailboxes = conflict.mailboxes.iter().map(ToString::to_string);
            Conflict {
                kind: conflict.kind.words().to_owned(),
                name: conflict.name,
                holder: mailboxes.next().unwrap_or_default(),
                losers: mailboxes.collect(),
            }
        };
        Ok(Response::new(ConflictsReply { conflicts: found.into_iter().map(conflict).collect() }))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        let (parts, audio) = (self.0.clone(), request.into_inner().audio);
        Ok(later(async move { store::check(&parts.store, audio).await.map_err(internal) }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<Self::StatsStream>, Status> {
        let parts = self.0.clone();
        Ok(later(async move { store::stats(&parts.store, &parts.dir).await.map_err(internal) }))
    }

    async fn compact(&self, _: Request<CompactRequest>) -> Result<Response<Self::CompactStream>, Status> {
        member::has_all_audio(&self.0.store)?;
        let store = self.0.store.clone();
        let (answers, receiver) = mpsc::channel(1);
        info!("administrator compacts the store");
        tokio::spawn(async move {
            if let Err(error) = store::compact(&store, &answers).await {
                let _ = answers.send(Err(internal(error))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn status(parts: &StorageParts) -> ReplicationStatusReply {
    let (progress, comparisons) = (parts.peers.progress(), parts.peers.comparisons());
    let (fill, counters) = (parts.peers.fill_progress(), parts.peers.counters());
    let peers = parts.peers.status().into_iter().map(|peer| {
        let progress = progress.iter().find(|progress| progress.name == peer.name);
        let compared = comparisons.iter().find(|(name, ..)| *name == peer.name);
        let last = compared.and_then(|(_, last, _)| last.as_deref());
        PeerReplication {
            connected: peer.connected,
            following: peer.following,
            counts: peer.counts,
            connected_since_ms: progress.and_then(|progress| progress.connected_since).map(|since| since.0),
            lag_changes: peer.lag_changes,
            // An estimate that is missing is no reason to refuse the rest.
            lag_bytes: parts.peers.lag_bytes(&peer.name).unwrap_or_default(),
            lag_seconds: progress.and_then(|progress| progress.behind_s),
            rate: progress.map_or(0.0, |progress| progress.rate),
            last_contact_ms: peer.last_contact_ms,
            last_comparison: last.map(|last: &ComparisonReport| convert::comparison(last, false)),
            repairs: compared.map_or(0, |(.., repairs)| *repairs),
            stuck: peer.stuck.unwrap_or_default(),
            name: peer.name.to_string(),
        }
    });
    // An estimate that is missing is no reason to refuse the rest.
    let log = parts.peers.log_status().ok();
    ReplicationStatusReply {
        node: parts.name.to_string(),
        filled: match parts.store.filled() {
            Filled::Partly => "partly",
            Filled::Records => "records",
            Filled::Complete => "complete",
        }
        .to_owned(),
        changes: fill.here,
        missing: fill.missing,
        rate: fill.rate,
        on_two: counters.on_two,
        alone: counters.alone,
        peers: peers.collect(),
        log_changes: log.map_or(0, |log| log.changes),
        log_bytes: log.map_or(0, |log| log.bytes),
        log_oldest_ms: log.and_then(|log| log.oldest).map(|oldest| oldest.0),
        log_cut: log.map_or(0, |log| log.cut),
        state_fills: counters.state_fills,
        scan: fill.scan.map(|ScanProgress { rows: records, of, rate }| RecordScan { records, of, rate }),
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_ends_when_its_client_is_gone() {
        let (held, ended) = oneshot::channel::<()>();
        let response = later(async move {
            let _held = held;
            pending::<Result<(), Status>>().await
        });
        drop(response);
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        assert!(ended.expect("it ends").is_err(), "it was dropped");
    }
}
