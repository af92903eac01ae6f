//! The files of an open journal: which segment is in which file, which are released, and the next segment.
//!
//! Two locks: `state` is held for some instructions, `making` over the file operations that make a segment. The writer
//! takes the second one only when no segment is prepared, and then has to wait for one anyway.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use crate::{
    BLOCK, Blocks, JournalError, Medium, MediumFile, Position,
    error::SegmentError,
    format::{BATCH_HEADER, SegmentHeader},
};

/// Maximum number of released files that are kept for recycling when the next segment is made. Further ones are removed.
const SPARES: usize = 2;

/// Ending of the names of a journal's files.
const ENDING: &str = ".segment";

/// Settings of a journal.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Length of a segment's file in bytes: a whole multiple of [`BLOCK`], at least two. A journal that exists keeps
    /// the length with which it was begun.
    pub segment_bytes: u64,
}

/// A segment that can be written.
pub(crate) struct Segment<F> {
    pub(crate) id: u64,
    pub(crate) nonce: u64,
    pub(crate) name: String,
    pub(crate) file: F,
}

/// The file of a segment.
pub(crate) struct SegmentFile {
    pub(crate) name: String,
    /// Offset after the last batch in it.
    pub(crate) end: u64,
}

/// All that is known of the files of a journal when it has been read.
pub(crate) struct Contents {
    /// Every file with a valid header, by the number of its segment.
    pub(crate) files: BTreeMap<u64, SegmentFile>,
    /// First segment that is still needed, as a durable header states it.
    pub(crate) floor: u64,
    /// Position after the last batch.
    pub(crate) end: Position,
    /// Number for the next new file.
    pub(crate) next_file: u64,
    /// Length of every file in bytes.
    pub(crate) segment_bytes: u64,
}

struct State<F> {
    files: BTreeMap<u64, SegmentFile>,
    prepared: Option<Segment<F>>,
    released: Position,
    /// First needed segment of the newest durable header. A file of an earlier segment may be removed.
    floor: u64,
    end: Position,
    next_segment: u64,
    next_file: u64,
}

/// The source of a segment's file.
enum Source {
    Recycled(u64, SegmentFile),
    New(String),
}

pub(crate) struct Segments<M: Medium> {
    medium: M,
    segment_bytes: u64,
    state: Mutex<State<M::File>>,
    making: Mutex<()>,
    /// The first failed write or sync.
    broken: OnceLock<String>,
}

/// Name of a new file.
fn file_name(number: u64) -> String {
    format!("{number:08}{ENDING}")
}

/// Number in the name of a file of a journal.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    name.strip_suffix(ENDING)?.parse().ok()
}

impl<M: Medium> Segments<M> {
    pub(crate) fn new(medium: M, contents: Contents) -> Self {
        let Contents { files, floor, end, next_file, segment_bytes } = contents;
        // A segment without a batch is made again: no batch of this process follows one that was torn.
        let next_segment = if end.offset == BLOCK { end.segment } else { end.segment + 1 };
        let released = Position { segment: floor, offset: BLOCK };
        let state = State { files, prepared: None, released, floor, end, next_segment, next_file };
        Self { medium, segment_bytes, state: Mutex::new(state), making: Mutex::default(), broken: OnceLock::new() }
    }

    /// Length of a segment in bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Maximum length of a batch in bytes.
    pub(crate) fn largest(&self) -> u64 {
        self.segment_bytes.saturating_sub(BLOCK + BATCH_HEADER as u64)
    }

    /// First needed segment of the newest durable header.
    pub(crate) fn floor(&self) -> u64 {
        self.state().floor
    }

    fn state(&self) -> MutexGuard<'_, State<M::File>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next segment for the writer: the prepared one, or a new one.
    pub(crate) fn take(&self) -> Result<Segment<M::File>, SegmentError> {
        if let Some(prepared) = self.state().prepared.take() {
            return Ok(prepared);
        }
        let _making = self.making();
        // The recycler may have been preparing one.
        if let Some(prepared) = self.state().prepared.take() {
            return Ok(prepared);
        }
        self.make()
    }

    /// Makes the next segment if none is prepared.
    pub(crate) fn prepare(&self) -> Result<(), SegmentError> {
        self.check()?;
        if self.state().prepared.is_some() {
            return Ok(());
        }
        let _making = self.making();
        if self.state().prepared.is_none() {
            let segment = self.make()?;
            self.state().prepared = Some(segment);
        }
        Ok(())
    }

    /// Makes the next segment durably; only under the lock `making`.
    fn make(&self) -> Result<Segment<M::File>, SegmentError> {
        self.check()?;
        let (id, floor, source) = self.source();
        let (name, file) = match source {
            Source::Recycled(of, held) => match self.medium.open(&held.name) {
                Ok(file) => (held.name, file),
                Err(error) if is_full(&error) => {
                    self.state().files.insert(of, held);
                    return Err(SegmentError::Full { detail: error.to_string() });
                }
                Err(error) => return Err(self.fail("open", &held.name, &error)),
            },
            Source::New(name) => match self.medium.create(&name, self.segment_bytes, Blocks::Zeroed) {
                Ok(file) => (name, file),
                Err(error) if is_full(&error) => {
                    // Best effort: a file that stays has no header, and the next start removes it.
                    let _ = self.medium.remove(&name);
                    return Err(SegmentError::Full { detail: error.to_string() });
                }
                Err(error) => return Err(self.fail("create", &name, &error)),
            },
        };
        let header = SegmentHeader { id, nonce: rand::random(), floor, bytes: self.segment_bytes };
        let written = file.write_at(&[&header.encode()], 0).and_then(|()| file.sync());
        written.map_err(|error| self.fail("write the header of", &name, &error))?;
        let mut state = self.state();
        state.floor = state.floor.max(floor);
        state.next_segment = id + 1;
        state.files.insert(id, SegmentFile { name: name.clone(), end: BLOCK });
        drop(state);
        Ok(Segment { id, nonce: header.nonce, name, file })
    }

    /// Number of the next segment, the first segment that is needed at this moment, and the file for it. A file that has
    /// this number already comes first: no two files may have the same.
    fn source(&self) -> (u64, u64, Source) {
        let mut state = self.state();
        let (id, floor) = (state.next_segment, state.released.segment);
        let recycled = match state.files.remove(&id) {
            Some(held) => Some((id, held)),
            None => {
                let lowest = state.files.range(..floor).next().map(|(id, _)| *id);
                lowest.and_then(|lowest| Some((lowest, state.files.remove(&lowest)?)))
            }
        };
        let source = match recycled {
            Some((of, held)) => Source::Recycled(of, held),
            None => {
                let number = state.next_file;
                state.next_file += 1;
                Source::New(file_name(number))
            }
        };
        (id, floor, source)
    }

    /// Everything before the position is not needed any more.
    pub(crate) fn release(&self, position: Position) {
        let mut state = self.state();
        state.released = state.released.max(position.min(state.end));
    }

    /// Removes released files beyond the spare ones. A file goes only when a durable header states that its segment is
    /// not needed: without that, a start would miss it.
    pub(crate) fn prune(&self) -> Result<(), JournalError> {
        self.check()?;
        let mut outcome = Ok(());
        loop {
            let mut state = self.state();
            let surplus = if state.surplus() > 0 { state.files.pop_first() } else { None };
            drop(state);
            let Some((_, SegmentFile { name, .. })) = surplus else { return outcome };
            if let Err(error) = self.medium.remove(&name) {
                outcome = Err(JournalError::Remove { file: name, detail: error.to_string() });
            }
        }
    }

    /// True when [`Self::prepare`] or [`Self::prune`] has work.
    pub(crate) fn has_work(&self) -> bool {
        let state = self.state();
        state.prepared.is_none() || state.surplus() > 0
    }

    /// A batch is durable; it ends at the position.
    pub(crate) fn advance(&self, end: Position) {
        let mut state = self.state();
        state.end = end;
        if let Some(held) = state.files.get_mut(&end.segment) {
            held.end = end.offset;
        }
    }

    /// The position after the last durable batch.
    pub(crate) fn end(&self) -> Position {
        self.state().end
    }

    /// Bytes of segments between the released position and the last durable batch. All segments but the last count as
    /// full: that is their room on the disk, and a start reads them whole.
    pub(crate) fn retained(&self) -> u64 {
        let state = self.state();
        let needed = state.files.range(state.released.segment..).map(|(id, held)| match *id < state.end.segment {
            true => self.segment_bytes.saturating_sub(BLOCK),
            false => held.end - BLOCK,
        });
        needed.sum::<u64>().saturating_sub(state.released.offset.saturating_sub(BLOCK))
    }

    /// An error once a write or sync has failed.
    pub(crate) fn check(&self) -> Result<(), SegmentError> {
        match self.broken.get() {
            None => Ok(()),
            Some(detail) => Err(SegmentError::Broken { detail: detail.clone() }),
        }
    }

    /// Stops all writes: after a failed sync the pages of the file may be lost, and a later success proves nothing.
    pub(crate) fn fail(&self, what: &str, file: &str, error: &io::Error) -> SegmentError {
        // Before the line of the log, which takes longer: other threads must not write meanwhile.
        let detail = self.broken.get_or_init(|| format!("cannot {what} '{file}': {error}"));
        tracing::error!(file, %error, what, "journal refuses further batches until the next start; check the disk");
        SegmentError::Broken { detail: detail.clone() }
    }
}

impl<F> State<F> {
    /// Number of files to remove: those with the lowest numbers.
    fn surplus(&self) -> usize {
        self.files.range(..self.floor).count().saturating_sub(SPARES)
    }
}

/// True when there is no room for a file, or there are too many open ones: no write has been lost.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
