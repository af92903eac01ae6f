//! Journal, layers and index together, with the two threads that work on them.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle, ThreadId},
    time::Duration,
};

use tokio::sync::mpsc;
use twinbox_journal::{Config, Medium, OpenError, Position};

use crate::{
    DiskError, Options,
    applier::Applier,
    batch,
    committer::{Committer, Job, QUEUE, Queued, Urgency},
    copying::Copying,
    flow::{Flow, Limits},
    health::Health,
    index::Index,
    rewrite::Rewrite,
    rows::Rows,
    runs::Runs,
    transaction::Overlay,
};

/// Maximum bytes of a group of commits, apart from its last transaction.
const GROUP_BYTES: usize = 1024 * 1024;

/// Bytes of writes that are applied immediately, and the time after which fewer are. A key that is written again meanwhile is
/// applied once, and a page of the index is changed once for all its keys.
const APPLY_AT: usize = 12 * 1024 * 1024;
const APPLY_AFTER: Duration = Duration::from_millis(2000);

/// Bytes of writes that may wait in memory while the disk is slow.
const HELD: usize = 32 * 1024 * 1024;

/// Segments of the journal that are filled between two checkpoints.
const CHECKPOINT_SEGMENTS: u64 = 4;

/// Bytes of replayed writes that the opening applies: that takes milliseconds. Those of some megabytes go to as many places of the
/// index as there were commits, and take seconds where it must be read from the disk first.
const APPLIED_AT_OPENING: usize = 256 * 1024;

impl Limits {
    pub(crate) fn of(options: Options) -> Self {
        Self {
            group: GROUP_BYTES,
            apply_at: APPLY_AT,
            apply_after: APPLY_AFTER,
            held: HELD,
            journal: options.journal_segment_bytes.saturating_mul(CHECKPOINT_SEGMENTS),
            opening: APPLIED_AT_OPENING,
        }
    }
}

/// The parts of an open store, before its threads begin.
pub(crate) struct Parts<I, M: Medium> {
    pub(crate) rows: Arc<Rows<I, M>>,
    pub(crate) committer: Committer<I, M>,
    pub(crate) applier: Applier<I, M>,
    pub(crate) flow: Arc<Flow>,
}

impl<I: Index, M: Medium> Parts<I, M> {
    /// Opens the journal, and makes its writes visible. Few of them are applied, with a checkpoint: the first segment of this
    /// process then records that the whole segments before it are not needed, and reuses the file of one of them. More wait in
    /// memory, as if this process had committed them, and the applier begins with them.
    pub(crate) fn open(
        health: Arc<Health>,
        (index, runs): (I, Option<Runs<M>>),
        medium: M,
        options: Options,
        limits: Limits,
    ) -> Result<Self, DiskError> {
        let rows = Arc::new(Rows::new(index, runs));
        let flow = Arc::new(Flow::new(limits));
        let refused = |detail, damaged| DiskError::Journal { dir: health.dir().to_owned(), detail, damaged };
        let held = rows.index.held()?;
        rows.adopt()?;
        let mut reader = batch::Reader::default();
        let (mut gathered, mut bytes) = (Overlay::new(), 0);
        let replay = |content: &[u8]| -> Result<(), DiskError> {
            let writes = reader.read(content).map_err(|error| refused(error.to_string(), error.is_damage()))?;
            for (key, value) in writes.into_iter().flatten() {
                bytes += key.len() + value.as_ref().map_or(0, Vec::len);
                gathered.insert(key, value);
            }
            if bytes as u64 >= limits.replayed() {
                rows.write_all(&std::mem::take(&mut gathered))?;
                bytes = 0;
            }
            Ok(())
        };
        let config = Config { segment_bytes: options.journal_segment_bytes };
        let (mut writer, recycler) =
            twinbox_journal::open(medium, config, replay).map_err(|error| match error {
                OpenError::Refused(error) => error,
                error => {
                    let damaged = matches!(error, OpenError::Damaged { .. } | OpenError::Missing { .. });
                    refused(error.to_string(), damaged)
                }
            })?;
        if held.lacks(recycler.floor()) {
            let detail = "it lacks writes that it had flushed, and that the journal has let go of".to_owned();
            return Err(DiskError::Index { dir: health.dir().to_owned(), detail, damaged: true });
        }
        if rows.index.is_converted() {
            writer.append(&[&batch::EMPTY]).map_err(|error| refused(error.to_string(), false))?;
        }
        rows.index.first_flush()?;
        rows.layers.publish(gathered, writer.position());
        flow.published(bytes);
        let mut applier = Applier {
            rows: Arc::clone(&rows),
            flow: Arc::clone(&flow),
            health: Arc::clone(&health),
            checkpoint_bytes: limits.journal,
            prepare_at: writer.largest() / 2,
            applied: Position { segment: recycler.floor(), offset: 0 },
            flushed: None,
            full_at: None,
            rewrite: Rewrite::default(),
            copying: Copying::default(),
            is_replay: true,
            journal: recycler,
        };
        let may_wait = bytes > limits.opening && applier.journal.retained() <= limits.replayed();
        // Without room for a segment, a checkpoint must release one before anything is committed.
        if !(may_wait && applier.prepared()?) {
            applier.apply()?;
            applier.checkpoint()?;
        }
        // A small index is counted at once.
        rows.index.count()?;
        let committer = Committer {
            rows: Arc::clone(&rows),
            journal: writer,
            flow: Arc::clone(&flow),
            health,
            group_bytes: limits.group,
        };
        Ok(Self { rows, committer, applier, flow })
    }
}

/// An open store. Dropped, it applies and flushes everything.
pub(crate) struct Engine<I, M: Medium> {
    rows: Arc<Rows<I, M>>,
    health: Arc<Health>,
    // In this order: no more jobs, the threads end, the index closes.
    queue: Option<mpsc::Sender<Queued>>,
    committer: Option<JoinHandle<()>>,
    /// Lock of the directory, if it has one. The committer thread holds it, too: it may end after this.
    _lock: Arc<Option<File>>,
}

impl<I: Index, M: Medium> Engine<I, M> {
    pub(crate) fn start(
        health: Arc<Health>,
        index: (I, Option<Runs<M>>),
        medium: M,
        options: Options,
        limits: Limits,
        lock: Option<File>,
    ) -> Result<Self, DiskError> {
        let Parts { rows, mut committer, applier, flow } =
            Parts::open(Arc::clone(&health), index, medium, options, limits)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let failed = |error: io::Error| DiskError::io("start the threads of", health.dir(), &error);
        let applying =
            thread::Builder::new().name("applier".to_owned()).spawn(move || applier.serve()).map_err(failed)?;
        let (ended, noted, lock) = (Arc::clone(&flow), Arc::clone(&health), Arc::new(lock));
        let held = Arc::clone(&lock);
        let committing = move || {
            if catch_unwind(AssertUnwindSafe(|| committer.serve(jobs))).is_err() {
                noted.fail("the committer panicked".to_owned());
            }
            ended.close();
            if applying.join().is_err() {
                tracing::error!("applier thread panicked");
            }
            // Journal and index first.
            drop(committer);
            drop(held);
        };
        let committer = thread::Builder::new().name("committer".to_owned()).spawn(committing).map_err(|error| {
            flow.close();
            failed(error)
        })?;
        Ok(Self { rows, health, queue: Some(queue), committer: Some(committer), _lock: lock })
    }

    pub(crate) fn rows(&self) -> &Arc<Rows<I, M>> {
        &self.rows
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// True for the thread that commits.
    pub(crate) fn is_committer(&self, thread: ThreadId) -> bool {
        self.committer.as_ref().is_some_and(|committer| committer.thread().id() == thread)
    }

    /// Passes a job to the committer, behind all earlier ones of its urgency.
    pub(crate) async fn enqueue(&self, urgency: Urgency, job: Box<dyn Job>) -> Result<(), DiskError> {
        match &self.queue {
            Some(queue) => queue.send((urgency, job)).await.map_err(|_| DiskError::Closed),
            None => Err(DiskError::Closed),
        }
    }
}

impl<I, M: Medium> Drop for Engine<I, M> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            // The last handle may be dropped by a transaction, on the committer thread itself.
            if committer.thread().id() != thread::current().id() && committer.join().is_err() {
                tracing::error!(dir = %self.health.dir().display(), "committer thread panicked");
            }
        }
    }
}
