//! Makes a backup of a running node.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use tokio::task::JoinSet;
use twinbox_clock::wall;
use twinbox_disk::DiskError;
use twinbox_ids::BlobHash;
use twinbox_mailstore::{MailError, Mailstore};
use twinbox_replication_core::{BlobRef, Record, Vector};
use twinbox_replication_store::{LogPin, Store, StoreError, codec};

use crate::{
    BackupError, BackupFolder, Manifest, Observer, Phase, Progress,
    audio::{AudioList, AudioPool},
    blocking,
    manifest::{AudioSummary, FORMAT, MissingAudio, RowsSummary},
    place::BackupPlace,
    prune::remove_copied,
    room::Room,
    rows::RowsWriter,
};

/// Pieces of audio that are copied concurrently, so that their syncs share the disk's.
const WORKERS: usize = 8;
/// Pieces of audio in a row that no other node had, after which no more are asked for: each may cost seconds.
const MOST_DENIED: u32 = 20;
/// Records between two reports of progress.
const STEP: u64 = 1_000;
/// Changes that are read from the log together.
const BATCH: usize = 1_024;

/// A backup that was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub location: String,
    /// Its manifest; [`AudioSummary::missing`] may name audio that it lacks.
    pub manifest: Manifest,
}

/// Audio that a record names.
#[derive(Debug, Clone, Copy)]
struct Named {
    length: u64,
    /// A present record names it; that of deleted ones may be gone.
    needed: bool,
}

/// Records of the store at one moment.
struct Scanned {
    rows: RowsSummary,
    vector: Vector,
    audio: BTreeMap<BlobHash, Named>,
}

/// Ends the work on other threads when the future that waits for it is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A backup without its manifest.
struct Gathered {
    rows: RowsSummary,
    vector: Vector,
    list: AudioList,
    audio: AudioSummary,
}

/// Copies all records of this node as of one moment, while it works on, and the audio that they name, as far as the
/// folder does not have it yet. Audio that is not here, or damaged, is fetched from another node. After a failure, what was
/// written is removed when this returns. Dropped, it leaves nothing that counts as a backup; dropped in its last step, it
/// leaves a complete one.
pub async fn create(
    mailstore: &Mailstore,
    folder: &BackupFolder,
    release: &str,
    observer: &Observer,
) -> Result<Created, BackupError> {
    folder.check_absolute()?;
    let cluster = mailstore.store().cluster_id().ok_or(BackupError::NoCluster)?;
    // Before the first record is read: a fill may end meanwhile.
    let (node, has_all_records) = (mailstore.settings().node.clone(), mailstore.has_all_records());
    let of = node.clone();
    let making = folder.after_prune(observer, move |folder| folder.begin(&of, wall())).await?;
    let began = making.began();
    let (name, dir) = (making.name().to_owned(), making.dir());
    let location = folder.place().locate(&dir).display().to_string();
    let (store, destination) = (mailstore.store().clone(), folder.clone());
    let room = blocking(move || Room::of(&store, &destination)).await?;
    let mut copied = BTreeSet::new();
    let gathered = gather(mailstore, folder, &dir, &room, &mut copied, observer).await;
    let (made, release) = (folder.clone(), release.to_owned());
    // This step ends the backup itself: it goes on when the future is dropped, and needs the lock until its end.
    let manifest = blocking(move || {
        let settled = gathered.and_then(|gathered| gathered.settle(&made, &dir));
        let Gathered { rows, vector, audio, .. } = match settled {
            Ok(settled) => settled,
            Err(error) => {
                making.discard();
                if room.is_shared() {
                    remove_copied(&made, &copied);
                }
                return Err(error);
            }
        };
        let manifest = Manifest {
            format: FORMAT,
            cluster: cluster.to_string(),
            node,
            release,
            has_all_records,
            began_ms: began.0,
            ended_ms: wall().0,
            rows,
            audio,
            vector: vector.iter().map(|(origin, upto)| (origin.to_string(), upto)).collect(),
        };
        making.complete(&manifest)?;
        Ok(manifest)
    })
    .await?;
    Ok(Created { name, location, manifest })
}

/// Copies records and audio.
async fn gather(
    mailstore: &Mailstore,
    folder: &BackupFolder,
    dir: &str,
    room: &Room,
    copied: &mut BTreeSet<BlobHash>,
    observer: &Observer,
) -> Result<Gathered, BackupError> {
    let store = mailstore.store();
    let stop = Arc::new(AtomicBool::new(false));
    let _stop = StopOnDrop(stop.clone());
    let (scanned, place, target) = (store.clone(), folder.place().clone(), dir.to_owned());
    let watched = Watched { room: room.clone(), stop, observer: observer.clone() };
    let scan = blocking(move || Scan::begin(&scanned, place.as_ref(), &target, watched)?.rows(&scanned)).await?;
    // Ends after all commits that the scan may have seen a part of: the vector then covers them.
    store.commit(|_| Ok::<_, StoreError>(())).await?;
    let scanned = store.clone();
    let Scanned { rows, vector, audio } = blocking(move || scan.changes(&scanned)).await?;
    let (list, audio) = copy_audio(mailstore, &folder.audio(), audio, room, copied, observer).await?;
    observer(Progress { phase: Phase::Sync, done: 0, total: 0, bytes: 0 });
    Ok(Gathered { rows, vector, list, audio })
}

impl Gathered {
    /// Makes it durable. Blocks.
    fn settle(mut self, folder: &BackupFolder, dir: &str) -> Result<Self, BackupError> {
        let place = folder.place().as_ref();
        folder.audio().settle(&self.list)?;
        self.audio.hash = self.list.write(place, dir)?;
        place.sync(dir)?;
        folder.sync()?;
        // The list would be written into a new folder if another program removed that of the backup.
        folder.check_rows(dir, self.rows.bytes)?;
        Ok(self)
    }
}

/// Conditions of a scan that goes on, and its observer.
struct Watched {
    room: Room,
    stop: Arc<AtomicBool>,
    observer: Observer,
}

/// Records on their way to the file.
struct Scan {
    writer: RowsWriter,
    audio: BTreeMap<BlobHash, Named>,
    /// The vector before the first row was read.
    before: Vector,
    /// Keeps the changes since then in the log.
    _pin: LogPin,
    done: u64,
    unreadable: u64,
    watched: Watched,
}

impl Scan {
    fn begin(store: &Store, place: &dyn BackupPlace, dir: &str, watched: Watched) -> Result<Self, BackupError> {
        watched.room.check(0)?;
        let (pin, writer) = (store.pin_log(), RowsWriter::create(place, dir)?);
        let before = store.vector();
        let (audio, done, unreadable) = Default::default();
        Ok(Self { writer, audio, before, _pin: pin, done, unreadable, watched })
    }

    /// Writes the rows.
    fn rows(mut self, store: &Store) -> Result<Self, BackupError> {
        for row in store.all_rows() {
            let (key, value) = row?;
            self.writer.add(false, &key, &value)?;
            match codec::decode_record(&value) {
                Ok(record) => self.name_audio(&record),
                Err(_) => self.unreadable += 1,
            }
            self.report()?;
        }
        Ok(self)
    }

    /// Writes the changes that were made meanwhile: with them, the file is the state at the end of the rows.
    fn changes(mut self, store: &Store) -> Result<Scanned, BackupError> {
        let vector = store.vector();
        let mut read = self.before.clone();
        loop {
            let changes = store.changes_after(&read, BATCH)?;
            if changes.is_empty() {
                break;
            }
            for change in changes {
                let (upto, last) = (read.get(change.origin), vector.get(change.origin));
                if change.seq > last {
                    // Newer than the end of the rows, as are all that follow of this origin.
                    if upto < last {
                        return Err(BackupError::LogCut);
                    }
                    read.raise(change.origin, u64::MAX);
                    continue;
                }
                if change.seq != upto + 1 {
                    return Err(BackupError::LogCut);
                }
                self.name_audio(&change.delta);
                self.writer.add(true, &change.key, &codec::encode_record(&change.delta))?;
                read.raise(change.origin, change.seq);
                self.report()?;
            }
        }
        if vector.iter().any(|(origin, upto)| read.get(origin) < upto) {
            return Err(BackupError::LogCut);
        }
        let mut rows = self.writer.finish()?;
        rows.unreadable = self.unreadable;
        Ok(Scanned { rows, vector, audio: self.audio })
    }

    fn report(&mut self) -> Result<(), BackupError> {
        self.done += 1;
        if self.done.is_multiple_of(STEP) {
            self.watched.room.check(0)?;
            let bytes = self.writer.summary.bytes;
            (self.watched.observer)(Progress { phase: Phase::Rows, done: self.done, total: 0, bytes });
        }
        if self.watched.stop.load(Relaxed) { Err(BackupError::Stopped) } else { Ok(()) }
    }

    fn name_audio(&mut self, record: &Record) {
        let needed = !record.is_deleted();
        for blob in record.blobs() {
            let named = self.audio.entry(blob.hash).or_insert(Named { length: blob.length, needed });
            named.needed |= needed;
        }
    }
}

/// Copies the audio that the pool does not have.
async fn copy_audio(
    mailstore: &Mailstore,
    pool: &AudioPool,
    named: BTreeMap<BlobHash, Named>,
    room: &Room,
    copied: &mut BTreeSet<BlobHash>,
    observer: &Observer,
) -> Result<(AudioList, AudioSummary), BackupError> {
    let (total, looked) = (named.len() as u64, pool.clone());
    let (mut list, mut wanted) = blocking(move || {
        let (mut list, mut wanted) = (AudioList::default(), named);
        looked.visit(|hash, length| {
            if wanted.get(&hash).is_some_and(|named| named.length == length) {
                wanted.remove(&hash);
                list.0.insert(hash, length);
            }
        })?;
        Ok((list, VecDeque::from_iter(wanted)))
    })
    .await?;
    let (mut summary, denied) = (AudioSummary::default(), Arc::new(AtomicU32::new(0)));
    let mut copies: JoinSet<Result<Copied, BackupError>> = JoinSet::new();
    let mut failed = None;
    loop {
        while failed.is_none()
            && copies.len() < WORKERS
            && let Some((hash, named)) = wanted.pop_front()
        {
            copies.spawn(copy(mailstore.clone(), pool.clone(), hash, named, room.clone(), denied.clone()));
        }
        let Some(ended) = copies.join_next().await else { break };
        let ended = match ended.map_err(|_| BackupError::Stopped).flatten() {
            Ok(ended) => ended,
            Err(error) => {
                // The others end first: what they write is known then.
                failed.get_or_insert(error);
                continue;
            }
        };
        match ended {
            Copied::Done { hash, length } => {
                copied.insert(hash);
                list.0.insert(hash, length);
                summary.copied += 1;
                summary.copied_bytes += length;
            }
            Copied::Missing(missing) => summary.missing.push(missing),
            Copied::Gone => {}
        }
        let done = list.0.len() as u64;
        observer(Progress { phase: Phase::Audio, done, total, bytes: summary.copied_bytes });
    }
    if let Some(error) = failed {
        return Err(error);
    }
    (summary.count, summary.bytes) = (list.0.len() as u64, list.bytes());
    summary.missing.sort_by(|a, b| a.hash.cmp(&b.hash));
    Ok((list, summary))
}

/// Outcome for one piece of audio.
enum Copied {
    Done {
        hash: BlobHash,
        length: u64,
    },
    /// A present record names it, and no node has it.
    Missing(MissingAudio),
    /// Only deleted records name it, and it has left the disk.
    Gone,
}

async fn copy(
    mailstore: Mailstore,
    pool: AudioPool,
    hash: BlobHash,
    named: Named,
    room: Room,
    denied: Arc<AtomicU32>,
) -> Result<Copied, BackupError> {
    let here = mailstore.store().blobs().has(&hash);
    let ask = named.needed && denied.load(Relaxed) < MOST_DENIED;
    let found = match here || ask {
        true => mailstore.blob(&hash).await,
        false => Err(MailError::Store(StoreError::NoBlob(hash))),
    };
    let damaged = found.as_ref().is_err_and(is_damage);
    let found = match damaged && ask {
        true => mailstore.mended_blob(&BlobRef { hash, length: named.length, recording: None }).await,
        false => found,
    };
    let asked = ask && (!here || damaged);
    match found {
        Ok(bytes) => {
            if asked {
                denied.store(0, Relaxed);
            }
            let length = bytes.len() as u64;
            blocking(move || {
                room.check(length)?;
                pool.put(&hash, bytes)
            })
            .await?;
            Ok(Copied::Done { hash, length })
        }
        Err(error) if is_damage(&error) || matches!(error, MailError::Store(StoreError::NoBlob(_))) => {
            if asked {
                denied.fetch_add(1, Relaxed);
            }
            let missing = MissingAudio { hash: hash.to_string(), bytes: named.length, reason: error.to_string() };
            Ok(if named.needed { Copied::Missing(missing) } else { Copied::Gone })
        }
        Err(error) => Err(error.into()),
    }
}

/// True if only this piece of audio cannot be read here: its content is wrong, or the disk fails in its place.
fn is_damage(error: &MailError) -> bool {
    use StoreError::{Corrupt, Disk, Format};
    matches!(error, MailError::Store(Corrupt(_) | Format { .. } | Disk(DiskError::Io { .. })))
}
