//! Decides when the index is rewritten. Pure.
//!
//! sled appends changes to its file, and uses a part of the file again only when all of it is dead. Where rows that stay are written
//! among rows that are removed later, the file grows without bound. A copy of the rows alone is about as long as they are: blocks are
//! compressed. A start reads what was written to the file, so it should not be much longer.

/// The file of an index, and what is in it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSpace {
    /// Length of its file.
    pub file: u64,
    /// Keys and values of all rows.
    pub rows: u64,
    /// Length of the files of rows that are no part of it ([`crate::Options::appending`]).
    pub runs: u64,
    /// Whether the applier rewrites it at present.
    pub rewriting: bool,
}

const MIB: u64 = 1024 * 1024;

/// The index is rewritten when its file is longer than this many tenths of its rows and this length together.
const TENTHS: u64 = 15;
const BESIDE: u64 = 32 * MIB;

/// A round of the applier that wrote fewer bytes to the index leaves time for it.
const FEW: usize = 64 * 1024;

/// Bytes of writes for each turn of the index under load: rows must be copied faster than new ones come.
const WRITES_PER_TURN: usize = 256 * 1024;

/// Progress of a rewrite.
#[derive(Debug, Default)]
pub(crate) struct Rewrite {
    state: State,
    /// Bytes that were written to the index in the last round, and since its last turn.
    last: usize,
    written: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This process has not rewritten the index.
    #[default]
    New,
    /// Rows are being copied.
    Copies,
    /// The index was rewritten, or that failed: the sizes of file and rows then.
    Rests { file: u64, rows: u64 },
}

impl Rewrite {
    /// Notes that a round wrote this many bytes to the index.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.last = bytes;
        self.written = self.written.saturating_add(bytes);
    }

    /// Decides by the sizes of file and rows whether a copy begins.
    pub(crate) fn look(&mut self, file: u64, rows: u64) {
        let is_another = match self.state {
            State::New => true,
            State::Copies => return,
            // Otherwise a rewrite that did not help would be repeated.
            State::Rests { file: then, rows: had } => file > then.saturating_add(then / 2) || rows < had - had / 4,
        };
        if is_another && file > (rows / 10).saturating_mul(TENTHS).saturating_add(BESIDE) {
            (self.state, self.written) = (State::Copies, 0);
        }
    }

    /// True while rows are copied.
    pub(crate) fn copies(&self) -> bool {
        self.state == State::Copies
    }

    /// Notes that the copying has ended, with these sizes of file and rows.
    pub(crate) fn ended(&mut self, file: u64, rows: u64) {
        self.state = State::Rests { file, rows };
    }

    /// Number of turns to tend the index that are due, which this call takes: one for each `WRITES_PER_TURN`, and at least one
    /// after a round with few writes.
    pub(crate) fn take_turns(&mut self) -> usize {
        let turns = self.written / WRITES_PER_TURN;
        self.written %= WRITES_PER_TURN;
        turns.max(usize::from(self.last < FEW))
    }
}

#[cfg(test)]
#[path = "../tests/unit/rewrite.rs"]
mod tests;
