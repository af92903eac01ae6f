//! Restores a backup into the empty store of a new cluster, without a running node (rule D8).

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::{sync::mpsc, task::JoinSet};
use twinbox_clock::wall;
use twinbox_ids::{ClusterId, NodeName};
use twinbox_mailbox::schema::{MAILBOX, MESSAGE};
use twinbox_replication_core::{BlobRef, Key, Record};
use twinbox_replication_store::{Filled, Store, StoreConfig, StoreError};

use crate::{
    Backup, BackupError, BackupFolder, Observer, Phase, Progress,
    audio::{AudioList, AudioPool},
    blocking,
    place::{make_folder, sync_folder, write},
    rows::Records,
    rules,
};

/// File in the data folder of a node whose restore has begun and not ended: the name of the backup.
const MARK: &str = "restore-unfinished";
/// Pieces of audio that are copied concurrently.
const WORKERS: usize = 8;
/// Records of one commit.
const BATCH: usize = 256;

/// The node whose store takes the backup; it must not run.
#[derive(Debug, Clone)]
pub struct RestoreTarget {
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Its name.
    pub node: NodeName,
    /// The new cluster.
    pub cluster: ClusterId,
    /// Bytes to leave free on the file system.
    pub reserve_bytes: u64,
    /// True when it founds the cluster: then its empty store lacks nothing.
    pub founds: bool,
}

/// Result of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Name of the backup.
    pub name: String,
    /// Number of records that were restored.
    pub records: u64,
    /// Number of records by table that were left out, because they tell of nodes of the old cluster.
    pub left: BTreeMap<u16, u64>,
    /// Number of records that this release cannot read or store, and that were left out, as a whole or in part.
    pub unreadable: u64,
    /// Number of effects and runs of jobs that were under way, and were ended.
    pub expired: u64,
    /// Number of pieces of audio that were copied now.
    pub audio: u64,
    /// Audio that could not be restored, with the reason.
    pub missing: Vec<String>,
}

/// A backup was restored into a data folder only in part, or may have been.
#[derive(Debug, thiserror::Error)]
pub enum UnfinishedRestore {
    /// A restore has begun there.
    #[error("the restore of backup {backup} into {} did not end: run 'twinbox backup restore' again", .dir.display())]
    Begun {
        /// Name of the backup.
        backup: String,
        /// The data folder.
        dir: PathBuf,
    },
    /// The folder does not tell.
    #[error("the data folder (data_dir) {} cannot be read: give it to the user that runs this", .dir.display())]
    Unknown {
        /// The data folder.
        dir: PathBuf,
        /// Failure to read the mark there.
        source: io::Error,
    },
}

/// Refuses a data folder into which a restore has begun and not ended: a node must not start there. A mark that is no text
/// counts too, with the reason in place of the name. Refuses a folder that cannot be read.
pub fn refuse_unfinished(data_dir: &Path) -> Result<(), UnfinishedRestore> {
    let dir = data_dir.to_owned();
    match fs::read_to_string(data_dir.join(MARK)) {
        Ok(name) => Err(UnfinishedRestore::Begun { backup: name.trim().to_owned(), dir }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(UnfinishedRestore::Begun { backup: format!("of unknown name ({error})"), dir })
        }
        Err(source) => Err(UnfinishedRestore::Unknown { dir, source }),
    }
}

/// Restores all records and all audio of a backup. Interrupted, it can be run again with the same backup; until it has
/// ended, the node does not start.
pub async fn restore(
    target: &RestoreTarget,
    folder: &BackupFolder,
    backup: &Backup,
    observer: &Observer,
) -> Result<Restored, BackupError> {
    if backup.manifest.cluster == target.cluster.to_string() {
        return Err(BackupError::SameCluster(target.cluster));
    }
    let lock = folder.after_prune(observer, BackupFolder::share).await?;
    let restored = under_lock(target, folder, backup, observer).await;
    blocking(move || {
        lock.release();
        Ok(())
    })
    .await?;
    restored
}

async fn under_lock(
    target: &RestoreTarget,
    folder: &BackupFolder,
    backup: &Backup,
    observer: &Observer,
) -> Result<Restored, BackupError> {
    let (own, of) = (target.clone(), backup.clone());
    // Reads all records once, before anything is written.
    let (store, records, list) = blocking(move || {
        let records = Records::open(&of)?;
        let list = AudioList::read(of.place.as_ref(), &of.dir(), &of.manifest.audio.hash)?;
        Ok((open(&own, &of.name)?, records, list))
    })
    .await?;
    store.set_cluster_id(target.cluster).await?;
    if target.founds {
        store.set_filled(Filled::Complete).await?;
    }
    if !store.filled().has_records() {
        return Err(BackupError::NotFirst);
    }
    let (mark, name) = (target.data_dir.clone(), backup.name.clone());
    blocking(move || {
        write(&mark.join(MARK), format!("{name}\n").as_bytes())?;
        sync_folder(&mark)
    })
    .await?;

    let mut restored = Restored { name: backup.name.clone(), ..Restored::default() };
    let missing = backup.manifest.audio.missing.iter();
    restored.missing = missing.map(|missing| format!("audio {}: {}", missing.hash, missing.reason)).collect();
    let mut lost = copy_audio(&store, &folder.audio(), list, &mut restored, observer).await?;
    lost.extend(backup.manifest.audio.missing.iter().filter_map(|missing| {
        Some(BlobRef { hash: missing.hash.parse().ok()?, length: missing.bytes, recording: None })
    }));
    write_records(&store, records, backup.manifest.records(), &mut restored, observer).await?;
    // For as long as the audio of a message is lost, a part of it that is here is offered.
    store.apply_without(Vec::new(), lost).await?;

    let mark = target.data_dir.clone();
    blocking(move || {
        // The store is closed first: the mark goes when all is on the disk.
        drop(store);
        let path = mark.join(MARK);
        fs::remove_file(&path).map_err(BackupError::io("remove", &path))?;
        sync_folder(&mark)
    })
    .await?;
    Ok(restored)
}

/// Opens the store, which must be empty, or hold a part of this backup.
fn open(target: &RestoreTarget, name: &str) -> Result<Store, BackupError> {
    let dir = target.data_dir.join("store");
    let begun = match refuse_unfinished(&target.data_dir) {
        Ok(()) => None,
        Err(UnfinishedRestore::Begun { backup, .. }) => Some(backup),
        Err(UnfinishedRestore::Unknown { dir, source }) => return Err(BackupError::io("read", &dir)(source)),
    };
    if let Some(unfinished) = begun.clone().filter(|begun| begun != name) {
        return Err(BackupError::OtherUnfinished { unfinished });
    }
    close_to_others(&dir)?;
    let (node, reserve_bytes) = (target.node.clone(), target.reserve_bytes);
    let store = Store::open(StoreConfig { dir: dir.clone(), node, reserve_bytes })?;
    let mut rows = [0, 0];
    for (count, table) in rows.iter_mut().zip([MAILBOX, MESSAGE]) {
        for row in store.rows(table, &[]) {
            row?;
            *count += 1;
        }
    }
    match (begun, rows) {
        (Some(_), _) | (None, [0, 0]) => Ok(store),
        (None, [users, messages]) => Err(BackupError::NotEmpty { dir, users, messages }),
    }
}

/// Makes the folder of the store, for its owner alone: the umask of a shell would let others read it.
fn close_to_others(dir: &Path) -> Result<(), BackupError> {
    make_folder(dir)?;
    let found = fs::metadata(dir).map_err(BackupError::io("read", dir))?;
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    if is_own && found.mode() & 0o777 != 0o700 {
        let only_owner = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir, only_owner).map_err(BackupError::io("set the mode of", dir))?;
    }
    Ok(())
}

/// Copies the audio that the store does not have: before the records that name it. Returns the audio that is lost.
async fn copy_audio(
    store: &Store,
    pool: &AudioPool,
    list: AudioList,
    restored: &mut Restored,
    observer: &Observer,
) -> Result<Vec<BlobRef>, BackupError> {
    let total = list.0.len() as u64;
    let (mut done, mut bytes, mut lost) = (0, 0, Vec::new());
    let mut wanted = list.0.into_iter();
    let mut copies: JoinSet<Result<Option<u64>, CopyError>> = JoinSet::new();
    loop {
        while copies.len() < WORKERS
            && let Some((hash, length)) = wanted.next()
        {
            copies.spawn(copy(store.clone(), pool.clone(), BlobRef { hash, length, recording: None }));
        }
        let Some(copied) = copies.join_next().await else { return Ok(lost) };
        match copied.map_err(|_| BackupError::Stopped)? {
            Ok(copied) => {
                restored.audio += u64::from(copied.is_some());
                bytes += copied.unwrap_or_default();
            }
            Err(CopyError::Failed(error)) => return Err(error),
            Err(CopyError::Lost(blob, error)) => {
                restored.missing.push(error);
                lost.push(blob);
            }
        }
        done += 1;
        observer(Progress { phase: Phase::Audio, done, total, bytes });
    }
}

/// Failure to copy a piece of audio.
enum CopyError {
    /// The store or the destination failed: the restore can be run again.
    Failed(BackupError),
    /// The backup does not have it, or its file cannot be read.
    Lost(BlobRef, String),
}

/// Copies a piece of audio unless it is here. Returns its length if it was copied.
async fn copy(store: Store, pool: AudioPool, blob: BlobRef) -> Result<Option<u64>, CopyError> {
    let hash = blob.hash;
    if store.blobs().has(&hash) {
        return Ok(None);
    }
    let bytes = blocking(move || pool.read(&hash)).await.map_err(|error| match error.is_of_destination() {
        true => CopyError::Failed(error),
        false => CopyError::Lost(blob, error.to_string()),
    })?;
    let blob = store.blobs().put_as(hash, bytes).await.map_err(|error| CopyError::Failed(error.into()))?;
    Ok(Some(blob.length))
}

/// Records for one commit.
type Batch = Vec<(Key, Record)>;

/// Counts of what the reading thread left out.
#[derive(Default)]
struct LeftOut {
    left: BTreeMap<u16, u64>,
    unreadable: u64,
}

async fn write_records(
    store: &Store,
    records: Records,
    total: u64,
    restored: &mut Restored,
    observer: &Observer,
) -> Result<(), BackupError> {
    let (sender, mut batches) = mpsc::channel::<Batch>(2);
    let reading = tokio::task::spawn_blocking(move || read(records, &sender));
    let (now, mut too_large) = (wall(), 0);
    while let Some(batch) = batches.recv().await {
        let count = batch.len() as u64;
        let write = move |draft: &mut twinbox_replication_store::Draft<'_>| {
            let mut expired = 0;
            for (key, record) in batch {
                expired += u64::from(rules::adopt(draft, key, record, now)?);
            }
            Ok::<_, StoreError>(expired)
        };
        match store.commit(write).await.map_err(BackupError::from) {
            Ok((expired, _)) => restored.expired += expired,
            // A part of a large record is alone in its commit: a field that is too large stops no other record.
            Err(BackupError::Store(error)) if count == 1 && error.is_too_large() => {
                tracing::warn!(%error, "record cannot be restored as a whole");
                too_large += 1;
                continue;
            }
            Err(error) => return Err(error),
        }
        restored.records += count;
        observer(Progress { phase: Phase::Rows, done: restored.records, total, bytes: 0 });
    }
    let LeftOut { left, unreadable } = reading.await.unwrap_or(Err(BackupError::Stopped))?;
    (restored.left, restored.unreadable) = (left, unreadable + too_large);
    Ok(())
}

/// Reads the records, on a thread that may block: those of numbers and mail addresses come last. Ends when the receiver is
/// gone.
fn read(mut records: Records, batches: &mpsc::Sender<Batch>) -> Result<LeftOut, BackupError> {
    let (mut out, mut batch, mut last) = (LeftOut::default(), Batch::new(), Batch::new());
    while let Some((key, record)) = records.next_record()? {
        if !rules::is_restored(key.table) {
            *out.left.entry(key.table.0).or_default() += 1;
            continue;
        }
        let Ok(record) = record else {
            out.unreadable += 1;
            continue;
        };
        let prepared = rules::prepared(key.table, record);
        if rules::is_last(key.table) {
            last.push((key, prepared));
            continue;
        }
        let parts = rules::parts(prepared);
        if parts.len() > 1 {
            // Parts of one record are separate commits: those of one commit are one change.
            for part in parts {
                send(batches, vec![(key.clone(), part)])?;
            }
            continue;
        }
        batch.extend(parts.into_iter().map(|record| (key.clone(), record)));
        if batch.len() >= BATCH {
            send(batches, std::mem::take(&mut batch))?;
        }
    }
    if !batch.is_empty() {
        send(batches, batch)?;
    }
    while !last.is_empty() {
        let rest = last.split_off(last.len().min(BATCH));
        send(batches, std::mem::replace(&mut last, rest))?;
    }
    Ok(out)
}

fn send(batches: &mpsc::Sender<Batch>, batch: Batch) -> Result<(), BackupError> {
    batches.blocking_send(batch).map_err(|_| BackupError::Stopped)
}
