//! Housekeeping of segments, on another thread than the writer's.

use std::sync::Arc;

use crate::{JournalError, Medium, Position, segments::Segments};

/// Prepares, releases and recycles segments, so that no append waits for a file.
pub struct Recycler<M: Medium> {
    segments: Arc<Segments<M>>,
}

impl<M: Medium> Recycler<M> {
    pub(crate) fn new(segments: Arc<Segments<M>>) -> Self {
        Self { segments }
    }

    /// Notes that everything before `position` is held elsewhere durably: whole segments before it are recycled when
    /// the next segments are made. A start still replays them until then. A position after the last batch counts as
    /// the end.
    pub fn release(&self, position: Position) -> Result<(), JournalError> {
        self.segments.release(position);
        self.segments.prune()
    }

    /// Prepares the next segment if none is ready, and removes files that are needed neither for batches nor as spare
    /// ones. Call it often: it is cheap when there is nothing to do.
    pub fn prepare(&self) -> Result<(), JournalError> {
        let prepared = self.segments.prepare();
        self.segments.prune()?;
        prepared.map_err(JournalError::from)
    }

    /// Bytes between the released position and the last batch; all segments but the last count as full. A start reads
    /// these, and what else is in segments that have not been recycled yet.
    pub fn retained(&self) -> u64 {
        self.segments.retained()
    }

    /// First segment that the newest durable header calls needed: everything before it was released by a caller, now or
    /// in an earlier process.
    pub fn floor(&self) -> u64 {
        self.segments.floor()
    }

    /// True when [`Self::prepare`] has work.
    pub fn wants_segment(&self) -> bool {
        self.segments.has_work()
    }
}
