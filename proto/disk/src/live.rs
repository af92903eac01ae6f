//! The bytes of the rows in an index, counted as they are written.

/// A count. It is exact while the process runs. After a kill it may lack the last writes that reached the index, some hundred
/// kilobytes: the count decides only when the index is rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowBytes {
    /// All rows.
    All(u64),
    /// The rows before `from`: the others are being counted.
    Before { from: Vec<u8>, bytes: u64 },
}

impl RowBytes {
    /// Nothing is counted yet.
    pub(crate) fn none() -> Self {
        Self::Before { from: Vec::new(), bytes: 0 }
    }

    /// The whole count.
    pub(crate) fn all(&self) -> Option<u64> {
        match self {
            Self::All(bytes) => Some(*bytes),
            Self::Before { .. } => None,
        }
    }

    /// Counts a replaced value by the lengths of both values, `None` for no row.
    pub(crate) fn replaced(&mut self, key: &[u8], before: Option<usize>, after: Option<usize>) {
        let of = |value: Option<usize>| value.map_or(0, |length| (key.len() + length) as u64);
        match self {
            Self::Before { from, .. } if key >= from.as_slice() => {}
            Self::All(bytes) | Self::Before { bytes, .. } => {
                *bytes = bytes.saturating_add(of(after)).saturating_sub(of(before));
            }
        }
    }

    /// Adds the bytes of the rows from `from` up to `next`; `None`: of all rows that were left.
    pub(crate) fn counted(&mut self, more: u64, next: Option<Vec<u8>>) {
        let Self::Before { bytes, .. } = self else { return };
        let bytes = bytes.saturating_add(more);
        *self = match next {
            Some(from) => Self::Before { from, bytes },
            None => Self::All(bytes),
        };
    }
}

#[cfg(test)]
#[path = "../tests/unit/live.rs"]
mod tests;
