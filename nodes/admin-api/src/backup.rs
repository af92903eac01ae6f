//! Backups in folders of this node and in buckets: create, list, restore a mailbox.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use twinbox_backup::{
    AudioSummary, BackupError, BackupFolder, Created, EntryState, MailboxRestore, MailboxRestored, Manifest,
    Observer, Progress, is_s3,
};
use twinbox_timetable::JobKind;
use twinbox_timetable_store::TimetableStore;
use twinbox_wire::backup::{
    self as wire, BackupEvent, CreateRequest, ListReply, ListRequest, RestoreMailboxRequest,
    backup_event::Event,
    backups_server::{Backups, BackupsServer},
};

use crate::{
    AdminHandles,
    admin::{all_records, internal},
};

/// Limit of a list, below that of the command line for any answer.
const LISTED_WITHIN: Duration = Duration::from_secs(18);

/// Events that wait for the reader; progress beyond that is left out.
const UNDER_WAY: usize = 16;

type Events = mpsc::Sender<Result<BackupEvent, Status>>;

/// Serves administrators' requests about backups.
pub(crate) struct BackupService(AdminHandles);

impl BackupService {
    /// Creates the service for this node.
    pub(crate) fn new(node: AdminHandles) -> Self {
        Self(node)
    }

    /// Converts it into a service of the administrators' socket.
    pub(crate) fn server(self) -> BackupsServer<Self> {
        BackupsServer::new(self)
    }
}

#[tonic::async_trait]
impl Backups for BackupService {
    type CreateStream = ReceiverStream<Result<BackupEvent, Status>>;

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Self::CreateStream>, Status> {
        all_records(&self.0)?;
        let (mailstore, folder) = (self.0.mailstore.clone(), open(&self.0, &request.into_inner().dir)?);
        let folder = folder.outside(&self.0.config.data_dir);
        Ok(Response::new(serve(move |observer| async move {
            let made = twinbox_backup::create(&mailstore, &folder, env!("CARGO_PKG_VERSION"), &observer).await;
            let Created { name, manifest, .. } = made.map_err(refused)?;
            info!(%name, missing = manifest.audio.missing.len(), "administrator made a backup");
            Ok(Event::Created(complete(&folder, name, &manifest)))
        })))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let asked = request.into_inner().dir;
        let named = !asked.is_empty();
        let folders = match named {
            true => BTreeSet::from([asked]),
            false => job_folders(&self.0)?,
        };
        let services = self.0.settings.services();
        let listed = tokio::task::spawn_blocking(move || {
            let mut backups = Vec::new();
            for dir in folders {
                match services.backup_folder(&dir).and_then(|folder| list(&folder)) {
                    Ok(found) => backups.extend(found),
                    Err(error) if named => return Err(refused(error)),
                    // A folder of another node, or one that no job has written to yet.
                    Err(BackupError::NoFolder(_)) => {}
                    Err(error) => backups.push(other(dir, String::new(), "unreadable", error.to_string())),
                }
            }
            Ok(backups)
        });
        let late = |_| {
            Status::deadline_exceeded(format!(
                "the backups were not listed within {} s: check that the destination answers, or list it with --config FILE, \
                 which waits longer",
                LISTED_WITHIN.as_secs()
            ))
        };
        let listed = tokio::time::timeout(LISTED_WITHIN, listed).await.map_err(late)?;
        let backups = listed.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(ListReply { backups }))
    }

    type RestoreMailboxStream = ReceiverStream<Result<BackupEvent, Status>>;

    async fn restore_mailbox(
        &self,
        request: Request<RestoreMailboxRequest>,
    ) -> Result<Response<Self::RestoreMailboxStream>, Status> {
        all_records(&self.0)?;
        let RestoreMailboxRequest { dir, backup, number, to } = request.into_inner();
        let (mailstore, folder) = (self.0.mailstore.clone(), open(&self.0, &dir)?);
        let cluster = self.0.store.cluster_id();
        Ok(Response::new(serve(move |observer| async move {
            let name = Some(backup).filter(|name| !name.is_empty());
            let from = folder.clone();
            let found = tokio::task::spawn_blocking(move || from.find(name.as_deref(), cluster));
            let backup = found.await.map_err(|error| Status::internal(error.to_string()))?.map_err(refused)?;
            let order = MailboxRestore { number, to: Some(to).filter(|to| !to.is_empty()) };
            let restored = twinbox_backup::restore_mailbox(&mailstore, &folder, &backup, &order, &observer).await;
            let restored = restored.map_err(refused)?;
            info!(backup = %backup.name, count = restored.restored.len(), "administrator restored messages");
            Ok(Event::Restored(outcome(backup.name, restored)))
        })))
    }
}

/// Runs the work, and passes its progress and its outcome on; ends it when the reader has gone.
fn serve<W>(work: impl FnOnce(Observer) -> W) -> ReceiverStream<Result<BackupEvent, Status>>
where
    W: Future<Output = Result<Event, Status>> + Send + 'static,
{
    let (events, stream) = mpsc::channel(UNDER_WAY);
    let work = work(observer(events.clone()));
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = work => ended,
            () = events.closed() => {
                warn!("backup command was interrupted by its caller");
                return;
            }
        };
        // A reader that has gone needs no answer.
        let _ = events.send(ended.map(|event| BackupEvent { event: Some(event) })).await;
    });
    ReceiverStream::new(stream)
}

fn observer(events: Events) -> Observer {
    Arc::new(move |progress: Progress| {
        let progress = wire::Progress {
            phase: progress.phase.word().to_owned(),
            done: progress.done,
            total: progress.total,
            bytes: progress.bytes,
        };
        // The outcome needs room too.
        if events.capacity() > 1 {
            let _ = events.try_send(Ok(BackupEvent { event: Some(Event::Progress(progress)) }));
        }
    })
}

/// The bucket, or the folder, if its path is absolute.
fn open(node: &AdminHandles, dir: &str) -> Result<BackupFolder, Status> {
    match is_s3(dir) || Path::new(dir).is_absolute() {
        true => node.settings.services().backup_folder(dir).map_err(refused),
        false => Err(refused(BackupError::Relative(dir.into()))),
    }
}

/// Destinations to which jobs of the timetable write.
fn job_folders(node: &AdminHandles) -> Result<BTreeSet<String>, Status> {
    let jobs = TimetableStore::of(&node.mailstore).jobs().map_err(internal)?;
    let jobs = jobs.into_iter().filter(|job| job.kind == JobKind::Backup);
    Ok(jobs.filter_map(|job| job.arguments.get("dir").cloned()).collect())
}

fn list(folder: &BackupFolder) -> Result<Vec<wire::Backup>, BackupError> {
    let shown = folder.entries()?.into_iter().map(|entry| match entry.state {
        EntryState::Complete(manifest) => complete(folder, entry.name, &manifest),
        EntryState::Unfinished => other(folder.location(), entry.name, "unfinished", String::new()),
        EntryState::Unreadable(error) => other(folder.location(), entry.name, "unreadable", error.to_string()),
    });
    Ok(shown.collect())
}

fn other(dir: String, name: String, state: &str, reason: String) -> wire::Backup {
    wire::Backup { dir, name, state: state.to_owned(), reason, ..wire::Backup::default() }
}

fn complete(folder: &BackupFolder, name: String, manifest: &Manifest) -> wire::Backup {
    let AudioSummary { count, bytes, copied, copied_bytes, missing, .. } = manifest.audio.clone();
    wire::Backup {
        cluster: manifest.cluster.clone(),
        node: manifest.node.to_string(),
        release: manifest.release.clone(),
        began_ms: manifest.began_ms,
        ended_ms: manifest.ended_ms,
        mailboxes: manifest.mailboxes(),
        messages: manifest.messages(),
        records: manifest.records(),
        audio: count,
        audio_bytes: bytes,
        copied,
        copied_bytes,
        missing: missing
            .into_iter()
            .map(|missing| wire::MissingAudio { hash: missing.hash, bytes: missing.bytes, reason: missing.reason })
            .collect(),
        ..other(folder.location(), name, "complete", manifest.lack().to_owned())
    }
}

fn outcome(backup: String, restored: MailboxRestored) -> wire::MailboxRestored {
    let MailboxRestored { restored, present, lost, alone } = restored;
    wire::MailboxRestored {
        backup,
        messages: restored
            .into_iter()
            .map(|(from, id)| wire::RestoredMessage { from: from.to_string(), id: id.to_string() })
            .collect(),
        present,
        lost: lost
            .into_iter()
            .map(|lost| wire::LostMessage {
                id: lost.id.map(|id| id.to_string()).unwrap_or_default(),
                reason: lost.reason,
            })
            .collect(),
        acknowledged: if alone { "alone" } else { "on two" }.to_owned(),
    }
}

fn refused(error: BackupError) -> Status {
    match error {
        BackupError::Relative(_) | BackupError::InDataFolder { .. } | BackupError::S3Destination(_) => {
            Status::invalid_argument(error.to_string())
        }
        error => Status::failed_precondition(error.to_string()),
    }
}
