//! Planted mistakes.

use twinbox_disk::simulation::Fault;

use crate::finding::FindingKind;

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// None.
    None,
    /// A commit is acknowledged before the journal is synced.
    AcknowledgedBeforeSync,
    /// Audio is sealed before its pack is synced.
    SealedBeforeSync,
    /// A checkpoint holds a record before the journal has its transaction.
    CheckpointBeforeJournal,
    /// The journal is released before the index is flushed.
    ReleasedBeforeFlush,
    /// A checkpoint names runs that are not synced.
    NotedBeforeRuns,
    /// A pack goes before the rows that move its blobs are durable.
    PackBeforeRows,
    /// Rows name copies of a compaction that are not synced.
    RowsBeforeCopies,
    /// A stale batch in a recycled segment is accepted.
    StaleBatches,
    /// A change is acknowledged *on two* when it was sent.
    AcknowledgedWhenSent,
    /// A change is acknowledged *on two* without its audio.
    AcknowledgedWithoutAudio,
}

impl Mistake {
    /// True for the kinds of violations that the mistake is meant to cause. Others do not show that it is found.
    pub fn causes(self, kind: FindingKind) -> bool {
        let kinds: &[FindingKind] = match self {
            Self::None => &[],
            Self::AcknowledgedBeforeSync | Self::AcknowledgedWhenSent => &[FindingKind::Lost],
            Self::SealedBeforeSync
            | Self::PackBeforeRows
            | Self::RowsBeforeCopies
            | Self::AcknowledgedWithoutAudio => &[FindingKind::Audio],
            Self::CheckpointBeforeJournal => &[FindingKind::Torn],
            // A start compares the note of the index with the journal. An index without a note just lacks the rows.
            Self::ReleasedBeforeFlush => &[FindingKind::Index, FindingKind::Lost],
            Self::NotedBeforeRuns => &[FindingKind::Runs],
            // Batches are numbered, so a stale one behind another is refused. The first one of a journal brings old rows back.
            Self::StaleBatches => &[FindingKind::Journal, FindingKind::Lost],
        };
        kinds.contains(&kind)
    }

    /// The promise that each disk breaks all the time.
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::AcknowledgedBeforeSync => Fault::JournalLies,
            Self::SealedBeforeSync => Fault::AudioLies,
            Self::CheckpointBeforeJournal => Fault::IndexAhead,
            Self::ReleasedBeforeFlush => Fault::IndexLies,
            Self::NotedBeforeRuns => Fault::RunsLie,
            Self::StaleBatches => Fault::StaleBatches,
            Self::None
            | Self::PackBeforeRows
            | Self::RowsBeforeCopies
            | Self::AcknowledgedWhenSent
            | Self::AcknowledgedWithoutAudio => Fault::None,
        }
    }

    /// The promise that a disk breaks while packs are compacted.
    pub(crate) fn fault_in_compaction(self) -> Fault {
        match self {
            Self::PackBeforeRows => Fault::JournalLies,
            Self::RowsBeforeCopies => Fault::AudioLies,
            _ => self.fault(),
        }
    }
}
