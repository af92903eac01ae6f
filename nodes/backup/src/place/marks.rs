//! Locks in a bucket, which has none: each command puts a mark, then lists those of the others. Of two commands that
//! do not go together, at least one sees the mark of the other, because a store lists what it has acknowledged.
//!
//! A mark is written again every few minutes. One that was not written for [`ENDED`] by the store's own clock is that of
//! a process that was killed. Its owner stops well before, after [`TRUSTED`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use object_store::{ObjectMeta, ObjectStoreExt, PutPayload};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use twinbox_clock::BootInstant;

use super::{BackupPlace, Lock, Use, bucket::Bucket, client, failure::S3FailureKind};
use crate::BackupError;

/// Folder of the marks.
const FOLDER: &str = "locks";
/// Time between two writes of a mark.
const REFRESH: Duration = Duration::from_secs(120);
/// Limit of one write.
const WRITE: Duration = Duration::from_secs(60);
/// Age at which the owner of a mark does not trust it any more. With the time of its last operation, at most 10 minutes
/// and 15 seconds, this is less than [`ENDED`].
const TRUSTED: Duration = Duration::from_secs(15 * 60);
/// Age at which the owner of a mark has ended.
const ENDED: Duration = Duration::from_secs(30 * 60);
/// Marks beyond this number are not ours.
const MOST_MARKS: usize = 1_000;
/// Content of a mark.
const TEXT: &str = "A command of 'twinbox backup' works here. It removes this object at its end.\n";

/// Puts a mark, unless that of another command does not go together with it.
pub(super) fn lock(bucket: &Bucket, purpose: Use) -> Result<Box<dyn Lock>, BackupError> {
    let begin = if purpose == Use::Prune { "prune-" } else { "use-" };
    let path = format!("{FOLDER}/{begin}{:016x}", rand::random::<u64>());
    let written = BootInstant::now();
    match bucket.put(&path, Bytes::from_static(TEXT.as_bytes())) {
        Ok(()) => {}
        Err(BackupError::S3(failure)) if purpose == Use::Read && failure.kind == S3FailureKind::Denied => {
            return Ok(Box::new(NoLock));
        }
        Err(error) => return Err(error),
    }
    let mark = Box::new(Mark::keep(bucket, &path, written)?);
    match check_others(bucket, purpose, &path) {
        Ok(()) => Ok(mark),
        Err(error) => {
            // A process that ends with this error would leave it.
            mark.release();
            Err(error)
        }
    }
}

/// Refuses a use that does not go together with those of other marks. `path`: the own one.
fn check_others(bucket: &Bucket, purpose: Use, path: &str) -> Result<(), BackupError> {
    let others = bucket.list(FOLDER, None, MOST_MARKS)?;
    // The age of the others by the clock of the store: that of this machine may be another.
    let key = bucket.key(path)?;
    let Some(own) = others.iter().find(|other| other.location == key) else {
        return Err(BackupError::S3Setup(format!(
            "{} does not list an object that was just written: such a store cannot be used for backups",
            bucket.locate(path).display()
        )));
    };
    let has_ended = |other: &ObjectMeta| {
        let age = own.last_modified.signed_duration_since(other.last_modified).to_std().unwrap_or_default();
        age > ENDED
    };
    let prunes = |other: &ObjectMeta| other.location.filename().is_some_and(|name| name.starts_with("prune-"));
    let mut ended = Vec::new();
    for other in others.iter().filter(|other| other.location != key) {
        if has_ended(other) {
            ended.extend(other.location.filename().map(|name| format!("{FOLDER}/{name}")));
        } else if purpose == Use::Prune || prunes(other) {
            return Err(BackupError::BusyBucket(bucket.locate("")));
        }
    }
    if purpose == Use::Prune { bucket.remove(&ended) } else { Ok(()) }
}

/// A reader that may not write takes no lock.
struct NoLock;

impl Lock for NoLock {
    fn check(&self) -> Result<(), BackupError> {
        Ok(())
    }

    fn release(self: Box<Self>) {}
}

/// A mark, written again until it is dropped, then removed.
struct Mark {
    bucket: Bucket,
    /// Begin of the last write that succeeded, in nanoseconds since the machine started.
    written: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    removed: mpsc::Receiver<()>,
}

impl Mark {
    fn keep(bucket: &Bucket, path: &str, written: BootInstant) -> Result<Self, BackupError> {
        let written = Arc::new(AtomicU64::new(written.as_nanos()));
        let (stop, stopped) = oneshot::channel();
        let (done, removed) = mpsc::sync_channel(1);
        let work = keep(bucket.clone(), path.to_owned(), written.clone(), stopped);
        client::runtime()?.spawn(async move {
            work.await;
            // An owner that has gone does not wait.
            let _ = done.send(());
        });
        Ok(Self { bucket: bucket.clone(), written, stop: Some(stop), removed })
    }
}

fn age(written: &AtomicU64) -> Duration {
    BootInstant::from_nanos(written.load(Relaxed)).elapsed()
}

async fn keep(bucket: Bucket, path: String, written: Arc<AtomicU64>, mut stop: oneshot::Receiver<()>) {
    let Ok(key) = bucket.key(&path) else { return };
    loop {
        tokio::select! {
            _ = &mut stop => break,
            () = sleep(REFRESH) => {}
        }
        // An old mark is not made young again: another command may have seen it as ended.
        if age(&written) > TRUSTED {
            continue;
        }
        let began = BootInstant::now();
        let text = PutPayload::from_static(TEXT.as_bytes());
        match timeout(WRITE, bucket.store.put(&key, text)).await {
            Ok(Ok(_)) => written.store(began.as_nanos(), Relaxed),
            _ => {
                tracing::warn!(mark = %bucket.locate(&path).display(), "the mark of a backup could not be written again")
            }
        }
    }
    if !matches!(timeout(WRITE, bucket.store.delete(&key)).await, Ok(Ok(()))) {
        tracing::warn!(mark = %bucket.locate(&path).display(), "a mark stays: prune is refused for half an hour");
    }
}

impl Lock for Mark {
    fn check(&self) -> Result<(), BackupError> {
        match age(&self.written) > TRUSTED {
            true => Err(BackupError::LockLost(self.bucket.locate(""))),
            false => Ok(()),
        }
    }

    fn release(mut self: Box<Self>) {
        self.stop = None;
        // Without the outcome the mark ends by its age.
        let _ = self.removed.recv_timeout(WRITE);
    }
}
