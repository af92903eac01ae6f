//! The index, behind a trait: the applier writes committed rows to it; its own flush makes them durable.

use twinbox_journal::Position;

use crate::{DiskError, Pair, block::Write, range::KeyRange, runs::Extent};

/// Rows on disk whose writes become durable at a flush, or earlier. After a power cut each key has its value of the last flush or a
/// later one.
pub(crate) trait Index: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// The pairs of a range, ascending. Not a snapshot.
    fn ascending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<Self>;

    /// The pairs of a range, descending. Not a snapshot.
    fn descending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<Self>;

    /// Writes rows, in the order of their keys, without waiting for the disk. One thread writes.
    fn write(&self, rows: &[Write<'_>]) -> Result<(), DiskError>;

    /// Syncs all completed writes.
    fn flush(&self) -> Result<(), DiskError>;

    /// Writes the content of a checkpoint, apart from the keys.
    fn note(&self, note: &Note) -> Result<(), DiskError>;

    /// The extent of the runs in the last note.
    fn noted_runs(&self) -> Result<Option<Extent>, DiskError>;

    /// The journal position that the last checkpoint recorded.
    fn held(&self) -> Result<IndexCoverage, DiskError> {
        Ok(IndexCoverage::Unknown)
    }

    /// True if this opening has converted it from the format of an earlier release, which must not open the store any more.
    fn is_converted(&self) -> bool {
        false
    }

    /// Length of its file, and bytes of its rows once they are counted. `None` for an index that is never rewritten, and when
    /// the file cannot be measured now.
    fn space(&self) -> Option<(u64, Option<u64>)> {
        None
    }

    /// Counts some more rows. This and the methods below are only for the thread that writes.
    fn count(&self) -> Result<(), DiskError> {
        Ok(())
    }

    /// Notes the bytes of the rows, if they are counted: the next opening need not count them.
    fn note_count(&self) -> Result<(), DiskError> {
        Ok(())
    }

    /// Begins a copy: an empty index beside this one, which no start finds. The error is the reason against it.
    fn begin_copy(&self) -> Result<(), String> {
        Err("it cannot be copied".to_owned())
    }

    /// Writes rows of the copy, as [`Self::write`] does here.
    fn write_copy(&self, _rows: &[Write<'_>]) -> Result<(), DiskError> {
        Ok(())
    }

    /// Prepares a copy with all rows to be the index, so that a start need not read all of it. The error is the reason why there is
    /// no copy any more.
    fn end_copy(&self) -> Result<(), String> {
        Ok(())
    }

    /// Removes the copy, if there is one.
    fn drop_copy(&self) {}

    /// Makes the copy durable, with this note, and puts it in the place of this index. Readers continue.
    fn replace(&self, _note: &Note) -> Result<(), DiskError> {
        Ok(())
    }

    /// The flush of the opening. An index may check more than in [`Self::flush`].
    fn first_flush(&self) -> Result<(), DiskError> {
        self.flush()
    }
}

/// The content of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    /// Everything before this position of the journal; `None`: as in the note before.
    pub(crate) held: Option<Position>,
    /// The runs, which are durable; `None` in a store without.
    pub(crate) runs: Option<Extent>,
}

/// Part of the journal that the index, by its own note, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexCoverage {
    /// The index was written before notes existed, or has no note.
    Unknown,
    /// It is empty.
    Nothing,
    /// Everything before this position of the journal.
    UpTo(Position),
}

impl IndexCoverage {
    /// True when the journal has released segments before `floor` of which some are not in the index: a note is flushed
    /// before the journal releases one. sled takes a damaged end of its log for one that was never written.
    pub(crate) fn lacks(self, floor: u64) -> bool {
        match self {
            Self::Unknown => false,
            Self::Nothing => floor > FIRST_SEGMENT,
            Self::UpTo(position) => position.segment < floor,
        }
    }
}

/// The number of a journal's first segment.
const FIRST_SEGMENT: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_that_is_behind_the_floor_of_its_journal_lacks_writes() {
        let held = |segment| IndexCoverage::UpTo(Position { segment, offset: 4_096 });
        for (held, floor, lacks) in [
            (held(5), 5, false),
            (held(6), 5, false),
            (held(4), 5, true),
            (IndexCoverage::Nothing, 1, false),
            (IndexCoverage::Nothing, 2, true),
            (IndexCoverage::Unknown, 9, false),
        ] {
            assert_eq!(held.lacks(floor), lacks, "{held:?} at {floor}");
        }
    }
}
