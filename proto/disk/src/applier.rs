//! The applier: one thread that takes committed writes from memory to the index, and flushes the index at checkpoints,
//! after which the journal releases them. No caller waits for it while the disk keeps up.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use twinbox_journal::{JournalError, Medium, Position, Recycler};

use crate::{
    DiskError,
    copying::{CopyStep, Copying},
    flow::{Flow, Work},
    health::Health,
    index::{Index, Note},
    rewrite::Rewrite,
    rows::Rows,
};

/// Rows that are written together. The committer may then publish as many bytes as these had.
const CREDIT_EVERY: usize = 256;

/// Idle time before rows of the index are counted or copied.
const IDLE_FOR: Duration = Duration::from_millis(50);

pub(crate) struct Applier<I, M: Medium> {
    pub(crate) rows: Arc<Rows<I, M>>,
    pub(crate) journal: Recycler<M>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) health: Arc<Health>,
    /// Bytes in the journal after which a checkpoint is due.
    pub(crate) checkpoint_bytes: u64,
    /// Offset in a segment after which the next one is prepared: a store that writes little has one segment.
    pub(crate) prepare_at: u64,
    /// Position in the journal up to which the index holds everything.
    pub(crate) applied: Position,
    /// Position up to which it held everything at the last flush; `None` before the first one.
    pub(crate) flushed: Option<Position>,
    /// Position applied at the last attempt to prepare a segment, if the disk had no room for it.
    pub(crate) full_at: Option<Position>,
    pub(crate) rewrite: Rewrite,
    pub(crate) copying: Copying,
    /// The next writes are those of the replay. An earlier process may have applied them.
    pub(crate) is_replay: bool,
}

/// Releases a committer that waits for the applier, however the applier ends.
struct Ending {
    flow: Arc<Flow>,
    health: Arc<Health>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail("the applier panicked".to_owned());
        }
        self.flow.stop();
    }
}

impl<I: Index, M: Medium> Applier<I, M> {
    /// Serves until the committer has ended, or until something fails.
    pub(crate) fn serve(mut self) {
        let _ending = Ending { flow: Arc::clone(&self.flow), health: Arc::clone(&self.health) };
        loop {
            let work = self.flow.wait_for_work(self.wants_idle_time().then_some(IDLE_FOR));
            // After a failure the layers stay as they are, and the next start replays the journal.
            if self.health.check().is_err() {
                break;
            }
            // sled panics when its data is damaged.
            let round = catch_unwind(AssertUnwindSafe(|| self.round(work)));
            match round {
                Ok(Ok(())) if work != Work::Last => {}
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    self.health.fail(error.to_string());
                    break;
                }
                Err(_) => {
                    self.health.fail("the index panicked".to_owned());
                    break;
                }
            }
        }
    }

    /// Applies, prepares a segment, makes a checkpoint and tends the index, as far as each is due.
    pub(crate) fn round(&mut self, work: Work) -> Result<(), DiskError> {
        self.apply()?;
        if self.applied.offset >= self.prepare_at && self.journal.wants_segment() && self.tries_again() {
            self.prepare()?;
        }
        // After a replay at once: a process that ends soon after each start leaves no more than its own segments to the next.
        if work == Work::Last || self.flushed.is_none() || self.journal.retained() >= self.checkpoint_bytes {
            self.checkpoint()?;
        }
        match work {
            Work::Last => Ok(()),
            Work::Apply | Work::Idle => self.tend(),
        }
    }

    /// Whether the rows of the index are to be counted or copied when there is nothing to apply.
    fn wants_idle_time(&self) -> bool {
        self.rewrite.copies() || matches!(self.rows.index.space(), Some((_, None)))
    }

    /// Counts the rows of the index, and rewrites it when its file is too long for them ([`Rewrite`]). Commits continue meanwhile.
    fn tend(&mut self) -> Result<(), DiskError> {
        match self.rows.index.space() {
            Some((file, Some(rows))) => self.rewrite.look(file, rows),
            Some((_, None)) => return (0..self.rewrite.take_turns()).try_for_each(|_| self.rows.index.count()),
            None => return Ok(()),
        }
        let turns = if self.rewrite.copies() { self.rewrite.take_turns() } else { 0 };
        for _ in 0..turns {
            if self.copy_rows()? {
                self.copying_ended();
                break;
            }
        }
        self.rows.rewriting.store(self.rewrite.copies(), Relaxed);
        Ok(())
    }

    fn copying_ended(&mut self) {
        if let Some((file, Some(rows))) = self.rows.index.space() {
            self.rewrite.ended(file, rows);
        }
    }

    /// Copies some more rows of the index; with the last ones the copy takes its place. True when the copying has ended.
    pub(crate) fn copy_rows(&mut self) -> Result<bool, DiskError> {
        match self.copying.step(&self.rows.index, self.health.dir()) {
            CopyStep::GoesOn => Ok(false),
            CopyStep::GivenUp => Ok(true),
            CopyStep::Complete => self.replace_index().map(|()| true),
        }
    }

    /// Puts the copy of the index in its place: a checkpoint too.
    fn replace_index(&mut self) -> Result<(), DiskError> {
        self.hold(|index, note| index.replace(note))?;
        tracing::info!(dir = %self.health.dir().display(), "the index was rewritten");
        Ok(())
    }

    /// After an attempt without room, whether a sixteenth of a segment or more has been applied since.
    fn tries_again(&self) -> bool {
        let later = |at: Position| {
            self.applied.segment != at.segment || self.applied.offset >= at.offset + self.prepare_at / 8
        };
        self.full_at.is_none_or(later)
    }

    /// Prepares the segment of the first commits; false without room for it.
    pub(crate) fn prepared(&self) -> Result<bool, DiskError> {
        match self.journal.prepare() {
            Err(JournalError::Full { .. }) => Ok(false),
            outcome => self.goes_on(outcome).map(|()| true),
        }
    }

    /// Prepares the next segment. On a full disk a checkpoint releases an older one, whose file is then used again. If
    /// there is none either, commits continue while the present segment has room, and the writer retries at its end.
    fn prepare(&mut self) -> Result<(), DiskError> {
        let mut outcome = self.journal.prepare();
        if matches!(outcome, Err(JournalError::Full { .. })) {
            self.checkpoint()?;
            outcome = self.journal.prepare();
        }
        if !matches!(outcome, Err(JournalError::Full { .. })) {
            self.full_at = None;
            return self.goes_on(outcome);
        }
        // Reported once, until there is room.
        match self.full_at.replace(self.applied) {
            Some(_) => Ok(()),
            None => self.goes_on(outcome),
        }
    }

    /// Applies what has been committed. Readers continue meanwhile; the layer is dropped only when all of it is in the index, so no
    /// reader sees a part of it. The committer need not wait for that: it may publish what has been applied, part by part.
    pub(crate) fn apply(&mut self) -> Result<(), DiskError> {
        let mut left = self.flow.take();
        self.rewrite.wrote(left);
        if let Some(frozen) = self.rows.layers.freeze() {
            let (appended, others) = self.rows.split(&frozen.writes);
            let mut bytes = match std::mem::take(&mut self.is_replay) {
                true => self.rows.append_new(&appended)?,
                false => self.rows.append(&appended)?,
            };
            for part in others.chunks(CREDIT_EVERY) {
                self.rows.index.write(part)?;
                if !self.copying.wrote(&self.rows.index, self.health.dir(), part) {
                    self.copying_ended();
                }
                bytes += part.iter().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum::<usize>();
                let applied = std::mem::take(&mut bytes).min(left);
                self.flow.applied(applied);
                left -= applied;
            }
            self.rows.layers.drop_frozen();
            self.applied = frozen.covers;
            self.rows.index.note_count()?;
        }
        self.flow.applied(left);
        Ok(())
    }

    /// Flushes the index, and releases the journal up to the position that it held when the flush began. Nothing is
    /// applied meanwhile.
    pub(crate) fn checkpoint(&mut self) -> Result<(), DiskError> {
        match self.flushed {
            Some(flushed) if flushed == self.applied => Ok(()),
            _ => self.hold(|index, note| {
                index.note(note)?;
                index.flush()
            }),
        }
    }

    /// Makes the runs durable, then the index with a note of both, and releases files and segments that are not needed any more.
    fn hold(&mut self, flush: impl FnOnce(&I, &Note) -> Result<(), DiskError>) -> Result<(), DiskError> {
        let rows = &self.rows;
        let extent = match &rows.runs {
            Some(runs) => {
                runs.tidy()?;
                runs.sync()?
            }
            None => None,
        };
        let covers = self.applied;
        let note = Note { held: Some(covers), runs: extent };
        flush(&rows.index, &note)?;
        // Also a sync that failed on a thread of sled's.
        self.health.check()?;
        if let Some((runs, extent)) = rows.runs.as_ref().zip(extent) {
            runs.release(&extent);
        }
        self.goes_on(self.journal.release(covers))?;
        self.flushed = Some(covers);
        Ok(())
    }

    /// Only a failed write or sync of the journal is fatal. A full disk, or a segment that cannot be removed, is only logged.
    fn goes_on(&self, outcome: Result<(), JournalError>) -> Result<(), DiskError> {
        match outcome {
            Err(error @ (JournalError::Full { .. } | JournalError::Remove { .. })) => {
                tracing::warn!(dir = %self.health.dir().display(), %error, "journal could not be tended");
                Ok(())
            }
            Err(error) => {
                let (dir, detail) = (self.health.dir().to_owned(), error.to_string());
                Err(DiskError::Journal { dir, detail, damaged: false })
            }
            Ok(()) => Ok(()),
        }
    }
}
