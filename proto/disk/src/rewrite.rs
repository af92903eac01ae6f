//! Decides when the index is rewritten. Pure.
//!
//! sled writes what changes to the end of its file, and uses a part of the file again only when all of it is dead. Where rows that stay
//! are written among rows that go, the file grows without bound. A copy of the rows alone is about twice as long as they are.

/// The file of an index, and what is in it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSpace {
    /// Length of its file.
    pub file: u64,
    /// Keys and values of all rows.
    pub rows: u64,
    /// Whether the applier rewrites it at present.
    pub rewriting: bool,
}

const MIB: u64 = 1024 * 1024;

/// It is rewritten when its file is longer than so many times the rows and this length.
const TIMES: u64 = 4;
const BESIDE: u64 = 64 * MIB;

/// A round of the applier that wrote fewer bytes to the index leaves time for it.
const FEW: usize = 64 * 1024;

/// Bytes of writes after which it is the index's turn in any case.
const WRITES_PER_TURN: usize = MIB as usize;

/// Progress.
#[derive(Debug, Default)]
pub(crate) struct Rewrite {
    state: State,
    /// Bytes that were written to the index in the last round, and since its last turn.
    last: usize,
    written: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This process has not rewritten it.
    #[default]
    New,
    /// Rows are being copied.
    Copies,
    /// It was rewritten, or that failed; the file and the rows then.
    Rests { file: u64, rows: u64 },
}

impl Rewrite {
    /// A round wrote so many bytes to the index.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.last = bytes;
        self.written = self.written.saturating_add(bytes);
    }

    /// Looks at the index, and may begin to copy.
    pub(crate) fn look(&mut self, file: u64, rows: u64) {
        let is_another = match self.state {
            State::New => true,
            State::Copies => return,
            // Otherwise what did not help would be done again.
            State::Rests { file: then, rows: had } => file > then.saturating_add(then / 2) || rows < had - had / 4,
        };
        if is_another && file > rows.saturating_mul(TIMES).saturating_add(BESIDE) {
            self.state = State::Copies;
        }
    }

    /// True while rows are copied.
    pub(crate) fn copies(&self) -> bool {
        self.state == State::Copies
    }

    /// The copying has ended, with this file and these rows.
    pub(crate) fn ended(&mut self, file: u64, rows: u64) {
        self.state = State::Rests { file, rows };
    }

    /// Takes a turn to tend the index if one is due: after a round with few writes, else after some.
    pub(crate) fn take_turn(&mut self) -> bool {
        let due = self.last < FEW || self.written >= WRITES_PER_TURN;
        if due {
            self.written = 0;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_file_of_few_rows_is_rewritten_once() {
        let mut rewrite = Rewrite::default();
        for (file, rows, copies) in [(464, 100, false), (64, 0, false), (465, 100, true), (80, 100, true)] {
            rewrite.look(file * MIB, rows * MIB);
            assert_eq!(rewrite.copies(), copies, "{file} {rows}");
        }
        rewrite.ended(600 * MIB, 100 * MIB);
        for (file, rows, copies) in [(600, 100, false), (900, 100, false), (901, 100, true), (600, 74, true)] {
            let mut rewrite = Rewrite { state: rewrite.state, ..Rewrite::default() };
            rewrite.look(file * MIB, rows * MIB);
            assert_eq!(rewrite.copies(), copies, "{file} {rows} after it did not help");
        }
    }

    #[test]
    fn turn_is_due_after_few_writes_or_many() {
        let mut rewrite = Rewrite::default();
        for (bytes, due) in [(0, true), (FEW - 1, true), (FEW, false), (WRITES_PER_TURN - FEW, true), (FEW, false)]
        {
            rewrite.wrote(bytes);
            assert_eq!(rewrite.take_turn(), due, "{bytes}");
        }
    }
}
