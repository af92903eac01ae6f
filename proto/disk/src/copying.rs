//! A copy of the index, made in steps while the index is written.

use std::path::Path;

use crate::{DiskError, Pair, block::Write, index::Index, range::KeyRange};

/// Rows, and about as many bytes, that are read at a time.
const ROWS: usize = 4096;
const BYTES: u64 = 1024 * 1024;

/// Rows in the order of their keys.
pub(crate) struct SomeRows {
    pub(crate) pairs: Vec<Pair>,
    /// Their keys and values.
    pub(crate) bytes: u64,
    /// The key from which on there may be more.
    pub(crate) next: Option<Vec<u8>>,
}

impl SomeRows {
    /// The next rows from `from` on, `most` of them.
    pub(crate) fn read<I: Index>(index: &I, from: &[u8], most: usize) -> Result<Self, DiskError> {
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        for pair in index.ascending(&KeyRange::prefix_from(b"", from)) {
            let (key, value) = pair?;
            bytes += (key.len() + value.len()) as u64;
            let next = [&key[..], &[0]].concat();
            pairs.push((key, value));
            if pairs.len() >= most || bytes >= BYTES {
                return Ok(Self { pairs, bytes, next: Some(next) });
            }
        }
        Ok(Self { pairs, bytes, next: None })
    }

    /// The next rows from `from` on, at most [`ROWS`].
    pub(crate) fn of<I: Index>(index: &I, from: &[u8]) -> Result<Self, DiskError> {
        Self::read(index, from, ROWS)
    }
}

/// Result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyStep {
    /// There are more rows.
    GoesOn,
    /// The copy has all rows: it takes the place of the index before anything else is written.
    Complete,
    /// There will be no copy: there is no room, or it could not be written or opened.
    GivenUp,
}

/// Progress of a copy.
#[derive(Debug)]
pub(crate) struct Copying {
    /// The rows before this key are in the copy; `None` without one.
    upto: Option<Vec<u8>>,
    /// Rows of a step.
    most: usize,
}

impl Default for Copying {
    fn default() -> Self {
        Self { upto: None, most: ROWS }
    }
}

impl Copying {
    /// A copy in steps of this many rows.
    #[cfg(test)]
    pub(crate) fn in_steps_of(most: usize) -> Self {
        Self { upto: None, most }
    }

    /// Copies some more rows; the first call begins. `dir` is named in the log.
    pub(crate) fn step<I: Index>(&mut self, index: &I, dir: &Path) -> CopyStep {
        let Some(upto) = self.upto.take() else {
            return match index.begin_copy() {
                Ok(()) => {
                    self.upto = Some(Vec::new());
                    CopyStep::GoesOn
                }
                Err(reason) => Self::give_up(index, dir, &reason),
            };
        };
        let copied = SomeRows::read(index, &upto, self.most).and_then(|SomeRows { pairs, next, .. }| {
            let rows: Vec<Write<'_>> = pairs.iter().map(|(key, value)| (&key[..], Some(&value[..]))).collect();
            index.write_copy(&rows)?;
            Ok(next)
        });
        match copied {
            Ok(None) => match index.end_copy() {
                Ok(()) => CopyStep::Complete,
                Err(reason) => Self::give_up(index, dir, &reason),
            },
            Ok(next) => {
                self.upto = next;
                CopyStep::GoesOn
            }
            Err(error) => Self::give_up(index, dir, &error.to_string()),
        }
    }

    /// Notes rows that were written to the index, in the order of their keys. Rows before the copy's position are written to the
    /// copy too; the others are copied later. False when the copy was given up.
    pub(crate) fn wrote<I: Index>(&mut self, index: &I, dir: &Path, rows: &[Write<'_>]) -> bool {
        let Some(upto) = &self.upto else { return true };
        let copied = rows.partition_point(|(key, _)| *key < upto.as_slice());
        let written = index.write_copy(&rows[..copied]);
        if let Err(error) = &written {
            self.upto = None;
            Self::give_up(index, dir, &error.to_string());
        }
        written.is_ok()
    }

    /// The index stays as it is.
    fn give_up<I: Index>(index: &I, dir: &Path, reason: &str) -> CopyStep {
        tracing::warn!(dir = %dir.display(), reason, "the index is not rewritten; its file stays long");
        index.drop_copy();
        CopyStep::GivenUp
    }
}
