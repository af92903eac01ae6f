//! The index of a simulated node: the product's blocks over a map that loses the end of its writes.

use std::{ops::Bound, path::Path, sync::Arc};

use super::node_platter::{Fault, Map, NodePlatter, State, Unflushed, apply, power_failed};
use crate::{
    DiskError, Pair,
    block::{Malformed, Write},
    block_cache::BlockCache,
    blocks::{self, Bounds, Entries, Found},
    index::{Index, IndexCoverage, Note},
    range::KeyRange,
    runs::Extent,
};

/// Bytes of blocks in memory: room for a few, so most are read from the map.
const IN_MEMORY: usize = 4096;

/// The index, as one process has it.
pub(super) struct NodeIndex(NodeBlocks);

/// Its blocks. Clones are the same ones.
#[derive(Clone)]
struct NodeBlocks {
    platter: NodePlatter,
    process: u64,
    /// True for the entries on the disk, false for those that the process sees.
    is_durable: bool,
    cache: Arc<BlockCache<Vec<u8>>>,
}

impl NodeIndex {
    pub(super) fn new(platter: &NodePlatter, process: u64) -> Self {
        let cache = Arc::new(BlockCache::new(IN_MEMORY));
        Self(NodeBlocks { platter: platter.clone(), process, is_durable: false, cache })
    }

    /// Makes a row durable before the journal has it.
    pub(super) fn write_ahead(platter: &NodePlatter, process: u64, row: Write<'_>) {
        let cache = Arc::new(BlockCache::new(0));
        let blocks = NodeBlocks { platter: platter.clone(), process, is_durable: true, cache };
        // It fails when the process has ended.
        let _ = blocks::write(&blocks, &[row], |_, _, _| {});
    }
}

fn failed() -> DiskError {
    DiskError::io("use the index of", Path::new("simulated"), &power_failed())
}

impl NodeBlocks {
    fn map<'a>(&self, state: &'a State) -> &'a Map {
        if self.is_durable { &state.durable_index } else { &state.index }
    }

    /// The entries in these bounds; nothing in bounds that have no key.
    fn within<R>(
        &self,
        (from, to): Bounds<'_>,
        read: impl FnOnce(&mut dyn DoubleEndedIterator<Item = (Vec<u8>, Vec<u8>)>) -> R,
    ) -> Result<R, DiskError> {
        let state = self.platter.state();
        state.check(self.process).map_err(|_| failed())?;
        match (from, to) {
            (Bound::Excluded(from), Bound::Excluded(to)) if from == to => Ok(read(&mut std::iter::empty())),
            bounds => {
                let entries = self.map(&state).range::<[u8], _>(bounds);
                Ok(read(&mut entries.map(|(key, value)| (key.clone(), value.clone()))))
            }
        }
    }
}

impl Entries for NodeBlocks {
    type Bytes = Vec<u8>;

    fn cache(&self) -> &BlockCache<Vec<u8>> {
        &self.cache
    }

    fn ascending(&self, (from, to): Bounds<'_>) -> impl Iterator<Item = Found<Vec<u8>>> + use<> {
        let (blocks, to) = (self.clone(), to.map(<[u8]>::to_vec));
        let mut from = Some(from.map(<[u8]>::to_vec));
        // Each entry as it is when it is asked for.
        std::iter::from_fn(move || {
            let begin = from.take()?;
            let bounds = (begin.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
            let found = blocks.within(bounds, |entries| entries.next()).transpose()?;
            if let Ok((key, _)) = &found {
                from = Some(Bound::Excluded(key.clone()));
            }
            Some(found)
        })
    }

    fn last(&self, bounds: Bounds<'_>) -> Result<Option<(Vec<u8>, Vec<u8>)>, DiskError> {
        self.within(bounds, |entries| entries.next_back())
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        let mut state = self.platter.state();
        if self.is_durable {
            apply(&mut state.durable_index, key, value);
            return Ok(());
        }
        let dies = state.begin(self.process, "put", "index", [key.len(), value.map_or(0, <[u8]>::len)]);
        let dies = dies.map_err(|_| failed())?;
        state.write_index(Unflushed::Entry(key.to_vec(), value.map(<[u8]>::to_vec)));
        if dies {
            state.die();
            return Err(failed());
        }
        Ok(())
    }

    fn damaged(&self, reason: Malformed) -> DiskError {
        DiskError::Index { dir: "simulated".into(), detail: reason.to_string(), damaged: true }
    }
}

impl Index for NodeIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        blocks::get(&self.0, key)
    }

    fn ascending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<> {
        blocks::ascending(&self.0, range)
    }

    fn descending(&self, range: &KeyRange) -> impl Iterator<Item = Result<Pair, DiskError>> + use<> {
        blocks::descending(&self.0, range)
    }

    fn write(&self, rows: &[Write<'_>]) -> Result<(), DiskError> {
        blocks::write(&self.0, rows, |_, _, _| {})
    }

    fn note(&self, note: &Note) -> Result<(), DiskError> {
        let mut state = self.0.platter.state();
        let dies = state.begin(self.0.process, "note", "index", [0, 0]).map_err(|_| failed())?;
        state.write_index(Unflushed::Note(*note));
        if dies {
            state.die();
            return Err(failed());
        }
        Ok(())
    }

    fn noted_runs(&self) -> Result<Option<Extent>, DiskError> {
        Ok(self.0.platter.state().note.runs)
    }

    fn held(&self) -> Result<IndexCoverage, DiskError> {
        let state = self.0.platter.state();
        Ok(match state.note.held {
            Some(position) => IndexCoverage::UpTo(position),
            None if state.index.is_empty() => IndexCoverage::Nothing,
            None => IndexCoverage::Unknown,
        })
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut state = self.0.platter.state();
        let dies = state.begin(self.0.process, "flush", "index", [0, 0]).map_err(|_| failed())?;
        if state.fault != Fault::IndexLies && (!dies || state.random.has_luck(2)) {
            state.flush_index();
        }
        if dies {
            state.die();
            return Err(failed());
        }
        Ok(())
    }
}
